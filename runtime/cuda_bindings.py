"""CUDA through NVIDIA's cuda-bindings: the driver API, function by function. The default provider."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from cuda.bindings import __version__
from cuda.bindings import driver as cu
from numpy.typing import NDArray

from diffpose_edge.errors import CudaError
from diffpose_edge.runtime.cuda import OUT_OF_MEMORY, Device, HostMemory


def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a driver function and return what it gives beside its return code, or raise CudaError with the driver's explanation."""
    name = f"CUDA: {function.__name__}"
    try:
        code, *values = function(*arguments)
    except RuntimeError as err:  # the driver has no such function, or not in the version that cuda-bindings knows
        raise CudaError(
            f"{name}: {err}. The driver is older than cuda-bindings {__version__}: update it, or install the cuda-bindings of its "
            "CUDA, for CUDA 12: pip install 'cuda-bindings==12.*'"
        ) from err
    except (ValueError, KeyError) as err:  # a return code that this cuda-bindings does not know
        raise CudaError(f"{name}: {err}") from err
    if code != cu.CUresult.CUDA_SUCCESS:
        text = _text(cu.cuGetErrorString(code)[1] or "without explanation")
        raise CudaError(f"{name}: {code.name} ({text}){OUT_OF_MEMORY if code == cu.CUresult.CUDA_ERROR_OUT_OF_MEMORY else ''}")
    return values[0] if len(values) == 1 else tuple(values)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


class CudaBindings:
    """See :class:`diffpose_edge.runtime.cuda.Cuda`."""

    name = "cuda-bindings"
    graphs = True

    def __init__(self, index: int):
        called(cu.cuInit, 0)
        count = called(cu.cuDeviceGetCount)
        if index >= count:
            raise CudaError(f"expected the number of a GPU within 0..{count - 1}, got {index}" if count else "no GPU found")
        self._device = called(cu.cuDeviceGet, index)
        kinds = cu.CUdevice_attribute

        def attribute(kind: Any) -> int:
            return int(called(cu.cuDeviceGetAttribute, kind, self._device))

        self.device = Device(
            index=index,
            name=_text(called(cu.cuDeviceGetName, 128, self._device)).rstrip("\0"),
            sm=10 * attribute(kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
            + attribute(kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
            driver=int(called(cu.cuDriverGetVersion)),
            integrated=bool(attribute(kinds.CU_DEVICE_ATTRIBUTE_INTEGRATED)),
            maps_host=bool(attribute(kinds.CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY)),
        )
        self._context: Any = called(cu.cuDevicePrimaryCtxRetain, self._device)

    @contextmanager
    def current(self) -> Iterator[None]:
        if self._context is None:
            raise CudaError("this CUDA device was closed")
        called(cu.cuCtxPushCurrent, self._context)
        try:
            yield
        finally:
            called(cu.cuCtxPopCurrent)

    def allocate(self, size: int) -> int:
        return int(called(cu.cuMemAlloc, size))

    def free(self, address: int) -> None:
        called(cu.cuMemFree, address)

    def allocate_host(self, size: int, mapped: bool) -> HostMemory:
        flags = cu.CU_MEMHOSTALLOC_PORTABLE | (cu.CU_MEMHOSTALLOC_DEVICEMAP if mapped else 0)
        address = int(called(cu.cuMemHostAlloc, size, flags))
        try:
            seen = int(called(cu.cuMemHostGetDevicePointer, address, 0)) if mapped else 0
        except CudaError:
            called(cu.cuMemFreeHost, address)
            raise
        return HostMemory(np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)), seen, address)

    def free_host(self, memory: HostMemory) -> None:
        called(cu.cuMemFreeHost, memory.owner)

    def create_stream(self) -> int:
        return int(called(cu.cuStreamCreate, cu.CUstream_flags.CU_STREAM_NON_BLOCKING))

    def destroy_stream(self, stream: int) -> None:
        called(cu.cuStreamDestroy, stream)

    def synchronize(self, stream: int) -> None:
        called(cu.cuStreamSynchronize, stream)

    def copy_to_device(self, address: int, source: NDArray[Any], stream: int) -> None:
        assert source.flags.c_contiguous
        called(cu.cuMemcpyHtoDAsync, address, source.ctypes.data, source.nbytes, stream)

    def copy_to_host(self, target: NDArray[Any], address: int, stream: int) -> None:
        assert target.flags.c_contiguous
        assert target.flags.writeable
        called(cu.cuMemcpyDtoHAsync, target.ctypes.data, address, target.nbytes, stream)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        called(cu.cuMemcpyDtoDAsync, target, source, size, stream)

    def create_event(self) -> int:
        return int(called(cu.cuEventCreate, cu.CUevent_flags.CU_EVENT_DEFAULT))

    def destroy_event(self, event: int) -> None:
        called(cu.cuEventDestroy, event)

    def record(self, event: int, stream: int, capturing: bool) -> None:
        # In a capture a plain record only marks a dependency; an external one becomes a node that takes the time at each replay.
        flags = cu.CUevent_record_flags.CU_EVENT_RECORD_EXTERNAL if capturing else cu.CUevent_record_flags.CU_EVENT_RECORD_DEFAULT
        called(cu.cuEventRecordWithFlags, event, stream, int(flags))

    def elapsed_ms(self, start: int, end: int) -> float:
        return float(called(cu.cuEventElapsedTime, start, end))

    def begin_capture(self, stream: int) -> None:
        # Thread-local: what other threads do, PyTorch's allocator say, does not break the capture.
        called(cu.cuStreamBeginCapture, stream, cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        captured = called(cu.cuStreamEndCapture, stream)
        try:
            return int(called(cu.cuGraphInstantiate, captured, 0))
        finally:
            called(cu.cuGraphDestroy, captured)

    def abandon_capture(self, stream: int) -> None:
        code, captured = cu.cuStreamEndCapture(stream)
        if code == cu.CUresult.CUDA_SUCCESS and int(captured):
            called(cu.cuGraphDestroy, captured)

    def launch(self, graph: int, stream: int) -> None:
        called(cu.cuGraphLaunch, graph, stream)

    def destroy_graph(self, graph: int) -> None:
        called(cu.cuGraphExecDestroy, graph)

    def memory(self) -> tuple[int, int]:
        free, total = called(cu.cuMemGetInfo)
        return int(free), int(total)

    def close(self) -> None:
        if self._context is not None:
            self._context = None
            called(cu.cuDevicePrimaryCtxRelease, self._device)
