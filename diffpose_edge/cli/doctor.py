"""``diffpose-edge doctor``"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from rich.markup import escape
from rich.table import Table

import diffpose_edge
from diffpose_edge.cli.terminal import out
from diffpose_edge.extras import OPTIONAL, install_command, is_installed
from diffpose_edge.jetson import JetsonInfo, jetson_info
from diffpose_edge.runtime.cuda import driver_found

DRIVER = "NVIDIA driver"
EXPORTER = (("torch",), ("onnx",), ("onnxscript",), ("onnxruntime",))
# Each ability needs one of every group.
ABILITIES = {
    "run bundles on the CPU": (("onnxruntime",),),
    "run TensorRT engines": ((DRIVER,), ("tensorrt", "tensorrt_rtx"), ("cuda.bindings", "pycuda")),
    # TensorRT tries its kernels out on the GPU; TensorRT-RTX does so when the engine is loaded, and builds without one.
    "build TensorRT engines": (("tensorrt", "tensorrt_rtx"), (DRIVER, "tensorrt_rtx"), ("onnx",), ("polygraphy",)),
    "export and verify": EXPORTER,
    "train": (("torch",), ("safetensors",)),
    "read videos": (("av",), ("platformdirs",), ("onnxruntime",)),
    "draw the demo's pictures": (("matplotlib",), ("PIL",)),
}


def doctor() -> None:
    """Say what this machine can run, and the command for what is missing."""
    jetson = jetson_info()
    found = {module for module in OPTIONAL if is_installed(module)}
    if driver_found():
        found.add(DRIVER)
    table = Table(title=f"diffpose-edge {diffpose_edge.__version__} on {platform.system()} {platform.machine()}")
    for heading in ("part", "found", "to get it"):
        table.add_column(heading, overflow="fold")
    table.add_row("Python", platform.python_version(), "")
    table.add_row("cores", str(os.cpu_count()), "")
    for row in _jetson_rows(jetson) if jetson else []:
        table.add_row(*map(escape, row))
    table.add_row("numpy", np.__version__, "")
    for module, optional in OPTIONAL.items():
        if module in found:
            installed = _version_of(optional.pip)
            table.add_row(module, installed, escape(_misfit(module, installed, jetson)))
        else:
            table.add_row(module, "[yellow]missing[/]", escape(_remedy(module, jetson)))
    if DRIVER in found:
        table.add_row(DRIVER, "libcuda.so.1", "")
    else:
        table.add_row(DRIVER, "none found", "for GPUs only: NVIDIA's package for this system; on a Jetson it is part of Jetson Linux")
    out.print(table)
    for ability, groups in ABILITIES.items():
        missing = [" or ".join(group) for group in groups if found.isdisjoint(group)]
        out.print(f"{'[red]no [/]' if missing else '[green]yes[/]'} {ability}" + (f" (missing: {', '.join(missing)})" if missing else ""))


def _jetson_rows(jetson: JetsonInfo) -> list[tuple[str, str, str]]:
    """Return rows of part, what was found, and the command that changes it."""
    software = f"{jetson.l4t or 'unknown'} (JetPack {jetson.jetpack or 'unknown'})"
    rows = [("Jetson", jetson.model or "unknown", ""), ("Jetson Linux", software, "")]
    if jetson.power_mode is None:
        mode, faster = "unknown", "sudo nvpmodel -q shows it"
    else:
        mode, faster = f"{jetson.power_mode} ({jetson.power_name or 'name unknown'})", ""
    if jetson.fastest_mode and jetson.power_mode != jetson.fastest_mode[0]:
        number, name = jetson.fastest_mode
        faster = f"sudo nvpmodel -m {number} ({name}, the fastest)"
    rows.append(("power mode", mode, faster))
    clocks = {"CPU": jetson.cpu_locked, "GPU": jetson.gpu_locked}
    states = ", ".join(f"{part} {'unknown' if locked is None else 'locked' if locked else 'not locked'}" for part, locked in clocks.items())
    rows.append(("clocks", states, "" if all(clocks.values()) else "sudo jetson_clocks (until the next start; for steady latencies)"))
    return rows


def _remedy(module: str, jetson: JetsonInfo | None) -> str:
    """Return what brings a missing package; on a Jetson some come from JetPack, or must fit it."""
    if jetson and module == "tensorrt":
        return "JetPack has it: sudo apt install python3-libnvinfer, and a venv made with --system-site-packages"
    if jetson and module == "tensorrt_rtx":
        return "not made for Jetson"
    if jetson and module == "cuda.bindings" and jetson.cuda:
        return f"pip install 'cuda-bindings=={jetson.cuda}.*'"
    return install_command(module)


def _misfit(module: str, installed: str, jetson: JetsonInfo | None) -> str:
    """Return what to do about a package that is there, but is newer than JetPack's driver; else nothing."""
    if jetson and jetson.cuda and module == "cuda.bindings":
        major = installed.split(".")[0]
        if major.isdecimal() and int(major) > jetson.cuda:
            return f"this JetPack's driver is of CUDA {jetson.cuda}: pip install 'cuda-bindings=={jetson.cuda}.*'"
    return ""


def _version_of(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "installed under another name"
