"""Bone lengths: distances along the skeleton, constant for a rigid body however it moves."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_edge.bones import bone_length_variation, bone_lengths
from diffpose_edge.skeleton import BONES
from diffpose_edge.tolerances import METRIC_REL


def _poses(seed: int, frames: int) -> np.ndarray:
    poses = np.random.default_rng(seed).normal(0, 0.4, (frames, 17, 3))
    return poses - poses[:, :1]


def _rotation(rng: np.random.Generator) -> np.ndarray:
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return q * np.sign(np.linalg.det(q))


def test_bone_lengths_are_distances_between_joint_and_parent() -> None:
    poses = _poses(5, 3)
    lengths = bone_lengths(poses)
    assert lengths.shape == (3, 16)
    for bone, (i, j) in enumerate(BONES):
        assert lengths[1, bone] == pytest.approx(1000 * np.linalg.norm(poses[1, i] - poses[1, j]), rel=METRIC_REL)
    with pytest.raises(ValueError, match="expected poses"):
        bone_lengths(poses[..., :2])


def test_a_rigid_body_has_bones_that_do_not_vary() -> None:
    rng = np.random.default_rng(0)
    body = _poses(6, 1)[0]
    turned = np.stack([body @ _rotation(rng) + rng.normal(size=3) for _ in range(10)])
    assert np.abs(bone_length_variation(turned)).max() < METRIC_REL
    # Twice and half the size of the mean: a deviation of half of it, in every bone.
    np.testing.assert_allclose(bone_length_variation(np.stack([0.5 * body, 1.5 * body])), 0.5, rtol=METRIC_REL)
    blank = np.concatenate([turned, np.full((1, 17, 3), np.nan)])
    assert np.isnan(bone_length_variation(blank)).all()
    assert np.abs(bone_length_variation(blank, np.arange(11) < 10)).max() < METRIC_REL
    assert np.isnan(bone_length_variation(blank, np.zeros(11, bool))).all()
    assert np.isnan(bone_length_variation(np.zeros((2, 17, 3)))).all()
