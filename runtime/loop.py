"""The reverse process, step by step: for every backend whose steps the host can see."""

from __future__ import annotations

from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.runtime.backend import Array, Steps


def reverse_process(backend: Steps, K: int, step_ns: NDArray[np.float64], trajectory: Array | None = None) -> Array:
    """Walk the state in ``backend.x`` through the K steps of the current schedule; return the final state (P N, 17, 5).

    ``step_ns`` (K,) gains each step's nanoseconds. ``trajectory`` (K + 1, P N, 17, 5), if given, receives every state,
    start first. Nothing is allocated, logged or converted in the loop.
    """
    if trajectory is not None:
        trajectory[0] = backend.state(0)
    for k in range(K):
        began = perf_counter_ns()
        backend.step(k)
        step_ns[k] += perf_counter_ns() - began
        if trajectory is not None:
            trajectory[k + 1] = backend.state(k + 1)
    return backend.state(K)
