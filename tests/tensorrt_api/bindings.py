"""Python bindings of several TensorRT versions, from PyPI, importable where neither a GPU nor TensorRT's libraries are.

The wheels of the bindings are a megabyte each; what makes TensorRT large are the libraries that they load. Those are
replaced by ``stub.c``, compiled and laid beside the bindings under each name that they look for.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
# For computers without a C compiler: one that pip can install. It is 100 MB, so it is fetched only there.
COMPILER_WHEEL = "ziglang==0.17.1"


@dataclass(frozen=True)
class Version:
    """A version of TensorRT: its number, or how that begins, the wheel of its bindings and what they load.

    ``requirement`` is None for what the test extra has installed already, with its libraries. ``newest_python`` is the
    last Python that the wheel was made for.
    """

    product: str
    number: str
    module: str
    requirement: str | None = None
    libraries: tuple[str, ...] = ()
    newest_python: tuple[int, int] = (3, 99)

    def __str__(self) -> str:
        return f"{self.product} {self.number}"

    @property
    def is_made_for_this_python(self) -> bool:
        return sys.version_info[:2] <= self.newest_python


def _tensorrt(number: str, project: str, newest_python: tuple[int, int]) -> Version:
    major = number.split(".")[0]
    names = ["nvinfer", "nvinfer_plugin", "nvonnxparser"] + ["nvparsers"] * (major == "8")
    libraries = tuple(f"lib{name}.so.{major}" for name in names)
    return Version("TensorRT", number, "tensorrt_bindings", f"{project}=={number}", libraries, newest_python)


# The ends of what is supported, JetPack 6's 10.3, and the versions at which members came and went.
VERSIONS = (
    _tensorrt("8.6.1", "tensorrt-bindings", (3, 11)),
    _tensorrt("10.3.0", "tensorrt-cu12-bindings", (3, 12)),
    _tensorrt("10.13.2.6", "tensorrt-cu12-bindings", (3, 13)),
    _tensorrt("10.16.1.11", "tensorrt-cu12-bindings", (3, 13)),
    _tensorrt("11.4.0.106", "tensorrt-cu13-bindings", (3, 14)),
    Version("TensorRT-RTX", "1.7", "tensorrt_rtx"),
)


class Surfaces:
    """Answers what each version has. Bindings are installed below ``folder`` when a version is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sites: dict[Version, Path] = {}
        self._stub: Path | None = None

    def present(self, version: Version, chains: Iterable[str]) -> dict[str, bool]:
        """Return which chains of attributes the version has; fails if pip, the compiler or the import does."""
        if version not in self._sites:
            self._sites[version] = _installed(version) if version.requirement is None else self._install(version)
        # -I and -S: only this folder, so that no TensorRT of this computer answers instead.
        command = [sys.executable, "-I", "-S", str(HERE / "surface.py"), version.module, str(self._sites[version])]
        answer = json.loads(_run(command, json.dumps(sorted(set(chains)))))
        assert answer["version"].startswith(version.number), f"{version} was asked, {answer['version']} answered"
        present: dict[str, bool] = answer["present"]
        return present

    def _install(self, version: Version) -> Path:
        assert version.requirement is not None
        site = self._folder / version.number
        _pip_install(version.requirement, site)
        if self._stub is None:
            self._stub = compiled_stub(self._folder)
        for library in version.libraries:
            # The bindings of every version look beside themselves.
            (site / version.module / library).symlink_to(self._stub)
        return site


def compiled_stub(folder: Path) -> Path:
    """Compile ``stub.c`` into ``folder``, with the computer's compiler or, where there is none, one from PyPI."""
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    compiler = [found] if found else _compiler_from_pypi(folder)
    stub = folder / "stub.so"
    _run([*compiler, "-shared", "-fPIC", "-nostdlib", "-o", str(stub), str(HERE / "stub.c")])
    return stub


def _compiler_from_pypi(folder: Path) -> list[str]:
    site = folder / "compiler"
    _pip_install(COMPILER_WHEEL, site)
    return [str(site / "ziglang" / "zig"), "cc"]


def _installed(version: Version) -> Path:
    """Return the folder from which this process would import it."""
    spec = importlib.util.find_spec(version.module)
    assert spec is not None, f"{version.module} is not installed; the test extra has it"
    assert spec.origin is not None
    return Path(spec.origin).parents[1]


def _pip_install(requirement: str, site: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    _run([*pip, "--no-deps", "--no-compile", "--target", str(site), requirement])


def _run(command: list[str], text: str = "") -> str:
    # English, whatever the computer speaks: what fails is read in a test's report.
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    assert result.returncode == 0, f"{' '.join(command)} ended with {result.returncode}:\n{result.stderr[-2000:]}"
    return result.stdout
