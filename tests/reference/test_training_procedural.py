"""Rotations, and the poses that are made up from joint angles with them."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_edge.clips import mocap_clips_path
from diffpose_edge.reference.training.bodies import BONE_TO, poses_of
from diffpose_edge.reference.training.motions import MotionSource, load_clips
from diffpose_edge.reference.training.procedural import COLUMN, directions_of, random_angles, random_motions
from diffpose_edge.reference.training.rotations import about, frame_of, from_vector, rotated, small

LEFT, BACKWARD, UP = np.eye(3)


def orthonormal(r: np.ndarray, atol: float = 2e-6) -> None:
    np.testing.assert_allclose(r @ np.swapaxes(r, -1, -2), np.broadcast_to(np.eye(3), r.shape), rtol=0, atol=atol)
    np.testing.assert_allclose(np.linalg.det(r), 1.0, rtol=0, atol=atol)


# rotations


def test_rotations_are_orthonormal_and_right_handed():
    rng = np.random.default_rng(0)
    for axis in range(3):
        orthonormal(about(axis, rng.uniform(-9, 9, 50)))
    orthonormal(from_vector(rng.standard_normal((50, 3)).astype(np.float32) * 3))
    orthonormal(small((4, 5), 0.5, rng))
    orthonormal(frame_of(*rng.standard_normal((2, 50, 3)).astype(np.float32)), atol=1e-4)


def test_a_quarter_turn_takes_each_axis_to_the_next():
    for axis in range(3):
        turned = about(axis, np.pi / 2) @ np.eye(3)[(axis + 1) % 3]
        np.testing.assert_allclose(turned, np.eye(3)[(axis + 2) % 3], rtol=0, atol=1e-7)


def test_rotation_vectors_agree_with_rotations_about_the_axes():
    angles = np.linspace(-3, 3, 13, dtype=np.float32)
    for axis in range(3):
        np.testing.assert_allclose(from_vector(angles[:, None] * np.eye(3, dtype=np.float32)[axis]), about(axis, angles), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(from_vector(np.zeros(3, np.float32)), np.eye(3))


def test_small_rotations_turn_as_far_as_they_say():
    angle = np.arccos(np.clip((np.trace(small((20_000,), 0.1, np.random.default_rng(0)), axis1=-2, axis2=-1) - 1) / 2, -1, 1))
    # The length of a normal vector in three dimensions.
    assert np.sqrt(np.square(angle).mean()) == pytest.approx(0.1 * 3**0.5, rel=0.02)


def test_body_axes_keep_the_lateral_one_and_point_left_backward_up():
    frame = frame_of(np.array([0.0, 2.0, 0.0], np.float32), np.array([0.0, 0.7, 1.0], np.float32))
    # Left is world y and up is world z: who stands so looks along world x.
    np.testing.assert_allclose(frame.T, [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], rtol=0, atol=1e-7)


def test_rotated_is_the_matrix_times_each_vector():
    rng = np.random.default_rng(0)
    r, vectors = small((3, 4), 1.0, rng), rng.standard_normal((3, 4, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(rotated(r, vectors), np.einsum("abij,abnj->abni", r, vectors), rtol=0, atol=1e-6)


# made-up poses


def hinge(bones: np.ndarray, knee: int) -> np.ndarray:
    """What a knee turns about: the thigh crossed with the shank, of length sin(knee angle)."""
    return np.cross(bones[..., BONE_TO[knee], :], bones[..., BONE_TO[knee + 1], :])


def test_made_up_knees_bend_backwards():
    """A knee that bends backwards turns about the axis to the left of its own leg, by the angle that was drawn."""
    angles = random_angles(3000, np.random.default_rng(0))
    bones = directions_of(angles)
    for side, knee in (("R", 2), ("L", 5)):
        flex, abduction, turn, bend = (
            np.deg2rad(angles[:, COLUMN[f"{what} {side}"]]) for what in ("hip flex", "hip abd", "hip rot", "knee")
        )
        sign = 1.0 if side == "L" else -1.0
        # The leg's own axis to the left, written out: turned about the leg, then lifted sideways, then forward.
        x, y = np.cos(turn), sign * np.sin(turn)
        x, z = x * np.cos(abduction), sign * x * np.sin(abduction)
        left = np.stack([x, y * np.cos(flex) + z * np.sin(flex), z * np.cos(flex) - y * np.sin(flex)], axis=-1)
        np.testing.assert_allclose(hinge(bones, knee), np.sin(bend)[:, None] * left, rtol=0, atol=2e-6)
        assert bend.min() >= 0
        assert np.rad2deg(bend).max() <= 145


def test_made_up_and_real_shanks_never_bend_forward_of_the_thigh():
    """Seen from the pelvis: a knee bends about the axis to the left, not by more than a few degrees the other way."""
    made_up = random_motions(3000, 5, np.random.default_rng(0)).reshape(-1, 16, 3)
    captured = MotionSource(load_clips(mocap_clips_path()), 1).bones
    # One captured frame is broken: cmu_01_06 at 1189, where the right knee jumps behind the body (in its mirror image the left).
    for bones, exceptions in ((made_up, 0), (captured / np.linalg.norm(captured, axis=-1, keepdims=True), 1)):
        for knee in (2, 5):
            bend = np.rad2deg(np.arcsin(np.clip(hinge(bones, knee) @ LEFT, -1, 1)))
            assert (bend < -5).sum() <= exceptions
            assert bend.max() > 60


def test_made_up_left_is_on_the_left_and_forward_is_ahead():
    angles = random_angles(2000, np.random.default_rng(0))
    poses = poses_of(directions_of(angles))
    assert (poses[:, 4] @ LEFT > poses[:, 1] @ LEFT).all()
    untwisted = angles.copy()
    untwisted[:, [COLUMN["twist"], COLUMN["side"]]] = 0
    poses = poses_of(directions_of(untwisted))
    assert (poses[:, 11] @ LEFT > poses[:, 14] @ LEFT).all()
    standing = np.zeros((1, len(COLUMN)), np.float32)
    for name, joint, expected in (
        ("hip flex L", 5, -BACKWARD), ("hip abd L", 5, LEFT), ("hip flex R", 2, -BACKWARD), ("hip abd R", 2, -LEFT),
        ("arm flex L", 12, -BACKWARD), ("arm abd L", 12, LEFT), ("arm flex R", 15, -BACKWARD), ("arm abd R", 15, -LEFT),
        ("elbow L", 13, -BACKWARD), ("elbow R", 16, -BACKWARD), ("knee L", 6, BACKWARD), ("knee R", 3, BACKWARD),
        ("bend", 8, -BACKWARD),
    ):  # fmt: skip
        raised = standing.copy()
        raised[0, COLUMN[name]] = 90
        np.testing.assert_allclose(directions_of(raised)[0, BONE_TO[joint]], expected, rtol=0, atol=1e-6, err_msg=name)


def test_standing_is_upright_with_arms_and_legs_down():
    bones = directions_of(np.zeros((1, len(COLUMN)), np.float32))[0]
    for joint in (7, 8, 10):
        np.testing.assert_allclose(bones[BONE_TO[joint]], UP, rtol=0, atol=1e-6)
    for joint in (2, 3, 5, 6, 12, 13, 15, 16):
        np.testing.assert_allclose(bones[BONE_TO[joint]], -UP, rtol=0, atol=1e-6)


def test_made_up_bones_are_unit_vectors_and_move_smoothly():
    bones = random_motions(300, 27, np.random.default_rng(0))
    assert bones.shape == (300, 27, 16, 3)
    np.testing.assert_allclose(np.linalg.norm(bones, axis=-1), 1.0, rtol=0, atol=3e-4)
    step = np.linalg.norm(np.diff(bones, axis=1), axis=-1)
    assert step.max() < 0.4, "no bone jumps between two frames"
    assert np.median(step.sum(axis=1).max(axis=1)) > 0.2, "and most windows move"
