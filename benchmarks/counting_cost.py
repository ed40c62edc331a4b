"""What watching costs: counting an estimate, keeping a warning back, a scrape.

Run: ``python -m diffpose_edge.benchmarks.counting_cost``. Writes ``counting_cost.json``. Microseconds of the thread's own processor time,
which other programs on the machine do not add to, though they slow it down; each figure over rounds of many calls, the things measured
taking turns. Nothing is computed between: the estimate that is counted over and over is in the cache, as it is after a real one.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from time import thread_time_ns
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from diffpose_edge.atomic import atomic_file, check_file_place
from diffpose_edge.benchmarks.machine import governor, processor, versions
from diffpose_edge.cli.script import run_script
from diffpose_edge.cli.terminal import counting, out
from diffpose_edge.events import Seldom
from diffpose_edge.readings import Histogram
from diffpose_edge.runtime.counters import Counting, counted
from diffpose_edge.runtime.estimate import PoseEstimate, Timings
from diffpose_edge.skeleton import J

PEOPLE, N = 2, 5
CALLS = 1000


class _Plain:
    """A call that returns an estimate, and the same one counted."""

    def __init__(self, K: int):
        rng = np.random.default_rng(K)
        steps = rng.uniform(0.001, 0.01, K)
        timings = Timings(0.002, steps, 0.0, 0.0005, float(steps.sum()), 1)
        joints = rng.uniform(-1, 1, (PEOPLE, J, 3)).astype(np.float32)
        samples = np.repeat(joints[:, None], N, axis=1)
        self._estimate = PoseEstimate(joints, np.zeros((PEOPLE, J, 3, 3), np.float32), samples, np.ones((PEOPLE, J), bool), timings, joints)
        self._counting = Counting({"bundle": "", "backend": "", "precision": ""})

    def plain(self) -> PoseEstimate:
        return self._estimate

    counted = counted(plain)


def cost_us(call: Callable[[], object]) -> float:
    """Return microseconds of one call, by the processor time of many."""
    began = thread_time_ns()
    for _ in range(CALLS):
        call()
    return (thread_time_ns() - began) / CALLS / 1000


def measured(rounds: int, progress: Callable[[int], None]) -> dict[str, Any]:
    """Return microseconds by what was measured: minimum, median and 99th percentile over the rounds."""
    five, fifty = _Plain(5), _Plain(50)
    quiet = logging.getLogger("diffpose_edge.benchmarks.nobody_listens")
    seldom = Seldom(quiet)
    seldom.tell(logging.DEBUG, "once", "so that all further ones are kept back")
    histogram = Histogram()
    candidates: dict[str, Callable[[], object]] = {
        "a call that counts nothing": five.plain,
        "an estimate, K = 5": five.counted,
        "an estimate, K = 50": fifty.counted,
        "one duration": lambda: histogram.add(0.003),
        "a warning that is kept back": lambda: seldom.tell(logging.DEBUG, "once", "kept back", stamp_ns=1),
        "all readings of a runtime": five._counting.readings,
    }
    spent: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            spent[name].append(cost_us(call))
        progress(1)
    return {name: {"min": min(us), "median": float(np.median(us)), "p99": float(np.percentile(us, 99))} for name, us in spent.items()}


def main(
    rounds: Annotated[int, typer.Option(help="Rounds, each of a thousand calls of everything.", min=1)] = 50,
    output: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("benchmarks/results/counting_cost.json"),
) -> None:
    """Measure what watching costs."""
    check_file_place(output)
    with counting("rounds", rounds) as done:
        found = measured(rounds, done)
    record = {
        "made": datetime.now(timezone.utc).date().isoformat(),
        "machine": {"processor": processor(), "governor": governor(), "system": platform.platform(terse=True)},
        "versions": versions(("numpy", "diffpose-edge")) | {"python": platform.python_version()},
        "rounds": rounds,
        "calls": CALLS,
        "people": PEOPLE,
        "microseconds": found,
    }
    with atomic_file(output) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    table = Table("µs of processor time", "min", "median", "p99")
    for name, us in found.items():
        table.add_row(name, *(f"{us[which]:.2f}" for which in ("min", "median", "p99")))
    out.print(table)


if __name__ == "__main__":
    run_script(main)
