"""Cameras: projection and its inverse, derivatives, and what no camera is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpose_edge.camera import Camera
from diffpose_edge.errors import CameraError
from diffpose_edge.reference.datasets.h36m_cameras import INTRINSICS, h36m_cameras
from diffpose_edge.tolerances import REPROJECTION_ABS_PX

from .synthetic_people import CAMERAS


@pytest.mark.parametrize("name", CAMERAS)
@given(angle=st.floats(0, 0.6), around=st.floats(-3.2, 3.2), distance=st.floats(0.1, 100))
@settings(deadline=None, max_examples=60)
def test_a_ray_leads_back_to_the_point_that_was_projected(name: str, angle: float, around: float, distance: float) -> None:
    camera = CAMERAS[name]
    ray = np.array([np.sin(angle) * np.cos(around), np.sin(angle) * np.sin(around), np.cos(angle)])
    pixel = camera.project(distance * ray)
    assert np.isfinite(pixel).all()
    np.testing.assert_allclose(camera.undistorted(pixel), ray, atol=1e-9)


@pytest.mark.parametrize("name", CAMERAS)
def test_every_pixel_of_the_image_has_a_ray_that_projects_onto_it(name: str) -> None:
    camera = CAMERAS[name]
    x, y = np.meshgrid(np.linspace(0, camera.width, 21), np.linspace(0, camera.height, 17))
    pixels = np.stack([x, y], axis=-1)
    rays = camera.undistorted(pixels)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1.0, atol=1e-12)
    np.testing.assert_allclose(camera.project(2.5 * rays), pixels, atol=REPROJECTION_ABS_PX)


@settings(deadline=None, max_examples=60)
@given(
    k=st.tuples(*[st.floats(-0.4, 0.4)] * 3, *[st.floats(0.0, 0.5)] * 3),
    p=st.tuples(*[st.floats(-0.002, 0.002)] * 2),
    share=st.floats(0, 0.9),
    around=st.floats(-3.2, 3.2),
)
def test_the_inverse_holds_for_any_coefficients_up_to_near_the_limit(k: Any, p: Any, share: float, around: float) -> None:
    camera = Camera(1000, 1000, 1000, 1000, 500, 500, "rational_polynomial", (*k[:2], *p, k[2], *k[3:]))
    r = share * min(camera.limit, 1.5)
    ray = np.array([r * np.cos(around), r * np.sin(around), 1.0])
    np.testing.assert_allclose(camera.undistorted(camera.project(ray)), ray / np.linalg.norm(ray), atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(k=st.tuples(*[st.floats(-0.1, 0.1)] * 4), share=st.floats(0, 0.97), around=st.floats(-3.2, 3.2))
def test_fisheyes_see_beyond_90_degrees(k: Any, share: float, around: float) -> None:
    camera = Camera(1000, 1000, 300, 300, 500, 500, "equidistant", k)
    angle = share * min(camera.limit, 2.5)
    ray = np.array([np.sin(angle) * np.cos(around), np.sin(angle) * np.sin(around), np.cos(angle)])
    np.testing.assert_allclose(camera.undistorted(camera.project(3 * ray)), ray, atol=1e-6)


@pytest.mark.parametrize("name", CAMERAS)
def test_derivatives_are_those_of_finite_differences(name: str) -> None:
    camera, h = CAMERAS[name], 1e-6
    points = np.concatenate([np.random.default_rng(0).normal(size=(40, 3)) * (1, 1, 0.5) + (0, 0, 4), [[0, 0, 3.0]]])
    moved = [(camera.project(points + h * e) - camera.project(points - h * e)) / (2 * h) for e in np.eye(3)]
    # Rounding of pixels near 1000 over 2e-6 is 1e-7.
    np.testing.assert_allclose(camera.derivative(points), np.stack(moved, axis=-1), atol=1e-5)


def test_radial_terms_are_those_of_human36m_which_were_written_apart() -> None:
    # The tangential ones have another form there.
    points = np.random.default_rng(1).normal(size=(50, 3)) * (1, 1, 0.3) + (0, 0, 5)
    for theirs, (focal, centre, (k1, k2, k3), _) in zip(h36m_cameras("S1"), INTRINSICS, strict=True):
        ours = Camera(*theirs.image_size, *focal, *centre, "plumb_bob", (k1, k2, 0.0, 0.0, k3))
        np.testing.assert_allclose(ours.project(points), replace(theirs, tangential=(0.0, 0.0)).project(points), rtol=1e-12)


def test_tangential_terms_by_hand() -> None:
    p1, p2, a, b = 0.01, -0.02, 0.3, -0.2
    q = a * a + b * b
    camera = Camera(100, 100, 1, 1, 0, 0, "plumb_bob", (0, 0, p1, p2))
    expected = (a + 2 * p1 * a * b + p2 * (q + 2 * a * a), b + p1 * (q + 2 * b * b) + 2 * p2 * a * b)
    np.testing.assert_allclose(camera.project([2 * a, 2 * b, 2.0]), expected, rtol=1e-14)


def test_equidistant_without_coefficients_is_the_angle() -> None:
    camera = Camera(100, 100, 1, 1, 0, 0, "equidistant", (0, 0, 0, 0))
    np.testing.assert_allclose(camera.project([np.sin(2.0), 0, np.cos(2.0)]), (2.0, 0.0), atol=1e-15)
    np.testing.assert_allclose(camera.project([0, 0, 7.0]), (0.0, 0.0))


def test_what_is_behind_or_beyond_the_limit_is_not_projected() -> None:
    assert np.isnan(CAMERAS["none"].project([[0, 0, -1.0], [0, 0, 0], [np.nan, 0, 1]])).all()
    barrel = Camera(1000, 1000, 800, 800, 500, 500, "plumb_bob", (-0.3, 0, 0, 0))
    # d(r - 0.3 r³)/dr = 0.
    assert barrel.limit == pytest.approx(np.sqrt(1 / 0.9))
    assert np.isfinite(barrel.project([1.05, 0, 1])).all()
    assert np.isnan(barrel.project([1.06, 0, 1])).all()
    assert not barrel.rays([500 + 800 * 0.71, 500])[1]
    with pytest.raises(CameraError, match=r"pixel \[1\] \[1068.0, 500.0\] has no ray"):
        barrel.undistorted([[500, 500], [500 + 800 * 0.71, 500]])


def test_a_field_of_view_of_90_degrees_is_half_a_width() -> None:
    camera = Camera.from_fov(1280, 720, 90)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (pytest.approx(640), pytest.approx(640), 640, 360)
    np.testing.assert_allclose(camera.project([1, 0, 1]), (1280, 360))


def test_pixels_and_normalised_keypoints() -> None:
    camera = CAMERAS["plumb_bob"]
    np.testing.assert_allclose(camera.normalised([[500, 501], [1000, 1002]]), [[0, 0], [1, 1.002]])
    np.testing.assert_allclose(camera.pixels(camera.normalised([[12.5, 700]])), [[12.5, 700]])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fx": -1}, "expected fx in pixels, greater than zero, got -1"),
        ({"fy": 0}, "expected fy"),
        ({"width": 0}, "expected width"),
        ({"cx": float("nan")}, "expected cx as a finite number"),
        ({"cy": "middle"}, "expected cy as a number, got 'middle'"),
        ({"distortion": "barrel"}, "unknown distortion model 'barrel'; expected one of none, plumb_bob"),
        (
            {"distortion": "plumb_bob", "coefficients": (0.1,)},
            "expected 0 or 4 or 5 distortion coefficients, which the model 'plumb_bob' takes, got 1",
        ),
        ({"distortion": "equidistant", "coefficients": (1, 2, 3, float("inf"))}, "finite"),
        ({"coefficients": 3}, "numbers in a row"),
    ],
)
def test_what_is_no_camera(change: dict[str, Any], said: str) -> None:
    with pytest.raises(CameraError, match=said):
        Camera(**{"width": 10, "height": 10, "fx": 1, "fy": 1, "cx": 5, "cy": 5, **change})


def test_shapes_and_fields_of_view_that_cannot_be() -> None:
    camera = CAMERAS["none"]
    with pytest.raises(CameraError, match=r"\(…, 3\)"):
        camera.project([1, 2])
    with pytest.raises(CameraError, match=r"\(…, 2\)"):
        camera.undistorted([1, 2, 3])
    with pytest.raises(CameraError, match="between 0 and 180"):
        Camera.from_fov(10, 10, 200)
    with pytest.raises(CameraError, match="has no ray"):
        camera.undistorted([np.nan, 1])
