"""The search for the fewest layers to keep: what was planted must be found, and nothing else be kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from diffpose_edge.bundle import load_bundle
from diffpose_edge.calibration.added_error import Trial
from diffpose_edge.calibration.budget_search import added_together, most_trials, smallest_kept
from diffpose_edge.calibration.calibrate import calibration_of
from diffpose_edge.calibration.observed import frames_to_use
from diffpose_edge.calibration.sensitivity import GroupError, sensitivity
from diffpose_edge.clips import calibration_keypoints
from diffpose_edge.comparison import AddedError
from diffpose_edge.errors import CalibrationError, DiffPoseEdgeError
from diffpose_edge.export.precision import PrecisionPlan
from diffpose_edge.manifest import GRAPHS

PLANTED = "layer1.conv1"
CHOSEN = ("layer0.conv1", "layer0.adjacency.w2", "layer1.attention.w_qkv", PLANTED)


@pytest.fixture(scope="module")
def trial(calibrated_bundle: Path) -> Trial:
    bundle = load_bundle(calibrated_bundle)
    return Trial(bundle, frames_to_use(calibration_keypoints(), bundle.manifest.shape.F, 2), (40, 12))


@pytest.fixture(scope="module")
def healthy(trial: Trial) -> PrecisionPlan:
    """Eight matmuls in INT8: enough to search among."""
    scales = calibration_of(trial.bundle).scales
    return PrecisionPlan({role: {name: scales[role][name] for name in CHOSEN} for role in GRAPHS})


@pytest.fixture(scope="module")
def plan(healthy: PrecisionPlan) -> PrecisionPlan:
    """The plan with one activation's scale 300 times too large."""
    scales = dict(healthy.int8["step"])
    scales[PLANTED] = replace(scales[PLANTED], scale=300 * scales[PLANTED].scale)
    return replace(healthy, int8={**healthy.int8, "step": scales})


@pytest.fixture(scope="module")
def errors(trial: Trial, plan: PrecisionPlan) -> tuple[GroupError, ...]:
    return sensitivity(trial, plan, "int8")


def test_only_what_was_planted_is_kept(trial: Trial, healthy: PrecisionPlan, plan: PrecisionPlan, errors: tuple[GroupError, ...]) -> None:
    budget = 1.3 * added_together(trial, healthy, "int8").mean
    assert added_together(trial, plan, "int8").mean > budget
    heard: list[int] = []
    result = smallest_kept(trial, plan, "int8", budget, errors, progress=heard.append)
    assert result.kept == {"context": (), "step": (PLANTED,)}
    assert PLANTED not in result.plan.int8["step"]
    assert len(result.plan.int8["step"]) == len(plan.int8["step"]) - 1
    assert result.plan.int8["context"] == plan.int8["context"]
    # What is reported is what the plan's graphs do.
    assert result.added == added_together(trial, result.plan, "int8")
    assert result.added.mean <= budget
    given_up = next(group.macs for group in errors if (group.role, group.name) == ("step", PLANTED))
    total = sum(group.macs for group in errors)
    assert result.share_after / result.share_before == pytest.approx(1 - given_up / total)
    assert len(heard) == len(result.tried) <= most_trials(errors)
    assert smallest_kept(trial, plan, "int8", budget, errors) == result


def test_the_tighter_the_budget_the_more_is_kept(trial: Trial, plan: PrecisionPlan, errors: tuple[GroupError, ...]) -> None:
    everything = added_together(trial, plan, "int8")
    free = smallest_kept(trial, plan, "int8", 1.01 * everything.mean, errors)
    assert free.kept == {"context": (), "step": ()}
    assert free.plan == plan
    assert len(free.tried) == 1
    fp16 = added_together(trial, replace(plan, int8={}), "int8")
    tight = smallest_kept(trial, plan, "int8", 1.5 * fp16.mean, errors)
    assert PLANTED in tight.kept["step"]
    assert sum(map(len, tight.kept.values())) > 1
    assert fp16.mean < tight.added.mean <= 1.5 * fp16.mean
    assert tight.share_after < free.share_after
    # A worst joint that is asked for holds as well.
    worst_mm = 1.1 * fp16.worst
    both = smallest_kept(trial, plan, "int8", 10 * everything.mean, errors, worst_mm=worst_mm)
    assert both.added.worst <= worst_mm < free.added.worst


