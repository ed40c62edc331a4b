"""From MediaPipe's 33 landmarks to Human3.6M's 17 joints, on a skeleton made by hand and on the clip that ships."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffpose_edge.clips import street_walk
from diffpose_edge.errors import KeypointError
from diffpose_edge.keypoints import checked_keypoints, denormalise
from diffpose_edge.layouts import HEAD_TOP_OVER_EARS, MEDIAPIPE33_DIRECT, h36m17_from_mediapipe33
from diffpose_edge.skeleton import JOINTS, MIRROR

# 1024 pixels wide, so that normalising exact numbers is exact.
SIZE = (1024.0, 512.0)

# An upright person who faces the camera: the person's left is on the image's right. Landmark: (x, y), pixels.
PERSON = {
    0: (512, 100), 7: (528, 96), 8: (496, 96),
    11: (560, 160), 13: (576, 220), 15: (584, 280),
    12: (464, 160), 14: (448, 220), 16: (440, 280),
    23: (540, 300), 25: (544, 380), 27: (548, 460),
    24: (484, 300), 26: (480, 380), 28: (476, 460),
}  # fmt: skip


def _landmarks(frames: int = 1) -> NDArray[np.float64]:
    """The person, with a visibility of its own for every landmark."""
    array = np.zeros((frames, 33, 3))
    array[..., 2] = np.linspace(0.5, 0.99, 33)
    for i, xy in PERSON.items():
        array[:, i, :2] = xy
    return array


def _pixels(name: str, landmarks: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    k = h36m17_from_mediapipe33(_landmarks() if landmarks is None else landmarks, SIZE)
    pixels: NDArray[np.float64] = denormalise(k.uv[0], SIZE)[JOINTS.index(name)]
    return pixels


def _confidence(landmarks: NDArray[np.float64]) -> dict[str, np.float32]:
    return dict(zip(JOINTS, h36m17_from_mediapipe33(landmarks, SIZE).confidence[0], strict=True))


def test_thirteen_joints_are_landmarks_as_they_are() -> None:
    assert len(MEDIAPIPE33_DIRECT) == 13
    for name, i in MEDIAPIPE33_DIRECT.items():
        np.testing.assert_array_equal(np.round(_pixels(name), 3), PERSON[i])
        assert _confidence(_landmarks())[name] == np.float32(_landmarks()[0, i, 2])


def test_the_derived_joints_lie_where_the_documentation_says() -> None:
    np.testing.assert_array_equal(_pixels("hip"), (512, 300))
    np.testing.assert_array_equal(_pixels("thorax"), (512, 160))
    np.testing.assert_array_equal(_pixels("spine"), (512, 230))
    top = 160 + HEAD_TOP_OVER_EARS * (96 - 160)
    assert np.abs(_pixels("head") - (512, top)).max() <= np.spacing(np.float32(1024))


def test_a_derived_joint_is_as_confident_as_the_least_of_its_sources() -> None:
    hips, shoulders, ears = (23, 24), (11, 12), (7, 8)
    for name, sources in (("hip", hips), ("thorax", shoulders), ("spine", hips + shoulders), ("head", ears + shoulders)):
        for weakest in sources:
            landmarks = _landmarks()
            landmarks[0, weakest, 2] = 0.125
            assert _confidence(landmarks)[name] == 0.125
        landmarks = _landmarks()
        landmarks[0, sources, 2] = 0.75
        others = [i for i in range(33) if i not in sources]
        landmarks[0, others, 2] = 0.0
        assert _confidence(landmarks)[name] == 0.75


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_landmark_that_is_not_finite_makes_its_joints_unseen_and_no_others(number: int, value: float) -> None:
    landmarks = _landmarks()
    landmarks[0, 23, number] = value
    confidence = _confidence(landmarks)
    assert {name for name in JOINTS if confidence[name] == 0} == {"left_hip", "hip", "spine"}
    # What comes out is accepted as keypoints: what is not finite is marked as unseen.
    k = h36m17_from_mediapipe33(landmarks, SIZE)
    checked_keypoints(k.uv, k.confidence)


def test_a_frame_without_anybody_has_no_confidence_and_leaves_the_others_alone() -> None:
    landmarks = _landmarks(3)
    landmarks[1] = np.nan
    k = h36m17_from_mediapipe33(landmarks, SIZE)
    assert (k.confidence[1] == 0).all()
    for frame in (0, 2):
        np.testing.assert_array_equal(k.uv[frame], h36m17_from_mediapipe33(_landmarks(), SIZE).uv[0])


def test_the_persons_left_stays_left() -> None:
    for side, i in (("left_", 1), ("right_", -1)):
        for name in (n for n in JOINTS if n.startswith(side)):
            assert np.sign(_pixels(name)[0] - 512) == i


def test_a_mirrored_image_with_sides_exchanged_gives_mirrored_joints() -> None:
    exchanged = {7: 8, 11: 12, 13: 14, 15: 16, 23: 24, 25: 26, 27: 28}
    exchanged |= {right: left for left, right in exchanged.items()}
    mirrored = _landmarks()
    for i in PERSON:
        mirrored[0, i] = _landmarks()[0, exchanged.get(i, i)]
    mirrored[..., 0] = SIZE[0] - mirrored[..., 0]
    k, m = (h36m17_from_mediapipe33(x, SIZE) for x in (_landmarks(), mirrored))
    np.testing.assert_array_equal(m.uv, k.uv[:, MIRROR] * np.array([-1, 1], np.float32))
    np.testing.assert_array_equal(m.confidence, k.confidence[:, MIRROR])


BAD_LANDMARKS = {
    "no frames": (np.zeros((0, 33, 3)), "at least one frame"),
    "17 joints": (np.zeros((1, 17, 3)), r"\(1, 17, 3\)"),
    "no visibility": (np.zeros((1, 33, 2)), r"\(1, 33, 2\)"),
    "one frame without its axis": (np.zeros((33, 3)), r"\(33, 3\)"),
    "visibility above one": (np.full((1, 33, 3), 1.5), r"within 0..1, got 1.5"),
    "visibility below zero": (np.full((1, 33, 3), -1.0), r"within 0..1, got -1"),
    "words": (np.full((1, 33, 3), "x"), "numbers"),
}


@pytest.mark.parametrize("name", BAD_LANDMARKS)
def test_bad_landmarks_are_refused_and_named(name: str) -> None:
    bad: Any
    bad, said = BAD_LANDMARKS[name]
    with pytest.raises(KeypointError, match=said):
        h36m17_from_mediapipe33(bad, SIZE)


def test_the_shipped_clip_has_230_frames_and_nobody_in_exactly_8_of_them() -> None:
    k = street_walk().keypoints
    assert k.uv.shape == (230, 17, 2)
    assert int((k.confidence == 0).all(axis=-1).sum()) == 8
    # The 8 frames aside, every joint was found; and all of it passes the check that any clip has to.
    assert int((k.confidence == 0).any(axis=-1).sum()) == 8
    checked_keypoints(k.uv, k.confidence)


def test_the_shipped_clip_shows_a_plausible_person_within_the_image() -> None:
    clip = street_walk()
    (w, h), joint = clip.image_size, {name: i for i, name in enumerate(JOINTS)}
    assert clip.fps > 0
    seen = (clip.keypoints.confidence > 0).all(axis=-1)
    pixels = denormalise(clip.keypoints.uv[seen], clip.image_size)
    inside = ((pixels >= 0) & (pixels <= (w, h))).all(axis=-1)
    # The detector lost track for two frames at the edge of the image; nobody has tidied that away.
    assert inside.all(axis=-1).mean() > 0.95
    # Upright: y grows downwards.
    y = np.median(pixels[..., 1], axis=0)
    assert y[joint["head"]] < y[joint["neck"]] < y[joint["thorax"]] < y[joint["spine"]] < y[joint["hip"]]
    for side in ("left", "right"):
        assert y[joint["hip"]] < y[joint[f"{side}_knee"]] < y[joint[f"{side}_foot"]]
