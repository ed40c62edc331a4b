"""Where people stand: exact without noise, and as far off as it claims with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diffpose_edge.body_scale import Scale
from diffpose_edge.camera import Camera
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.reprojection import Reprojection
from diffpose_edge.root import HIP_SIGMA, LEAST_JOINTS, keypoint_sigma, root_position, root_positions
from diffpose_edge.tolerances import PLACE_ABS_M
from diffpose_edge.uncertainty import chi2_3_quantile

from .synthetic_people import CAMERAS, poses, roots

# Draws of noise, and what follows from their number. The mean of B squared Mahalanobis distances (NEES), chi-square of 3 degrees of
# freedom each, is 3 +- sqrt(6 / B); the share within the 90 % ellipsoid is 0.9 +- sqrt(0.09 / B). Bounds are four of these: they fail by
# chance once in 16,000 times, and a covariance a quarter too small lies outside. Downwards there is more room: Birge's factor
# only ever adds, on average 6 %.
B = 400
NEES = (3 / 1.06 - 4 * np.sqrt(6 / B), 3 + 4 * np.sqrt(6 / B))
COVERED = (0.9 - 4 * np.sqrt(0.09 / B), 0.915 + 4 * np.sqrt(0.09 / B))


def noisy(camera: Camera, seed: int, *, joint_sigma: float = 0.03, pixel_sigma: float = 4.0, spread: float = 0.05) -> SimpleNamespace:
    """Draw people as the model has them: bodies of unknown size, joints that err apart and, by the hip, together; noisy keypoints."""
    rng = np.random.default_rng([seed, 7])
    truth, place = poses(B, seed), roots(B, seed)
    size = 1 + spread * rng.standard_normal(B)
    pixels = camera.project(size[:, None, None] * truth + place[:, None])
    # Each joint's error is long in one direction, any one.
    axes = np.linalg.qr(rng.normal(size=(B, 17, 3, 3)))[0]
    sigma = joint_sigma * np.array([0.6, 0.6, 1.8])
    covariance = axes @ np.diag(sigma**2) @ np.swapaxes(axes, -1, -2)
    covariance[:, 0] = 0
    joints = truth + (axes @ (sigma * rng.standard_normal((B, 17, 3)))[..., None])[..., 0] + HIP_SIGMA * rng.standard_normal((B, 1, 3))
    joints[:, 0] = 0
    pixels = pixels + pixel_sigma * rng.standard_normal(pixels.shape)
    return SimpleNamespace(joints=joints, covariance=covariance, pixels=pixels, place=place, scale=Scale(1.0, spread), sigma=pixel_sigma)


def solved(people: SimpleNamespace, camera: Camera, **changes: Any) -> SimpleNamespace:
    """Solve for the people's places; ``nees``: the squared Mahalanobis distance of each from the truth."""
    arguments = {"scale": people.scale, "pixel_sigma": people.sigma, **changes}
    found = root_positions(people.joints, people.covariance, people.pixels, camera, **arguments)
    assert found.converged.all()
    error = found.position - people.place
    nees = np.einsum("bi,bij,bj->b", error, np.linalg.inv(found.covariance), error)
    return SimpleNamespace(found=found, error=error, nees=nees)


def tells_the_truth(nees: Any) -> bool:
    covered = (nees <= chi2_3_quantile(0.9)).mean()
    return bool(NEES[0] <= nees.mean() <= NEES[1] and COVERED[0] <= covered <= COVERED[1])


@pytest.mark.parametrize("name", CAMERAS)
def test_without_noise_the_place_is_exact(name: str) -> None:
    joints, place = poses(40), roots(40)
    pixels = CAMERAS[name].project(joints + place[:, None])
    found = root_positions(joints, None, pixels, CAMERAS[name])
    assert found.converged.all()
    assert np.abs(found.position - place).max() <= PLACE_ABS_M
    assert found.residual_px.max() <= PLACE_ABS_M * 1000
    np.testing.assert_array_equal(found.weights, 1.0)


def test_a_fisheye_places_somebody_at_100_degrees() -> None:
    camera = CAMERAS["equidistant"]
    joints, place = poses(1)[0], np.array([3.0, 0.1, -0.5])
    found = root_position(joints, None, camera.project(joints + place), camera)
    assert np.abs(found.position - place).max() <= PLACE_ABS_M


def test_people_in_a_batch_are_as_they_are_alone() -> None:
    camera = CAMERAS["plumb_bob"]
    people = noisy(camera, 3)
    people.pixels[1, 4] += 200  # one of them takes the second round
    together = root_positions(people.joints[:3], people.covariance[:3], people.pixels[:3], camera)
    for b in range(3):
        alone = root_position(people.joints[b], people.covariance[b], people.pixels[b], camera)
        assert np.abs(alone.position - together.position[b]).max() <= PLACE_ABS_M
        np.testing.assert_allclose(alone.covariance, together.covariance[b], rtol=1e-6)


