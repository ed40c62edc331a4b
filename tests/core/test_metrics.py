"""The metrics against closed forms, against loops written out, and against their own symmetries."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpose_edge.metrics import (
    JOINTS_3DHP,
    action_of,
    auc,
    by_action,
    joint_errors,
    mpjpe,
    mpjve,
    n_mpjpe,
    p_mpjpe,
    pck,
    per_joint_mpjpe,
    procrustes,
    rescaled,
)
from diffpose_edge.skeleton import JOINTS, MIRROR
from diffpose_edge.tolerances import METRIC_ABS_MM, METRIC_REL, MILLIMETRES

SEEDS = st.integers(0, 2**32 - 1)
near = functools.partial(pytest.approx, rel=METRIC_REL, abs=METRIC_ABS_MM)
METRICS = (mpjpe, n_mpjpe, p_mpjpe, mpjve, pck, auc)


def _poses(seed: int = 0, frames: int = 4) -> np.ndarray:
    poses = np.random.default_rng(seed).normal(0, 0.4, (frames, 17, 3))
    return poses - poses[:, :1]


def _rotation(rng: np.random.Generator) -> np.ndarray:
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return q * np.sign(np.linalg.det(q))


def _close(a: np.ndarray | float, b: np.ndarray | float) -> bool:
    return bool(np.abs(np.asarray(a) - b).max() <= METRIC_ABS_MM)


def test_mpjpe_is_the_mean_distance_in_millimetres() -> None:
    p, t = _poses(1), _poses(2)
    total = sum(float(np.sqrt(sum((p[f, j, k] - t[f, j, k]) ** 2 for k in range(3)))) for f in range(4) for j in range(17))
    assert _close(mpjpe(p, t), 1000 * total / (4 * 17))
    assert mpjpe(t + [0.03, 0.0, 0.04], t) == near(50.0)
    assert _close(per_joint_mpjpe(p, t).mean(), mpjpe(p, t))
    assert per_joint_mpjpe(p, t).shape == (17,)


def test_float32_and_leading_axes_are_welcome() -> None:
    p, t = _poses(1, 6), _poses(2, 6)
    assert _close(mpjpe(p.reshape(2, 3, 17, 3), t.reshape(2, 3, 17, 3)), mpjpe(p, t))
    assert _close(p_mpjpe(p.reshape(2, 3, 17, 3), t.reshape(2, 3, 17, 3)), p_mpjpe(p, t))
    assert isinstance(mpjpe(p[0].astype(np.float32), t[0].astype(np.float32)), float)


def test_n_mpjpe_takes_the_scale_that_no_other_scale_betters() -> None:
    p, t = _poses(1, 1), _poses(1, 1) + 0.1 * _poses(2, 1)
    best = ((rescaled(p, t) - t) ** 2).sum()
    scale = (p * t).sum() / (p * p).sum()
    np.testing.assert_allclose(rescaled(p, t), scale * p, rtol=METRIC_REL)
    assert all(best <= ((s * scale * p - t) ** 2).sum() for s in (0.9, 0.999, 1.001, 1.1))
    assert _close(n_mpjpe(3.0 * t, t), 0.0)
    # One scale for each pose, not one for all.
    assert _close(n_mpjpe(np.concatenate([2 * t, 0.5 * t]), np.concatenate([t, t])), 0.0)


def test_poses_of_no_size_have_a_scaled_error_all_the_same() -> None:
    t = _poses(1, 1)
    assert n_mpjpe(np.zeros_like(t), t) == mpjpe(np.zeros_like(t), t)
    assert n_mpjpe(t, np.zeros_like(t)) == 0.0


@given(SEEDS, st.floats(0.01, 100.0))
@settings(deadline=None, max_examples=40)
def test_procrustes_undoes_a_similarity(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    t = _poses(seed)
    p = scale * t @ _rotation(rng) + rng.normal(size=3)
    assert np.abs(procrustes(p, t) - t).max() * MILLIMETRES <= METRIC_ABS_MM
    assert p_mpjpe(p, t) <= METRIC_ABS_MM


@given(SEEDS, st.floats(0.1, 10.0))
@settings(deadline=None, max_examples=40)
def test_p_mpjpe_does_not_change_when_the_prediction_is_moved(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    p, t = _poses(seed), _poses(seed + 1)
    assert _close(p_mpjpe(scale * p @ _rotation(rng) + rng.normal(size=3), t), p_mpjpe(p, t))


@given(SEEDS, st.floats(0.1, 10.0))
@settings(deadline=None, max_examples=40)
def test_n_mpjpe_does_not_change_with_the_prediction_s_size(seed: int, scale: float) -> None:
    p, t = _poses(seed), _poses(seed + 1)
    assert _close(n_mpjpe(scale * p, t), n_mpjpe(p, t))


@given(SEEDS)
@settings(deadline=None, max_examples=40)
def test_mpjpe_is_a_metric(seed: int) -> None:
    a, b, c = _poses(seed), _poses(seed + 1), _poses(seed + 2)
    assert mpjpe(a, c) <= mpjpe(a, b) + mpjpe(b, c) + METRIC_ABS_MM
    assert mpjpe(a, b) == mpjpe(b, a)
    assert mpjpe(a, a) == 0.0


@given(SEEDS)
@settings(deadline=None, max_examples=40)
def test_an_alignment_never_makes_the_squared_error_larger(seed: int) -> None:
    p, t = _poses(seed), _poses(seed + 1)
    plain, scaled, aligned = (((q - t) ** 2).sum(axis=(1, 2)) for q in (p, rescaled(p, t), procrustes(p, t)))
    assert (scaled <= plain + METRIC_REL).all()
    assert (aligned <= plain + METRIC_REL).all()
    # A scale that is negative is no similarity: it turns the pose inside out.
    scale = (p * t).sum(axis=(1, 2))
    assert (aligned <= scaled + METRIC_REL)[scale > 0].all()


@pytest.mark.parametrize("side", [1, -1])
def test_procrustes_betters_every_similarity_near_it(side: int) -> None:
    # For one of the two sides a reflection would fit better: both branches of the alignment are met.
    p, t = side * _poses(1, 1)[0], _poses(2, 1)[0]
    aligned = procrustes(p, t)
    centre, best = t.mean(axis=0), ((aligned - t) ** 2).sum()
    # The scale is best: what remains is at right angles to the pose.
    assert abs(((t - aligned) * (aligned - centre)).sum()) <= METRIC_REL
    rng = np.random.default_rng(0)
    for _ in range(50):
        small, _ = np.linalg.qr(np.eye(3) + 0.01 * rng.standard_normal((3, 3)))
        small *= np.sign(np.diag(small))  # near the identity, so a rotation
        assert ((rng.uniform(0.98, 1.02) * (aligned - centre) @ small + centre - t) ** 2).sum() >= best


def test_a_mirrored_pose_stays_mirrored() -> None:
    t = _poses(3)
    for mirrored in (t * [-1, 1, 1], -t, (t * [1, 1, -1])[:, MIRROR]):
        assert p_mpjpe(mirrored, t) > 50.0
    # Handedness is kept: the signed volume of four joints has the sign it had, though a reflection would fit exactly.
    mirrored = t * [1, -1, 1]
    aligned = procrustes(mirrored, t)
    for before, after in zip(mirrored, aligned, strict=True):
        assert np.linalg.det(before[1:4] - before[0]) * np.linalg.det(after[1:4] - after[0]) > 0


def test_a_flat_pose_is_turned_over_rather_than_mirrored() -> None:
    # In a plane a reflection is also a rotation of space: it is to be undone exactly.
    t = _poses(3) * [1, 1, 0]
    assert p_mpjpe(t * [-1, 1, 1], t) <= METRIC_ABS_MM


def test_a_prediction_that_is_one_point_is_placed_on_the_centroid() -> None:
    t = _poses(4, 50)
    # Of most numbers the mean of 17 is not quite the number: what is left is rounding, and must not become a body.
    points = np.concatenate([np.zeros((1, 1, 3)), np.random.default_rng(0).normal(0, 3, (49, 1, 3))])
    aligned = procrustes(np.broadcast_to(points, t.shape), t)
    assert np.abs(aligned - t.mean(axis=1, keepdims=True)).max() * MILLIMETRES <= METRIC_ABS_MM


def test_a_truth_that_is_one_point_or_a_line_is_reached() -> None:
    line = np.linspace(0, 1, 17)[:, None] * [0.3, 0.1, -0.2]
    assert p_mpjpe(_poses(1, 1)[0], np.zeros((17, 3))) <= METRIC_ABS_MM
    assert p_mpjpe(line @ _rotation(np.random.default_rng(0)) * 2 + 1, line) <= METRIC_ABS_MM


def test_velocity_is_that_between_neighbouring_frames() -> None:
    p, t = _poses(1), _poses(2)
    by_hand = [np.linalg.norm((p[f + 1, j] - p[f, j]) - (t[f + 1, j] - t[f, j])) for f in range(3) for j in range(17)]
    assert _close(mpjve(p, t), 1000 * np.mean(by_hand))
    # A constant offset is no motion; a drift of 2 mm a frame is one of 2 mm a frame.
    assert mpjve(t + [0.5, 0.25, 1.0], t) <= METRIC_ABS_MM
    drift = np.arange(4)[:, None, None] * np.array([0.0, 0.002, 0.0])
    assert mpjve(t + drift, t) == near(2.0)


def test_velocity_counts_a_pair_when_both_of_its_frames_count() -> None:
    p, t = _poses(1, 6), _poses(2, 6)
    valid = np.array([True, True, False, True, True, True])
    p[2] = np.nan
    assert _close(mpjve(p, t, valid), np.mean([mpjve(p[:2], t[:2]), mpjve(p[3:5], t[3:5]), mpjve(p[4:], t[4:])]))
    assert np.isnan(mpjve(p[:1], t[:1]))
    with pytest.raises(ValueError, match="frames of a clip"):
        mpjve(p[0], t[0])


def test_pck_is_strict_at_the_threshold() -> None:
    t = np.zeros((1, 17, 3))
    for distance, share in ((150.0, 0.0), (np.nextafter(150.0, 0.0), 100.0)):
        p = t.copy()
        p[..., 0] = distance / 1000
        assert joint_errors(p, t)[0, 1] == distance
        assert pck(p, t) == share
    assert pck(t, t, threshold=0.0) == 0.0


def test_pck_looks_at_the_14_joints_of_3dhp_only() -> None:
    names = [JOINTS[j] for j in JOINTS_3DHP]
    assert len(set(names)) == 14
    assert set(JOINTS) - set(names) == {"hip", "spine", "neck"}
    t = np.zeros((1, 17, 3))
    for j in range(17):
        p = t.copy()
        p[0, j, 2] = 1.0
        assert pck(p, t) == near(100.0 * (13 / 14 if j in JOINTS_3DHP else 1.0))
    assert pck(p, t, joints=[16]) == 0.0


def test_auc_is_the_mean_over_31_thresholds() -> None:
    t = np.zeros((1, 17, 3))
    p = t.copy()
    p[..., 0] = 0.0725
    # Less than 75, 80, …, 150: 16 of the 31 thresholds.
    assert auc(p, t) == near(100 * 16 / 31)
    # No error is less than zero, so perfection is not 100.
    assert auc(t, t) == near(100 * 30 / 31)
    p, t = _poses(1) * 0.1, _poses(2) * 0.1
    assert auc(p, t) == near(np.mean([pck(p, t, threshold) for threshold in range(0, 151, 5)]))


@pytest.mark.parametrize("metric", METRICS)
def test_a_blank_pose_shows_unless_it_is_said_not_to_count(metric: object) -> None:
    assert callable(metric)
    p, t = _poses(1, 6), _poses(2, 6)
    valid = np.array([True] * 5 + [False])
    expected = metric(p[:5], t[:5])
    p[5, 3] = np.nan
    assert np.isnan(metric(p, t))
    assert metric(p, t, valid=valid) == near(expected)
    assert np.isnan(metric(p, t, valid=np.zeros(6, bool)))


def test_procrustes_blanks_a_blank_pose_and_no_other() -> None:
    p, t = _poses(1), _poses(2)
    whole = procrustes(p, t)
    p[1, 4, 0], t[2, 0, 0] = np.nan, np.inf
    aligned = procrustes(p, t)
    assert np.isnan(aligned[1:3]).all()
    np.testing.assert_array_equal(aligned[[0, 3]], whole[[0, 3]])


def test_a_joint_s_own_mean_of_nothing_is_nan() -> None:
    assert np.isnan(per_joint_mpjpe(_poses(1), _poses(2), np.zeros(4, bool))).all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    p = _poses()
    for bad in (p[:2], p[..., :2], p[:, :16], p[0]):
        with pytest.raises(ValueError, match="one shape"):
            mpjpe(bad, p)
    with pytest.raises(ValueError, match="one shape"):
        mpjpe(p[:, :16], p[:, :16])
    for valid in (np.ones(3, bool), np.ones(4), np.ones((4, 17), bool)):
        with pytest.raises(ValueError, match="valid as booleans"):
            mpjpe(p, p, valid)


def test_actions_are_averaged_before_their_means_are() -> None:
    # "Walking" has three frames from two clips, "Sitting" one: 2 and 10, whose mean is 6. The mean over frames is 4.
    means, mean = by_action([1.0, 2.0, 3.0, 10.0], ["Walking", "Walking 1", "Walking 1", "Sitting 2"])
    assert means == {"Sitting": 10.0, "Walking": 2.0}
    assert mean == 6.0
    assert np.isnan(by_action([], [])[1])
    with pytest.raises(ValueError, match="one error for each"):
        by_action([1.0, 2.0], ["Walking"])


@pytest.mark.parametrize(
    ("name", "action"),
    [("Walking 1", "Walking"), ("WalkTogether", "WalkTogether"), ("On The Floor", "On The Floor"), (" Photo 12 ", "Photo"), ("S1", "S1")],
)
def test_an_action_s_name_loses_the_number_of_its_repetition(name: str, action: str) -> None:
    assert action_of(name) == action
