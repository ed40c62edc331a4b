"""Evaluation sets on disk, scores of estimates made for the purpose, their summary, and the pictures of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpose_edge.errors import EvaluationError, OutputError
from diffpose_edge.evaluation import EvaluationClip, load_evaluation, save_evaluation
from diffpose_edge.evaluation_plot import SweepRow, plot_evaluation, plot_sweep
from diffpose_edge.metrics import by_action, mpjpe, mpjve, n_mpjpe, p_mpjpe, pck
from diffpose_edge.scoring import METRICS, Score, calibration, per_joint, score, summary
from diffpose_edge.tolerances import FP32_POSE_MM, METRIC_ABS_MM, METRIC_REL
from diffpose_edge.uncertainty import coverage, spread_error_correlation

near = functools.partial(pytest.approx, rel=METRIC_REL)
PNG = b"\x89PNG\r\n\x1a\n"


def _clip(name: str = "S9/Walking 1.cam", action: str = "Walking 1", frames: int = 6, seed: int = 0) -> EvaluationClip:
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 0.4, (frames, 17, 3)).astype(np.float32)
    truth -= truth[:, :1]
    uv = rng.uniform(-0.9, 0.9, (frames, 17, 2)).astype(np.float32)
    return EvaluationClip(name, action, 50.0, uv, rng.uniform(0.1, 1, (frames, 17)).astype(np.float32), truth)


def _estimate(clip: EvaluationClip, deviation: float = 0.05, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Joints whose error is normal with this deviation (metres) along each axis, and the covariance that says so."""
    shape = clip.truth.shape
    off = np.random.default_rng(seed).normal(0, deviation, shape)
    off[:, 0] = 0
    c = np.broadcast_to(deviation**2 * np.eye(3), (*shape, 3)).copy()
    c[:, 0] = 0
    return clip.truth + off, c


@pytest.fixture
def scores() -> list[Score]:
    """Two clips of walking, one of them with a blank frame, and a longer one of sitting, twice as far from the truth."""
    made = []
    plan = (("a", "Walking 1", 6, 0.05), ("b", "Walking", 4, 0.05), ("c", "Sitting 2", 10, 0.1))
    for index, (name, action, frames, deviation) in enumerate(plan):
        clip = _clip(name, action, frames, index)
        joints, covariance = _estimate(clip, deviation, index)
        if name == "a":
            joints[2], covariance[2] = np.nan, np.nan
        made.append(score(joints, covariance, clip.truth + np.float32(0.03), clip))
    return made


def test_what_is_saved_is_loaded_in_its_order_and_without_pickles(tmp_path: Path) -> None:
    clips = (_clip(), _clip("z", "Sitting", 3, 1), _clip("a/b/c", "Wälzen 2", 1, 2))
    save_evaluation(tmp_path / "set.npz", clips)
    with np.load(tmp_path / "set.npz", allow_pickle=False) as content:
        assert set(content.files) == {f"{c.name}/{f}" for c in clips for f in ("uv", "confidence", "truth", "action", "fps")}
        assert content["a/b/c/action"].dtype.kind == "U"
    loaded = load_evaluation(tmp_path / "set.npz")
    assert [(c.name, c.action, c.fps) for c in loaded] == [(c.name, c.action, c.fps) for c in clips]
    for before, after in zip(clips, loaded, strict=True):
        for field in ("uv", "confidence", "truth"):
            np.testing.assert_array_equal(getattr(after, field), getattr(before, field))
            assert getattr(after, field).dtype == np.float32
    assert [path.name for path in tmp_path.iterdir()] == ["set.npz"]


def test_unseen_joints_may_be_nan_and_a_clip_can_be_cut(tmp_path: Path) -> None:
    clip = _clip()
    uv, confidence = clip.uv.copy(), clip.confidence.copy()
    uv[1, 4], confidence[1, 4] = np.nan, 0
    save_evaluation(tmp_path / "set.npz", [replace(clip, uv=uv, confidence=confidence)])
    (loaded,) = load_evaluation(tmp_path / "set.npz")
    assert np.isnan(loaded.uv[1, 4]).all()
    assert [len(loaded.first(n)) for n in (None, 2, 99)] == [6, 2, 6]
    np.testing.assert_array_equal(loaded.first(2).keypoints.uv, loaded.uv[:2])


def _offset(clip: EvaluationClip) -> dict[str, Any]:
    return {"truth": clip.truth + np.float32(0.01)}


