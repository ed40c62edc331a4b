"""What a node has to say of itself: messages counted, the latest latencies, and a level for whoever watches diagnostics."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from time import monotonic
from typing import Any

import numpy as np

from diffpose_edge.readings import Histogram, Reading, register
from diffpose_edge.runtime.bridges.incoming import REASONS
from diffpose_edge.runtime.bridges.ros_types import RosTypes

# How many of the latest frames percentiles are taken over: half a minute at thirty a second.
LATEST = 1000
PERCENTILES = (50, 90, 99)
COUNTS = (
    "frames",
    "answered",
    "people",
    "without_pose",
    "out_of_range",
    "non_finite",
    "dropped",
    "without_camera",
    "anew",
    *(f"malformed_{reason}" for reason in REASONS),
)


class NodeReport:
    """Counts since the node was configured; any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._latencies: deque[float] = deque(maxlen=LATEST)
        self._ages: deque[float] = deque(maxlen=LATEST)
        self._latency = Histogram()
        self._told: Counter[str] = Counter()
        self._told_at = monotonic()
        self.last_refusal = ""
        register(self)

    def count(self, what: str, many: int = 1) -> None:
        """Count one of COUNTS. Raises KeyError for anything else."""
        if what not in COUNTS:
            raise KeyError(what)
        with self._lock:
            self._counts[what] += many

    def refuse(self, reason: str, told: str) -> None:
        """Count a malformed message and keep what was wrong with it."""
        self.count(f"malformed_{reason}")
        self.last_refusal = told

    def answer(self, people: int, without_pose: int, latency_ns: int, age_ns: int) -> None:
        """Count a frame that was answered: ``latency_ns`` from its arrival, ``age_ns`` from its image by the node's clock."""
        with self._lock:
            self._counts["answered"] += 1
            self._counts["people"] += people
            self._counts["without_pose"] += without_pose
            self._latencies.append(latency_ns / 1e6)
            self._latency.add(latency_ns * 1e-9)
            self._ages.append(age_ns / 1e6)

    def values(self) -> dict[str, str]:
        """Return every count, and percentiles in milliseconds over the latest frames (absent before the first)."""
        with self._lock:
            counts, latencies, ages = Counter(self._counts), list(self._latencies), list(self._ages)
        told = {name: str(counts[name]) for name in COUNTS}
        told["malformed"] = str(malformed(counts))
        for name, measured in (("latency", latencies), ("image_age", ages)):
            if measured:
                told |= {f"{name}_p{p}_ms": f"{np.percentile(measured, p):.3f}" for p in PERCENTILES}
                told[f"{name}_max_ms"] = f"{max(measured):.3f}"
        if self.last_refusal:
            told["last_refusal"] = self.last_refusal
        return told

    @property
    def about(self) -> Mapping[str, str | int]:
        """What it is, in a word."""
        return {"bridge": "rclpy"}

    def readings(self) -> list[Reading]:
        """Return the counts, for :class:`diffpose_edge.readings.Readable`."""
        with self._lock:
            counts, latency = Counter(self._counts), self._latency.copy()
        reasons = ("without_camera", *(f"malformed_{reason}" for reason in REASONS))
        dropped = {"back_pressure": counts["dropped"]} | {reason: counts[reason] for reason in reasons}
        return [
            Reading("diffpose_frames_total", counts["frames"]),
            Reading("diffpose_frames_answered_total", counts["answered"]),
            *(Reading("diffpose_frames_dropped_total", count, {"reason": reason}) for reason, count in dropped.items()),
            Reading("diffpose_frame_latency_seconds", latency),
        ]

    def since_told(self) -> tuple[Counter[str], float]:
        """Return the counts since the last call, and the seconds that passed."""
        with self._lock:
            now, counts = monotonic(), Counter(self._counts)
            fresh, passed = counts - self._told, now - self._told_at
            self._told, self._told_at = counts, now
        return fresh, passed


def malformed(counts: Mapping[str, int]) -> int:
    """Return how many messages were malformed, for whatever reason."""
    return sum(counts[f"malformed_{reason}"] for reason in REASONS)


def diagnostics(
    types: RosTypes, header: Any, name: str, hardware_id: str, report: NodeReport, active: bool, notes: Mapping[str, str]
) -> Any:
    """Return a ``diagnostic_msgs/DiagnosticArray`` of one status: WARN for what was refused or given up since the last one, or for
    silence while active; else OK.
    """
    fresh, passed = report.since_told()
    status = types.DiagnosticStatus
    rate = fresh["answered"] / passed if passed > 0 else 0.0
    wrong = [
        f"{many} {what}"
        for many, what in (
            (malformed(fresh), f"malformed (the last: {report.last_refusal})"),
            (fresh["without_camera"], "without the size of the image: no CameraInfo came"),
            (fresh["dropped"], "dropped for newer ones"),
            (fresh["non_finite"], "people with a result that is no number: the last finite state answered"),
        )
        if many
    ]
    if not active:
        level, message = status.OK, "inactive"
    elif wrong:
        level, message = status.WARN, "; ".join(wrong)
    elif not fresh["frames"]:
        level, message = status.WARN, "no keypoints came"
    else:
        level, message = status.OK, f"{rate:.1f} frames a second"
    values = report.values() | {"rate_hz": f"{rate:.3f}"} | dict(notes)
    told = [types.KeyValue(key=key, value=value) for key, value in values.items()]
    return types.DiagnosticArray(
        header=header, status=[status(level=level, name=name, message=message, hardware_id=hardware_id, values=told)]
    )
