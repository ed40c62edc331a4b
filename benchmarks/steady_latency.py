"""How steady a frame's latency is on the CPU: threads within operators, spinning or not, pinned or not, or two sessions side by side.

Run: ``python -m diffpose_edge.benchmarks.steady_latency --out benchmarks/results/steady_latency.json`` on a machine that does nothing
else. Random weights of the released size, one person; every way in a process of its own, by turns.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from diffpose_edge.atomic import check_file_place
from diffpose_edge.benchmarks.bench_candidate import Estimator
from diffpose_edge.benchmarks.bench_report import save_report
from diffpose_edge.benchmarks.bench_run import bench_run
from diffpose_edge.benchmarks.bench_variant import RuntimeEstimator, Variant
from diffpose_edge.bundle import load_bundle
from diffpose_edge.cli.terminal import counting, out
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend

K = 10
WARM_UP = 10


@dataclass(frozen=True)
class Way(Variant):
    """A way to use the processor. ``spinning``: idle threads of a session wait busily for work; ``pinned``: the process has as many
    processors as threads, and keeps them; ``sessions``: so many single-threaded ones, each with an equal part of the samples, in
    threads of Python.
    """

    spinning: bool = True
    pinned: bool = False
    sessions: int = 1

    @contextmanager
    def load(self) -> Iterator[Estimator]:
        """Load it; see :class:`diffpose_edge.benchmarks.bench_candidate.Candidate`."""
        if self.pinned:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: (self.threads or 1) * self.sessions])
        with ExitStack() as stack:
            runtimes = [stack.enter_context(self._runtime()) for _ in range(self.sessions)]
            if self.sessions == 1:
                yield RuntimeEstimator(runtimes[0], self.K)
            else:
                yield _SideBySide(runtimes, self.K, stack.enter_context(ThreadPoolExecutor(self.sessions)))

    def _runtime(self) -> PoseRuntime:
        bundle = load_bundle(self.bundle)
        graphs = bundle.graphs(self.precision, for_cpu=True)
        return PoseRuntime(bundle, OnnxRuntimeBackend(bundle.manifest, graphs, self.threads, self.spinning))


class _SideBySide(RuntimeEstimator):
    """Several runtimes at once, each with a part of the samples: a stage takes as long as it takes the slowest."""

    def __init__(self, runtimes: list[PoseRuntime], K: int, pool: ThreadPoolExecutor):
        super().__init__(runtimes[0], K)
        self._each, self._pool = [RuntimeEstimator(runtime, K) for runtime in runtimes], pool
        self.N *= len(runtimes)

    def estimate(self) -> NDArray[np.float64]:
        stages: NDArray[np.float64] = np.max(list(self._pool.map(lambda one: one.estimate(), self._each)), axis=0)
        return stages


def ways_of(folder: Path, N: int, cores: int) -> dict[str, Way]:
    """Return the ways to be measured with N samples, by name; ``folder`` has bundles of N and of N / cores."""
    whole, part = str(folder / f"n{N}"), str(folder / f"n{N // cores}")
    return {
        f"N={N}, 1 thread": Way(whole, K=K, threads=1),
        f"N={N}, 1 thread, pinned": Way(whole, K=K, threads=1, pinned=True),
        f"N={N}, {cores} threads": Way(whole, K=K, threads=cores),
        f"N={N}, {cores} threads, no spinning": Way(whole, K=K, threads=cores, spinning=False),
        f"N={N}, {cores} sessions of 1 thread": Way(part, K=K, threads=1, sessions=cores),
    }


def main(
    path: Annotated[Path | None, typer.Option("--out", help="Write every sample as JSON to this file.")] = None,
    samples: Annotated[list[int] | None, typer.Option(help="N, even; may be given more than once (default: 4 and 20).")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds that count.", min=12)] = 200,
    cores: Annotated[int, typer.Option(help="How many threads, or sessions, side by side.", min=2)] = 2,
) -> None:
    """Measure how steady each way is."""
    from diffpose_edge.export import export_bundle
    from diffpose_edge.reference.random_weights import write_random_pair

    if path is not None:
        check_file_place(path)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ways: dict[str, Way] = {}
        pair = write_random_pair(folder / "checkpoints")
        for N in samples or [4, 20]:
            for size in (N, N // cores):
                if not (folder / f"n{size}").exists():
                    export_bundle(*pair, folder / f"n{size}", samples=size)
            ways |= ways_of(folder, N, cores)
        with counting("rounds", WARM_UP + rounds) as done:
            report = bench_run(list(ways.values()), rounds, warm_up=WARM_UP, progress=done)
    for name, row in zip(ways, report["rows"], strict=True):
        row |= {"bundle": Path(row["bundle"]).name, "way": name}
    print_ways(report)
    if path is not None:
        save_report(report, path)


def print_ways(report: dict[str, Any]) -> None:
    """Print a row for each way."""
    table = Table(title="frame, ms")
    for heading in ("way", "p50", "p95", "p99", "max", "p99/p50", "step p50", "first"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for row in report["rows"]:
        frame = row["ms"]["frame"]
        figures = (frame["p50"], frame["p95"], frame["p99"], frame["max"], row["jitter"], row["ms"]["step"]["p50"], row["first_ms"])
        table.add_row(row["way"], *(f"{value:.2f}" for value in figures))
    out.print(table)


if __name__ == "__main__":
    typer.run(main)
