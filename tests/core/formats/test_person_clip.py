"""Which person, which rows, which size: from people in frames to one clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.errors import KeypointError
from diffpose_edge.formats import Detections, Frame, Person, open_clip, person_clip
from diffpose_edge.keypoints import denormalise
from diffpose_edge.layouts import COCO17
from diffpose_edge.skeleton import JOINTS

from . import written
from .written import SIZE


def _person(shift: float, track: str | None = None, score: float | None = None, confidence: float = 0.5) -> Person:
    return Person(written.xyc(written.COCO_ORDER, 17, confidence, shift), track, score)


def _clip(*frames: tuple[int, tuple[Person, ...]], person: str | None = None) -> tuple[list[float | None], list[int], str | None]:
    """How far the person in each row is shifted (None: nobody there), the rows' numbers, and who it is."""
    detections = Detections(COCO17, tuple(Frame(number, people) for number, people in frames), SIZE)
    clip = person_clip(detections, "clip.json", person=person)
    x = denormalise(clip.keypoints.uv, SIZE)[:, JOINTS.index("neck"), 0] - written.AT["nose"][0]
    seen = clip.keypoints.confidence.any(axis=1)
    return [round(float(v), 3) if s else None for v, s in zip(x, seen, strict=True)], clip.frames.tolist(), clip.person


def test_the_only_person_needs_no_choice() -> None:
    assert _clip((0, (_person(1),)), (1, ()), (2, (_person(2),))) == ([1, None, 2], [0, 1, 2], None)
    assert _clip((0, (_person(1, "4"),)), (1, (_person(2, "4"),))) == ([1, 2], [0, 1], "4")


def test_frames_that_a_file_leaves_out_are_rows_without_anybody() -> None:
    assert _clip((7, (_person(1),)), (10, (_person(2),))) == ([1, None, None, 2], [7, 8, 9, 10], None)


def test_numbers_of_images_in_a_collection_are_no_frames() -> None:
    assert _clip((139, (_person(1),)), (397133, (_person(2),))) == ([1, 2], [139, 397133], None)


def test_several_tracks_are_listed_until_one_is_chosen() -> None:
    frames = ((0, (_person(1, "3"), _person(2, "8"))), (1, (_person(4, "8"), _person(3, "3"))), (2, (_person(5, "8"),)))
    with pytest.raises(
        KeypointError, match=r"clip.json has 2 people; choose one with --person. There are: 3 \(2 frames, 0 to 1\), 8 \(3 frames"
    ):
        _clip(*frames)
    with pytest.raises(KeypointError, match="it has no '5'"):
        _clip(*frames, person="5")
    assert _clip(*frames, person="3") == ([1, 3, None], [0, 1, 2], "3")
    assert _clip(*frames, person="8") == ([2, 4, 5], [0, 1, 2], "8")


def test_somebody_without_a_track_beside_the_only_one_is_a_choice_too() -> None:
    frames = ((0, (_person(1, "3"), _person(2))),)
    with pytest.raises(KeypointError, match="choose one with --person"):
        _clip(*frames)
    assert _clip(*frames, person="3") == ([1], [0], "3")


def test_the_same_track_twice_in_a_frame_is_refused() -> None:
    with pytest.raises(KeypointError, match="frame 1 has person 3 twice"):
        _clip((0, (_person(1, "3"),)), (1, (_person(1, "3"), _person(2, "3"))))


def test_people_nobody_tells_apart_are_chosen_by_their_order_or_certainty() -> None:
    frames = ((0, (_person(1, confidence=0.4), _person(2, confidence=0.9))), (1, (_person(3),)))
    with pytest.raises(KeypointError, match=r"up to 2 people in a frame \(frame 0\).*--person best.*--person 0 to 1"):
        _clip(*frames)
    assert _clip(*frames, person="0") == ([1, 3], [0, 1], "0")
    assert _clip(*frames, person="1") == ([2, None], [0, 1], "1")
    assert _clip(*frames, person="best") == ([2, 3], [0, 1], "best")
    for wrong in ("2", "-1", "x", "1_0", "9" * 30):
        with pytest.raises(KeypointError, match="expected --person 0 to 1"):
            _clip(*frames, person=wrong)


def test_the_detectors_score_counts_before_the_keypoints_confidence() -> None:
    people = (_person(1, score=2.0, confidence=0.1), _person(2, score=1.0, confidence=0.9))
    assert _clip((0, people), person="best")[0] == [1]


def test_the_rate_given_counts_before_the_files(tmp_path: Path) -> None:
    path = written.h36m17(tmp_path / "h.npz")
    assert open_clip(path).fps == 50
    assert open_clip(path, fps=25).fps == 25
    assert open_clip(written.openpose(tmp_path / "o"), image_size=SIZE).fps is None


def test_unseen_keypoints_are_nan_and_not_the_corner_of_the_image() -> None:
    hidden = written.xyc(written.COCO_ORDER, 17)
    hidden[5:] = 0.0
    detections = Detections(COCO17, (Frame(0, (Person(hidden),)),), SIZE)
    clip = person_clip(detections, "clip.json")
    assert set(np.flatnonzero(clip.keypoints.confidence[0])) == {JOINTS.index("neck")}
    assert np.isfinite(clip.keypoints.uv[0]).all(axis=1).sum() == 1
