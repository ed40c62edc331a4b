"""``diffpose-edge run --camera``: poses in the camera's frame."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpose_edge.body_scale import stature_of
from diffpose_edge.camera import Camera
from diffpose_edge.root import LEAST_JOINTS

from .conftest import Mistake, Run

CAMERA = Camera(1280, 720, 900, 905, 650, 350, "plumb_bob", (-0.2, 0.1, 0.001, 0.0, 0.0))
INFO = {"width": 1280, "height": 720, "k": [900, 0, 650, 0, 905, 350, 0, 0, 1], "distortion_model": "plumb_bob"}


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    path = tmp_path / "camera.json"
    path.write_text(json.dumps({**INFO, "d": CAMERA.coefficients}), encoding="utf-8")
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Somebody who stands, at three places; in the fourth frame too little of them is seen."""
    height = np.array([0.9, 0.9, 0.5, 0.07, 0.9, 0.5, 0.07, 1.15, 1.4, 1.5, 1.7, 1.4, 1.1, 0.85, 1.4, 1.1, 0.85])
    x = np.array([0, -0.12, -0.13, -0.13, 0.12, 0.13, 0.13, 0, 0, 0, 0, 0.17, 0.22, 0.24, -0.17, -0.22, -0.24])
    body = np.stack([x, 0.9 - height, np.zeros(17)], axis=-1)
    places = np.array([[0, 0, 4.0], [1.2, 0.1, 4.0], [-0.5, 0, 6.0], [0, 0, 4.0]])
    keypoints = np.concatenate([CAMERA.project(body + places[:, None]), np.ones((4, 17, 1))], axis=-1)
    keypoints[3, LEAST_JOINTS - 1 :, 2] = 0
    np.savez(tmp_path / "clip.npz", keypoints=keypoints, image_size=CAMERA.image_size)
    return tmp_path / "clip.npz"


@pytest.fixture
def poses(cli: Run, conditioned_bundle: Path, clip: Path, camera: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def run(*options: object) -> dict[str, Any]:
        cli("run", conditioned_bundle, "--keypoints", clip, "--camera", camera, "--out", tmp_path / "poses.npz", *options)
        with np.load(tmp_path / "poses.npz", allow_pickle=False) as content:
            return dict(content)

    return run


def test_roots_and_placed_joints_are_written(poses: Callable[..., dict[str, Any]]) -> None:
    found = poses()
    assert found["root"].shape == (4, 3)
    assert found["root_covariance"].shape == (4, 3, 3)
    assert np.isfinite(found["root"][:3]).all()
    assert np.isnan(found["root"][3]).all()
    np.testing.assert_allclose(found["joints_camera"], found["joints"] + found["root"][:, None], atol=1e-5)
    assert np.linalg.eigvalsh(found["root_covariance"][:3])[:, 0].min() > 0


def test_the_stature_scales_the_body_and_its_distance(poses: Callable[..., dict[str, Any]]) -> None:
    plain, tall = poses(), poses("--stature", 2.0)
    own = stature_of(plain["samples"][:3])
    np.testing.assert_allclose(tall["root"], plain["root"] * 2.0 / own, rtol=1e-4)
    moved = tall["joints_camera"] - tall["root"][:, None]
    np.testing.assert_allclose(moved, plain["joints"] * 2.0 / own, atol=1e-4)
    np.testing.assert_array_equal(tall["joints"], plain["joints"])


def test_facing_shows_the_network_something_else_and_turns_it_back(poses: Callable[..., dict[str, Any]]) -> None:
    plain, faced = poses(), poses("--facing")
    assert np.isfinite(faced["joints_camera"][:3]).all()
    assert not np.allclose(plain["joints"][1], faced["joints"][1], atol=1e-4)
    np.testing.assert_allclose(faced["samples"][:3].mean(axis=1), faced["joints"][:3], atol=1e-5)


def test_without_a_camera_nothing_changes(cli: Run, conditioned_bundle: Path, clip: Path, tmp_path: Path) -> None:
    cli("run", conditioned_bundle, "--keypoints", clip, "--out", tmp_path / "poses.npz")
    with np.load(tmp_path / "poses.npz") as content:
        assert not {"root", "root_covariance", "joints_camera"} & set(content.files)
        assert {"context", "covariance", "joints", "observed", "samples"} <= set(content.files)


def test_mistakes_are_told_before_the_work(mistake: Mistake, conditioned_bundle: Path, clip: Path, camera: Path, tmp_path: Path) -> None:
    start = ["run", conditioned_bundle, "--keypoints", clip, "--out", tmp_path / "poses.npz"]
    assert "--stature needs the camera" in mistake(*start, "--stature", 1.8)
    assert "--facing needs the camera" in mistake(*start, "--facing")
    assert "in metres, such as 1.75, got 180" in mistake(*start, "--camera", camera, "--stature", 180)
    assert "no camera file at" in mistake(*start, "--camera", tmp_path / "none.yaml")
    camera.write_text(json.dumps({**INFO, "k": [0] * 9}), encoding="utf-8")
    assert "not calibrated" in mistake(*start, "--camera", camera)
