"""The planner held against measurements: a bundle run on this machine, and records of such runs on others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import numpy as np
import onnx

from diffpose_edge.atomic import atomic_file
from diffpose_edge.benchmarks.bench_variant import people_of_clip
from diffpose_edge.benchmarks.graph_cost import graph_cost
from diffpose_edge.benchmarks.launches import operators_of
from diffpose_edge.benchmarks.machine import processor, versions
from diffpose_edge.benchmarks.machine_peaks import Peaks, measured_peaks
from diffpose_edge.benchmarks.planner import CpuLoad, Range, Wanted, cpu_load, cpu_plan
from diffpose_edge.bundle import Bundle
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.manifest import GRAPHS
from diffpose_edge.plain_json import json_of
from diffpose_edge.reading import read_file
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.schedule import trailing_timesteps

FORMAT = "diffpose-edge-plan-check"
FORMAT_VERSION = 1
MOST_BYTES = 64 << 20
RESULTS = Path(__file__).parent / "results"
# Of the measured times the one compared: the peaks are the best of many runs, and a time that others' work lengthened is no fault
# of a model that knows nothing of them. p50 is kept beside it.
COMPARED = "p10"
# Steps of the longer frames.
K = 5


@dataclass(frozen=True)
class Check:
    """One time of one measured machine: what was predicted and what was measured, in milliseconds. ``busy``: the machine had more
    to do than it has cores, so that what was measured may be longer than it should be.
    """

    where: str
    what: str
    predicted: Range
    measured: float
    busy: bool

    @property
    def error(self) -> float:
        """How far the typical prediction is off: 0.2 is a fifth too slow."""
        return self.predicted.typical / self.measured - 1

    @property
    def within(self) -> bool:
        """Whether what was measured lies between the fast and the slow prediction."""
        return self.predicted.fast <= self.measured <= self.predicted.slow


def cpu_loads(bundle: Bundle, precision: str) -> dict[str, CpuLoad]:
    """Return a bundle's graphs, by role, as a processor sees them. Raises BundleError when it has none in the precision."""
    contents = bundle.graphs(precision, for_cpu=True)
    return {role: cpu_load(graph_cost(onnx.load_from_string(content)), operators_of(content)) for role, content in contents.items()}


def combined_peaks(found: list[Peaks]) -> Peaks:
    """Return the best of several measurements of the same machine."""
    return Peaks(
        found[0].threads,
        max(peaks.sgemm_gflops for peaks in found),
        max(peaks.memory_gb_per_s for peaks in found),
        max(peaks.cache_gb_per_s for peaks in found),
        min(peaks.node_us for peaks in found),
    )


def check_record(
    bundle: Bundle, precision: str = "fp32", threads: int = 1, rounds: int = 6, progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Measure this machine's peaks and the bundle's graphs by turns; return the record, as plain values.

    In each round the peaks are measured for half a second, and ten pairs of frames are estimated, of one step and of five: a step
    is a quarter of what they differ by. On one thread the clock is the processor time of that thread, which others' work on the
    machine does not lengthen as it does the time on the wall; on several it is the wall's.
    """
    manifest = bundle.manifest
    if manifest.T < K:
        raise DiffPoseEdgeError(f"expected a bundle with a schedule of at least {K} timesteps, got {manifest.T}")
    loads, people = cpu_loads(bundle, precision), people_of_clip(manifest)
    clock = thread_time if threads == 1 else perf_counter
    peaks: list[Peaks] = []
    frames: dict[int, list[float]] = {1: [], K: []}
    with PoseRuntime.load(bundle, "onnxruntime", precision=precision, threads=threads) as runtime:
        for _ in range(rounds):
            peaks.append(measured_peaks(threads, 0.5))
            for _ in range(11):
                for k, times in frames.items():
                    began = clock()
                    runtime.estimate(people, seed=0, timesteps=trailing_timesteps(manifest.T, k))
                    times.append(1000 * (clock() - began))
            for times in frames.values():
                del times[-11]  # the first frame after something else is a cold one
            if progress is not None:
                progress(1)
    found = {p: {k: float(np.percentile(times, p)) for k, times in frames.items()} for p in (10, 50)}
    shape = manifest.shape
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "load_1min": round(os.getloadavg()[0], 2),
            "versions": versions(("diffpose-edge", "numpy", "onnxruntime")),
        },
        "date": datetime.now(timezone.utc).date().isoformat(),
        "bundle": bundle.path.resolve().name,
        "precision": precision,
        "threads": threads,
        "shapes": {"P": shape.P, "N": shape.N, "F": shape.F},
        "peaks": combined_peaks(peaks).as_json(),
        "loads": {role: asdict(load) for role, load in loads.items()},
        "K": K,
        "clock": clock.__name__,
        "ms": {
            "step": {f"p{p}": round((of[K] - of[1]) / (K - 1), 4) for p, of in found.items()},
            "frame": {f"p{p}": round(of[K], 4) for p, of in found.items()},
        },
    }


def checks_of(record: Mapping[str, Any]) -> list[Check]:
    """Predict what a record measured, from its peaks and loads, by the model as it is today."""
    peaks = Peaks(**record["peaks"])
    shapes = " ".join(f"{name}={size}" for name, size in record["shapes"].items())
    where = f"{record['machine']['processor']}, {peaks.threads} thread{'s' if peaks.threads > 1 else ''}"
    what = f"{record['bundle']} {record['precision']} {shapes}"
    busy = record["machine"]["load_1min"] > record["machine"]["cores"]
    loads = {role: CpuLoad(**record["loads"][role]) for role in GRAPHS}
    plan = cpu_plan(loads["context"], loads["step"], peaks, Wanted(record["precision"], record["K"], record["K"]))
    predicted = {"step": plan.step_ms, f"frame of {record['K']} steps": plan.frame_ms}
    measured = (record["ms"][name][COMPARED] for name in ("step", "frame"))
    return [Check(where, f"{what}: {name}", value, ms, busy) for (name, value), ms in zip(predicted.items(), measured, strict=True)]


def doc_row(check: Check) -> str:
    """Return a check as a row of the table in docs/plan.md."""
    bundle, what = check.what.split(": ")
    predicted = f"{check.predicted.typical:.2f} ({check.predicted.fast:.2f} - {check.predicted.slow:.2f})"
    return f"| {bundle} | {what} | {predicted} | {check.measured:.2f} | {100 * check.error:+.0f} % |"


def save_records(records: list[dict[str, Any]], path: Path) -> None:
    """Write records, after those that the file holds already, whole or not at all. Raises OutputError, DiffPoseEdgeError."""
    known = load_records(path) if path.exists() else []
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps([*known, *records], indent=1, allow_nan=False) + "\n", encoding="utf-8")


def load_records(path: Path) -> list[dict[str, Any]]:
    """Read records. Raises DiffPoseEdgeError when the file holds none, or what this version cannot read."""
    try:
        records = json_of(read_file(path, MOST_BYTES))
        for record in records:
            if (record["format"], record["format_version"]) != (FORMAT, FORMAT_VERSION):
                raise ValueError(f"its format is {record['format']!r}, version {record['format_version']!r}")
            checks_of(record)
    except OSError as err:
        raise DiffPoseEdgeError(f"{path} cannot be read: {err.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, OverflowError) as err:
        raise DiffPoseEdgeError(f"{path} is not a file of 'diffpose-edge plan --check' ({err})") from None
    return list(records)


def committed_records(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the records of all measured machines that come with the project."""
    return [record for path in sorted(folder.glob("plan_check*.json")) for record in load_records(path)]
