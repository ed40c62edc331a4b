"""What is counted, under one name wherever it is told of: a stream's counters, a bridge's and a runtime's all give readings.

The endpoint (:mod:`diffpose_edge.metrics_endpoint`) exports them, the crash report writes them down. Counting itself is plain integers:
what counts needs no library. docs/observability.md says what each reading means to whoever watches.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol
from weakref import WeakSet

# Upper ends of a histogram's buckets, seconds: from a fast step of a small model on a CPU to a frame that nobody waits for any more.
BOUNDS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Metric:
    """What a name means. ``labels``: beside the ``source`` that every reading gets where it is exported."""

    kind: Literal["counter", "histogram", "info"]
    told: str
    labels: tuple[str, ...] = ()


# Names and units by Prometheus' conventions (prometheus.io/docs/practices/naming): one prefix, base units, counters end in _total.
METRICS = {
    "diffpose_runtime_info": Metric("info", "What runs: bundle, backend, precision and sizes.", ("bundle", "backend", "precision")),
    "diffpose_estimates_total": Metric("counter", "Calls that gave poses."),
    "diffpose_people_total": Metric("counter", "People in those calls, of a clip frames."),
    "diffpose_people_without_pose_total": Metric("counter", "Those of them whose pose is NaN: too few joints were seen."),
    "diffpose_people_out_of_range_total": Metric("counter", "People unlike any that training showed: their pose is as good as a guess."),
    "diffpose_people_non_finite_total": Metric("counter", "People whose walk met a result that is no number."),
    "diffpose_estimates_truncated_total": Metric("counter", "Estimates that a time budget cut short."),
    "diffpose_fallbacks_total": Metric(
        "counter", "Second best was taken: the CPU by backend auto (cpu), the last finite state (non_finite).", ("kind",)
    ),
    "diffpose_errors_total": Metric(
        "counter", "Calls that raised, by the name of the error; fault is what is none of DiffPose Edge's own.", ("kind",)
    ),
    "diffpose_stage_seconds": Metric(
        "histogram", "What an estimate took: encoder, each step, aggregate, and all of it (estimate).", ("stage",)
    ),
    "diffpose_frames_total": Metric("counter", "Frames that came, in whatever order."),
    "diffpose_frames_answered_total": Metric("counter", "Frames that were computed, or answered over a bridge."),
    "diffpose_frames_dropped_total": Metric("counter", "Frames that were not, by the reason.", ("reason",)),
    "diffpose_frames_missed_total": Metric("counter", "Frames that never came, as the camera's period tells."),
    "diffpose_stream_gaps_total": Metric("counter", "How often a stream forgot the past, because so much time had passed."),
    "diffpose_bodies_entered_total": Metric("counter", "Identities that began."),
    "diffpose_bodies_left_total": Metric("counter", "Identities that ended."),
    "diffpose_bodies_left_out_total": Metric("counter", "People in a frame without an identity yet, or without a slot."),
    "diffpose_frame_latency_seconds": Metric("histogram", "From a frame's arrival to its answer."),
}


class Histogram:
    """How often something took how long; plain integers, for one thread that adds. ``counts`` has a last bucket for what is beyond all."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts, self.total_s = [0] * (len(BOUNDS_S) + 1), 0.0

    def add(self, *durations: float) -> None:
        """Count durations in seconds. A NaN, which is what was not timed, is not counted."""
        counts, total_s = self.counts, self.total_s
        for seconds in durations:
            if seconds == seconds:
                counts[bisect_left(BOUNDS_S, seconds)] += 1
                total_s += seconds
        self.total_s = total_s

    def copy(self) -> Histogram:
        """Return it as it is now, for another thread; ``total_s`` may lack the latest."""
        copied = Histogram()
        copied.total_s, copied.counts = self.total_s, list(self.counts)
        return copied

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and (self.counts, self.total_s) == (other.counts, other.total_s)


@dataclass(frozen=True)
class Reading:
    """A value of one of METRICS: a count, a histogram, or of an info nothing (its labels say all)."""

    name: str
    value: float | Histogram = 1
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.labels) != set(METRICS[self.name].labels):
            raise ValueError(f"{self.name} has the labels {METRICS[self.name].labels}, got {tuple(self.labels)}")


class Readable(Protocol):
    """What can be read at any time, from any thread, also after it was closed: it then says what it came to.

    ``about`` says in a few words what it is; nothing private may be in it.
    """

    @property
    def about(self) -> Mapping[str, str | int]: ...

    def readings(self) -> Iterable[Reading]:
        """Return what was counted so far."""


_known: WeakSet[Readable] = WeakSet()
_adding = threading.Lock()


def register(readable: Readable) -> None:
    """Let a crash report tell of this, for as long as somebody has it."""
    with _adding:
        _known.add(readable)


def known() -> list[Readable]:
    """Return all of this process that was registered and that somebody still has."""
    with _adding:
        return list(_known)
