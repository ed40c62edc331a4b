"""One run of ``diffpose-edge bench``: candidates by turns, with the machine's peaks and what it tells of itself, as a report."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from diffpose_edge.benchmarks.bench_candidate import Candidate
from diffpose_edge.benchmarks.bench_floor import Floors
from diffpose_edge.benchmarks.bench_report import report_of
from diffpose_edge.benchmarks.bench_rounds import measured
from diffpose_edge.benchmarks.telemetry import Telemetry

# Above this share of the cores somebody else is at work before anything is measured.
BUSY = 0.3


def bench_run(
    candidates: Sequence[Candidate],
    rounds: int,
    *,
    warm_up: int = 10,
    floors: bool = True,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Measure ``candidates`` and return the report; ``floors``: measure what the processor can do at best, too.

    Raises DiffPoseEdgeError as :func:`diffpose_edge.benchmarks.bench_rounds.measured` does.
    """
    busy = os.getloadavg()[0]
    threads = {candidate.threads for candidate in candidates if candidate.threads is not None}
    peaks = Floors(threads) if floors else None
    interlude = (lambda index: None) if peaks is None else peaks.measure
    with Telemetry() as telemetry:
        found, refused = measured(candidates, rounds, warm_up=warm_up, telemetry=telemetry, interlude=interlude, progress=progress)
        told = telemetry.summary()
    report = report_of(found, refused, told, peaks)
    report["machine"]["load_before"] = round(busy, 2)
    return {**report, "flags": [*told["flags"], *_busy(report["machine"])]}


def _busy(machine: dict[str, Any]) -> list[str]:
    if machine["load_before"] < BUSY * machine["cores"]:
        return []
    return [f"others were at work: load {machine['load_before']} on {machine['cores']} cores when it began"]
