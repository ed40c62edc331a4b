"""Every function of the driver fails in turn: what comes is a CudaError that explains it, and whatever else was held is given back."""

from __future__ import annotations

from contextlib import ExitStack, closing, suppress

import numpy as np
import pytest

from diffpose_edge.errors import CudaError
from diffpose_edge.runtime.cuda import DeviceBuffer, Event, Graph, PinnedBuffer, Stream, open_cuda

from .double import INSTALLED, DriverDouble

SIZE = 512
# Functions of the driver that a whole life calls, and what of it is lost for good when they fail.
BOTH = {
    "cuInit": {}, "cuDriverGetVersion": {}, "cuDeviceGetCount": {}, "cuDeviceGet": {}, "cuDeviceGetName": {}, "cuDeviceGetAttribute": {},
    "cuDevicePrimaryCtxRetain": {}, "cuDevicePrimaryCtxRelease": {"context": 1}, "cuCtxPushCurrent": {}, "cuCtxPopCurrent": {"memory": 1},
    "cuMemGetInfo": {}, "cuMemAlloc": {}, "cuMemFree": {"memory": 1}, "cuMemHostAlloc": {}, "cuMemFreeHost": {"host": 2},
    "cuMemHostGetDevicePointer": {}, "cuMemcpyHtoDAsync": {}, "cuMemcpyDtoHAsync": {}, "cuMemcpyDtoDAsync": {},
    "cuStreamCreate": {}, "cuStreamDestroy": {"stream": 1}, "cuStreamSynchronize": {}, "cuStreamBeginCapture": {},
    # The capture was ended nowhere: nothing is left but what the stream held, and that went with the stream.
    "cuStreamEndCapture": {}, "cuGraphInstantiateWithFlags": {}, "cuGraphDestroy": {"graph": 1, "exec": 1}, "cuGraphLaunch": {},
    "cuGraphExecDestroy": {"exec": 1}, "cuEventCreate": {}, "cuEventDestroy": {"event": 2}, "cuEventRecordWithFlags": {},
    "cuEventElapsedTime": {},
}  # fmt: skip
# PyCUDA releases a context that it has made current, or not at all.
ITS_OWN = {"cuda-bindings": {}, "pycuda": {"cuDeviceComputeCapability": {}, "cuEventRecord": {}, "cuCtxPushCurrent": {"context": 1}}}
# Where PyCUDA frees something itself it warns on stderr and does not raise.
PYCUDA_ONLY_WARNS = ("cuMemFree", "cuMemFreeHost", "cuStreamDestroy", "cuDevicePrimaryCtxRelease")
# A pop that fails puts PyCUDA's own stack out of step with the driver's, for the rest of the process.
NOT_TRIED = [("pycuda", "cuCtxPopCurrent")]
EVERY = [(name, function) for name in INSTALLED for function in BOTH | ITS_OWN[name] if (name, function) not in NOT_TRIED]
# What the provider calls some functions in its messages.
ALIASES = {"cuGraphInstantiateWithFlags": "cuGraphInstantiate"}


def whole_life(name: str) -> None:
    """Do everything that a provider can, once, and give everything back."""
    with closing(open_cuda(name)) as cuda, ExitStack() as stack:
        buffer, pinned = stack.enter_context(DeviceBuffer(cuda, SIZE)), stack.enter_context(PinnedBuffer(cuda, SIZE))
        mapped, stream = stack.enter_context(PinnedBuffer(cuda, SIZE, mapped=True)), stack.enter_context(Stream(cuda))
        start, end = stack.enter_context(Event(cuda)), stack.enter_context(Event(cuda))
        pinned.array[:] = np.arange(SIZE) % 256

        def work(capturing: bool) -> None:
            cuda.record(start.handle, stream.handle, capturing)
            cuda.copy_to_device(buffer.address, pinned.array, stream.handle)
            cuda.copy(mapped.device_address, buffer.address, SIZE, stream.handle)
            cuda.copy_to_host(pinned.array, buffer.address, stream.handle)
            cuda.record(end.handle, stream.handle, capturing)

        with cuda.current():
            cuda.memory()
            work(capturing=False)
            stream.synchronize()
            cuda.begin_capture(stream.handle)
            try:
                work(capturing=True)
                graph = Graph(cuda, cuda.end_capture(stream.handle))
            except CudaError:
                cuda.abandon_capture(stream.handle)
                raise
            with graph:
                graph.launch(stream)
                stream.synchronize()
            assert cuda.elapsed_ms(start.handle, end.handle) > 0
        assert (mapped.array == pinned.array).all()


def failed(name: str, double: DriverDouble, function: str, code: int = 999) -> str:
    """Return what a whole life says when a function fails."""
    double.reset()
    double.fail(function, code)
    with pytest.raises(CudaError) as caught:
        whole_life(name)
    double.fail(function, 0)
    return str(caught.value)


def test_a_whole_life_calls_the_functions_that_fail_below_and_leaves_nothing(provider: str, double: DriverDouble) -> None:
    whole_life(provider)
    assert double.called() == {*BOTH, *ITS_OWN[provider]}
    assert double.alive() == {}
    assert double.depth() == 0


@pytest.mark.parametrize(("name", "function"), EVERY)
def test_a_function_that_fails_is_named_and_explained(name: str, function: str, double: DriverDouble) -> None:
    whole_life(name)  # before anything fails: what PyCUDA warns of is not raised
    if name == "pycuda" and function in PYCUDA_ONLY_WARNS:
        double.fail(function)
        whole_life(name)
        return
    message = failed(name, double, function)
    assert "unknown error" in message
    assert ALIASES.get(function, function) in message
    assert "CUDA_ERROR_UNKNOWN" in message or name == "pycuda"  # which tells the explanation, not always the name


@pytest.mark.parametrize(("name", "function"), [(name, function) for name, function in EVERY if function != "cuCtxPopCurrent"])
def test_a_function_that_fails_loses_nothing_else(name: str, function: str, double: DriverDouble) -> None:
    lost = (BOTH | ITS_OWN[name])[function]
    double.fail(function)
    with suppress(CudaError):
        whole_life(name)
    double.fail(function, 0)
    assert double.alive() == lost
    assert double.depth() == 0


def test_out_of_memory_says_what_to_do(provider: str, double: DriverDouble) -> None:
    for function in ("cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate", "cuGraphInstantiateWithFlags"):
        message = failed(provider, double, function, 2)
        assert "out of memory" in message
        assert message.endswith("Close other programs on the GPU, or export the bundle with fewer persons or samples")


def test_too_much_memory_is_out_of_memory(provider: str, double: DriverDouble) -> None:
    with closing(open_cuda(provider)) as cuda:
        for made in (DeviceBuffer, PinnedBuffer):
            with pytest.raises(CudaError, match=r"out of memory.*Close other programs"):
                made(cuda, 2 << 30)
        assert double.alive() == {"context": 1}


@pytest.mark.parametrize("code", [719, 12345])
def test_a_code_that_the_driver_or_the_provider_does_not_know_is_a_cuda_error_too(code: int, double: DriverDouble) -> None:
    message = failed("cuda-bindings", double, "cuMemAlloc", code)
    assert message.startswith("CUDA: cuMemAlloc: ")
    assert "CUDA_ERROR_LAUNCH_FAILED" in message or "12345" in message
    assert "None" not in message
