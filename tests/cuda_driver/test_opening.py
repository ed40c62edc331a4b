"""Opening a GPU, in a new process each time: what is found, what is not, and that nothing is initialised before it is wanted."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from diffpose_edge.extras import is_installed
from diffpose_edge.runtime.cuda import driver_found

from .double import INSTALLED, process

# Opens a GPU and prints what it is, or the kind and text of the error; then how often the double was initialised.
OPEN = """
import ctypes, json, os, sys
sys.setdlopenflags(os.RTLD_LAZY)
from diffpose_edge.runtime.cuda import open_cuda
try:
    cuda = open_cuda(*json.loads(sys.argv[1]))
    answer = [type(cuda).__name__, cuda.device.index, cuda.device.name]
    cuda.close()
except Exception as err:
    answer = [type(err).__name__, str(err)]
try:
    initialised = ctypes.CDLL("libcuda.so.1").double_calls(b"cuInit")
except (OSError, AttributeError):
    initialised = 0
print(json.dumps([answer, initialised]))
"""


def opened(library: Path | None, *arguments: object, **environment: object) -> tuple[list, int]:
    """Return what opening a GPU gave in a new process, and how often cuInit was called."""
    result = process("-c", OPEN, json.dumps(arguments), library=library, **environment)
    assert result.returncode == 0, result.stderr
    answer, initialised = json.loads(result.stdout)
    return answer, initialised


@pytest.mark.parametrize("name", INSTALLED)
def test_the_gpu_of_the_number_is_opened(name: str, library: Path) -> None:
    kind = {"cuda-bindings": "CudaBindings", "pycuda": "PyCuda"}[name]
    assert opened(library, name, 1, DRIVER_DOUBLE_GPUS=2) == ([kind, 1, "A double of another GPU"], 1)


def test_cuda_bindings_is_what_is_taken_first(library: Path) -> None:
    assert opened(library) == (["CudaBindings", 0, "A double of a GPU"], 1)


@pytest.mark.skipif(driver_found(), reason="this computer has an NVIDIA driver")
@pytest.mark.parametrize("name", INSTALLED)
def test_without_a_driver_the_error_says_what_works_without_one(name: str) -> None:
    (kind, text), _ = opened(None, name)
    assert kind == "CudaError"
    assert text == "no NVIDIA driver found (libcuda.so.1): a GPU backend needs one. On this machine use backend 'onnxruntime'"


@pytest.mark.parametrize("name", INSTALLED)
def test_a_number_beyond_the_gpus_is_refused_with_those_that_there_are(name: str, library: Path) -> None:
    (kind, text), _ = opened(library, name, 2, DRIVER_DOUBLE_GPUS=2)
    assert (kind, text) == ("CudaError", "expected the number of a GPU within 0..1, got 2")


@pytest.mark.parametrize("name", INSTALLED)
def test_a_driver_without_a_gpu_says_so(name: str, library: Path) -> None:
    (kind, text), _ = opened(library, name, DRIVER_DOUBLE_GPUS=0)
    assert kind == "CudaError"
    assert "no CUDA-capable device is detected" in text
    (kind, text), _ = opened(library, name, DRIVER_DOUBLE_GPUS=-1)
    assert (kind, text) == ("CudaError", "no GPU found")


@pytest.mark.parametrize("arguments", [("cupy",), ("cuda-bindings", -1), ("cuda-bindings", True)])
def test_a_mistake_is_refused_before_cuda_is_initialised(arguments: tuple, library: Path) -> None:
    (kind, text), initialised = opened(library, *arguments)
    assert kind == "DiffPoseEdgeError"
    assert text.startswith("expected ")
    assert initialised == 0


@pytest.mark.skipif(is_installed("pycuda"), reason="PyCUDA is installed here")
def test_a_provider_that_is_not_installed_comes_with_the_command_that_brings_it(library: Path) -> None:
    (kind, text), initialised = opened(library, "pycuda")
    assert kind == "MissingPackage"
    assert "pip install pycuda" in text
    assert initialised == 0


def test_a_provider_that_was_built_for_another_driver_is_a_cuda_error(library: Path, tmp_path: Path) -> None:
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda/__init__.py").touch()
    (tmp_path / "pycuda/driver.py").write_text("raise ImportError('_driver.so: undefined symbol: cuCtxCreate_v4')\n")
    (kind, text), _ = opened(library, "pycuda", PYTHONPATH=tmp_path)
    assert (kind, text) == ("CudaError", "pycuda is installed but cannot be loaded: _driver.so: undefined symbol: cuCtxCreate_v4")


def test_imports_and_looking_for_a_driver_initialise_nothing(library: Path) -> None:
    modules = ["diffpose_edge.runtime.cuda_bindings"] + ["diffpose_edge.runtime.cuda_pycuda"] * ("pycuda" in INSTALLED)
    code = f"""
import ctypes, os, sys
sys.setdlopenflags(os.RTLD_LAZY)
import diffpose_edge.runtime, diffpose_edge.runtime.tensorrt_backend
from diffpose_edge.runtime.cuda import driver_found
assert "cuda.bindings.driver" not in sys.modules and "pycuda.driver" not in sys.modules
assert driver_found()
import {", ".join(modules)}
double = ctypes.CDLL("libcuda.so.1")
called = ctypes.create_string_buffer(8192)
double.double_called(called, 8192)
assert called.value == b"", called.value
"""
    result = process("-c", code, library=library)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", INSTALLED)
def test_a_process_that_forgets_to_close_ends_in_peace(name: str, library: Path) -> None:
    code = f"""
import os, sys
sys.setdlopenflags(os.RTLD_LAZY)
from diffpose_edge.runtime.cuda import DeviceBuffer, PinnedBuffer, Stream, open_cuda
cuda = open_cuda({name!r})
kept = DeviceBuffer(cuda, 256), PinnedBuffer(cuda, 256), Stream(cuda)
"""
    result = process("-c", code, library=library)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(version("cuda-bindings") < "13", reason="cuda-bindings 12 needs nothing that the driver of CUDA 12.6 lacks")
def test_a_driver_that_is_older_than_cuda_bindings_is_named_with_the_remedy(library: Path) -> None:
    code = """
from diffpose_edge.errors import CudaError
from diffpose_edge.runtime.cuda import Event, Stream, open_cuda
cuda = open_cuda("cuda-bindings")
assert cuda.device.driver == 12060
with cuda.current(), Stream(cuda) as stream, Event(cuda) as event:
    cuda.record(event.handle, stream.handle, capturing=False)
    stream.synchronize()
    try:
        cuda.elapsed_ms(event.handle, event.handle)
    except CudaError as err:
        print(err)
"""
    result = process("-c", code, library=library, DRIVER_DOUBLE_VERSION=12060)
    assert result.returncode == 0, result.stderr
    assert "cuEventElapsedTime" in result.stdout
    assert "pip install 'cuda-bindings==12.*'" in result.stdout