@pytest.mark.parametrize("name", CAMERAS)
def test_the_covariance_tells_the_truth(name: str) -> None:
    result = solved(noisy(CAMERAS[name], 11), CAMERAS[name])
    assert tells_the_truth(result.nees), result.nees.mean()


def test_it_does_so_where_the_size_is_known_and_where_joints_or_pixels_err_more() -> None:
    camera = CAMERAS["none"]
    for seed, people in enumerate(
        [
            noisy(camera, 21, spread=0.0),
            noisy(camera, 22, joint_sigma=0.001),
            noisy(camera, 23, pixel_sigma=15.0),
            noisy(camera, 24, joint_sigma=0.04, pixel_sigma=0.5),
        ]
    ):
        result = solved(people, camera)
        assert tells_the_truth(result.nees), (seed, result.nees.mean())


@pytest.mark.parametrize("name", CAMERAS)
def test_a_wrong_joint_changes_little_and_is_named(name: str) -> None:
    camera, rng = CAMERAS[name], np.random.default_rng(5)
    people = noisy(camera, 31)
    wrong, angle = rng.integers(17, size=B), rng.uniform(0, 2 * np.pi, B)
    people.pixels[np.arange(B), wrong] += rng.uniform(100, 400, B)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    result = solved(people, camera)
    assert tells_the_truth(result.nees), result.nees.mean()
    assert (result.found.weights[np.arange(B), wrong] == 0).mean() > 0.9
    assert (result.found.weights == 0).sum(axis=1).mean() < 1.1


@pytest.mark.parametrize(
    "fault",
    [
        {"scale": Scale(1.0, 0.01)},  # sure of a size that is not known
        {"scale": Scale(1.0, 0.15)},
        {"scale": Scale(1.1, 0.05)},
        {"hip_sigma": 0.0},
        {"pixel_sigma": 20.0},
    ],
)
def test_wrong_claims_are_found_out(fault: dict[str, Any]) -> None:
    camera = CAMERAS["none"]
    assert not tells_the_truth(solved(noisy(camera, 41), camera, **fault).nees)


def test_noise_that_was_not_told_makes_the_place_less_certain() -> None:
    camera = CAMERAS["none"]
    people = noisy(camera, 51, joint_sigma=0.001, pixel_sigma=12.0, spread=0.0)
    careless = solved(people, camera, pixel_sigma=3.0)
    assert careless.nees.mean() < 6  # a sixteenth of the variance was told: 48 without Birge's factor


def test_at_five_metres_five_percent_of_the_size_is_a_quarter_of_a_metre() -> None:
    camera, joints = CAMERAS["none"], poses(1)[0]
    found = root_position(joints, np.zeros((17, 3, 3)), camera.project(joints + (0, 0, 5.0)), camera, scale=Scale(1, 0.05), pixel_sigma=1)
    assert np.sqrt(found.covariance[2, 2]) == pytest.approx(0.25, rel=0.02)
    # Sideways the size does not matter: the person is on the axis.
    assert np.sqrt(found.covariance[0, 0]) == pytest.approx(HIP_SIGMA, rel=0.1)
    known = root_position(joints, np.zeros((17, 3, 3)), camera.project(joints + (0, 0, 5.0)), camera, scale=Scale(1, 0), pixel_sigma=1)
    assert np.sqrt(known.covariance[2, 2]) < 0.05


def test_a_body_twice_as_large_stands_twice_as_far() -> None:
    camera, joints = CAMERAS["plumb_bob"], poses(1)[0]
    pixels = camera.project(joints + (0.5, 0.2, 4.0))
    child = root_position(joints, None, pixels, camera, scale=Scale(0.5, 0))
    np.testing.assert_allclose(child.position, (0.25, 0.1, 2.0), atol=PLACE_ABS_M)
    np.testing.assert_allclose(camera.project(child.scale * joints + child.position), pixels, atol=1e-3)


def test_an_uncertain_joint_counts_less() -> None:
    camera, joints = CAMERAS["none"], poses(1)[0]
    pixels = camera.project(joints + (0, 0, 4.0))
    moved = joints.copy()
    moved[16] += (0.08, 0, 0)
    covariance = np.broadcast_to(0.02**2 * np.eye(3), (17, 3, 3)).copy()
    alike = root_position(moved, covariance, pixels, camera).position
    covariance[16] = 0.2**2 * np.eye(3)
    told = root_position(moved, covariance, pixels, camera).position
    truth = np.array([0, 0, 4.0])
    assert np.linalg.norm(told - truth) < 0.2 * np.linalg.norm(alike - truth)


def test_doubt_and_size_make_the_detectors_noise() -> None:
    xy = np.random.default_rng(0).normal(size=(2, 17, 2)) * 50
    c = np.ones((2, 17))
    c[0, 3], c[0, 5] = 0.5, 0.0
    sigma = keypoint_sigma(xy, c)
    extent = np.sqrt(np.square(xy[1] - xy[1].mean(axis=0)).sum(axis=-1).mean())
    np.testing.assert_allclose(sigma[1], 0.05 * extent)
    assert sigma[0, 3] == pytest.approx(sigma[0, 0] * (0.05 + 0.2 * np.log(2)) / 0.05)
    np.testing.assert_allclose(keypoint_sigma(3 * xy[1], c[1]), 3 * sigma[1])


