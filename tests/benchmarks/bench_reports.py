"""Reports of ``bench`` as they would be for latencies that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.benchmarks.bench_candidate import Loaded
from diffpose_edge.benchmarks.bench_report import report_of
from diffpose_edge.benchmarks.bench_rounds import Measured, Refused
from diffpose_edge.benchmarks.bench_variant import Variant


def measured(N: int, K: int, step_ms: float, *, rounds: int = 24, seed: int = 0, **names: Any) -> Measured:
    """A variant whose encoder takes 1 ms and whose steps take ``step_ms``, both with a tail."""
    rng = np.random.default_rng([seed, N, K])

    def around(ms: float, *shape: int) -> NDArray[np.float64]:
        return np.asarray(ms * (1 + 0.01 * rng.exponential(size=(rounds, *shape))))

    steps, encoder, aggregate = around(step_ms, K), around(1.0), around(0.1)
    frame = steps.sum(axis=1) + encoder + aggregate
    stages = {"steps": steps, "encoder": encoder, "aggregate": aggregate, "frame": frame, "processors": 0.9 * frame}
    loaded = Loaded(N, 1, 1, tuple(range(K))[::-1], {"backend": "onnxruntime", "weights": "abc"}, 0.4, 12.0, 80.0)
    return Measured(Variant(**{"bundle": f"no-such-bundle-n{N}", "K": K, **names}), loaded, stages)


def report(*, refused: bool = False, telemetry: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A report over N = 1, 5, 20 and K = 2, 5, of steps that take 0.2 + 0.3 N ms."""
    found = [measured(N, K, 0.2 + 0.3 * N) for N in (1, 5, 20) for K in (2, 5)]
    gone = [Refused(Variant("other", precision="int8"), "the bundle <b>has none</b>")] if refused else []
    return {**report_of(found, gone, telemetry), **changes}
