"""Which schedule a budget is good for, what is on offer, and what is said where it cannot be kept; and the measurement itself."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.bundle_writing import record_fitted
from diffpose_edge.errors import BudgetError, DiffPoseEdgeError, RuntimeClosed, TimestepError
from diffpose_edge.fitted import FittedSchedule
from diffpose_edge.manifest import Manifest
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.budget import BudgetPace, Offers, offered_steps
from diffpose_edge.runtime.plan import step_plan
from diffpose_edge.skeleton import J
from diffpose_edge.timings import FOLDER, MachineTimings, Spread, save_timings

from .device_runtime import on_device
from .slow_steps import StepClock, made_up, slow_runtime

TWO = FittedSchedule((40, 18), ((3.1, -0.4, 0.0), (1.5, -0.8, 0.3)))
THREE = FittedSchedule((44, 28, 10), ((3.1, -0.4, 0.0), (1.5, -0.8, 0.3), (1.1, -0.4, 0.1)))
PEOPLE = np.random.default_rng(0).uniform(-0.5, 0.5, (7, J, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def manifest(conditioned_bundle: Path) -> Manifest:
    return load_bundle(conditioned_bundle).manifest


@pytest.fixture
def bundle(conditioned_bundle: Path, tmp_path: Path) -> Bundle:
    """A copy that may be altered, P=2, N=3."""
    return load_bundle(Path(shutil.copytree(conditioned_bundle, tmp_path / "bundle")))


def test_without_fitted_schedules_there_is_a_ladder_up_to_every_timestep(manifest: Manifest, golden_bundle: Path) -> None:
    assert offered_steps(manifest) == (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 32, 40, 50)
    released = load_bundle(golden_bundle).manifest
    assert offered_steps(released) == (1, 2, 3, 4, 5, 6, 8, 10, 12, 13)
    for each in (manifest, released):
        for K, plan in Offers(each).plans.items():
            assert (plan.sampler, len(plan.timesteps)) == ("ddim", K)


def test_fitted_schedules_leave_out_what_takes_longer_and_ends_further_away(manifest: Manifest) -> None:
    fitted = replace(manifest, fitted=(TWO, THREE))
    assert {K: plan.sampler for K, plan in Offers(fitted).plans.items()} == {1: "ddim", 2: "fitted", 3: "fitted", 50: "ddim"}
    assert offered_steps(fitted, "fitted") == (2, 3)
    assert offered_steps(fitted, "ab2") == offered_steps(manifest)
    assert {plan.sampler for plan in Offers(fitted, "ab2").plans.values()} == {"ab2"}
    with pytest.raises(BudgetError, match="search-steps"):
        offered_steps(manifest, "fitted")
    with pytest.raises(DiffPoseEdgeError, match="sampler out of"):
        offered_steps(manifest, "euler")


durations = st.floats(0.01, 100.0)


@st.composite
def records(draw: st.DrawFn) -> MachineTimings:
    """Timings as a machine might give them, noise and all: a K more is not always slower."""

    def spread() -> Spread:
        low, high = sorted((draw(durations), draw(durations)))
        return Spread(low, high)

    steps = draw(st.sets(st.integers(1, 60), min_size=1))
    return MachineTimings({}, {K: spread() for K in steps}, {K: spread() for K in steps}, spread(), spread(), spread())


@settings(max_examples=200)
@given(records(), durations, durations, st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_k_grows_with_the_budget_and_fits(
    manifest: Manifest, known: MachineTimings, one: float, other: float, batches: int, encoders: int, fitted: bool
) -> None:
    offers = Offers(replace(manifest, fitted=(TWO, THREE)) if fitted else manifest)
    less, more = (BudgetPace(offers, known, budget, StepClock()) for budget in sorted((one, other)))
    chosen, larger = (len(pace.plan(batches, encoders).timesteps) for pace in (less, more))
    assert chosen <= larger
    within = {K for K in offers.plans if known.p99_ms(K, batches, encoders) <= less.budget_ms}
    assert chosen == max(within, default=1)
    # More people never get more steps than fewer, by the same budget.
    if all(known.p99_ms(K, batches + 1, batches + 1) >= known.p99_ms(K, batches, batches) for K in offers.plans):
        assert len(less.plan(batches + 1, batches + 1).timesteps) <= len(less.plan(batches, batches).timesteps)


@pytest.mark.parametrize(("budget", "K"), [(16, 1), (25.9, 1), (26, 2), (56, 5), (75.9, 6), (86, 8), (106, 10), (1e6, 10)])
def test_the_largest_that_fits_is_walked(conditioned_bundle: Path, budget: float, K: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with slow_runtime(conditioned_bundle, monkeypatch) as runtime:
        found = runtime.estimate(PEOPLE[:2], seed=0, budget_ms=budget)
        assert (found.walked.tolist(), found.truncated) == ([K, K], False)
        assert len(found.timings.steps) == K


def test_people_who_need_more_batches_get_fewer_steps(conditioned_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with slow_runtime(conditioned_bundle, monkeypatch) as runtime:
        steps = [len(runtime.estimate(PEOPLE[:B], seed=0, budget_ms=64).timings.steps) for B in range(1, 8)]
        assert steps == [5, 5, 2, 2, 1, 1, 1]
        # Four batches of one step would take 64 ms: just enough. Of five there is time for some.
        assert not runtime.estimate(PEOPLE, seed=0, budget_ms=64).truncated
        crowd = runtime.estimate(np.tile(PEOPLE, (2, 1, 1)), seed=0, budget_ms=64)
        assert crowd.truncated
        assert np.isfinite(crowd.joints).all()
        assert crowd.walked.min() == 0


def test_the_fitted_schedule_is_the_one_that_is_walked(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    record_fitted(bundle, (TWO, THREE))
    with slow_runtime(bundle.path, monkeypatch) as runtime:
        for budget, options in ((26, {"steps": 2}), (60, {"steps": 3}), (16, {"timesteps": (49,)})):
            found, wanted = runtime.estimate(PEOPLE, seed=1, budget_ms=4 * budget), runtime.estimate(PEOPLE, seed=1, **options)
            np.testing.assert_array_equal(found.samples, wanted.samples)
        found = runtime.estimate(PEOPLE[:1], seed=1, budget_ms=60, sampler="ab2")
        np.testing.assert_array_equal(found.samples, runtime.estimate(PEOPLE[:1], seed=1, steps=5, sampler="ab2").samples)


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf"), True, "5"])
def test_a_budget_is_a_positive_number(conditioned_bundle: Path, budget: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with slow_runtime(conditioned_bundle, monkeypatch) as runtime, pytest.raises(BudgetError, match="number above 0"):
        runtime.estimate(PEOPLE, budget_ms=budget)


def test_what_cannot_be_kept_is_told_at_once(conditioned_bundle: Path, causal_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with slow_runtime(conditioned_bundle, monkeypatch) as runtime:
        with pytest.raises(BudgetError, match=r"15\.9 ms is too little: 1 step for 1 batch takes up to 16\.00 ms"):
            runtime.estimate(PEOPLE, budget_ms=15.9)
        with pytest.raises(BudgetError, match="Leave one out"):
            runtime.estimate(PEOPLE, budget_ms=50, steps=3)
        with pytest.raises(BudgetError, match="Leave one out"):
            runtime.estimate_async(PEOPLE, budget_ms=50, timesteps=(3,))
        runtime._budgets.keep(made_up(runtime._budgets.key, steps=(5,)))
        with pytest.raises(BudgetError, match=r"takes up to 56\.00 ms"):
            runtime.estimate(PEOPLE, budget_ms=20)
        runtime.close()
        with pytest.raises(RuntimeClosed):
            runtime.estimate(PEOPLE, budget_ms=50)
        with pytest.raises(RuntimeClosed):
            _ = runtime.timings
    monkeypatch.undo()
    with slow_runtime(causal_bundle, monkeypatch) as runtime:
        runtime.stream(2, budget_ms=20).close()
        with pytest.raises(BudgetError, match=r"1 step for 2 batches takes up to 32\.00 ms"):
            runtime.stream(3, budget_ms=20)
        with pytest.raises(DiffPoseEdgeError, match="whole number"):
            runtime.stream(0, budget_ms=20)


def test_where_nothing_was_measured_the_way_to_measure_is_told(bundle: Bundle) -> None:
    with PoseRuntime.load(bundle, threads=1) as runtime:
        with pytest.raises(BudgetError, match=r"there are none for .*runtime\.measure\(\), or diffpose-edge time .*bundle") as told:
            runtime.estimate(PEOPLE, budget_ms=50)
        assert "beside the bundle" not in str(told.value)
        another = {**runtime._budgets.key, "machine": {"processor": "Made-up 9"}}
    save_timings(bundle, made_up(another))
    with PoseRuntime.load(bundle, threads=1) as runtime:
        with pytest.raises(BudgetError, match=r"is of Made-up 9, onnxruntime, .*, and says nothing about it"):
            runtime.estimate(PEOPLE, budget_ms=50)
        assert runtime.timings is None


def test_what_was_measured_is_found_again_by_the_same_setting_alone(bundle: Bundle) -> None:
    counted: list[int] = []
    with PoseRuntime.load(bundle, threads=1) as runtime:
        found = runtime.measure([2, 1], rounds=100, pause_ms=0.0, progress=counted.append)
        assert runtime.timings == found
        assert runtime.estimate(PEOPLE[:1], budget_ms=1e6).walked.tolist() == [2]
    assert sum(counted) == 200
    assert list(found.frame) == list(found.walk) == [1, 2]
    for spread in (found.encoder, found.step, found.after, *found.frame.values(), *found.walk.values()):
        assert spread is not None
        assert 0 < spread.p50 <= spread.p99
    for K in (1, 2):
        assert found.walk[K].p50 <= found.frame[K].p50
    assert found.made["rounds"] == 100
    with PoseRuntime.load(bundle, threads=1) as again:
        assert again.timings == found
    for other in ({"threads": 2}, {"threads": 1, "portable": True}):
        with PoseRuntime.load(bundle, **other) as runtime:
            assert runtime.timings is None


def test_measuring_without_keeping_writes_nothing(bundle: Bundle) -> None:
    with PoseRuntime.load(bundle, threads=1) as runtime:
        runtime.measure([1], rounds=100, pause_ms=0.0, save=False)
        assert runtime.estimate(PEOPLE[:1], budget_ms=1e6).walked.tolist() == [1]
    assert not (bundle.path / FOLDER).exists()


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"rounds": 99}, BudgetError, "at least 100 rounds"),
        ({"rounds": 100.0}, BudgetError, "at least 100 rounds"),
        ({"pause_ms": -1.0}, BudgetError, "a pause of at least 0"),
        ({"steps": []}, BudgetError, "at least one number of steps"),
        ({"steps": [51]}, TimestepError, "K=51"),
        ({"steps": [0]}, TimestepError, "at least 1"),
    ],
)
def test_nonsense_is_not_measured(bundle: Bundle, options: dict[str, Any], error: type[DiffPoseEdgeError], said: str) -> None:
    with PoseRuntime.load(bundle, threads=1) as runtime, pytest.raises(error, match=said):
        runtime.measure(**options)
    assert not (bundle.path / FOLDER).exists()


def test_a_measurement_is_of_the_clock_that_budgets_are_kept_by(conditioned_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this clock's time a step takes 10 ms and nothing else takes any: what is measured says so."""
    with slow_runtime(conditioned_bundle, monkeypatch) as runtime:
        found = runtime.measure([1, 3], rounds=100, pause_ms=0.0, save=False)
        assert found.frame == {1: Spread(10.0, 10.0), 3: Spread(30.0, 30.0)}
    assert step_plan(runtime.bundle.manifest, steps=3).timesteps == (49, 32, 16)


def test_a_frame_in_one_piece_is_timed_as_a_whole(conditioned_bundle: Path) -> None:
    """On a GPU, here a double of one: no step is seen, so K follows from the budget and nothing is cut short."""
    made = on_device(conditioned_bundle)
    with made.runtime as runtime:
        found = runtime.measure([1, 2], rounds=100, pause_ms=0.0, save=False)
        assert (found.step, found.after) == (None, None)
        assert found.walk == found.frame
        assert found.encoder.p50 > 0
        estimate = runtime.estimate(PEOPLE[:2], seed=0, budget_ms=1e6)
        assert (estimate.walked.tolist(), estimate.truncated) == ([2, 2], False)
        np.testing.assert_array_equal(estimate.samples, runtime.estimate(PEOPLE[:2], seed=0, steps=2).samples)
