"""Messages of keypoints and cameras: what is made of them, and each way in which they cannot be meant."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diffpose_edge.keypoints import normalise_pixels
from diffpose_edge.layouts import h36m17_from_mediapipe33
from diffpose_edge.runtime.bridges.incoming import (
    MalformedMessage,
    intrinsics_of,
    people_of_pose_array,
    person_of_skeleton2d,
    stamp_ns_of,
)

from .ros_doubles import ros_doubles, skeleton2d

TYPES = ros_doubles()
SIZE = (640, 480)


def poses(rows: Any) -> Any:
    return TYPES.PoseArray(poses=[TYPES.Pose(position=TYPES.Point(x=x, y=y, z=z)) for x, y, z in rows])


def rows(people: int = 1) -> list[list[float]]:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.uniform(0, 480, (17 * people, 2)), rng.uniform(0.1, 1, (17 * people, 1))], axis=1).tolist()


def reason(read: Any, *arguments: Any) -> str:
    with pytest.raises(MalformedMessage) as err:
        read(*arguments)
    return err.value.reason


def test_blocks_of_seventeen_poses_are_people_in_pixels() -> None:
    given = np.array(rows(2))
    people = people_of_pose_array(poses(given.tolist()), "pixels", SIZE, 8)
    np.testing.assert_array_equal(people.uv, normalise_pixels(given[:, :2], SIZE).reshape(2, 17, 2).astype(np.float32))
    np.testing.assert_array_equal(people.confidence, given[:, 2].reshape(2, 17).astype(np.float32))


def test_the_same_points_in_every_unit_are_the_same_people() -> None:
    given = np.array(rows())
    pixels = people_of_pose_array(poses(given.tolist()), "pixels", SIZE, 8)
    image, normalised = given.copy(), given.copy()
    image[:, :2] /= SIZE
    normalised[:, :2] = normalise_pixels(given[:, :2], SIZE)
    np.testing.assert_allclose(people_of_pose_array(poses(image.tolist()), "image", SIZE, 8).uv, pixels.uv, atol=1e-6)
    np.testing.assert_allclose(people_of_pose_array(poses(normalised.tolist()), "normalised", None, 8).uv, pixels.uv, atol=1e-6)


def test_nobody_is_an_answer_and_an_unseen_joint_may_be_nan() -> None:
    assert len(people_of_pose_array(poses([]), "pixels", SIZE, 8)) == 0
    given = rows()
    given[3] = [math.nan, math.nan, 0.0]
    assert people_of_pose_array(poses(given), "pixels", SIZE, 8).confidence[0, 3] == 0


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda r: r[:-1], "length"),
        (lambda r: r * 9, "length"),  # more than eight people
        (lambda r: [[math.nan, *r[0][1:]], *r[1:]], "number"),
        (lambda r: [[r[0][0], math.inf, 1.0], *r[1:]], "number"),
        (lambda r: [[*r[0][:2], 1.5], *r[1:]], "number"),
        (lambda r: [[*r[0][:2], math.nan], *r[1:]], "number"),
        (lambda r: [[1e6, *r[0][1:]], *r[1:]], "number"),  # no image is as wide
    ],
)
def test_what_no_detector_means_is_refused_by_its_reason(change: Any, wanted: str) -> None:
    assert reason(people_of_pose_array, poses(change(rows())), "pixels", SIZE, 8) == wanted


def test_pixels_where_normalised_was_said_are_refused() -> None:
    assert reason(people_of_pose_array, poses(rows()), "normalised", None, 8) == "number"


@pytest.mark.parametrize(("sec", "nanosec"), [(0, 0), (-1, 5), (1, 10**9)])
def test_a_stamp_that_was_never_set_is_refused(sec: int, nanosec: int) -> None:
    assert reason(stamp_ns_of, SimpleNamespace(sec=sec, nanosec=nanosec)) == "stamp"


def test_a_stamp_is_in_nanoseconds() -> None:
    assert stamp_ns_of(SimpleNamespace(sec=1_700_000_000, nanosec=123_456_789)) == 1_700_000_000_123_456_789


def camera(**changed: Any) -> SimpleNamespace:
    info = {"header": SimpleNamespace(frame_id="cam"), "width": 640, "height": 480, "distortion_model": "plumb_bob", "d": [0.1, 0.0]}
    return SimpleNamespace(**(info | {"k": [600.0, 0, 320, 0, 610, 240, 0, 0, 1]} | changed))


def test_a_camera_is_its_size_its_intrinsics_and_its_distortion() -> None:
    known = intrinsics_of(camera())
    assert (known.frame_id, known.image_size, known.focal, known.centre) == ("cam", (640, 480), (600.0, 610.0), (320.0, 240.0))
    assert (known.distortion_model, known.distortion) == ("plumb_bob", (0.1, 0.0))


def test_a_camera_that_is_not_calibrated_has_a_size_alone() -> None:
    known = intrinsics_of(camera(k=[0.0] * 9, d=[]))
    assert (known.image_size, known.focal, known.centre) == ((640, 480), None, None)


@pytest.mark.parametrize("changed", [{"width": 0}, {"k": [math.nan] * 9}, {"k": [1.0]}, {"d": [math.inf]}, {"k": [-1.0, *[0.0] * 8]}])
def test_what_is_no_camera_is_refused(changed: dict[str, Any]) -> None:
    assert reason(intrinsics_of, camera(**changed)) == "camera"


def test_a_skeleton2d_gives_what_mediapipe_would_for_the_same_body() -> None:
    rng = np.random.default_rng(1)
    mediapipe = np.concatenate([rng.uniform(0, 480, (33, 2)), rng.uniform(0.1, 1, (33, 1))], axis=1)
    # hri_msgs' order, of MediaPipe's landmarks; its neck is the mean of the shoulders.
    order = [0, -1, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 2, 5, 7, 8]
    points = mediapipe[order]
    points[1, :2], points[1, 2] = mediapipe[[11, 12], :2].mean(axis=0), mediapipe[[11, 12], 2].min()
    points[:, :2] /= SIZE
    person = person_of_skeleton2d(skeleton2d([tuple(p) for p in points.tolist()]), SIZE)
    expected = h36m17_from_mediapipe33(mediapipe[None], SIZE)
    np.testing.assert_allclose(person.uv, expected.uv, atol=1e-6)
    np.testing.assert_allclose(person.confidence, expected.confidence, atol=1e-6)


def test_a_skeleton2d_of_another_length_or_with_nan_is_refused() -> None:
    assert reason(person_of_skeleton2d, skeleton2d([(0.5, 0.5, 1.0)] * 17), SIZE) == "length"
    assert reason(person_of_skeleton2d, skeleton2d([(math.nan, 0.5, 1.0)] * 18), SIZE) == "number"
