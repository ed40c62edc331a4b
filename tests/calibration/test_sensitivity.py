"""A matmul with an absurd scale, and a layer that FP16 cannot hold: the analysis must name them first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.bundle_writing import save_bundle
from diffpose_edge.calibration.added_error import Trial
from diffpose_edge.calibration.calibrate import calibration_of
from diffpose_edge.calibration.observed import frames_to_use
from diffpose_edge.calibration.sensitivity import estimate_macs, groups_to_try, sensitivity
from diffpose_edge.calibration.sensitivity_plot import plot_sensitivity, worst_first
from diffpose_edge.clips import calibration_keypoints
from diffpose_edge.errors import CalibrationError, DiffPoseEdgeError
from diffpose_edge.export.precision import PrecisionPlan
from diffpose_edge.manifest import GRAPHS

FRAMES, TIMESTEPS = 2, (40, 12)
PLANTED = ("step", "layer1.conv1")
# The adjacency's two matrices, one scaled down and the other up: the same function in float32.
FRAGILE = "layers.1.adjacency"


def trial_of(bundle: Bundle) -> Trial:
    return Trial(bundle, frames_to_use(calibration_keypoints(), bundle.manifest.shape.F, FRAMES), TIMESTEPS)


def planted(plan: PrecisionPlan) -> PrecisionPlan:
    """Return the plan with one activation's scale 300 times too large: nearly everything rounds to zero."""
    role, name = PLANTED
    scales = dict(plan.int8[role])
    scales[name] = replace(scales[name], scale=300 * scales[name].scale)
    return replace(plan, int8={**plan.int8, role: scales})


def fragile(bundle: Path, out: Path, power: int) -> Bundle:
    """Write a bundle whose context encoder has one layer that computes the same with weights times 2^-power, then 2^power."""
    loaded = load_bundle(bundle)
    model = onnx.load_model_from_string(loaded.read("context"))
    found = 0
    for tensor in model.graph.initializer:
        if FRAGILE in tensor.name and tensor.name.rpartition(".")[2] in ("w1", "b1", "w2"):
            factor = 2.0**power if tensor.name.endswith("w2") else 2.0**-power
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
            found += 1
    assert found == 3
    contents = {"context.onnx": ("context", "fp32", model.SerializeToString()), "step.onnx": ("step", "fp32", loaded.read("step"))}
    return save_bundle(out, loaded.manifest, contents)


@pytest.fixture(scope="module")
def trial(calibrated_bundle: Path) -> Trial:
    return trial_of(load_bundle(calibrated_bundle))


@pytest.fixture(scope="module")
def plan(trial: Trial) -> PrecisionPlan:
    """Every matmul that has a scale in INT8."""
    calibration = calibration_of(trial.bundle)
    return PrecisionPlan(calibration.scales, ranges=calibration.ranges)


def test_a_matmul_with_an_absurd_scale_is_named_first(trial: Trial, plan: PrecisionPlan) -> None:
    heard: list[int] = []
    errors = sensitivity(trial, planted(plan), "int8", progress=heard.append)
    assert {(group.role, group.name) for group in errors} == {(role, name) for role in GRAPHS for name in plan.int8[role]}
    assert len(heard) == len(errors) == len(groups_to_try(trial, plan, "int8"))
    worst, second, *_ = worst_first(errors)
    assert (worst.role, worst.name) == PLANTED
    assert worst.added is not None
    assert second.added is not None
    assert worst.added.mean > 2 * second.added.mean
    K = len(trial.timesteps)
    for group in errors:
        assert group.added is not None
        assert 0 < group.added.mean <= group.added.p99 <= group.added.worst
        assert len(group.added.drift) == K + 1
        # The step starts where the encoder says: only the encoder's errors are there before the first step.
        assert (group.added.drift[0] > 0) == (group.role == "context")
    assert sum(group.macs for group in errors) < estimate_macs(trial)
    healthy = {(g.role, g.name): g for g in sensitivity(trial, plan, "int8")}
    assert healthy[PLANTED].added != worst.added
    # Each is measured alone: what is wrong with one changes nothing of the others, and a second run nothing at all.
    assert all(healthy[g.role, g.name] == g for g in errors if (g.role, g.name) != PLANTED)


