"""How steady a frame's latency is on the CPU: threads that share operators, spinning or not, or deal out samples, pinned or not.

Beside them, in the same rounds, a control: a loop of additions about as long as the steps, which needs no memory beyond the first cache.
What its p99 / p50 is, is the machine's own: a clock that moves, a neighbour on the same core, a host that takes the processor away.

Run: ``python -m diffpose_edge.benchmarks.steady_latency --out benchmarks/results/steady_latency.json`` on a machine that does nothing
else. Random weights of the released size, one person; every way in a process of its own, by turns.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
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
from diffpose_edge.cli.script import run_script
from diffpose_edge.cli.terminal import counting, out
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend

K = 10
WARM_UP = 10


@dataclass(frozen=True)
class Way(Variant):
    """A way to use the processor. ``side_by_side``: the threads deal the samples out, or share every operator; ``spinning``: idle ones
    then wait busily for work; ``pinned``: the process has as many processors as threads, and keeps them.
    """

    side_by_side: bool = True
    spinning: bool = False
    pinned: bool = False

    @contextmanager
    def load(self) -> Iterator[Estimator]:
        """Load it; see :class:`diffpose_edge.benchmarks.bench_candidate.Candidate`."""
        if self.pinned:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: self.threads])
        bundle, options = load_bundle(self.bundle), {"spinning": self.spinning, "side_by_side": self.side_by_side}
        backend = OnnxRuntimeBackend(bundle.manifest, bundle.graphs(self.precision, for_cpu=True), self.threads, **options)
        with PoseRuntime(bundle, backend) as runtime:
            yield RuntimeEstimator(runtime, self.K)


class Additions:
    """K loops of additions of whole numbers, each of about ``step_ms`` milliseconds on an undisturbed core."""

    P = F = 1

    def __init__(self, N: int, K: int, step_ms: float):
        self.N = N
        self.timesteps = tuple(range(K))[::-1]
        once = min(self._seconds(10_000) for _ in range(50))
        self._count = max(1, round(10_000 * step_ms / 1000 / once))

    def estimate(self) -> NDArray[np.float64]:
        began = perf_counter()
        steps = [self._seconds(self._count) for _ in self.timesteps]
        return np.array([*steps, np.nan, np.nan, perf_counter() - began])

    def describe(self) -> dict[str, Any]:
        return {"backend": "additions", "count": self._count}

    @staticmethod
    def _seconds(count: int) -> float:
        began = perf_counter()
        sum(range(count))
        return perf_counter() - began


@dataclass(frozen=True)
class Control:
    """A candidate that is no runtime: K loops of additions as long as a step of N samples, which ``bundle`` names."""

    bundle: str
    N: int
    step_ms: float
    backend: str = "additions"
    precision: str = "none"
    K: int = K
    threads: int | None = 1

    @contextmanager
    def load(self) -> Iterator[Estimator]:
        """Load it; see :class:`diffpose_edge.benchmarks.bench_candidate.Candidate`."""
        yield Additions(self.N, self.K, self.step_ms)


def median_step_ms(way: Way) -> float:
    """Return what a step takes as a rule, measured in this process."""
    with way.load() as runtime:
        return float(1000 * np.median([runtime.estimate()[: way.K] for _ in range(12)]))


def ways_of(bundle: Path, N: int, cores: int) -> dict[str, Way]:
    """Return the ways to be measured with a bundle of N samples, by name."""
    whole = str(bundle)
    return {
        f"N={N}, 1 thread": Way(whole, K=K, threads=1),
        f"N={N}, 1 thread, pinned": Way(whole, K=K, threads=1, pinned=True),
        f"N={N}, {cores} threads share operators, spinning": Way(whole, K=K, threads=cores, side_by_side=False, spinning=True),
        f"N={N}, {cores} threads share operators": Way(whole, K=K, threads=cores, side_by_side=False),
        f"N={N}, {cores} threads deal out samples": Way(whole, K=K, threads=cores),
        f"N={N}, {cores} threads deal out samples, pinned": Way(whole, K=K, threads=cores, pinned=True),
    }


def main(
    path: Annotated[Path | None, typer.Option("--out", help="Write every sample as JSON to this file.")] = None,
    samples: Annotated[list[int] | None, typer.Option(help="N; may be given more than once (default: 4 and 20).")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds that count.", min=12)] = 200,
    cores: Annotated[int, typer.Option(help="How many threads.", min=2)] = 2,
) -> None:
    """Measure how steady each way is."""
    from diffpose_edge.export import export_bundle
    from diffpose_edge.reference.random_weights import write_random_pair

    if path is not None:
        check_file_place(path)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ways: dict[str, Way | Control] = {}
        pair = write_random_pair(folder / "checkpoints")
        for N in samples or [4, 20]:
            export_bundle(*pair, folder / f"n{N}", samples=N)
            of_n = ways_of(folder / f"n{N}", N, cores)
            ways |= of_n | {f"N={N}, additions instead": Control(f"n{N}", N, median_step_ms(next(iter(of_n.values()))))}
        with counting("rounds", WARM_UP + rounds) as done:
            report = bench_run(list(ways.values()), rounds, warm_up=WARM_UP, progress=done)
    for name, row in zip(ways, report["rows"], strict=True):
        row |= {"bundle": Path(row["bundle"]).name, "way": name}
    print_ways(report)
    if path is not None:
        save_report(report, path)


def print_ways(report: dict[str, Any]) -> None:
    """Print a row for each way. "on processors" is p99/p50 of the time that its threads were on one: what others took is not in it."""
    table = Table(title="frame, ms")
    for heading in ("way", "p50", "p95", "p99", "max", "p99/p50", "on processors", "step p50", "first"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for row in report["rows"]:
        frame = row["ms"]["frame"]
        steady = row["jitter"], row["jitter_on_processors"]
        figures = (frame["p50"], frame["p95"], frame["p99"], frame["max"], *steady, row["ms"]["step"]["p50"], row["first_ms"])
        table.add_row(row["way"], *(f"{value:.2f}" for value in figures))
    out.print(table)


if __name__ == "__main__":
    run_script(main)
