"""Virtual cameras: projection, where the person appears, how near, and which way is up, right and away."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_edge.keypoints import normalise_pixels
from diffpose_edge.reference.training import batches
from diffpose_edge.reference.training.cameras import ASPECT_SHARES, ASPECTS, NEAREST, Cameras, projected, random_cameras, seen_by
from diffpose_edge.reference.training.motions import Clip, MotionSource
from diffpose_edge.reference.training.procedural import random_motions
from diffpose_edge.skeleton import ROOT

COUNT = 4000


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    return random_cameras(COUNT, np.random.default_rng(0))


def image_of(cameras: Cameras, world: np.ndarray) -> np.ndarray:
    """World points (B, 3), seen by one camera each → u, v (B, 2)."""
    return projected(cameras, seen_by(cameras, world[:, None, None].astype(np.float32)))[:, 0, 0]


def test_projection_is_that_of_a_pinhole_camera_in_pixels(cameras):
    """An ideal camera: x_pixel = f X / Z + w / 2 with f in pixels, and the project's own normalisation of pixels."""
    points = np.random.default_rng(1).uniform([-2, -2, 1], [2, 2, 8], (COUNT, 1, 1, 3))
    uv = projected(cameras, points.astype(np.float32))
    for b in range(0, COUNT, 40):
        w = 1920.0
        h = w * float(cameras.aspect[b])
        f = float(cameras.focal[b]) * w / 2
        matrix = np.array([[f, 0, w / 2], [0, f, h / 2], [0, 0, 1]])
        x, y, z = matrix @ points[b, 0, 0]
        expected = normalise_pixels(np.array([x / z, y / z]), (w, h))
        np.testing.assert_allclose(uv[b, 0, 0], expected, rtol=1e-5, atol=1e-5)


def test_rotations_are_orthonormal_and_right_handed(cameras):
    r = cameras.rotation
    np.testing.assert_allclose(r @ np.swapaxes(r, -1, -2), np.broadcast_to(np.eye(3), r.shape), rtol=0, atol=2e-6)
    np.testing.assert_allclose(np.linalg.det(r), 1.0, rtol=0, atol=2e-6)


def test_lenses_images_and_distances_are_those_described(cameras):
    wide = np.maximum(cameras.aspect, 1.0)
    view = np.rad2deg(2 * np.arctan(1 / (cameras.focal / wide)))
    assert 34.5 < view.min() < 36
    assert 89 < view.max() < 90.1
    for aspect, share in zip(ASPECTS, ASPECT_SHARES, strict=True):
        assert (np.abs(cameras.aspect - aspect) < 1e-6).mean() == pytest.approx(share, abs=4 * (share / COUNT) ** 0.5)
    distance = np.linalg.norm(cameras.place, axis=-1)
    assert 2.0 <= distance.min() < 2.1
    assert 8.8 < distance.max() <= 9.0 + 1e-5


def test_the_root_is_seen_at_the_drawn_place(cameras):
    np.testing.assert_allclose(seen_by(cameras, np.zeros((COUNT, 1, 1, 3), np.float32))[:, 0, 0], cameras.place, rtol=0, atol=1e-6)
    uv = image_of(cameras, np.zeros((COUNT, 3)))
    np.testing.assert_allclose(uv, cameras.focal[:, None] * cameras.place[:, :2] / cameras.place[:, 2:], rtol=1e-5, atol=1e-6)
    # Mostly within the image, and about everywhere in it.
    v = uv[:, 1] / cameras.aspect
    assert ((np.abs(uv[:, 0]) < 1) & (np.abs(v) < 1)).mean() > 0.99
    assert np.histogram2d(uv[:, 0], v, bins=4, range=[[-0.8, 0.8], [-0.6, 0.6]])[0].min() > COUNT / 100


