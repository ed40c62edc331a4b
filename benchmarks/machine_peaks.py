"""What this machine's processor can do at best, measured: matmuls, memory, caches, and what an ONNX Runtime operator costs.

Each figure is the best of many short runs: other work on the machine makes it lower, nothing makes it higher. ONNX Runtime
multiplies, because its kernels are what the graphs run on.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.extras import require

# Square matrices: large enough to reach the peak, small enough for the second level cache of most processors to help.
SIDES = (256, 512, 768)
# Bytes of an array that no cache holds, and of one that a core's own cache does.
FAR, NEAR = 2**26, 2**17
# Nodes in the two chains whose difference is the cost of a node.
FEW, MANY = 50, 250


@dataclass(frozen=True)
class Peaks:
    """The best that was measured with a number of ``threads``.

    ``sgemm_gflops``: float32 matmuls, 1e9 operations/s. ``memory_gb_per_s``: bytes read and written by copies and sums of arrays
    that no cache holds, 1e9/s; ``cache_gb_per_s``: the same in a cache. ``node_us``: microseconds that an operator of ONNX
    Runtime takes that has nothing to compute.
    """

    threads: int
    sgemm_gflops: float
    memory_gb_per_s: float
    cache_gb_per_s: float
    node_us: float

    def as_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return {name: value if isinstance(value, int) else round(value, 3) for name, value in asdict(self).items()}


def measured_peaks(threads: int = 1, seconds: float = 1.0) -> Peaks:
    """Measure with ``threads`` threads, for about ``seconds`` in all.

    Needs onnx and onnxruntime. Raises MissingPackage, DiffPoseEdgeError for a number below one.
    """
    if threads < 1 or seconds <= 0:
        raise DiffPoseEdgeError(f"expected at least one thread and some time to measure in, got {threads} threads and {seconds} s")
    require("onnx", "onnxruntime")
    each = seconds / 4
    few, many = (_chain_seconds(nodes, threads, each / 2) for nodes in (FEW, MANY))
    return Peaks(
        threads,
        max(2 * side**3 / _matmul_seconds(side, threads, each / len(SIDES)) for side in SIDES) / 1e9,
        _bytes_per_second(FAR, threads, each) / 1e9,
        _bytes_per_second(NEAR, threads, each) / 1e9,
        max(0.0, many - few) / (MANY - FEW) * 1e6,
    )


def best_seconds(work: Callable[[], object], seconds: float) -> float:
    """Return the shortest of the runs of ``work`` that fit into ``seconds``, at least five, after one that does not count."""
    work()
    best, runs, end = float("inf"), 0, perf_counter() + seconds
    while runs < 5 or perf_counter() < end:
        began = perf_counter()
        work()
        best = min(best, perf_counter() - began)
        runs += 1
    return best


def _matmul_seconds(side: int, threads: int, seconds: float) -> float:
    from onnx import helper

    rng = np.random.default_rng(side)
    session = _session([helper.make_node("MatMul", ["a", "b"], ["y"])], {"a": (side, side), "b": (side, side)}, (side, side), threads)
    inputs = {name: rng.normal(size=(side, side)).astype(np.float32) for name in "ab"}
    return best_seconds(lambda: session.run(None, inputs), seconds)


def _chain_seconds(nodes: int, threads: int, seconds: float) -> float:
    from onnx import helper

    # Sums and products by turns: no rule of ONNX Runtime joins them.
    names = ["a", *(f"v{index}" for index in range(nodes - 1)), "y"]
    chain = [helper.make_node("Add" if index % 2 else "Mul", [names[index], "b"], [names[index + 1]]) for index in range(nodes)]
    session = _session(chain, {"a": (1, 4), "b": (1, 4)}, (1, 4), threads)
    inputs = {name: np.full((1, 4), 0.5, np.float32) for name in "ab"}
    return best_seconds(lambda: session.run(None, inputs), seconds)


def _session(nodes: list[Any], inputs: dict[str, tuple[int, ...]], output: tuple[int, ...], threads: int) -> Any:
    import onnxruntime as ort
    from onnx import TensorProto, helper

    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in {**inputs, "y": output}.items()}
    result = values.pop("y")
    graph = helper.make_graph(nodes, "probe", list(values.values()), [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _bytes_per_second(size: int, threads: int, seconds: float) -> float:
    """Bytes read and written by a copy, or by a sum of two arrays of ``size`` bytes, whichever is faster; a part per thread."""
    parts = [tuple(np.ones(size // 4 // threads if size == FAR else size // 4, np.float32) for _ in range(3)) for _ in range(threads)]
    # A call from Python costs as much as a short copy: a cache is filled several times within one.
    repeats = max(1, 2**23 // size)

    def copies(part: tuple[NDArray[np.float32], ...]) -> None:
        for _ in range(repeats):
            np.copyto(part[2], part[0])

    def sums(part: tuple[NDArray[np.float32], ...]) -> None:
        for _ in range(repeats):
            np.add(part[0], part[1], out=part[2])

    moved = repeats * sum(part[0].nbytes for part in parts)
    with ThreadPoolExecutor(threads) as pool:
        copied, summed = (best_seconds(lambda work=work: list(pool.map(work, parts)), seconds / 2) for work in (copies, sums))  # type: ignore[misc]
    return max(2 * moved / copied, 3 * moved / summed)
