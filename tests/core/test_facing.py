"""Virtual cameras that face people."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_edge.camera import Camera
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.facing import facing
from diffpose_edge.keypoints import Keypoints

from .synthetic_people import CAMERAS, poses, roots


def seen(camera: Camera, points: np.ndarray) -> Keypoints:
    return Keypoints(camera.normalised(camera.project(points)).astype(np.float32), np.ones(points.shape[:2], np.float32))


@pytest.mark.parametrize("name", CAMERAS)
def test_the_view_is_that_of_a_camera_without_distortion_that_is_turned(name: str) -> None:
    camera = CAMERAS[name]
    points = poses(5) + roots(5)[:, None]
    view = facing(camera, seen(camera, points))
    turned = np.einsum("bij,bkj->bki", view.rotation, points)
    focal = max(1.0, 2 * camera.fx / camera.width)
    np.testing.assert_allclose(view.keypoints.uv, focal * turned[..., :2] / turned[..., 2:], atol=1e-5)
    # In the middle: of the rays, which is not quite the middle of the image.
    assert np.abs(view.keypoints.uv.mean(axis=1)).max() < 0.03
    # Upright: x stays level.
    np.testing.assert_allclose(view.rotation[:, 0, 1], 0, atol=1e-12)
    np.testing.assert_allclose(view.rotation @ np.swapaxes(view.rotation, 1, 2), np.broadcast_to(np.eye(3), (5, 3, 3)), atol=1e-12)
    assert (np.linalg.det(view.rotation) > 0).all()
    np.testing.assert_allclose(view.points_back(turned), points, atol=1e-5)


def test_covariances_and_samples_come_back_by_the_same_turn() -> None:
    camera, rng = CAMERAS["equidistant"], np.random.default_rng(0)
    view = facing(camera, seen(camera, poses(2) + (2.5, 0.5, 2.0)))
    samples = rng.normal(size=(2, 6, 17, 3))
    back = view.points_back(samples)
    covariance = np.einsum("bnji,bnjk->bjik", samples, samples)
    np.testing.assert_allclose(view.covariance_back(covariance), np.einsum("bnji,bnjk->bjik", back, back), atol=1e-4)


def test_the_frames_of_a_clip_may_share_one_camera() -> None:
    camera = CAMERAS["none"]
    view = facing(camera, seen(camera, poses(4) + roots(4)[:, None]), together=True)
    assert (view.rotation == view.rotation[0]).all()
    apart = facing(camera, seen(camera, poses(4) + roots(4)[:, None]))
    assert not (apart.rotation == apart.rotation[0]).all()


def test_what_was_not_seen_stays_unseen_and_nobody_is_looked_at_straight() -> None:
    camera = CAMERAS["plumb_bob"]
    keypoints = seen(camera, poses(3) + roots(3)[:, None])
    keypoints.confidence[0, 4] = 0.0
    keypoints.uv[0, 4] = np.nan
    keypoints.confidence[1] = 0.0
    keypoints.confidence[2, 7] = 0.25
    view = facing(camera, keypoints)
    np.testing.assert_array_equal(view.keypoints.confidence, keypoints.confidence)
    assert np.isfinite(view.keypoints.uv).all()
    np.testing.assert_array_equal(view.rotation[1], np.eye(3))


def test_keypoints_that_the_lens_cannot_have_made_are_not_seen() -> None:
    camera = Camera(1000, 1000, 800, 800, 500, 500, "plumb_bob", (-0.3, 0, 0, 0))
    keypoints = seen(camera, poses(1) + (0, 0, 4.0))
    keypoints.uv[0, 3] = (1.5, 0)
    view = facing(camera, keypoints)
    assert view.keypoints.confidence[0, 3] == 0
    assert view.keypoints.confidence.sum() == 16


def test_windows_are_no_clips() -> None:
    with pytest.raises(DiffPoseEdgeError, match=r"\(B, 17, 2\)"):
        facing(CAMERAS["none"], Keypoints(np.zeros((1, 2, 17, 2), np.float32), np.ones((1, 2, 17), np.float32)))