@pytest.mark.parametrize("frames", [1, 5])
def test_in_a_batch_the_middle_frames_hip_is_where_the_camera_puts_it(monkeypatch, frames):
    drawn = []

    def recorded(count: int, rng: np.random.Generator) -> Cameras:
        drawn.append(random_cameras(count, rng))
        return drawn[-1]

    monkeypatch.setattr(batches, "random_cameras", recorded)
    bones = random_motions(1, 60, np.random.default_rng(0))[0]
    poses = batches.poses_of(0.3 * bones) + np.linspace(0, 3, 60, dtype=np.float32)[:, None, None]
    batch = batches.training_batch(MotionSource([Clip("a", poses, 30.0)], frames), 50, (0, 1))
    (cameras,) = drawn
    expected = cameras.focal[:, None] * cameras.place[:, :2] / cameras.place[:, 2:]
    np.testing.assert_allclose(batch.uv[:, frames // 2, ROOT], expected, rtol=0, atol=1e-4)
    if frames > 1:
        # The whole window is seen by one camera: a hip that moves through the world moves through the image.
        assert np.abs(np.diff(batch.uv[:, :, ROOT], axis=1)).max(axis=(1, 2)).min() > 1e-3


def test_true_keypoints_are_the_projection_of_the_true_pose(monkeypatch):
    """In a batch, u, v and x, y, z belong together: some depth of the hip explains all keypoints at once."""
    drawn = []
    monkeypatch.setattr(batches, "random_cameras", lambda count, rng: drawn.append(random_cameras(count, rng)) or drawn[-1])
    poses = batches.poses_of(0.3 * random_motions(1, 60, np.random.default_rng(0))[0])
    batch = batches.training_batch(MotionSource([Clip("a", poses, 30.0)], 1), 50, (0, 1))
    (cameras,) = drawn
    away = (NEAREST - batch.xyz[:, 0, :, 2].min(axis=1)) / cameras.place[:, 2]
    points = batch.xyz[:, 0] + (cameras.place * np.maximum(1.0, away)[:, None])[:, None]
    expected = cameras.focal[:, None, None] * points[..., :2] / points[..., 2:]
    clear = away < 0.9
    assert clear.mean() > 0.8
    np.testing.assert_allclose(batch.uv[clear, 0], expected[clear], rtol=0, atol=1e-4)


def test_nobody_is_nearer_than_the_nearest(cameras):
    world = np.random.default_rng(1).uniform(-6, 6, (COUNT, 3, 17, 3)).astype(np.float32)
    world[:, :, 0] = 0.0
    world[::2] *= 0.1
    points = seen_by(cameras, world)
    assert points[..., 2].min() > NEAREST - 1e-4
    # Who is far enough away stays, who is not moves along the ray.
    alone = seen_by(cameras, world[:, :, :1])
    moved = np.abs(points[:, :, 0] - alone[:, :, 0]).max(axis=(1, 2)) > 1e-5
    plain = np.einsum("bij,bfnj->bfni", cameras.rotation, world) + cameras.place[:, None, None]
    np.testing.assert_array_equal(moved, plain[..., 2].min(axis=(1, 2)) < NEAREST)
    assert 0.1 < moved.mean() < 0.6
    np.testing.assert_allclose(projected(cameras, points)[:, :, 0], projected(cameras, alone)[:, :, 0], rtol=0, atol=1e-4)


def test_up_in_the_world_is_up_in_the_image(cameras):
    here, above = (image_of(cameras, np.tile([0.0, 0.0, z], (COUNT, 1))) for z in (0.0, 0.1))
    assert (above[:, 1] < here[:, 1]).all()


def test_what_is_to_the_cameras_right_is_right_in_the_image(cameras):
    forward = cameras.rotation[:, 2]
    right = np.cross(forward, [0.0, 0.0, 1.0])
    here, there = image_of(cameras, np.zeros((COUNT, 3))), image_of(cameras, 0.1 * right / np.linalg.norm(right, axis=-1, keepdims=True))
    assert (there[:, 0] > here[:, 0]).all()


def test_ground_farther_away_is_nearer_to_the_horizon(cameras):
    """A step straight away from the camera: below the horizon, as a camera that looks down sees the ground, it goes up."""
    forward = cameras.rotation[:, 2].astype(np.float64)
    level = forward * [1, 1, 0]
    level /= np.linalg.norm(level, axis=-1, keepdims=True)
    here, there = image_of(cameras, np.zeros((COUNT, 3))), image_of(cameras, 0.1 * level)
    pitch = np.arcsin(-forward[:, 2])
    below = cameras.place[:, 1] / cameras.place[:, 2] + np.tan(pitch)
    looking_down = pitch > np.deg2rad(5)
    assert looking_down.mean() > 0.5
    clear = np.abs(below) > 0.15
    assert (looking_down & clear & (below > 0)).sum() > COUNT / 4
    assert (clear & (below < 0)).sum() > COUNT / 20
    np.testing.assert_array_equal((there[:, 1] < here[:, 1])[clear], below[clear] > 0)


def test_cameras_stand_all_around_mostly_level_and_look_down_a_little(cameras):
    forward = cameras.rotation[:, 2]
    yaw = np.arctan2(forward[:, 1], forward[:, 0])
    assert np.histogram(yaw, bins=8, range=(-np.pi, np.pi))[0].min() > COUNT / 8 * 0.8
    pitch = np.rad2deg(np.arcsin(-forward[:, 2]))
    assert np.median(pitch) == pytest.approx(8.0, abs=2.0)
    assert -35 < pitch.min() < -15
    assert 45 < pitch.max() < 60
    roll = np.rad2deg(np.arcsin(cameras.rotation[:, 0, 2]))
    assert roll.std() == pytest.approx(2.5, rel=0.15)
