"""Keypoints written and read again: everything that a format has a place for comes back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffpose_edge.errors import KeypointError, OutputError
from diffpose_edge.formats import KEYPOINT_FORMATS, Detections, Frame, Person, open_clip, read_detections, write_detections
from diffpose_edge.layouts import BODY25, COCO17, H36M17, HALPE26, Layout

from .written import FILES, SIZE

# What a format has no place for: empty frames, the persons' score, people who are not tracked.
NO_EMPTY, NO_SCORE = ("alphapose", "coco-results"), ("openpose",)


@st.composite
def people(draw: st.DrawFn, layout: Layout, track: str | None, *, score: bool) -> Person:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    keypoints = rng.uniform(-2000, 4000, (len(layout), 3)).astype(np.float32).astype(np.float64)
    keypoints[:, 2] = rng.choice([0.0, 0.25, 0.7109375, 1.0], len(layout))
    keypoints[0, 2] = 1.0
    keypoints[keypoints[:, 2] == 0, :2] = np.nan
    return Person(keypoints, track, draw(st.none() | st.floats(0, 5, width=32)) if score else None)


@st.composite
def detections(draw: st.DrawFn, name: str) -> Detections:
    layout = draw(st.sampled_from(KEYPOINT_FORMATS[name].layouts))
    numbers = sorted(draw(st.sets(st.integers(0, 10_000), min_size=1, max_size=4)))
    frames = []
    for number in numbers:
        tracks = draw(st.lists(st.none() | st.integers(0, 99).map(str), min_size=1 if name in NO_EMPTY else 0, max_size=3))
        frames.append(Frame(number, tuple(draw(people(layout, t, score=name not in NO_SCORE)) for t in tracks)))
    return Detections(layout, tuple(frames), SIZE)


def _assert_same(a: Detections, b: Detections) -> None:
    if a.most_people():
        assert a.layout == b.layout
    assert [frame.number for frame in a.frames] == [frame.number for frame in b.frames]
    for one, other in zip(a.frames, b.frames, strict=True):
        assert [(p.track, p.score) for p in one.people] == [(p.track, p.score) for p in other.people]
        for p, q in zip(one.people, other.people, strict=True):
            np.testing.assert_array_equal(p.keypoints, q.keypoints)


@pytest.mark.parametrize("name", ["openpose", "alphapose", "coco-results", "mmpose"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_json_formats(tmp_path: Path, name: str, data: st.DataObject) -> None:
    given_ones = data.draw(detections(name))
    path = tmp_path / f"written-{len(list(tmp_path.iterdir()))}"
    write_detections(path, given_ones, name)
    _assert_same(read_detections(path, name, image_size=SIZE), given_ones)


@pytest.mark.parametrize("name", ["coco17", "mediapipe33", "h36m17", "videopose3d"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_npz_formats(tmp_path: Path, name: str, data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from(KEYPOINT_FORMATS[name].layouts))
    rows = [data.draw(people(layout, None, score=False)) for _ in range(data.draw(st.integers(1, 3)))]
    if name == "videopose3d":
        rows = [Person(np.nan_to_num(row.keypoints * [1, 1, 0] + [0, 0, 1], nan=5.0), "walk") for row in rows]
    given_ones = Detections(
        layout, tuple(Frame(i, (row,)) for i, row in enumerate(rows)), SIZE, fps=None if name == "videopose3d" else 30.0
    )
    write_detections(tmp_path / "written.npz", given_ones, name)
    back = read_detections(tmp_path / "written.npz")
    assert back.fps == given_ones.fps
    if name == "h36m17":  # it is read as it goes on: normalised
        np.testing.assert_array_equal(
            np.stack([f.people[0].keypoints[:, 2] for f in back.frames]), np.stack([r.keypoints[:, 2] for r in rows]).astype(np.float32)
        )
        return
    _assert_same(back, given_ones)
    assert (back.sizes or {"walk": back.image_size})["walk"] == SIZE


@pytest.mark.parametrize("name", FILES)
def test_a_clip_is_the_same_after_reading_writing_and_reading(tmp_path: Path, name: str) -> None:
    first = read_detections(FILES[name](tmp_path), image_size=SIZE)
    again = tmp_path / ("again.npz" if "npz" in KEYPOINT_FORMATS[name].what else "again")
    write_detections(again, first, name)
    source = next(path for path in tmp_path.iterdir() if path != again)
    size = None if name == "h36m17" else SIZE  # it is written normalised, as it was read
    a, b = open_clip(source, name, image_size=SIZE), open_clip(again, image_size=size)
    np.testing.assert_array_equal(a.keypoints.uv, b.keypoints.uv)
    np.testing.assert_array_equal(a.keypoints.confidence, b.keypoints.confidence)
    assert a.frames.tolist() == b.frames.tolist()


def _one(layout: Layout, track: str | None = None, confidence: float = 1.0, number: int = 0) -> Detections:
    keypoints = np.full((len(layout), 3), confidence)
    return Detections(layout, (Frame(number, (Person(keypoints, track),)),), SIZE)


def test_what_a_format_has_no_place_for_is_refused(tmp_path: Path) -> None:
    cases: list[tuple[str, Detections, type[Exception], str]] = [
        ("openpose", _one(COCO17), KeypointError, "layout body25; these are coco17"),
        ("openpose", _one(BODY25, "walk"), OutputError, "whole numbers"),
        ("alphapose", _one(HALPE26, "walk"), OutputError, "whole numbers"),
        ("mmpose", Detections(COCO17, _one(COCO17).frames, pixels=False), KeypointError, "normalised"),
        ("videopose3d", _one(COCO17, confidence=0.0), OutputError, "every keypoint"),
        ("videopose3d", _one(COCO17, number=3), OutputError, "every keypoint"),
        ("videopose3d", Detections(COCO17, _one(COCO17).frames), OutputError, "the image's size"),
        ("h36m17", _one(H36M17, number=3), OutputError, "left out"),
        ("coco17", Detections(COCO17, (Frame(0, _one(COCO17).frames[0].people * 2),)), OutputError, "a frame here has 2"),
        ("yolo", _one(COCO17), KeypointError, "got 'yolo'"),
    ]
    for name, given_ones, error, said in cases:
        with pytest.raises(error, match=said):
            write_detections(tmp_path / "out.npz", given_ones, name)
        assert list(tmp_path.iterdir()) == []


def test_unseen_keypoints_are_zeros_in_json_never_nan(tmp_path: Path) -> None:
    """JSON has no NaN, and others read these files."""
    for name in ("alphapose", "coco-results", "mmpose"):
        layout = KEYPOINT_FORMATS[name].layouts[0]
        hidden = np.full((len(layout), 3), np.nan)
        hidden[:, 2] = 0
        write_detections(tmp_path / name, Detections(layout, (Frame(0, (Person(hidden),)),), SIZE), name)

        def refuse(word: str) -> None:
            raise AssertionError(word)

        json.loads((tmp_path / name).read_text(), parse_constant=refuse)
