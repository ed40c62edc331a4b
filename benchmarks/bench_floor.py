"""How near a row is to what the machine can do: the operations of its graphs over the peak of matmuls in the same run.

The floor of a step is the time that its matmuls would take at the rate of large square ones in float32 with the same threads,
measured before, among and after the rounds. Nothing else is in it, neither memory nor the start of operators: a lower bound, which
INT8 can pass below.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np

from diffpose_edge.benchmarks.bench_candidate import Candidate
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.extras import install_command, is_installed

# Of each time that peaks are measured. Five times in a run, for each number of threads.
SECONDS = 0.5
FIGURES = ("sgemm_gflops", "memory_gb_per_s", "cache_gb_per_s", "node_us")


@runtime_checkable
class Graphed(Protocol):
    """A candidate that runs ONNX graphs, and tells which: by role ("context", "step"), serialised."""

    def graphs(self) -> Mapping[str, bytes]: ...


class Floors:
    """The peaks of the machine in one run, for each number of threads. ``missing``: why there are none, or None."""

    def __init__(self, threads: Collection[int]):
        needed = [name for name in ("onnx", "onnxruntime") if not is_installed(name)]
        self.missing = f"the floor needs {needed[0]}: {install_command(needed[0])}" if needed else None
        self._measured: dict[int, list[dict[str, Any]]] = {} if needed else {count: [] for count in sorted(threads)}

    def measure(self, index: int) -> None:
        """Measure now, before round ``index``."""
        if not self._measured:
            return
        from diffpose_edge.benchmarks.machine_peaks import measured_peaks

        for count, peaks in self._measured.items():
            peaks.append({"round": index, **measured_peaks(count, SECONDS).as_json()})

    def as_json(self) -> dict[str, Any] | None:
        """Return what was measured and the medians, by number of threads; None where nothing was."""
        medians = {
            count: {name: round(float(np.median([one[name] for one in peaks])), 3) for name in FIGURES}
            for count, peaks in self._measured.items()
            if peaks
        }
        return {str(count): {"threads": count, **of, "measured": self._measured[count]} for count, of in medians.items()} or None


def costs_of(candidate: Candidate) -> tuple[dict[str, Any] | None, str | None]:
    """Return what one run of each of a candidate's graphs amounts to, by role; or why it is not known."""
    if not isinstance(candidate, Graphed):
        return None, "it does not run a graph that could be counted"
    if not is_installed("onnx"):
        return None, f"counting needs onnx: {install_command('onnx')}"
    try:
        return {role: _cost(content) for role, content in candidate.graphs().items()}, None
    except DiffPoseEdgeError as err:
        return None, str(err)


@lru_cache(maxsize=64)  # rows that differ in K or threads run the same graphs
def _cost(content: bytes) -> dict[str, int]:
    import onnx

    from diffpose_edge.benchmarks.graph_cost import graph_cost

    cost = graph_cost(onnx.load_from_string(content))
    return {name: getattr(cost, name) for name in ("flops", "matmul_flops", "bytes", "weight_bytes", "border_bytes", "nodes", "running")}


def floor_of(
    cost: Mapping[str, Any] | None, floors: Mapping[str, Any] | None, threads: int | None, K: int, ms: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return floors of a step, of the encoder and of a frame, in ms, and how many times as long each takes; None where unknown.

    ``cost`` as :func:`costs_of` gives it, ``floors`` as :meth:`Floors.as_json` does, ``ms`` the row's percentiles by stage.
    """
    peaks = (floors or {}).get(str(threads))
    if cost is None or peaks is None:
        return None
    step, encoder = (cost[role]["matmul_flops"] / peaks["sgemm_gflops"] / 1e6 for role in ("step", "context"))
    floor = {"step": step, "encoder": encoder, "frame": encoder + K * step}
    ratio = {stage: None if ms[stage]["p50"] is None else round(ms[stage]["p50"] / value, 3) for stage, value in floor.items()}
    return {"ms": {stage: round(value, 5) for stage, value in floor.items()}, "ratio": ratio}