def test_derivatives_of_the_reprojection_error_are_those_of_finite_differences() -> None:
    camera, rng = CAMERAS["plumb_bob"], np.random.default_rng(0)
    joints, q = poses(4), roots(4)
    pixels = camera.project(joints + q[:, None]) + 10 * rng.standard_normal((4, 17, 2))
    rays = camera.undistorted(pixels)
    measured = Reprojection(joints, np.zeros((4, 17, 3, 3)), rays, camera.derivative(rays), np.ones((4, 17)))
    e, D, _ = measured.errors(q)
    h = 1e-6
    moved = [(measured.errors(q + h * axis)[0] - measured.errors(q - h * axis)[0]) / (2 * h) for axis in np.eye(3)]
    np.testing.assert_allclose(D, np.stack(moved, axis=-1), atol=1e-5)
    # To first order it is the difference of pixels: 10 pixels at f = 1145 leave a hundredth of them.
    np.testing.assert_allclose(e, camera.project(joints + q[:, None]) - pixels, atol=1.0)


def test_people_that_cannot_be_placed_get_nan_and_a_reason_and_disturb_nobody() -> None:
    camera = CAMERAS["none"]
    joints, place = poses(6), roots(6)
    pixels, c = camera.project(joints + place[:, None]), np.ones((6, 17))
    joints[1] = np.nan
    c[2, LEAST_JOINTS - 1 :] = 0
    pixels[3] = np.nan
    joints[4] = 0.0  # a body without extent is as far as one likes
    found = root_positions(joints, None, pixels, camera, c)
    said = [found[b].reason for b in range(6)]
    assert said[0] is said[5] is None
    for b, words in {1: "no pose", 2: "fewer than 4 joints", 3: "fewer than 4 joints", 4: "do not determine"}.items():
        assert words in str(said[b])
        assert not found[b].found
        assert not found[b].converged
        assert np.isnan(found[b].position).all()
        assert np.isnan(found[b].covariance).all()
        assert np.isnan(found[b].residual_px)
    assert np.abs(found.position[[0, 5]] - place[[0, 5]]).max() <= PLACE_ABS_M


@pytest.mark.parametrize("name", CAMERAS)
def test_nonsense_gives_a_place_with_a_covariance_or_a_reason(name: str) -> None:
    camera, rng = CAMERAS[name], np.random.default_rng(0)
    pixels = rng.uniform(-0.5, 1.5, (60, 17, 2)) * camera.image_size
    pixels[:10] = pixels[:10, :1]  # all in one point
    pixels[10:20] = pixels[10:20].round(-3)
    confidence = np.where(rng.random((60, 17)) < 0.3, 0.0, rng.random((60, 17)))
    joints = poses(60)
    joints[20:25] = rng.normal(size=(5, 17, 3)) * 1e-9
    found = root_positions(joints, None, pixels, camera, confidence)
    for b in range(60):
        if found[b].reason is None:
            assert np.isfinite(found.position[b]).all()
            assert np.linalg.eigvalsh(found.covariance[b])[0] > 0
        else:
            assert np.isnan(found.position[b]).all()
    assert all(reason is not None for reason in found.reasons[:10])


def test_joints_that_were_not_seen_may_be_nan() -> None:
    camera, joints = CAMERAS["equidistant"], poses(1)[0]
    pixels, c = camera.project(joints + (0, 0, 4.0)), np.ones(17)
    pixels[[3, 9]], c[[3, 9]] = np.nan, 0
    found = root_position(joints, np.full((17, 3, 3), np.nan), pixels, camera, c)
    np.testing.assert_allclose(found.position, (0, 0, 4), atol=PLACE_ABS_M)
    assert found.weights[3] == found.weights[9] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"joints": np.zeros((17, 3))}, "joints of shape"),
        ({"joints": "nobody"}, "array of real numbers"),
        ({"pixels": np.zeros((2, 16, 2))}, r"pixels of shape \(2, 17, 2\), got \(2, 16, 2\)"),
        ({"covariance": np.zeros((2, 17, 3))}, "covariance of shape"),
        ({"confidence": np.full((2, 17), 2.0)}, "within 0..1"),
        ({"pixel_sigma": 0.0}, "above zero"),
        ({"pixel_sigma": np.ones(3)}, "pixel_sigma"),
        ({"hip_sigma": -1.0}, "hip_sigma"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    arguments: dict[str, Any] = {
        "joints": poses(2),
        "covariance": None,
        "pixels": np.zeros((2, 17, 2)),
        "camera": CAMERAS["none"],
        **change,
    }
    with pytest.raises(DiffPoseEdgeError, match=said):
        root_positions(**arguments)


def test_one_person_is_one_person() -> None:
    with pytest.raises(DiffPoseEdgeError, match="expected one person"):
        root_position(poses(2), None, np.zeros((2, 17, 2)), CAMERAS["none"])
