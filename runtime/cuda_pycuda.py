"""CUDA through PyCUDA: for machines where it is what there is.

PyCUDA has no graphs, and its events do not tell their handle, which a graph needs: both go to the driver library itself.
What PyCUDA gives out frees itself; it is kept here by its number until it is given back. Where freeing fails, PyCUDA warns on
stderr and does not raise.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pycuda.driver as drv
from numpy.typing import NDArray

from diffpose_edge.errors import CudaError
from diffpose_edge.runtime.cuda import OUT_OF_MEMORY, Device, HostMemory

_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_EXTERNAL = 1  # CU_EVENT_RECORD_EXTERNAL
_GRAPH_FUNCTIONS = (
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
    "cuEventRecordWithFlags",
)


@contextmanager
def _explained() -> Iterator[None]:
    """Turn PyCUDA's errors into CudaError: they have the function and the driver's explanation in their text."""
    try:
        yield
    except drv.Error as err:
        raise CudaError(f"CUDA: {err}{OUT_OF_MEMORY if isinstance(err, drv.MemoryError) else ''}") from err


class PyCuda:
    """See :class:`diffpose_edge.runtime.cuda.Cuda`."""

    name = "pycuda"

    def __init__(self, index: int):
        self._driver = ctypes.CDLL("libcuda.so.1")
        self.graphs = all(hasattr(self._driver, name) for name in _GRAPH_FUNCTIONS)
        with _explained():
            drv.init()
            count = drv.Device.count()
            if index >= count:
                raise CudaError(f"expected the number of a GPU within 0..{count - 1}, got {index}" if count else "no GPU found")
            device = drv.Device(index)
            major, minor = device.compute_capability()
            self.device = Device(
                index=index,
                name=device.name(),
                sm=10 * major + minor,
                driver=drv.get_driver_version(),
                integrated=bool(device.get_attribute(drv.device_attribute.INTEGRATED)),
                maps_host=bool(device.get_attribute(drv.device_attribute.CAN_MAP_HOST_MEMORY)),
            )
            # pycuda.autoinit would make a context of its own, in which nobody else's memory can be used.
            self._context: Any = device.retain_primary_context()
        self._kept: dict[int, Any] = {}

    @contextmanager
    def current(self) -> Iterator[None]:
        if self._context is None:
            raise CudaError("this CUDA device was closed")
        with _explained():
            self._context.push()
        try:
            yield
        finally:
            with _explained():
                drv.Context.pop()

    def allocate(self, size: int) -> int:
        with _explained():
            memory = drv.mem_alloc(size)
        return self._keep(int(memory), memory)

    def free(self, address: int) -> None:
        with _explained():
            self._kept.pop(address).free()

    def allocate_host(self, size: int, mapped: bool) -> HostMemory:
        flags = drv.host_alloc_flags.PORTABLE | (drv.host_alloc_flags.DEVICEMAP if mapped else 0)
        with _explained():
            array = drv.pagelocked_empty(size, np.uint8, mem_flags=flags)
            try:
                seen = int(array.base.get_device_pointer()) if mapped else 0
            except drv.Error:
                array.base.free()
                raise
        return HostMemory(array, seen, array.base)

    def free_host(self, memory: HostMemory) -> None:
        with _explained():
            memory.owner.free()

    def create_stream(self) -> int:
        with _explained():
            stream = drv.Stream(_NON_BLOCKING)
        return self._keep(int(stream.handle), stream)

    def destroy_stream(self, stream: int) -> None:
        del self._kept[stream]

    def synchronize(self, stream: int) -> None:
        with _explained():
            self._kept[stream].synchronize()

    def copy_to_device(self, address: int, source: NDArray[Any], stream: int) -> None:
        with _explained():
            drv.memcpy_htod_async(address, source, self._kept[stream])

    def copy_to_host(self, target: NDArray[Any], address: int, stream: int) -> None:
        with _explained():
            drv.memcpy_dtoh_async(target, address, self._kept[stream])

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        with _explained():
            drv.memcpy_dtod_async(target, source, size, self._kept[stream])

    def create_event(self) -> int:
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), ctypes.c_uint(0))
        return int(event.value or 0)

    def destroy_event(self, event: int) -> None:
        self._call("cuEventDestroy_v2", ctypes.c_void_p(event))

    def record(self, event: int, stream: int, capturing: bool) -> None:
        handles = ctypes.c_void_p(event), ctypes.c_void_p(stream)
        if capturing:
            self._call("cuEventRecordWithFlags", *handles, ctypes.c_uint(_EXTERNAL))
        else:
            self._call("cuEventRecord", *handles)

    def elapsed_ms(self, start: int, end: int) -> float:
        milliseconds = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(milliseconds), ctypes.c_void_p(start), ctypes.c_void_p(end))
        return milliseconds.value

    def begin_capture(self, stream: int) -> None:
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(_THREAD_LOCAL))

    def end_capture(self, stream: int) -> int:
        captured, graph = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(captured))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(graph), captured, ctypes.c_ulonglong(0))
        finally:
            self._call("cuGraphDestroy", captured)
        return int(graph.value or 0)

    def abandon_capture(self, stream: int) -> None:
        captured = ctypes.c_void_p()
        if self._driver.cuStreamEndCapture(ctypes.c_void_p(stream), ctypes.byref(captured)) == 0 and captured:
            self._call("cuGraphDestroy", captured)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def destroy_graph(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", ctypes.c_void_p(graph))

    def memory(self) -> tuple[int, int]:
        with _explained():
            free, total = drv.mem_get_info()
        return int(free), int(total)

    def close(self) -> None:
        if self._context is None:
            return
        context, self._context = self._context, None
        with _explained():
            # PyCUDA's destructor calls what releases other contexts, and fails; detach() is right, from any thread once it is
            # current. It takes the context off PyCUDA's stack and leaves it on the driver's.
            context.push()
            self._kept.clear()
            context.detach()
        self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def _keep(self, number: int, what: Any) -> int:
        self._kept[number] = what
        return number

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._driver, function)(*arguments)
        if code != 0:
            name, text = ctypes.c_char_p(), ctypes.c_char_p()
            self._driver.cuGetErrorName(ctypes.c_int(code), ctypes.byref(name))
            self._driver.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
            explained = f"{(name.value or b'error %d' % code).decode()} ({(text.value or b'without explanation').decode()})"
            raise CudaError(f"CUDA: {function}: {explained}{OUT_OF_MEMORY if code == _OUT_OF_MEMORY else ''}")
