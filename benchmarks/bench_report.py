"""What ``diffpose-edge bench`` writes: every sample, so that two reports can be compared later, and what was measured on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.atomic import atomic_file
from diffpose_edge.benchmarks.bench_candidate import names_of
from diffpose_edge.benchmarks.bench_floor import Floors, floor_of
from diffpose_edge.benchmarks.bench_rounds import Measured, Refused
from diffpose_edge.benchmarks.machine import governor, processor, versions
from diffpose_edge.benchmarks.scaling_fit import scalings
from diffpose_edge.benchmarks.telemetry import energy_per_frame
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.plain_json import json_of
from diffpose_edge.reading import read_file

FORMAT = "diffpose-edge-bench"
# 2: orders drawn anew in each round; floors, telemetry, scaling. 1 had none of it, and is read as such.
FORMAT_VERSION = 2
# A report of a hundred thousand samples has 3 MB.
MOST_BYTES = 256 << 20
PERCENTILES = (50, 90, 95, 99, 100)
PACKAGES = (
    "diffpose-edge",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt_rtx_cu13",
    "cuda-bindings",
    "pycuda",
    "torch",
    "openvino",
)


def report_of(
    found: Sequence[Measured], refused: Sequence[Refused], telemetry: dict[str, Any] | None = None, floors: Floors | None = None
) -> dict[str, Any]:
    """Return a report as plain values; docs/bench.md has its fields. Times are in milliseconds. ``telemetry``: its summary."""
    peaks = None if floors is None else floors.as_json()
    report = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "machine": machine(),
        "telemetry": telemetry,
        "floors": peaks,
        "floors_missing": "not measured" if floors is None else floors.missing,
        "rows": [_row(measured, telemetry, peaks, alone=len(found) == 1) for measured in found],
        "refused": [{**names_of(r.candidate), "reason": r.reason} for r in refused],
    }
    return {**report, "scaling": [one.as_json() for one in scalings(report)]}


def _row(measured: Measured, telemetry: dict[str, Any] | None, peaks: dict[str, Any] | None, alone: bool) -> dict[str, Any]:
    stages = measured.stages
    each_step = stages["steps"]
    summary = {name: percentiles(values) for name, values in stages.items() if name != "steps"}
    summary["step"] = percentiles(each_step)
    rounds = len(stages["frame"])
    candidate = measured.candidate
    cost, unknown = measured.cost
    return {
        **names_of(candidate),
        **measured.loaded.as_json(),
        "rounds": rounds,
        "ms": summary,
        "ms_of_step": [percentiles(each_step[:, k]) for k in range(each_step.shape[1])],
        # How much longer the slow frames take; and how much longer they were on processors, so without what others took of these.
        "jitter": spread(stages["frame"]),
        "jitter_on_processors": spread(stages["processors"]),
        "cost": cost,
        "cost_missing": unknown,
        "floor": floor_of(cost, peaks, candidate.threads, candidate.K, summary),
        "energy_per_frame": energy_per_frame(measured.joules, telemetry, rounds, alone),
        "samples_ms": {name: _listed(values) for name, values in stages.items()},
    }


def _listed(values: NDArray[np.float64]) -> Any:
    # JSON has no word for NaN.
    listed = np.round(values, 5).astype(object)
    listed[~np.isfinite(values)] = None
    return listed.tolist()


def percentiles(values: NDArray[np.float64]) -> dict[str, float | None]:
    """Return p50, p90, p95, p99 and max; None where a backend does not tell."""
    known = values[np.isfinite(values)]
    names = [f"p{p}" if p < 100 else "max" for p in PERCENTILES]
    return {name: round(float(np.percentile(known, p)), 5) if known.size else None for name, p in zip(names, PERCENTILES, strict=True)}


def spread(values: NDArray[np.float64]) -> float | None:
    """Return p99 / p50, None of what took no time."""
    p99, p50 = np.percentile(values, [99, 50])
    return round(float(p99 / p50), 4) if p50 > 0 else None


def machine() -> dict[str, Any]:
    """Return what figures were measured on; what the system does not tell is None."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "governor": governor(),
        "python": platform.python_version(),
        "versions": versions(PACKAGES),
        "load_1min": round(os.getloadavg()[0], 2),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def save_report(report: dict[str, Any], path: Path) -> None:
    """Write a report, whole or not at all: a line for each field, and one for each row of a list. Raises OutputError."""
    fields = (f"{json.dumps(name)}: {_lines(value)}" for name, value in report.items())
    with atomic_file(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(fields) + "\n}\n", encoding="utf-8")


def _lines(value: Any) -> str:
    # Every number of a hundred thousand samples on a line of its own is nothing to read or to compare by lines.
    if not isinstance(value, list) or not value:
        return json.dumps(value, allow_nan=False)
    return "[\n" + ",\n".join(json.dumps(each, allow_nan=False) for each in value) + "\n]"


def load_report(path: Path) -> dict[str, Any]:
    """Read a report. Raises DiffPoseEdgeError when it is none."""
    try:
        content = json_of(read_file(path, MOST_BYTES))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        newer = content["format_version"] > FORMAT_VERSION
        for row in content["rows"]:
            if len(row["samples_ms"]["frame"]) != row["rounds"] or not row["rounds"]:
                raise ValueError("it has another number of samples than of rounds")
    except OSError as err:
        raise DiffPoseEdgeError(f"{path} cannot be read: {err.strerror}") from None
    except (ValueError, TypeError, KeyError) as err:
        raise DiffPoseEdgeError(f"{path} is not a report of 'diffpose-edge bench' ({err})") from None
    if newer:
        raise DiffPoseEdgeError(f"{path} has format version {content['format_version']}, this diffpose-edge reads up to {FORMAT_VERSION}")
    return dict(content)
