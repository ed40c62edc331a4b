"""A runtime whose encoder and steps take a known time: they sleep. A test double, for the instrument that measures runtimes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.benchmarks.bench_variant import Variant
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend

ENCODER_S, STEP_S, FIRST_S = 0.012, 0.004, 0.15


class Sleeping(Variant):
    """What is given as its precision is by how many percent its steps are slower, or how it fails."""

    def runtime(self) -> PoseRuntime:
        if self.precision == "refused":
            raise DiffPoseEdgeError("this machine has none of it")
        runtime = Variant(self.bundle, K=self.K).runtime()
        backend = runtime._backend
        assert isinstance(backend, OnnxRuntimeBackend)
        slower, calls = 1.0 if self.precision == "dies" else 1 + int(self.precision) / 100, [0]

        def encode() -> None:
            calls[0] += 1
            if self.precision == "dies" and calls[0] == 4:
                os._exit(7)
            # The first call of a session is always slow; so is this one's.
            _sleep(FIRST_S if calls[0] == 1 else ENCODER_S)

        backend.encode = encode  # type: ignore[method-assign]
        backend.steps.step = lambda k: _sleep(slower * STEP_S)  # type: ignore[method-assign]
        return runtime


def _sleep(seconds: float) -> None:
    """Sleep that long to the microsecond: the system wakes sleepers late."""
    end = perf_counter() + seconds
    sleep(max(0.0, seconds - 0.002))
    while perf_counter() < end:
        pass


class Napping:
    """A loaded candidate that is no runtime at all."""

    N, P, F, timesteps = 1, 1, 1, (7,)

    def estimate(self) -> NDArray[np.float64]:
        began = perf_counter()
        _sleep(STEP_S)
        # Of the encoder and the aggregation it knows nothing.
        return np.array([STEP_S, np.nan, np.nan, perf_counter() - began])

    def describe(self) -> dict[str, Any]:
        return {"backend": "nap"}


@dataclass(frozen=True)
class Nap:
    """A candidate other than the runtime: one step."""

    bundle: str = "none"
    backend: str = "nap"
    precision: str = "fp32"
    K: int = 1
    threads: int | None = None

    @contextmanager
    def load(self) -> Iterator[Napping]:
        yield Napping()
