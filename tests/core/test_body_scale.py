"""The body's size: statures, measured bones, and what cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_edge.body_scale import ADULT_SPREAD, ADULT_STATURE, POSE_SPREAD, Scale, scale_of_bones, scale_of_stature, stature_of
from diffpose_edge.bones import bone_lengths
from diffpose_edge.errors import DiffPoseEdgeError

from .synthetic_people import poses

# A person who stands straight, 1.80 m tall, by the proportions of Drillis and Contini: ankles at 0.039, hips at 0.530 of the stature.
STANDING = np.zeros((17, 3))
for joint, (x, height) in {
    0: (0, 0.53), 1: (-0.1, 0.53), 2: (-0.1, 0.285), 3: (-0.1, 0.039), 4: (0.1, 0.53), 5: (0.1, 0.285), 6: (0.1, 0.039), 7: (0, 0.67),
    8: (0, 0.818), 9: (0, 0.87), 10: (0, 1.0), 11: (0.13, 0.8), 12: (0.13, 0.6), 13: (0.13, 0.45), 14: (-0.13, 0.8), 15: (-0.13, 0.6),
    16: (-0.13, 0.45),
}.items():  # fmt: skip
    STANDING[joint] = (1.8 * x, 1.8 * (0.53 - height), 0)


def test_somebody_who_stands_is_as_tall_as_they_are() -> None:
    assert stature_of(STANDING) == pytest.approx(1.8, abs=1e-9)
    # However they are turned, and whatever they do with their arms.
    turned = STANDING @ np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0].T
    assert stature_of(turned[None]) == pytest.approx(1.8, abs=1e-9)


def test_captured_people_are_of_usual_size() -> None:
    assert abs(stature_of(poses(50)) / ADULT_STATURE - 1) < 2 * ADULT_SPREAD


def test_poses_with_nan_do_not_count() -> None:
    both = np.stack([STANDING, np.full((17, 3), np.nan)])
    assert stature_of(both) == pytest.approx(1.8, abs=1e-9)


def test_a_stature_makes_the_scale() -> None:
    scale = scale_of_stature(STANDING / 1.2, 1.80, 0.02, pose_spread=0)
    assert (scale.mean, scale.sigma) == (pytest.approx(1.2), pytest.approx(0.02 / 1.5))
    assert stature_of(scale.mean * STANDING / 1.2) == pytest.approx(1.8)


def test_bones_make_the_scale_and_those_not_measured_do_not() -> None:
    lengths = bone_lengths(STANDING) / 1000
    assert scale_of_bones(STANDING / 0.9, lengths, 0).mean == pytest.approx(0.9)
    lengths[[0, 3, 4]] = np.nan
    scale = scale_of_bones(STANDING / 0.9, lengths, 0.01, pose_spread=0)
    assert scale.mean == pytest.approx(0.9)
    assert 0.004 < scale.sigma < 0.01
    # One bone, of 44 cm, to 1 cm.
    alone = np.full(16, np.nan)
    alone[1] = np.linalg.norm(STANDING[2] - STANDING[1])
    assert scale_of_bones(STANDING, alone, 0.01, pose_spread=0).sigma == pytest.approx(0.01 / alone[1])


def test_what_is_known_of_the_body_is_no_better_than_the_pose() -> None:
    assert scale_of_stature(STANDING, 1.8, 0.0).sigma == pytest.approx(POSE_SPREAD)
    assert scale_of_bones(STANDING, bone_lengths(STANDING) / 1000, 0.0).sigma == pytest.approx(POSE_SPREAD)
    assert Scale().sigma == pytest.approx(np.hypot(ADULT_SPREAD, POSE_SPREAD))


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: Scale(0), "above 0"),
        (lambda: Scale(1, -0.1), "standard deviation"),
        (lambda: scale_of_stature(STANDING, 175), "in metres, such as 1.75, got 175"),
        (lambda: scale_of_stature(STANDING, 1.75, -1), "standard deviations"),
        (lambda: stature_of(np.zeros((16, 3))), r"\(16, 3\)"),
        (lambda: stature_of(np.full((17, 3), np.nan)), "without NaN"),
        (lambda: stature_of(np.zeros((17, 3))), "have a length"),
        (lambda: scale_of_bones(STANDING, np.ones(3)), "16 bone lengths"),
        (lambda: scale_of_bones(STANDING, np.full(16, np.nan)), "at least one"),
        (lambda: scale_of_bones(STANDING, -np.ones(16)), "above zero"),
    ],
)
def test_what_cannot_be(act, said) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DiffPoseEdgeError, match=said):
        act()
