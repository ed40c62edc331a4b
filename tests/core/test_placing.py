"""People as a robot takes them, put in the camera's frame and in the world's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diffpose_edge.body import BodyEstimate
from diffpose_edge.body_scale import Scale
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.placing import in_world, placed

from .synthetic_people import CAMERAS, poses

CAMERA = CAMERAS["plumb_bob"]
PLACE = np.array([0.4, -0.1, 3.5])


def somebody(**changes: Any) -> BodyEstimate:
    joints = poses(1)[0]
    uv = CAMERA.normalised(CAMERA.project(joints + PLACE))
    rng = np.random.default_rng(0)
    spread = 0.02 * rng.normal(size=(4, 17, 3))
    fields: dict[str, Any] = {
        "stamp_ns": 12,
        "frame_id": "camera",
        "body_id": 3,
        "joints": joints.astype(np.float32),
        "covariance": np.broadcast_to(np.diag([1e-4, 2e-4, 9e-4]), (17, 3, 3)).astype(np.float32),
        "observed": np.ones(17, bool),
        "samples": (joints + spread - spread.mean(axis=0)).astype(np.float32),
        "keypoints": np.concatenate([uv, np.ones((17, 1))], axis=1).astype(np.float32),
    }
    return BodyEstimate(**{**fields, **changes})


def test_somebody_is_placed_where_they_are() -> None:
    body = placed(somebody(), CAMERA)
    assert body.root is not None
    assert body.root_covariance is not None
    # The keypoints are float32: 3e-5 pixels, and what those are at 3.5 m.
    np.testing.assert_allclose(body.root, PLACE, atol=1e-4)
    assert np.linalg.eigvalsh(body.root_covariance)[0] > 0
    pixels = CAMERA.pixels(somebody().keypoints[:, :2])
    np.testing.assert_allclose(CAMERA.project(body.placed_joints), pixels, atol=0.01)
    assert (body.stamp_ns, body.frame_id, body.body_id) == (12, "camera", 3)


def test_the_body_is_brought_to_its_size() -> None:
    small = somebody()
    body = placed(small, CAMERA, scale=Scale(1.1, 0.01))
    np.testing.assert_allclose(body.root, 1.1 * PLACE, atol=1e-4)
    np.testing.assert_allclose(body.joints, 1.1 * small.joints, rtol=1e-5)
    np.testing.assert_allclose(body.samples, 1.1 * small.samples, rtol=1e-5)
    np.testing.assert_allclose(body.covariance, 1.21 * small.covariance, rtol=1e-5)
    np.testing.assert_allclose(CAMERA.project(body.placed_joints), CAMERA.pixels(small.keypoints[:, :2]), atol=0.01)


def test_somebody_without_a_pose_stays_without_a_place() -> None:
    nobody = somebody(joints=np.full((17, 3), np.nan, np.float32), samples=None)
    assert placed(nobody, CAMERA).root is None
    with pytest.raises(DiffPoseEdgeError, match="has none; give them to bodies_of"):
        placed(somebody(keypoints=None), CAMERA)


def test_in_the_world_everything_is_turned_and_the_root_is_moved() -> None:
    body = placed(somebody(), CAMERA)
    R = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    R *= np.linalg.det(R)
    t = np.array([10.0, -2.0, 1.5])
    there = in_world(body, R, t)
    assert there.frame_id == "world"
    np.testing.assert_allclose(there.placed_joints, body.placed_joints @ R.T + t, atol=1e-5)
    np.testing.assert_allclose(there.samples, body.samples @ R.T, atol=1e-6)
    # What a direction's variance is does not depend on the frame that it is told in.
    axis = np.array([0.36, 0.48, 0.8])
    for before, after in ((body.covariance[4], there.covariance[4]), (body.root_covariance, there.root_covariance)):
        assert (R @ axis) @ after @ (R @ axis) == pytest.approx(axis @ before @ axis, rel=1e-5)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = R, t
    same = in_world(body, pose, frame_id="map")
    np.testing.assert_array_equal(same.placed_joints, there.placed_joints)
    assert same.frame_id == "map"


def test_in_the_world_without_a_root_there_still_is_none() -> None:
    there = in_world(somebody(samples=None), np.eye(3), np.ones(3))
    assert there.root is None
    np.testing.assert_array_equal(there.joints, somebody().joints)


@pytest.mark.parametrize(
    ("pose", "translation", "said"),
    [
        (2 * np.eye(3), np.zeros(3), "a rotation"),
        (np.diag([1.0, 1.0, -1.0]), None, "mirrors"),
        (np.eye(2), None, r"\(2, 2\)"),
        (np.eye(3), np.zeros(2), r"\(2,\)"),
        (np.full((3, 3), np.nan), None, "finite"),
        (np.eye(4), np.zeros(3), "came twice"),
        (np.eye(4) + np.eye(4, k=-3), None, "last row"),
        ("north", None, "numbers"),
    ],
)
def test_what_is_no_rigid_motion(pose: Any, translation: Any, said: str) -> None:
    with pytest.raises(DiffPoseEdgeError, match=said):
        in_world(somebody(), pose, translation)
