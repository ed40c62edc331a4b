"""What a runtime counts of its calls: plain integers, a few microseconds a call (docs/observability.md), read from any thread."""

from __future__ import annotations

import copy
import functools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np

from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.events import Seldom
from diffpose_edge.readings import Histogram, Reading, register
from diffpose_edge.runtime.estimate import PoseEstimate
from diffpose_edge.skeleton import ROOT

STAGES = ("encoder", "step", "aggregate", "estimate")
FALLBACKS = ("cpu", "non_finite")
log = logging.getLogger(__name__)


@dataclass
class RuntimeCounters:
    """What became of a runtime's calls since it was loaded.

    ``estimates`` gave poses, of ``people`` (frames of a clip); ``without_pose`` of them are NaN, ``out_of_range`` and ``non_finite`` are
    as in :class:`PoseEstimate`. ``truncated``: estimates that a budget cut short. ``fallbacks``: "cpu", backend auto runs on the CPU;
    "non_finite", estimates in which somebody has their last finite state. ``errors``: calls that raised, by the error's name, or
    "fault" for what is no DiffPoseEdgeError. ``stages``: seconds of the encoder (a call's runs together), each step that was walked, the
    aggregation, and the whole estimate; what a GPU does not time is not in them.
    """

    estimates: int = 0
    people: int = 0
    without_pose: int = 0
    out_of_range: int = 0
    non_finite: int = 0
    truncated: int = 0
    fallbacks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FALLBACKS, 0))
    errors: Counter[str] = field(default_factory=Counter)
    stages: dict[str, Histogram] = field(default_factory=lambda: {stage: Histogram() for stage in STAGES})


class Counting:
    """A runtime's counters, and what is said of them, now and then, in the log. ``about``: the runtime, as its log records name it.

    Any thread may call it.
    """

    def __init__(self, about: Mapping[str, str | int]):
        self.about = dict(about)
        self._now = RuntimeCounters()
        self._lock = threading.Lock()
        self._seldom = Seldom(log)
        register(self)

    def answered(self, estimate: PoseEstimate) -> None:
        """Count an estimate."""
        timings, now = estimate.timings, self._now
        # A step that a budget cut off has taken no time.
        steps = [seconds for seconds in timings.steps.tolist() if seconds]
        without = int(np.count_nonzero(np.isnan(estimate.joints[:, ROOT, 0])))
        strange, broken = int(np.count_nonzero(estimate.out_of_range)), int(np.count_nonzero(estimate.non_finite))
        with self._lock:
            now.estimates += 1
            now.people += len(estimate.joints)
            now.without_pose += without
            now.out_of_range += strange
            now.non_finite += broken
            now.truncated += estimate.truncated
            now.fallbacks["non_finite"] += broken > 0
            now.stages["encoder"].add(timings.context)
            now.stages["step"].add(*steps)
            now.stages["aggregate"].add(timings.aggregate)
            now.stages["estimate"].add(timings.total)
        if estimate.truncated or strange or broken:
            self._tell(estimate, strange, broken)

    def failed(self, err: Exception) -> None:
        """Count a call that raised."""
        kind = type(err).__name__ if isinstance(err, DiffPoseEdgeError) else "fault"
        with self._lock:
            self._now.errors[kind] += 1

    def fell_back(self, kind: str) -> None:
        """Count one of FALLBACKS."""
        with self._lock:
            self._now.fallbacks[kind] += 1

    def snapshot(self) -> RuntimeCounters:
        """Return a copy of what was counted."""
        with self._lock:
            return copy.deepcopy(self._now)

    def readings(self) -> list[Reading]:
        """Return what was counted, for :class:`diffpose_edge.readings.Readable`."""
        now = self.snapshot()
        about = {name: str(self.about[name]) for name in ("bundle", "backend", "precision")}
        plain = {
            "diffpose_estimates_total": now.estimates,
            "diffpose_people_total": now.people,
            "diffpose_people_without_pose_total": now.without_pose,
            "diffpose_people_out_of_range_total": now.out_of_range,
            "diffpose_people_non_finite_total": now.non_finite,
            "diffpose_estimates_truncated_total": now.truncated,
        }
        return [
            Reading("diffpose_runtime_info", labels=about),
            *(Reading(name, value) for name, value in plain.items()),
            *(Reading("diffpose_fallbacks_total", value, {"kind": kind}) for kind, value in now.fallbacks.items()),
            *(Reading("diffpose_errors_total", value, {"kind": kind}) for kind, value in sorted(now.errors.items())),
            *(Reading("diffpose_stage_seconds", histogram, {"stage": stage}) for stage, histogram in now.stages.items()),
        ]

    def close(self) -> None:
        """Log what was kept back; the counts can still be read."""
        self._seldom.close()

    def _tell(self, estimate: PoseEstimate, strange: int, broken: int) -> None:
        people = len(estimate.joints)
        bundle = self.about["bundle"]
        if estimate.truncated:
            steps = len(estimate.timings.steps)
            message = "an estimate of %d people was cut short by its budget, before all %d steps were walked"
            self._seldom.tell(logging.WARNING, "truncated", message, people, steps, bundle=bundle, people=people, steps=steps)
        if strange:
            message = "%d of %d people are out of the range that training showed"
            self._seldom.tell(logging.WARNING, "out_of_range", message, strange, people, bundle=bundle, people=people, count=strange)
        if broken:
            message = "a walk met a result that is no number, for %d of %d people: they keep their last finite state"
            self._seldom.tell(logging.WARNING, "non_finite", message, broken, people, bundle=bundle, people=people, count=broken)


class Counted(Protocol):
    """What has a runtime's counters."""

    _counting: Counting


Self = TypeVar("Self", bound=Counted)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def counted(call: Callable[Concatenate[Self, Arguments], Result]) -> Callable[Concatenate[Self, Arguments], Result]:
    """Count what a method raises, and the estimate that it returns, if it returns one."""

    @functools.wraps(call)
    def counting(self: Self, /, *arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        try:
            result = call(self, *arguments, **options)
        except Exception as err:
            self._counting.failed(err)
            raise
        if isinstance(result, PoseEstimate):
            self._counting.answered(result)
        return result

    return counting