def _unknown(clip: EvaluationClip) -> dict[str, Any]:
    truth = clip.truth.copy()
    truth[4, 2, 1] = np.nan
    return {"truth": truth}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"name": ""}, "a name for each clip"),
        (lambda c: {"action": " "}, "the action's name"),
        (lambda c: {"fps": 0.0}, "frames per second"),
        (lambda c: {"fps": "50"}, "frames per second"),
        (lambda c: {"uv": c.uv[:, :16]}, "17 joints"),
        (lambda c: {"uv": c.uv * 1000}, "pixels"),
        (lambda c: {"confidence": c.confidence[:2]}, "confidence of shape"),
        (lambda c: {"truth": c.truth[:5]}, r"shape \(6, 17, 3\)"),
        (lambda c: {"truth": c.truth.astype(str)}, "as numbers"),
        (lambda c: {"truth": c.truth * 1000}, "millimetres"),
        (_offset, "relative to the hip"),
        (_unknown, "frame 4 is not finite"),
    ],
)
def test_a_clip_that_is_not_as_it_should_be_is_refused(change: Callable[[EvaluationClip], dict[str, Any]], message: str) -> None:
    clip = _clip()
    with pytest.raises(EvaluationError, match=message):
        replace(clip, **change(clip))


def test_a_file_that_is_no_evaluation_set_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    whole = {f"a/{field}": np.asarray(getattr(_clip(), field)) for field in ("uv", "confidence", "truth", "action", "fps")}
    contents: list[tuple[dict[str, Any], str]] = [
        ({}, "no clips"),
        ({key: value for key, value in whole.items() if key != "a/truth"}, "lacks truth"),
        ({**whole, "keypoints": np.zeros(3)}, "'keypoints' has no place"),
        ({**whole, "a/camera": np.zeros(3)}, "'a/camera' has no place"),
        ({**whole, "a/action": np.array(["Walking", "Sitting"])}, "action as one string"),
        ({**whole, "a/action": np.array(3)}, "action as one string"),
        ({**whole, "a/fps": np.array("50")}, "fps as one number"),
        ({**whole, "a/truth": np.array([{}], object)}, "plain arrays"),
    ]
    for arrays, message in contents:
        np.savez(path, **arrays)
        with pytest.raises(EvaluationError, match=message):
            load_evaluation(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    path.write_bytes(path.read_bytes()[:-40])
    for name, message in (("one.npy", "single array"), ("set.npz", "cannot be read"), ("none.npz", "no evaluation set at")):
        with pytest.raises(EvaluationError, match=message):
            load_evaluation(tmp_path / name)


def test_what_cannot_be_saved_leaves_nothing_behind(tmp_path: Path) -> None:
    for clips, message in (([], "at least one clip"), ([_clip(), _clip()], "two clips are named")):
        with pytest.raises(EvaluationError, match=message):
            save_evaluation(tmp_path / "set.npz", clips)
    with pytest.raises(OutputError):
        save_evaluation(tmp_path / "missing" / "set.npz", [_clip()])
    assert not list(tmp_path.iterdir())


def test_a_score_agrees_with_the_metrics_and_counts_what_has_no_pose() -> None:
    clip = _clip(frames=8)
    joints, covariance = _estimate(clip)
    joints[3], covariance[3] = np.nan, np.nan
    row = summary([score(joints, covariance, None, clip)])[0]
    valid = np.arange(8) != 3
    assert (row.frames, row.unposed, row.clips) == (8, 1, 1)
    for value, metric in ((row.mpjpe, mpjpe), (row.p_mpjpe, p_mpjpe), (row.n_mpjpe, n_mpjpe), (row.mpjve, mpjve), (row.pck_150, pck)):
        assert abs(value - metric(joints, clip.truth, valid=valid)) <= METRIC_ABS_MM
    assert row.coverage_90 == np.nanmean(coverage(joints, covariance, clip.truth, 0.9, valid))
    assert np.isnan(row.spearman)  # the same spread for every joint
    assert np.isnan(spread_error_correlation(joints, covariance, clip.truth, valid)[1])
    assert np.isnan(row.context_mpjpe)


def test_rows_are_all_frames_the_actions_and_the_clips(scores: list[Score]) -> None:
    rows = summary(scores)
    assert [(row.group, row.name) for row in rows] == [
        ("all", "all frames"),
        ("mean of actions", "mean of 2 actions"),
        ("action", "Sitting"),
        ("action", "Walking"),
        *(("clip", name) for name in "abc"),
    ]
    whole, mean, sitting, walking = rows[:4]
    assert [(row.frames, row.unposed) for row in rows] == [(20, 1), (20, 1), (10, 0), (10, 1), (6, 1), (4, 0), (10, 0)]
    # Of 19 posed frames 10 are of sitting: the mean over frames leans that way, the mean of actions does not.
    assert whole.mpjpe == near((10 * sitting.mpjpe + 9 * walking.mpjpe) / 19)
    for metric in METRICS:
        np.testing.assert_allclose(getattr(mean, metric), (getattr(sitting, metric) + getattr(walking, metric)) / 2, rtol=METRIC_REL)
    frame_errors = np.concatenate([s.errors.mean(axis=1) for s in scores])
    means, mean_of_means = by_action(frame_errors, [s.action for s in scores for _ in s.errors])
    assert means == near({"Sitting": sitting.mpjpe, "Walking": walking.mpjpe})
    assert mean.mpjpe == near(mean_of_means)
    assert whole.context_mpjpe == pytest.approx(30 * 3**0.5, abs=FP32_POSE_MM)


def test_velocity_never_spans_two_clips_nor_a_blank_frame(scores: list[Score]) -> None:
    # 6 frames with the third blank have 3 pairs; 4 have 3; 10 have 9.
    assert [len(s.velocity) for s in scores] == [3, 3, 9]
    pairs = np.concatenate([s.velocity for s in scores])
    assert summary(scores)[0].mpjve == pairs.mean()


def test_a_clip_without_any_pose_is_counted_and_the_rest_unknown(scores: list[Score]) -> None:
    clip = _clip("d", "Eating", 3)
    blank = score(np.full((3, 17, 3), np.nan), np.full((3, 17, 3, 3), np.nan), None, clip)
    rows = {row.name: row for row in summary([*scores, blank])}
    assert (rows["d"].frames, rows["d"].unposed) == (3, 3)
    assert all(np.isnan(getattr(rows["d"], metric)) for metric in METRICS)
    assert rows["all frames"].mpjpe == summary(scores)[0].mpjpe
    assert rows["all frames"].unposed == 4
    content = json.loads(json.dumps(rows["d"].as_json(), allow_nan=False))
    assert content["mpjpe"] is None
    assert content["frames"] == 3
    assert all(np.isnan(row.mpjpe) for row in per_joint([blank]))
    with pytest.raises(ValueError, match="at least one score"):
        summary([])


def test_a_spread_that_tells_the_truth_lies_on_the_diagonal() -> None:
    clip = _clip(frames=2000)
    made = [score(*_estimate(clip), None, clip)]
    for level, covered in calibration(made):
        assert abs(covered - level) < 4 * (level * (1 - level) / (2000 * 16)) ** 0.5
    hip, *body = per_joint(made)
    assert (hip.joint, hip.mpjpe) == ("hip", 0.0)
    assert all(np.isnan([hip.rms_spread, hip.coverage_50, hip.spearman]))
    # The mean of 2000 squared distances, each a chi-square of 3 with the relative deviation sqrt(2/3), within 4.5 of its own.
    assert all(abs(row.rms_error**2 / row.rms_spread**2 - 1) < 4.5 * (2 / 3 / 2000) ** 0.5 for row in body)


def test_estimates_of_another_shape_are_refused() -> None:
    clip = _clip()
    joints, covariance = _estimate(clip)
    for bad in ((joints[:5], covariance[:5], None), (joints, covariance[:5], None), (joints, covariance, joints[:5])):
        with pytest.raises(ValueError, match="expected"):
            score(*bad, clip)


@pytest.mark.parametrize("covered", [True, False])
def test_the_pictures_are_whole_files(scores: list[Score], covered: bool, tmp_path: Path) -> None:
    unknown = [score(c.truth, np.full((*c.truth.shape, 3), np.nan), None, c) for c in [_clip()]]
    plot_evaluation(scores if covered else unknown, tmp_path / "evaluation.png", samples=5, caption="a bundle")
    rows = [SweepRow(N, K, 1.5 * N * K, 50 - K + 10 / N) for N in (5, 1, 20) for K in (4, 1, 2)]
    plot_sweep(rows, tmp_path / "sweep.png", context_mpjpe=52.0)
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation.png", "sweep.png"}
    assert all(path.read_bytes().startswith(PNG) for path in tmp_path.iterdir())


def test_a_picture_that_cannot_be_made_leaves_nothing_behind(scores: list[Score], tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        plot_evaluation(scores, tmp_path / "missing" / "a.png")
    for draw in (plot_evaluation, plot_sweep):
        with pytest.raises(ValueError, match="at least one"):
            draw([], tmp_path / "a.png")  # type: ignore[operator]
    assert not list(tmp_path.iterdir())
