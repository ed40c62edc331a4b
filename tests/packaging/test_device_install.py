"""The device side installs on a Jetson from wheels alone: pip resolves it here, for aarch64, as it would there.

pip takes the platform and the Python that it is told, but judges environment markers by the machine it runs on: a dependency
of other Pythons only would not be seen. Nothing is installed, and what is downloaded is descriptions, not packages.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it there

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCS = (ROOT / "docs" / "jetson.md").read_text(encoding="utf-8")
UNREACHABLE = re.compile(r"NewConnectionError|NameResolutionError|ConnectTimeout|Max retries exceeded|ProxyError|Network is unreachable")
# By JetPack's first number: Python, the second number of its C library (Ubuntu 22.04 and 24.04), and the bindings that fit its CUDA.
JETPACKS = {"6": ("3.10", 35, "cuda-bindings==12.*"), "7": ("3.12", 39, "cuda-bindings==13.*")}


def resolved(folder: Path, python: str, glibc: int, *requirements: str) -> list[dict[str, Any]] | str:
    """Return what pip would install on aarch64, wheels only, or what it said when it found no way."""
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, glibc + 1)] + ["--platform=manylinux2014_aarch64"]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--only-binary=:all:"]
    command += [*platforms, f"--python-version={python}", "--implementation=cp", f"--target={folder / 'nowhere'}"]
    command += [f"--report={folder / 'report.json'}", *requirements]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if UNREACHABLE.search(done.stderr):
        pytest.skip("the package index cannot be reached")
    if done.returncode:
        return done.stderr
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))["install"]


def extra(name: str) -> list[str]:
    return PROJECT["optional-dependencies"][name]


@pytest.mark.slow
@pytest.mark.parametrize("jetpack", JETPACKS)
def test_the_device_side_resolves_to_wheels_for_aarch64(tmp_path, jetpack):
    python, glibc, bindings = JETPACKS[jetpack]
    found = resolved(tmp_path, python, glibc, *PROJECT["dependencies"], *extra("cuda"), *extra("build"), *extra("sign"), bindings)
    assert isinstance(found, list), found
    files = {item["metadata"]["name"]: item["download_info"]["url"].rsplit("/", 1)[-1] for item in found}
    assert {"numpy", "cuda-bindings", "cryptography", "onnx", "onnxruntime", "polygraphy"} <= set(files)
    for name, file in files.items():
        assert file.endswith(("_aarch64.whl", "-any.whl")), f"{name}: {file}"
    [version] = [item["metadata"]["version"] for item in found if item["metadata"]["name"] == "cuda-bindings"]
    assert version.split(".")[0] == re.search(r"\d+", bindings).group()
    assert not {"torch", "tensorrt"} & set(files)


def test_a_package_without_wheels_is_found_out(tmp_path):
    """PyCUDA is a source package, as docs/jetson.md says."""
    found = resolved(tmp_path, *JETPACKS["6"][:2], "--no-deps", *extra("pycuda"))
    assert isinstance(found, str)
    assert "No matching distribution found for pycuda" in found


@pytest.mark.parametrize("jetpack", JETPACKS)
def test_the_texts_name_what_is_tried_here(jetpack):
    python, _, bindings = JETPACKS[jetpack]
    pin = bindings.removeprefix("cuda-bindings")
    rows = [line for line in DOCS.splitlines() if line.startswith(f"| {jetpack}.")]
    assert rows
    for row in rows:
        assert f"| {python} | `{pin}` |" in row
    dockerfile = (ROOT / "docker" / f"jetpack{jetpack}.Dockerfile").read_text(encoding="utf-8")
    assert f"'.[cuda,build]' '{bindings}'" in dockerfile
    assert set(re.findall(r"cuda-bindings==\d+\.\*", dockerfile)) == {bindings}
