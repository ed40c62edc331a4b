"""A clock that only steps move, so that what a budget does is the same on every machine; and runtimes that go by it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from diffpose_edge.bundle import load_bundle
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend
from diffpose_edge.runtime.onnxruntime_steps import OnnxRuntimeSteps
from diffpose_edge.runtime.samples_side_by_side import SamplesSideBySide
from diffpose_edge.timings import MachineTimings, Spread

MS = 1_000_000
STEP_MS, AFTER_MS, ENCODER_MS = 10.0, 1.0, 5.0
# How long step k takes in a session, milliseconds.
Durations = Callable[[OnnxRuntimeSteps, int], float]


class StepClock:
    """Nanoseconds that pass in steps alone. Every thread has its own: parts that walk side by side do not see each other's."""

    def __init__(self) -> None:
        self._own = threading.local()

    def __call__(self) -> int:
        return int(getattr(self._own, "ns", 0))

    def pass_ms(self, ms: float) -> None:
        self._own.ns = self() + int(ms * MS)

    def set_ms(self, ms: float) -> None:
        self._own.ns = int(ms * MS)


def as_a_rule(steps: OnnxRuntimeSteps, k: int) -> float:
    """What every step takes on the made-up machine."""
    return STEP_MS


def made_up(key: Mapping[str, Any], steps: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10)) -> MachineTimings:
    """Timings of a machine that is always as fast: K steps take 10 K ms, the encoder 5 and what follows 1."""
    walk = {K: K * STEP_MS + AFTER_MS for K in steps}
    each = {ms: Spread(ms, ms) for ms in (*walk.values(), *(ms + ENCODER_MS for ms in walk.values()))}
    frame = {K: each[ms + ENCODER_MS] for K, ms in walk.items()}
    return MachineTimings(
        key, frame, {K: each[ms] for K, ms in walk.items()}, Spread(5, 5), Spread(STEP_MS, STEP_MS), Spread(AFTER_MS, AFTER_MS)
    )


def slow_runtime(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    durations: Durations = as_a_rule,
    *,
    threads: int = 1,
    timings: MachineTimings | None = None,
) -> PoseRuntime:
    """Load a bundle into a runtime whose steps take ``durations`` by its own clock, and whose machine was measured as ``made_up``."""
    clock, original = StepClock(), OnnxRuntimeSteps.step
    walk, walk_part, began = SamplesSideBySide.walk_until, SamplesSideBySide._walk_part_until, [0]

    def step(self: OnnxRuntimeSteps, k: int) -> None:
        original(self, k)
        clock.pass_ms(durations(self, k))

    def walk_until(self: SamplesSideBySide, *given: Any) -> Any:
        began[0] = clock()
        return walk(self, *given)

    def walk_part_until(self: SamplesSideBySide, *given: Any) -> int:
        # Whichever thread has it: every part begins when the walk does.
        clock.set_ms(began[0] / MS)
        return walk_part(self, *given)

    bundle = load_bundle(path)
    backend = OnnxRuntimeBackend(bundle.manifest, bundle.graphs(for_cpu=True), threads)
    runtime = PoseRuntime(bundle, backend, for_cpu=True, clock=clock)
    runtime._budgets.keep(timings or made_up(runtime._budgets.key))
    monkeypatch.setattr(OnnxRuntimeSteps, "step", step)
    monkeypatch.setattr(SamplesSideBySide, "walk_until", walk_until)
    monkeypatch.setattr(SamplesSideBySide, "_walk_part_until", walk_part_until)
    return runtime
