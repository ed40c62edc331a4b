"""Every array that a frame touches, laid out once: what the host writes, what it reads, and what the GPU alone uses.

What the host writes in each frame lies together, and so does what it reads: one copy in, one copy out. Where the GPU shares
the host's memory (Jetson) these two are mapped, and nothing is copied at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from math import prod
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.runtime.cuda import ALIGNMENT, Cuda, DeviceBuffer, PinnedBuffer

Array = NDArray[np.float32]


def aligned(size: int) -> int:
    """Return ``size`` rounded up to a multiple of 256."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class Region:
    """Float32 arrays behind one another, each at a multiple of 256 bytes, for the GPU and, unless ``device_only``, the host.

    ``host`` has the arrays by name, ``address`` where the GPU finds them. ``mapped``: the GPU reads the host's own memory.
    """

    def __init__(self, cuda: Cuda, shapes: Mapping[str, tuple[int, ...]], *, mapped: bool = False, device_only: bool = False):
        offsets, self.size = {}, 0
        for name, shape in shapes.items():
            offsets[name] = self.size
            self.size += aligned(4 * prod(shape))
        self.size = max(self.size, ALIGNMENT)
        self.mapped, self._cuda = mapped, cuda
        with ExitStack() as stack:
            self._pinned = None if device_only else stack.enter_context(PinnedBuffer(cuda, self.size, mapped))
            self._device = None if mapped else stack.enter_context(DeviceBuffer(cuda, self.size))
            self._owned = stack.pop_all()
        if self._device is not None:
            base = self._device.address
        else:
            assert self._pinned is not None
            base = self._pinned.device_address
        self.address: Mapping[str, int] = {name: base + offset for name, offset in offsets.items()}
        self.bytes: NDArray[np.uint8] = np.empty(0, np.uint8) if self._pinned is None else self._pinned.array
        self._base = base
        self.host: dict[str, Array] = {}
        if not device_only:
            for name, shape in shapes.items():
                self.host[name] = self.bytes[offsets[name] : offsets[name] + 4 * prod(shape)].view(np.float32).reshape(shape)

    def upload(self, stream: int, names: tuple[str, ...] | None = None) -> None:
        """Copy to the GPU what the host wrote: everything, or some arrays."""
        self._copied(names, lambda address, part: self._cuda.copy_to_device(address, part, stream))

    def download(self, stream: int, names: tuple[str, ...] | None = None) -> None:
        """Copy to the host what the GPU wrote: everything, or some arrays."""
        self._copied(names, lambda address, part: self._cuda.copy_to_host(part, address, stream))

    def _copied(self, names: tuple[str, ...] | None, copy: Any) -> None:
        if self.mapped:
            return
        if names is None:
            copy(self._base, self.bytes)
            return
        for name in names:
            copy(self.address[name], self.host[name].reshape(-1))

    def close(self) -> None:
        """Give the memory back; a second call does nothing. The host's arrays must not be used after it."""
        self.host, self.bytes = {}, np.empty(0, np.uint8)
        self._owned.close()

    def __enter__(self) -> Region:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        self.close()