def test_a_budget_out_of_reach_says_what_is_possible(trial: Trial, plan: PrecisionPlan, errors: tuple[GroupError, ...]) -> None:
    best = added_together(trial, replace(plan, int8={}), "int8")
    with pytest.raises(CalibrationError, match=f"budget of 1e-06 mm is out of reach: .* err by {best.mean:.3g} mm"):
        smallest_kept(trial, plan, "int8", 1e-6, errors)
    with pytest.raises(CalibrationError, match=rf"worst joint 1e-06 mm is out of reach.*worst joint {best.worst:.3g} mm"):
        smallest_kept(trial, plan, "int8", 100.0, errors, worst_mm=1e-6)
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DiffPoseEdgeError, match="above zero"):
            smallest_kept(trial, plan, "int8", value, errors)


def test_fp16_keeps_the_fewest_layers(trial: Trial, healthy: PrecisionPlan) -> None:
    errors = sensitivity(trial, healthy, "fp16", "layer")
    everything = added_together(trial, healthy, "fp16")
    result = smallest_kept(trial, healthy, "fp16", 0.7 * everything.mean, errors)
    kept = [(role, name) for role, names in result.kept.items() for name in names]
    assert 0 < len(kept) < len(errors) / 2
    assert result.plan.fp32 == result.kept
    assert result.plan.int8 == healthy.int8
    assert result.added.mean <= 0.7 * everything.mean
    # What stays float32 in any case is no choice.
    assert not set(kept) & {(group.role, group.name) for group in errors if group.added is None}
    # Float32 everywhere is always within reach: the graph that is compared with.
    plan = replace(healthy, fp32={role: tuple(g.name for g in errors if g.role == role) for role in GRAPHS})
    assert added_together(trial, plan, "fp16").worst == 0.0


def _group(name: str, mean: float, macs: int) -> GroupError:
    return GroupError("step", name, (name,), macs, AddedError(mean, mean, mean, (0, 0), (mean,)))


def test_the_search_is_led_by_error_for_work_saved(monkeypatch: pytest.MonkeyPatch, trial: Trial, healthy: PrecisionPlan) -> None:
    """Errors that add up in squares: 3 and 4 mm of one size, 2 mm ten times as large, an overflow, and one of next to no work."""
    alone = {"a": (3.0, 1000), "b": (4.0, 1000), "large": (2.0, 10000), "broken": (float("nan"), 1000), "tiny": (0.01, 1)}
    groups = [_group(name, mean, macs) for name, (mean, macs) in alone.items()]
    base = replace(healthy, int8={"step": dict.fromkeys(alone)})

    def added(trial: Trial, plan: PrecisionPlan, precision: str) -> AddedError:
        mean = sum(alone[name][0] ** 2 for name in plan.int8["step"]) ** 0.5
        return AddedError(mean, mean, mean, (0, 0), (mean,))

    module = smallest_kept.__module__
    monkeypatch.setattr(f"{module}.added_together", added)
    monkeypatch.setattr(f"{module}.estimate_macs", lambda trial: 13001)
    found = {mm: smallest_kept(trial, base, "int8", mm, groups).kept["step"] for mm in (6.0, 4.0, 2.5, 1.0)}
    assert found == {
        6.0: ("broken", "tiny"),
        4.0: ("b", "broken", "tiny"),
        2.5: ("a", "b", "broken", "tiny"),
        1.0: ("a", "b", "large", "broken", "tiny"),
    }
