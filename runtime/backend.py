"""What a backend must offer to the loop: fixed buffers, the encoder, and one step at a time."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.config import BatchShape

Array = NDArray[np.float32]


class Backend(Protocol):
    """Runs a bundle's two graphs over buffers that are allocated once, at load.

    The caller writes ``observation``, calls ``encode()`` and reads ``xyz``; writes the start into ``x``, calls ``begin``
    with a schedule and ``step(k)`` for k = 0..K-1; ``state(k)`` is then the state after k steps, valid until the next but
    one step overwrites it. For a conditioned denoiser the encoder also gives ``features``, of which the caller copies those
    of the frame in question to ``feature``, and writes what the samples start from into ``start``; for a released one
    these three are None.
    """

    shape: BatchShape
    observation: Array
    xyz: Array
    features: Array | None
    x: Array
    feature: Array | None
    start: Array | None

    def encode(self) -> None:
        """Run the context graph: ``observation`` → ``xyz``, ``features``."""

    def begin(self, timesteps: tuple[int, ...], coefficients: Array) -> None:
        """Make a schedule current: K timesteps and their coefficients (K, 2). Prepares it only the first time."""

    def step(self, k: int) -> None:
        """Run reverse step k of the current schedule."""

    def state(self, k: int) -> Array:
        """Return the buffer (P N, 17, 5) that holds the state after k steps."""

    def describe(self) -> dict[str, Any]:
        """Return the backend's name, version and settings."""

    def close(self) -> None:
        """Release everything; calling it again does nothing."""
