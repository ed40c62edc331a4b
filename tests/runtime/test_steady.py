"""What makes latency steady: graphs that have run before the first frame, and frames that leave nothing for the garbage collector."""

from __future__ import annotations

import gc
from collections import Counter

import numpy as np
import pytest

from diffpose_edge.bundle import load_bundle
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend


@pytest.mark.parametrize("kind", ["golden_bundle", "conditioned_video_bundle", "causal_bundle"])
def test_both_graphs_have_run_when_loading_is_over(kind: str, request: pytest.FixtureRequest) -> None:
    bundle = load_bundle(request.getfixturevalue(kind))
    ran = []

    class Counting(OnnxRuntimeBackend):
        def _session(self, role, content, options, border):
            return CountedSession(role, super()._session(role, content, options, border))

    class CountedSession:
        def __init__(self, role, session):
            self.role, self.session = role, session

        def __getattr__(self, name):
            if name == "run_with_iobinding":
                ran.append(self.role)
            return getattr(self.session, name)

    backend = Counting(bundle.manifest, bundle.graphs(for_cpu=True), threads=1)
    assert sorted(ran) == ["context", "step"]
    # On zeros: a state of zeros is left, and no schedule that nobody asked for.
    assert not backend.steps.state(0).any()
    assert not backend.steps.state(1).any()
    assert not backend.steps._schedules
    assert not backend.steps._rows
    backend.close()


def test_what_ran_at_load_does_not_show(golden_bundle) -> None:
    """The same poses from a runtime that has just been loaded and from one that has made many."""
    people = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 17, 2)).astype(np.float32)
    with PoseRuntime.load(golden_bundle, threads=1) as fresh, PoseRuntime.load(golden_bundle, threads=1) as used:
        for seed in range(3):
            used.estimate(people[::-1], seed=seed, mode="noised")
        one, other = (runtime.estimate(people, seed=7, mode="noised").samples for runtime in (fresh, used))
    np.testing.assert_array_equal(one, other)


def test_frames_leave_nothing_for_the_garbage_collector(conditioned_bundle) -> None:
    """Objects of a frame refer to each other in no circle: they go with it. Collections in a robot's process are of its own making."""
    collections: Counter[int] = Counter()

    def hear(phase: str, about: dict[str, int]) -> None:
        if phase == "start":
            collections[about["generation"]] += 1

    people = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 17, 2)).astype(np.float32)
    with PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        runtime.estimate(people, seed=0)
        gc.collect()
        gc.callbacks.append(hear)
        try:
            for _ in range(200):
                runtime.estimate(people, seed=0)
        finally:
            gc.callbacks.remove(hear)
    assert collections[1] == collections[2] == 0
    assert collections[0] <= 2