def test_a_layer_is_all_its_matmuls(trial: Trial, plan: PrecisionPlan) -> None:
    by_matmul, by_layer = (groups_to_try(trial, plan, "int8", by) for by in ("matmul", "layer"))
    assert len(by_layer) < len(by_matmul)
    assert sorted((g.role, m) for g in by_layer for m in g.members) == sorted((g.role, g.name) for g in by_matmul)
    assert sum(g.macs for g in by_layer) == sum(g.macs for g in by_matmul)
    pair = next(g for g in by_layer if g.name == "layer0.attention")
    assert pair.members == ("layer0.attention.w_qkv", "layer0.attention.w_out")


def test_a_layer_that_fp16_cannot_hold_is_named_first(conditioned_bundle: Path, tmp_path: Path) -> None:
    # Of weights near 2^-20 FP16 keeps a few bits.
    bundle = fragile(conditioned_bundle, tmp_path / "fragile", power=18)
    errors = sensitivity(trial_of(bundle), PrecisionPlan(), "fp16", "layer")
    worst, second = (group for group in worst_first(errors)[:2])
    assert (worst.role, worst.name) == ("context", "layer1.adjacency")
    assert worst.added is not None
    assert second.added is not None
    assert worst.added.mean > 3 * second.added.mean
    fixed = {(group.role, group.name) for group in errors if group.added is None}
    assert {("context", "conv_in"), ("context", "output"), ("step", "eps"), ("step", "output")} <= fixed
    lowered = [group for group in errors if group.added is not None]
    # Even a layer that only adds: ONNX Runtime left alone would compute it in float32.
    assert all(group.added.mean > 0 for group in lowered if group.added is not None)


def test_what_the_ranges_keep_in_float32_is_not_blamed(conditioned_bundle: Path, tmp_path: Path) -> None:
    bundle = fragile(conditioned_bundle, tmp_path / "fragile", power=15)
    model = onnx.load_model_from_string(bundle.read("context"))
    ranges = {value: 6e4 for node in model.graph.node for value in node.output}
    errors = sensitivity(trial_of(bundle), PrecisionPlan(ranges={"context": ranges}), "fp16", "layer")
    assert all(group.added is None for group in errors if group.role == "context")
    assert any(group.added is not None for group in errors if group.role == "step")


def test_an_overflow_is_worst_of_all(conditioned_bundle: Path, tmp_path: Path) -> None:
    # Constants that FP16 can hold, and values that it cannot.
    bundle = fragile(conditioned_bundle, tmp_path / "fragile", power=-16)
    errors = sensitivity(trial_of(bundle), PrecisionPlan(), "fp16", "layer")
    worst = worst_first(errors)[0]
    assert worst.name == "layer1.adjacency"
    assert worst.added is not None
    assert not np.isfinite(worst.added.mean)
    plot_sensitivity(errors, tmp_path / "plot.png", kept=[("context", "layer1.adjacency")])
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="at least one group"):
        plot_sensitivity([group for group in errors if group.added is None], tmp_path / "none.png")


@pytest.mark.parametrize(
    ("precision", "by", "change", "error", "words"),
    [
        ("int4", "matmul", lambda plan: plan, DiffPoseEdgeError, "int8, fp16 by matmul or layer, got 'int4'"),
        ("int8", "block", lambda plan: plan, DiffPoseEdgeError, "got 'int8' by 'block'"),
        ("fp16", "matmul", lambda plan: plan, DiffPoseEdgeError, "--by layer"),
        ("int8", "matmul", lambda plan: PrecisionPlan(), CalibrationError, "nothing to try"),
        ("int8", "matmul", lambda plan: replace(plan, int8={"step": {"layer9.conv1": None}}), CalibrationError, "layer9.conv1.*another"),
    ],
)
def test_what_cannot_be_tried_is_refused(
    trial: Trial,
    plan: PrecisionPlan,
    precision: str,
    by: str,
    change: Callable[[PrecisionPlan], PrecisionPlan],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        sensitivity(trial, change(plan), precision, by)
