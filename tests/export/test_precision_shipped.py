"""The shipped frame pair in every precision on held-out frames: within the budgets that the README promises, or it fails."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffpose_edge.bundle import Bundle
from diffpose_edge.calibration.calibrate import apply_calibration, calibrated
from diffpose_edge.clips import calibration_keypoints, held_out_path, trained_pair
from diffpose_edge.comparison import added_error, compare_poses
from diffpose_edge.evaluation import load_evaluation
from diffpose_edge.export import export_bundle
from diffpose_edge.export.bundle_export import load_pair
from diffpose_edge.export.fp16_rounding import with_fp16_rounding
from diffpose_edge.export.reference_run import expected_run
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.manifest import GRAPHS
from diffpose_edge.metrics import mpjpe
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend
from diffpose_edge.schedule import trailing_timesteps
from diffpose_edge.tolerances import (
    FP16_MPJPE_CHANGE,
    INT8_MPJPE_CHANGE,
    INT8_STEP_SHARE,
    lower_pose_budget_mm,
    pose_budget_mm,
)

Array = NDArray[Any]
FRAMES_OF_A_CLIP = 2
SEED = 5


@dataclass
class Held:
    """Held-out frames with their truth, (frames, 17, 3) metres."""

    keypoints: Keypoints
    truth: Array


@pytest.fixture(scope="module")
def held() -> Held:
    """24 frames: two from within each clip that training never saw."""
    uv, confidence, truth = [], [], []
    for clip in load_evaluation(held_out_path()):
        posed = np.flatnonzero((clip.keypoints.confidence > 0).sum(axis=1) >= 12)
        chosen = posed[np.linspace(0, len(posed) - 1, FRAMES_OF_A_CLIP + 2).round().astype(int)[1:-1]]
        uv.append(clip.keypoints.uv[chosen])
        confidence.append(clip.keypoints.confidence[chosen])
        truth.append(clip.truth[chosen])
    assert len(uv) == 12
    return Held(Keypoints(np.concatenate(uv), np.concatenate(confidence)), np.concatenate(truth))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out: Path = tmp_path_factory.mktemp("shipped") / "bundle"
    exported = export_bundle(*trained_pair("frame"), out, persons=8, samples=5).bundle
    return apply_calibration(exported, calibrated(exported, calibration_keypoints(), frames=32))


@pytest.mark.slow
def test_most_of_a_step_is_int8(bundle: Bundle) -> None:
    made = bundle.manifest.provenance["precision"]
    for precision in ("int8", "int8-trt8", "int8-cpu"):
        assert made[precision]["step"]["int8_share"] >= INT8_STEP_SHARE
        assert made[precision]["context"]["int8_share"] == 0
    assert made["fp16"]["step"]["int8_share"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("K", [5, 50])
def test_held_out_poses_are_within_their_budgets(bundle: Bundle, held: Held, K: int) -> None:
    steps = trailing_timesteps(bundle.manifest.T, K)
    assert len(steps) == K
    expected = expected_run(load_pair(*trained_pair("frame")), held.keypoints, steps, bundle.manifest.shape, SEED)
    largest = float(np.abs(expected.joints).max())
    error_of_truth = mpjpe(expected.joints, held.truth)
    for precision in ("fp32", "fp16", "int8", "int8-cpu"):
        graphs = {role: with_fp16_rounding(bundle.read(role, precision)) for role in GRAPHS}
        with PoseRuntime(bundle, OnnxRuntimeBackend(bundle.manifest, graphs, threads=1)) as runtime:
            estimates = list(runtime.estimate_clip(held.keypoints, SEED, timesteps=steps, trace=True))
        joints = np.concatenate([e.joints for e in estimates])
        trajectory = np.concatenate([e.trajectory for e in estimates if e.trajectory is not None], axis=1)
        added = added_error(joints, expected.joints, trajectory, expected.trajectory)
        change = abs(mpjpe(joints, held.truth) / error_of_truth - 1)
        print(precision, K, added.mean, added.worst, change)
        if precision == "fp32":
            comparison = compare_poses("joints", joints, expected.joints, pose_budget_mm(largest))
            assert comparison.passed, str(comparison)
            continue
        mean, worst = lower_pose_budget_mm(precision, largest)
        assert 0 < added.mean <= mean
        assert added.worst <= worst
        assert change <= (FP16_MPJPE_CHANGE if precision == "fp16" else INT8_MPJPE_CHANGE)
