"""``driver_double.c``: compiled, given to a process as its NVIDIA driver, and asked from within what it saw."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

from diffpose_edge.extras import is_installed
from diffpose_edge.runtime.cuda import PROVIDERS

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
# What tells a process that its driver is the double, and where that lies.
INSIDE = "DIFFPOSE_EDGE_DRIVER_DOUBLE"
KINDS = ("memory", "host", "stream", "event", "graph", "exec", "context")
# Numbers of CU_DEVICE_ATTRIBUTE_...
INTEGRATED, CAN_MAP_HOST_MEMORY = 18, 19
# The providers that are installed; test_provider.py says where PyCUDA comes from.
INSTALLED = [name for name, module in zip(PROVIDERS, ("cuda.bindings", "pycuda"), strict=True) if is_installed(module)]
# For computers without a C compiler: one that pip can install. It is 100 MB, so it is fetched only there.
COMPILER_WHEEL = "ziglang==0.17.1"


def compiled(folder: Path) -> Path:
    """Compile the double into ``folder`` as libcuda.so.1 and return the folder, to be put on LD_LIBRARY_PATH."""
    compiler = [next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), "")]
    if compiler == [""]:
        _run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "compiler"), COMPILER_WHEEL])
        compiler = [str(folder / "compiler" / "ziglang" / "zig"), "cc"]
    flags = ["-std=gnu11", "-O1", "-shared", "-fPIC", "-pthread", "-Wl,-soname,libcuda.so.1"]
    _run([*compiler, *flags, "-o", str(folder / "libcuda.so.1"), str(HERE / "driver_double.c")])
    return folder


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)} ended with {result.returncode}:\n{result.stderr[-2000:]}"


def process(*arguments: str, library: Path | None, **environment: object) -> subprocess.CompletedProcess[str]:
    """Run Python in the checkout, with the double as its driver or, without ``library``, as the computer is."""
    variables = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    if library is not None:
        variables["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [str(library), os.environ.get("LD_LIBRARY_PATH")]))
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=CHECKOUT, env=variables, capture_output=True, text=True, check=False, timeout=300)


class DriverDouble:
    """The double as seen from within a process that has it for its driver."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")

    def fail(self, function: str, code: int = 999) -> None:
        """Let every call of a driver function fail from now on; 0: no more."""
        self._library.double_fail(function.encode(), code)

    def calls(self, function: str) -> int:
        """How often a function was called since the last reset."""
        return int(self._library.double_calls(function.encode()))

    def flags(self, function: str) -> int:
        """The flags, or the mode, with which a function was last called."""
        return int(self._library.double_flags(function.encode()))

    def called(self) -> set[str]:
        """Every function that was called since the last reset, but for those that explain errors and look functions up."""
        text = ctypes.create_string_buffer(8192)
        self._library.double_called(text, len(text))
        return set(text.value.decode().split())

    def alive(self) -> dict[str, int]:
        """How much there is of what was handed out and not given back, by kind; kinds of which there is nothing are left out."""
        counts = {kind: int(self._library.double_alive(kind.encode())) for kind in KINDS}
        return {kind: count for kind, count in counts.items() if count}

    def depth(self) -> int:
        """How many contexts are on this thread's stack."""
        return int(self._library.double_depth())

    def set_attribute(self, attribute: int, value: int) -> None:
        """Set what the GPU says of itself."""
        self._library.double_attribute(attribute, value)

    def hold(self, held: bool) -> None:
        """Let cuStreamSynchronize wait, two seconds at most, until it is held no more."""
        self._library.double_hold(int(held))

    def drain(self, stream: int) -> None:
        """Do what waits in a stream, as a GPU would sooner or later."""
        self._library.double_drain(ctypes.c_void_p(stream))

    def reset(self) -> None:
        """Forget everything that was handed out, counted and set."""
        self._library.double_reset()
