"""The GPU suite itself, on a machine without one: what a stand-in GPU refuses fails, or is known, and no file keeps others from running."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Loaded before the suite's conftest: a GPU to open, whose engines are refused, and modules that are not there.
STAND_IN = """
import os, sys
from types import SimpleNamespace

for module in filter(None, os.environ["HIDDEN"].split(",")):
    sys.modules[module] = None
from diffpose_edge.runtime import cuda

if os.environ.get("WITH_GPU"):
    cuda.open_cuda = lambda *a: SimpleNamespace(close=lambda: None, device=SimpleNamespace(name="a stand-in"))
    from diffpose_edge.benchmarks import engine_probe

    engine_probe.refusals = lambda: {"rtx": "SM 9.0 is not supported"}
"""
TOLD = "engines: NOT TESTED: TensorRT-RTX refuses a stand-in: SM 9.0 is not supported"


def suite(folder: Path, *files: str, hidden: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    (folder / "stand_in.py").write_text(STAND_IN)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DIFFPOSE_", "PYTEST_"))}
    # As gpu.sh runs it: hypothesis comes with a plugin.
    clean |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "HIDDEN": hidden, **env}
    paths = [f"tests/gpu/{file}" for file in files]
    command = [sys.executable, "-m", "pytest", "-p", "stand_in", "-p", "no:cacheprovider", "-m", "gpu", "--continue-on-collection-errors"]
    return subprocess.run([*command, *paths], cwd=ROOT, env=clean, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("known", "code"), [("", 1), ("known", 0)])
def test_a_gpu_that_refuses_engines_is_green_only_where_that_is_known(tmp_path: Path, known: str, code: int) -> None:
    done = suite(tmp_path, "test_gpu_engines.py", WITH_GPU="1", DIFFPOSE_REQUIRE_GPU="1", DIFFPOSE_ENGINES_REFUSED=known)
    assert done.returncode == code, done.stdout
    assert TOLD in done.stdout
    assert "passed" not in done.stdout.splitlines()[-1]


def test_where_no_gpu_is_required_a_refusal_is_skipped(tmp_path: Path) -> None:
    done = suite(tmp_path, "test_gpu_engines.py", WITH_GPU="1")
    assert done.returncode == 0, done.stdout
    assert TOLD in done.stdout


@pytest.mark.parametrize("required", ["", "1"])
def test_a_file_that_lacks_a_package_does_not_stop_the_others(tmp_path: Path, required: str) -> None:
    """The tests of the CUDA layer are reached and tell that there is no GPU; the file that cannot be read is told beside them."""
    done = suite(tmp_path, "test_gpu_cuda.py", "test_gpu_engines.py", hidden="onnx,hypothesis", DIFFPOSE_REQUIRE_GPU=required)
    assert "could not import 'onnx'" in done.stdout
    told = [line for line in done.stdout.splitlines() if line.startswith(("ERROR", "SKIPPED"))]
    assert any("test_gpu_engines.py" in line for line in told)
    assert any("test_gpu_cuda.py" in line for line in told)
    assert done.returncode == int(bool(required)), done.stdout
