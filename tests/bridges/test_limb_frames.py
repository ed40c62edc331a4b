"""Frames of the body and its limbs: their axes as REP-155 has them, their places those of the joints."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_edge.runtime.bridges.limb_frames import LIMBS, LimbFrame, limb_frames
from diffpose_edge.runtime.bridges.rotations import quaternion_of, swing_of_z
from diffpose_edge.skeleton import JOINTS

AT = {name: i for i, name in enumerate(JOINTS)}
ROOT = np.array([0.2, -0.1, 3.0], np.float32)


def standing() -> np.ndarray:
    """Somebody who faces the camera upright: x right, y down, z away from the camera, and so their left is at +x."""
    joints = np.zeros((17, 3), np.float32)
    for name, place in {
        "right_hip": (-0.1, 0, 0), "right_knee": (-0.1, 0.45, 0), "right_foot": (-0.1, 0.9, 0),
        "left_hip": (0.1, 0, 0), "left_knee": (0.1, 0.45, 0), "left_foot": (0.1, 0.9, 0),
        "spine": (0, -0.25, 0), "thorax": (0, -0.5, 0), "neck": (0, -0.6, -0.05), "head": (0, -0.75, 0),
        "left_shoulder": (0.2, -0.5, 0), "left_elbow": (0.5, -0.5, 0), "left_wrist": (0.8, -0.5, 0),
        "right_shoulder": (-0.2, -0.5, 0), "right_elbow": (-0.2, -0.2, 0), "right_wrist": (-0.2, -0.2, -0.3),
    }.items():  # fmt: skip
        joints[AT[name]] = place
    return joints


def rotation(q: tuple[float, ...]) -> np.ndarray:
    x, y, z, w = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def in_camera(frames: list[LimbFrame]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Place and axes of every frame in the camera's."""
    body = frames[0]
    R, t = rotation(body.rotation), np.array(body.translation)
    placed = {body.child: (t, R)}
    for frame in frames[1:]:
        assert frame.parent == body.child
        placed[frame.child] = (R @ np.array(frame.translation) + t, R @ rotation(frame.rotation))
    return placed


def test_a_body_looks_along_its_x_axis_and_its_head_is_along_z() -> None:
    frames = limb_frames(standing(), ROOT, "cam", 7)
    assert (frames[0].parent, frames[0].child) == ("cam", "body_7")
    place, axes = in_camera(frames)["body_7"]
    np.testing.assert_allclose(place, ROOT, atol=1e-6)
    # Forward is towards the camera, left is the image's right, up is against y.
    np.testing.assert_allclose(axes, np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]]).T, atol=1e-6)


def test_every_frame_lies_at_its_joint_and_a_limb_hangs_along_minus_z() -> None:
    joints = standing() @ np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0].astype(np.float32)
    placed = in_camera(limb_frames(joints, ROOT, "cam", 0))
    assert set(placed) == {"body_0", "torso_0", *(f"{name}_0" for name in LIMBS)}
    for name, (at, above, below) in LIMBS.items():
        place, axes = placed[f"{name}_0"]
        np.testing.assert_allclose(place, joints[AT[at]] + ROOT, atol=1e-5)
        along = joints[AT[below]] - joints[AT[above]]
        np.testing.assert_allclose(-axes[:, 2], along / np.linalg.norm(along), atol=1e-5)
        np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(axes) > 0


def test_a_limb_that_hangs_straight_has_the_bodys_orientation() -> None:
    [knee] = [frame for frame in limb_frames(standing(), ROOT, "cam", 0) if frame.child == "l_knee_0"]
    np.testing.assert_allclose(knee.rotation, (0, 0, 0, 1), atol=1e-6)


def test_no_pose_has_no_frames_and_a_limb_without_length_is_left_out() -> None:
    assert limb_frames(np.full((17, 3), np.nan, np.float32), ROOT, "cam", 0) == []
    assert limb_frames(np.zeros((17, 3), np.float32), ROOT, "cam", 0) == []
    joints = standing()
    joints[AT["left_wrist"]] = joints[AT["left_elbow"]]
    children = {frame.child for frame in limb_frames(joints, ROOT, "cam", 0)}
    assert children.isdisjoint({"l_elbow_0", "l_wrist_0"})
    assert {"l_shoulder_0", "r_elbow_0"} <= children


def test_a_matrix_and_its_quaternion_are_one_rotation() -> None:
    rng = np.random.default_rng(3)
    half_turns = [np.diag(d) for d in ([1.0, -1, -1], [-1.0, 1, -1], [-1.0, -1, 1], [1.0, 1, 1])]
    for m in half_turns + [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(50)]:
        R = m if np.linalg.det(m) > 0 else -m
        np.testing.assert_allclose(rotation(quaternion_of(R)), R, atol=1e-12)


@pytest.mark.parametrize("direction", [(0, 0, 1), (0, 0, -1), (1, 0, 0), (0, -1, 0), (0.6, 0, -0.8)])
def test_the_least_turn_brings_z_onto_a_direction_about_an_axis_across_both(direction: tuple[float, float, float]) -> None:
    d = np.array([direction], np.float64)
    [q] = swing_of_z(d)
    np.testing.assert_allclose(rotation(tuple(q))[:, 2], d[0], atol=1e-12)
    assert q[2] == 0
