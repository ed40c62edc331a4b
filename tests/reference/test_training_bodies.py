"""Poses as bones: there and back, lengths apart from directions, and the two sides of the body."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_edge.reference.training import bodies
from diffpose_edge.reference.training.bodies import bones_of, group_lengths, mirrored, poses_of, random_lengths, with_lengths
from diffpose_edge.skeleton import BONES, JOINTS

MEASURED = np.array(
    [[0.13, 0.42, 0.41, 0.2, 0.22, 0.11, 0.12, 0.17, 0.28, 0.25], [0.12, 0.45, 0.44, 0.22, 0.25, 0.1, 0.13, 0.18, 0.3, 0.27]]
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def poses(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((4, 6, 17, 3)).astype(np.float32)


def test_bones_go_from_parent_to_child_in_the_skeletons_order(poses):
    bones = bones_of(poses)
    for i, (parent, child) in enumerate(BONES):
        np.testing.assert_array_equal(bones[..., i, :], poses[..., child, :] - poses[..., parent, :])


def test_poses_of_bones_are_the_poses_seen_from_the_hip(poses):
    np.testing.assert_allclose(poses_of(bones_of(poses)), poses - poses[..., :1, :], rtol=0, atol=2e-6)


def test_bones_of_poses_of_bones_are_the_bones(rng):
    bones = rng.standard_normal((3, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(bones_of(poses_of(bones)), bones, rtol=0, atol=2e-6)


def test_groups_hold_every_bone_once_and_pair_the_sides():
    children = sorted(child for _, members in bodies.GROUPS for child in members)
    assert children == sorted(child for _, child in BONES)
    for name, members in bodies.GROUPS:
        sides = [JOINTS[child] for child in members]
        if len(sides) == 2:
            assert {side.split("_")[0] for side in sides} == {"left", "right"}, name
            assert len({side.split("_")[1] for side in sides}) == 1, name


def test_lengths_are_exact_and_directions_stay(rng, poses):
    bones, lengths = bones_of(poses), rng.uniform(0.1, 0.5, (4, 10)).astype(np.float32)
    given = with_lengths(bones, lengths)
    norms = np.linalg.norm(given, axis=-1)
    for group, (_, children) in enumerate(bodies.GROUPS):
        for child in children:
            bone = [c for _, c in BONES].index(child)
            np.testing.assert_allclose(norms[..., bone], np.broadcast_to(lengths[:, None, group], (4, 6)), rtol=1e-6)
    cosine = (given * bones).sum(axis=-1) / norms / np.linalg.norm(bones, axis=-1)
    np.testing.assert_allclose(cosine, 1.0, rtol=0, atol=1e-6)
    for body in range(4):
        np.testing.assert_allclose(group_lengths(given[body]), lengths[body], rtol=1e-6)


def test_a_bone_without_length_stays_finite():
    assert np.isfinite(with_lengths(np.zeros((1, 1, 16, 3), np.float32), np.ones((1, 10), np.float32))).all()


def test_mirrored_twice_is_the_pose(poses):
    np.testing.assert_array_equal(mirrored(mirrored(poses)), poses)


def test_mirrored_exchanges_left_and_right(poses):
    turned = mirrored(poses)
    for j, name in enumerate(JOINTS):
        other = {"left": "right", "right": "left"}.get(name.split("_")[0])
        source = JOINTS.index(f"{other}_{name.split('_')[1]}") if other else j
        np.testing.assert_array_equal(turned[..., j, :], poses[..., source, :] * [-1, 1, 1], err_msg=name)


def test_random_bodies_are_positive_and_repeat_with_the_seed():
    first, again, other = (random_lengths(MEASURED, 50, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (first > 0).all()


def test_random_bodies_spread_as_far_as_they_say():
    """Around one measured body: in stature together, and each length on its own."""
    one = random_lengths(MEASURED[:1], 40_000, np.random.default_rng(0))
    logs = np.log(one / MEASURED[0])
    expected = np.sqrt(bodies.GROUP_SPREAD**2 + bodies.STATURE_SPREAD**2)
    np.testing.assert_allclose(logs.std(axis=0), expected, rtol=0.03)
    covariance = np.cov(logs.T)
    apart = covariance[~np.eye(10, dtype=bool)]
    np.testing.assert_allclose(apart, bodies.STATURE_SPREAD**2, rtol=0, atol=5e-4)


def test_measured_bodies_are_brought_to_one_stature_before_they_are_mixed():
    """A child beside an adult of the same proportions gives bodies of their mean stature, not of every stature between."""
    both = np.stack([MEASURED[0], 0.5 * MEASURED[0]])
    mixed = random_lengths(both, 20_000, np.random.default_rng(0))
    np.testing.assert_allclose(np.median(mixed, axis=0), 0.75 * MEASURED[0], rtol=0.02)
    assert np.log(mixed[:, 1]).std() == pytest.approx(np.hypot(0.04, bodies.STATURE_SPREAD), rel=0.03)
