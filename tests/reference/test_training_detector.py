"""The model detector: how its noise, its confidence and its mistakes are distributed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from diffpose_edge.reference.training import detector
from diffpose_edge.reference.training.bodies import poses_of
from diffpose_edge.reference.training.detector import HARDNESS, Detections, detect
from diffpose_edge.reference.training.procedural import random_motions
from diffpose_edge.skeleton import JOINTS, MIRROR

COUNT = 6000
RIGHT_LEG, LEFT_LEG = (1, 2, 3), (4, 5, 6)


def people(count: int, frames: int, seed: int = 0) -> np.ndarray:
    """True keypoints (count, frames, 17, 2) of made-up people seen from the side, well within the image."""
    poses = poses_of(random_motions(count, frames, np.random.default_rng(seed)))
    return (0.1 * poses[..., :, 1:] * [1, -1]).astype(np.float32)


def size_of(uv: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(uv - uv.mean(axis=2, keepdims=True)).sum(-1).mean(axis=(1, 2)))


def square(count: int) -> np.ndarray:
    return np.ones(count, np.float32)


@pytest.fixture(scope="module")
def uv() -> np.ndarray:
    return people(COUNT, 1)


@pytest.fixture(scope="module")
def found(uv: np.ndarray) -> Detections:
    return detect(uv, square(COUNT), np.random.default_rng(1))


@pytest.fixture(scope="module")
def error(uv: np.ndarray, found: Detections) -> np.ndarray:
    """Distance (count, 17) between what was found and what is there, in sizes of the person."""
    return (np.linalg.norm(found.uv - uv, axis=-1) / size_of(uv)[:, None, None])[:, 0]


def test_shapes_types_and_ranges(found):
    assert [v.shape for v in (found.uv, found.confidence, found.other, found.other_weight)] == [
        (COUNT, 1, 17, 2), (COUNT, 1, 17), (COUNT, 1, 17, 2), (COUNT, 1, 17)
    ]  # fmt: skip
    assert all(v.dtype == np.float32 for v in (found.uv, found.confidence, found.other, found.other_weight))
    assert np.isfinite(found.uv).all()
    assert found.confidence.min() == 0
    assert found.confidence.max() == 1
    assert found.other_weight.min() == 0
    assert 0.55 < found.other_weight.max() <= 0.6


def test_the_same_seed_gives_the_same_detections(uv):
    first, again, other = (detect(uv[:9], square(9), np.random.default_rng(seed)) for seed in (1, 1, 2))
    for name in ("uv", "confidence", "other", "other_weight"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.uv, other.uv)


def test_noise_is_a_share_of_the_persons_size(uv):
    """The same draws on a person of twice the size err twice as far."""
    one, two = (detect(scale * uv[:500], square(500), np.random.default_rng(3)) for scale in (np.float32(0.5), np.float32(1.0)))
    assert np.abs(uv[:500]).max() < 1
    np.testing.assert_allclose(two.uv - uv[:500], 2 * (one.uv - 0.5 * uv[:500]), rtol=0, atol=1e-6)
    np.testing.assert_allclose(two.confidence, one.confidence, rtol=1e-6)


def test_noise_grows_as_confidence_falls(found, error):
    confidence = found.confidence[:, 0]
    telling = ~(confidence == 1).any(axis=1, keepdims=True) & (confidence > 0)
    edges = [0.0, 0.3, 0.5, 0.7, 0.85, 1.0]
    rms = []
    for low, high in itertools.pairwise(edges):
        within = telling & (confidence > low) & (confidence <= high)
        assert within.sum() > 500
        rms.append(np.sqrt(np.square(error[within]).mean()))
    assert all(worse > 1.2 * better for worse, better in itertools.pairwise(rms)), rms


def test_the_average_detector_errs_by_a_few_hundredths_of_the_person(found, error):
    seen = found.confidence[:, 0] > 0
    assert 0.02 < np.median(error[seen]) < 0.06


def test_harder_joints_err_more(error):
    """Without those hidden: their noise has another reason."""
    low = np.quantile(error, 0.4, axis=0)
    assert np.corrcoef(low, HARDNESS)[0, 1] > 0.8


def test_missing_joints_have_no_confidence_and_no_second_guess(found):
    missing = found.confidence == 0
    assert 0.02 < missing.mean() < 0.15
    assert (found.other_weight[missing] == 0).all()
    assert (found.confidence[~missing] > 0.005).all()
    # What is found at all keeps its place in most people: somebody without a single joint is rare.
    assert missing.all(axis=(1, 2)).mean() < 0.01


def test_a_quarter_of_the_detectors_report_ones(found):
    """Everything that they see counts as seen; what they miss is still missing."""
    ones = ((found.confidence == 1) | (found.confidence == 0)).all(axis=(1, 2))
    assert ones.mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / COUNT) ** 0.5)
    assert (found.confidence[ones] == 0).any()
    assert (found.confidence[~ones] == 1).mean() < 0.001


def test_sides_are_exchanged_now_and_then_and_the_second_guess_knows():
    """People with legs apart, so that an exchange shows: u of the left leg and of the right one change places."""
    uv = np.zeros((COUNT, 1, 17, 2), np.float32)
    for j, name in enumerate(JOINTS):
        side = {"left": 1.0, "right": -1.0}.get(name.split("_")[0], 0.0)
        uv[:, :, j] = side * (0.3 if "hip" in name or "shoulder" in name else 0.4), 0.05 * (j % 4)
    found = detect(uv, square(COUNT), np.random.default_rng(2))
    left_at_right = (np.median(found.uv[:, 0, LEFT_LEG, 0], axis=1) < 0) & (np.median(found.uv[:, 0, RIGHT_LEG, 0], axis=1) > 0)
    assert left_at_right.mean() == pytest.approx(0.025, abs=4 * (0.025 / COUNT) ** 0.5)
    arms = (np.median(found.uv[:, 0, 11:14, 0], axis=1) < 0) & (np.median(found.uv[:, 0, 14:, 0], axis=1) > 0)
    assert arms.mean() == pytest.approx(0.025, abs=4 * (0.025 / COUNT) ** 0.5)
    assert (left_at_right & arms).mean() < 0.005, "legs and arms are exchanged apart from each other"
    legs = [*RIGHT_LEG, *LEFT_LEG]
    seen = found.confidence[left_at_right, 0][:, legs] > 0
    assert (found.other_weight[left_at_right, 0][:, legs][seen] > 0.09).all()
    away = np.linalg.norm(found.uv - uv, axis=-1)[left_at_right, 0][:, legs]
    second = np.linalg.norm(found.other - uv, axis=-1)[left_at_right, 0][:, legs]
    assert (second < away).mean() > 0.9
    np.testing.assert_array_equal(found.other, found.uv[:, :, MIRROR])


def test_beyond_the_image_joints_are_guessed():
    """The same people moved half out of the image: the outer half is found badly or not at all."""
    uv = people(COUNT, 1)
    uv = uv - uv.mean(axis=2, keepdims=True) + [1.0, 0.0]
    found = detect(uv.astype(np.float32), square(COUNT), np.random.default_rng(4))
    outside = np.abs(uv[..., 0]) > 1
    assert 0.3 < outside.mean() < 0.7
    error = np.linalg.norm(found.uv - uv, axis=-1) / size_of(uv)[:, None, None]
    assert np.median(error[outside]) > 3 * np.median(error[~outside])
    assert (found.confidence[outside] == 0).mean() > 0.4
    assert (found.confidence[~outside] == 0).mean() < 0.2


def test_above_and_below_the_image_depend_on_its_height():
    uv = np.float32(0.2) * people(2000, 1) + np.float32([0.0, 0.9])
    missing = [(detect(uv, aspect * square(2000), np.random.default_rng(5)).confidence == 0).mean() for aspect in (0.5, 1.5)]
    assert missing[0] > missing[1] + 0.3


def test_noise_in_time_has_unit_variance_at_every_frame_and_is_correlated():
    noise = detector._correlated((4000, 9, 5, 2), np.random.default_rng(0))
    np.testing.assert_allclose(noise.var(axis=(0, 2, 3)), 1.0, rtol=0, atol=0.03)
    lag = (noise[:, 1:] * noise[:, :-1]).mean(axis=(1, 2, 3))
    # The coefficient is drawn for each window, evenly between 0 and 0.95.
    assert lag.mean() == pytest.approx(0.475, abs=0.02)
    assert lag.std() == pytest.approx(0.95 / 12**0.5, rel=0.3)
    single = detector._correlated((4000, 1, 5, 2), np.random.default_rng(0))
    assert single.var() == pytest.approx(1.0, abs=0.02)


def test_a_detectors_own_offset_is_the_same_in_all_frames():
    """Over a long window the random part averages out; what is left is where this detector puts the joint."""
    uv = np.repeat(people(300, 1), 81, axis=1)
    found = detect(uv, square(300), np.random.default_rng(6))
    error = (found.uv - uv) / size_of(uv)[:, None, None, None]
    half, other = error[:, :40].mean(axis=1), error[:, 41:].mean(axis=1)
    typical = np.abs(half).max(axis=-1) < 0.2
    assert np.corrcoef(half[typical].ravel(), other[typical].ravel())[0, 1] > 0.4


def test_stretches_are_all_frames_half_of_the_time_and_always_for_one():
    stretches = detector._interval(4000, 20, np.random.default_rng(0))
    assert stretches.all(axis=1).mean() == pytest.approx(0.5, abs=0.05)
    starts = (np.diff(stretches.astype(int), axis=1) == 1).sum(axis=1)
    assert starts.max() == 1, "one stretch, not several"
    assert detector._interval(100, 1, np.random.default_rng(0)).all()


def test_parts_of_the_body_disappear_together():
    hidden = detector._occlusion(5000, 1, np.random.default_rng(0))[:, 0]
    assert (hidden.min(), hidden.max() <= 1.0) == (0.0, True)
    # Three tenths once, a tenth once more.
    assert (hidden > 0).any(axis=1).mean() == pytest.approx(1 - 0.7 * 0.9, abs=0.03)
    foot, knee, wrist = (hidden[:, j] > 0 for j in (3, 2, 13))
    assert (foot[knee]).mean() > 0.95, "a hidden knee hides the foot"
    assert np.corrcoef(foot, wrist)[0, 1] < 0.2
