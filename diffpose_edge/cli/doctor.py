"""``diffpose-edge doctor``"""

from __future__ import annotations

import ctypes.util
import os
import platform
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from rich.markup import escape
from rich.table import Table

import diffpose_edge
from diffpose_edge.cli.terminal import out
from diffpose_edge.extras import OPTIONAL, install_command, is_installed

ABILITIES = {
    "run bundles on the CPU": ("onnxruntime",),
    "export and verify": ("torch", "onnx", "onnxscript", "onnxruntime"),
    "train": ("torch", "safetensors"),
    "draw the demo's pictures": ("matplotlib", "PIL"),
}


def doctor() -> None:
    """Say what this machine can run, and the command for what is missing."""
    table = Table(title=f"diffpose-edge {diffpose_edge.__version__} on {platform.system()} {platform.machine()}")
    for heading in ("part", "found", "to get it"):
        table.add_column(heading, overflow="fold")
    table.add_row("Python", platform.python_version(), "")
    table.add_row("cores", str(os.cpu_count()), "")
    table.add_row("numpy", np.__version__, "")
    for module, optional in OPTIONAL.items():
        if is_installed(module):
            table.add_row(module, _version_of(optional.pip), "")
        else:
            table.add_row(module, "[yellow]missing[/]", escape(install_command(module)))
    driver = ctypes.util.find_library("cuda")
    table.add_row("NVIDIA driver", driver or "none found", "" if driver else "only for GPUs; this version runs on the CPU")
    out.print(table)
    for ability, modules in ABILITIES.items():
        missing = [module for module in modules if not is_installed(module)]
        out.print(f"{'[red]no [/]' if missing else '[green]yes[/]'} {ability}" + (f" (missing: {', '.join(missing)})" if missing else ""))
    out.print("no  TensorRT engines: not part of this version yet")


def _version_of(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "installed under another name"
