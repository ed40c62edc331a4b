"""The little of CUDA that the runtime needs, behind one interface with two providers.

A provider speaks to the driver of one GPU in the device's primary context, the one that PyTorch and every other user of
the runtime API have too. Importing this module, or a provider's, initialises nothing: :func:`open_cuda` does.

What a provider hands out are plain numbers; each belongs to exactly one of the classes here, which gives it back. Every
return code goes through one function of the provider, which raises CudaError with the driver's own explanation.
"""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import CudaError, DiffPoseEdgeError
from diffpose_edge.extras import is_installed, require

# Addresses that TensorRT is given must be multiples of this; the driver's own allocations are.
ALIGNMENT = 256
PROVIDERS = ("cuda-bindings", "pycuda")
# What to do about it, behind the driver's own explanation.
OUT_OF_MEMORY = ". Close other programs on the GPU, or export the bundle with fewer persons or samples"
_MODULES = {"cuda-bindings": "cuda.bindings", "pycuda": "pycuda"}


@dataclass(frozen=True)
class Device:
    """A GPU: its number, its name, its compute capability (87 is 8.7), the driver's CUDA version (13020 is 13.2) and what
    it says of its memory: ``integrated`` shares the processor's, ``maps_host`` reads pinned host memory in place.
    """

    index: int
    name: str
    sm: int
    driver: int
    integrated: bool
    maps_host: bool


@dataclass(frozen=True)
class HostMemory:
    """Page-locked host memory: bytes, and the address under which the GPU sees them (0: it does not)."""

    array: NDArray[np.uint8]
    device_address: int
    owner: Any = None


class Cuda(Protocol):
    """One GPU, as a provider offers it. Handles and addresses are whole numbers; what is copied is contiguous. Everything but
    ``current``, ``graphs`` and ``close`` wants the context to be current; every failure raises CudaError.
    """

    name: str
    device: Device
    graphs: bool  # whether work can be captured

    def current(self) -> AbstractContextManager[None]:
        """Make the primary context current for the calling thread, until the end of the ``with``."""

    def allocate(self, size: int) -> int: ...
    def free(self, address: int) -> None: ...
    def allocate_host(self, size: int, mapped: bool) -> HostMemory: ...
    def free_host(self, memory: HostMemory) -> None: ...
    def create_stream(self) -> int: ...
    def destroy_stream(self, stream: int) -> None: ...
    def synchronize(self, stream: int) -> None: ...
    def copy_to_device(self, address: int, source: NDArray[Any], stream: int) -> None: ...
    def copy_to_host(self, target: NDArray[Any], address: int, stream: int) -> None: ...
    def copy(self, target: int, source: int, size: int, stream: int) -> None: ...
    def create_event(self) -> int: ...
    def destroy_event(self, event: int) -> None: ...
    def record(self, event: int, stream: int, capturing: bool) -> None: ...
    def elapsed_ms(self, start: int, end: int) -> float: ...
    def begin_capture(self, stream: int) -> None: ...
    def end_capture(self, stream: int) -> int:
        """Return an executable graph of what was captured."""

    def abandon_capture(self, stream: int) -> None:
        """End a capture that failed, whatever state it is in, and drop it."""

    def launch(self, graph: int, stream: int) -> None: ...
    def destroy_graph(self, graph: int) -> None: ...
    def memory(self) -> tuple[int, int]:
        """Return free and total bytes of the device's memory."""

    def close(self) -> None:
        """Let the primary context go; it lives on while others hold it. A second call does nothing."""


_Resource = TypeVar("_Resource", bound="Owned")


class Owned:
    """Base of what is given back once: ``close()`` twice is safe, and ``with`` closes."""

    def __init__(self, cuda: Cuda):
        self.cuda = cuda
        self._closed = False

    def close(self) -> None:
        """Give it back; a second call does nothing."""
        if not self._closed:
            self._closed = True
            with self.cuda.current():
                self._release()

    def _release(self) -> None:
        raise NotImplementedError

    def __enter__(self: _Resource) -> _Resource:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        self.close()


class DeviceBuffer(Owned):
    """``size`` bytes of the GPU's memory at ``address``, a multiple of 256."""

    def __init__(self, cuda: Cuda, size: int):
        super().__init__(cuda)
        self.size = size
        with cuda.current():
            self.address = cuda.allocate(size)

    def _release(self) -> None:
        self.cuda.free(self.address)


class PinnedBuffer(Owned):
    """``size`` bytes of page-locked host memory; ``device_address`` is where the GPU sees them when ``mapped``, else 0."""

    def __init__(self, cuda: Cuda, size: int, mapped: bool = False):
        super().__init__(cuda)
        with cuda.current():
            self._memory = cuda.allocate_host(size, mapped)
        self.array = self._memory.array
        self.array[:] = 0
        self.device_address = self._memory.device_address

    def _release(self) -> None:
        self.array = np.empty(0, np.uint8)
        self.cuda.free_host(self._memory)


class Stream(Owned):
    """A queue of work that runs beside the default stream."""

    def __init__(self, cuda: Cuda):
        super().__init__(cuda)
        with cuda.current():
            self.handle = cuda.create_stream()

    def synchronize(self) -> None:
        """Wait for all of its work. Other Python threads run meanwhile. Raises CudaError for what went wrong in it."""
        self.cuda.synchronize(self.handle)

    def _release(self) -> None:
        self.cuda.destroy_stream(self.handle)


class Event(Owned):
    """A moment in a stream."""

    def __init__(self, cuda: Cuda):
        super().__init__(cuda)
        with cuda.current():
            self.handle = cuda.create_event()

    def _release(self) -> None:
        self.cuda.destroy_event(self.handle)


class Graph(Owned):
    """Captured work, to be replayed by one launch. It holds addresses: what they belong to must outlive it."""

    def __init__(self, cuda: Cuda, handle: int):
        super().__init__(cuda)
        self.handle = handle

    def launch(self, stream: Stream) -> None:
        """Put the work into a stream."""
        self.cuda.launch(self.handle, stream.handle)

    def _release(self) -> None:
        self.cuda.destroy_graph(self.handle)


def driver_found() -> bool:
    """Tell whether an NVIDIA driver can be loaded. It is not initialised."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def open_cuda(provider: str | None = None, device: int = 0) -> Cuda:
    """Initialise CUDA and return GPU number ``device``; ``provider``: one of PROVIDERS (default: the first installed).

    Raises CudaError when there is no driver or no such GPU, or when the provider was made for another driver; MissingPackage;
    DiffPoseEdgeError for an unknown provider.
    """
    if provider is None:
        provider = next((name for name in PROVIDERS if is_installed(_MODULES[name])), PROVIDERS[0])
    if provider not in PROVIDERS:
        raise DiffPoseEdgeError(f"expected a CUDA provider out of {', '.join(PROVIDERS)}, got {provider!r}")
    if type(device) is not int or device < 0:
        raise DiffPoseEdgeError(f"expected the number of a GPU, 0 or more, got {device!r}")
    require(_MODULES[provider])
    if not driver_found():
        raise CudaError("no NVIDIA driver found (libcuda.so.1): a GPU backend needs one. On this machine use backend 'onnxruntime'")
    try:
        if provider == "pycuda":
            from diffpose_edge.runtime.cuda_pycuda import PyCuda

            return PyCuda(device)
        from diffpose_edge.runtime.cuda_bindings import CudaBindings

        return CudaBindings(device)
    except ImportError as err:  # built for another driver, CUDA or numpy
        raise CudaError(f"{provider} is installed but cannot be loaded: {err}") from err
