"""A runtime whose encoder and steps take a known time: they sleep. A test double, for the instrument that measures runtimes."""

from __future__ import annotations

import os
from time import perf_counter, sleep

from diffpose_edge.benchmarks.bench_variant import Variant, load_variant
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.runtime import PoseRuntime

ENCODER_S, STEP_S, FIRST_S = 0.012, 0.004, 0.15


def load(variant: Variant) -> PoseRuntime:
    """Load it; what is given as its precision is by how many percent its steps are slower, or how it fails."""
    if variant.precision == "refused":
        raise DiffPoseEdgeError("this machine has none of it")
    runtime = load_variant(Variant(variant.bundle, K=variant.K))
    backend = runtime._backend
    assert backend is not None
    slower, calls = 1.0 if variant.precision == "dies" else 1 + int(variant.precision) / 100, [0]

    def encode() -> None:
        calls[0] += 1
        if variant.precision == "dies" and calls[0] == 4:
            os._exit(7)
        # The first call of a session is always slow; so is this one's.
        _sleep(FIRST_S if calls[0] == 1 else ENCODER_S)

    backend.encode = encode  # type: ignore[method-assign]
    backend.step = lambda k: _sleep(slower * STEP_S)  # type: ignore[attr-defined]
    return runtime


def _sleep(seconds: float) -> None:
    """Sleep that long to the microsecond: the system wakes sleepers late."""
    end = perf_counter() + seconds
    sleep(max(0.0, seconds - 0.002))
    while perf_counter() < end:
        pass
