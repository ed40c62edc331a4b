"""Files that are not what they should be: a KeypointError that names the file and the place, and nothing else, whatever comes."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffpose_edge.errors import KeypointError
from diffpose_edge.formats import KEYPOINT_FORMATS, detect_format, json_text, open_clip, read_detections

from . import written
from .written import FILES, SIZE

JSON_FILES = ("alphapose", "coco-results", "mmpose")


def _said(path: Path, name: str | None = None) -> str:
    with pytest.raises(KeypointError) as raised:
        open_clip(path, name, image_size=SIZE)
    assert str(path) in str(raised.value)
    return str(raised.value)


Change = Callable[[Any], object]
# What is changed in the second person or frame of a good file, and what the message has to name.
CHANGED: dict[str, list[tuple[Change, str]]] = {
    "alphapose": [
        (lambda d: d[1]["keypoints"].pop(), "[1].keypoints: expected x, y and confidence"),
        (lambda d: d[1]["keypoints"].__setitem__(4, float("nan")), "[1].keypoints[4] is nan"),
        (lambda d: d[1]["keypoints"].__setitem__(4, "x"), "[1].keypoints: expected a list of numbers"),
        (lambda d: d[1]["keypoints"].__setitem__(4, None), "[1].keypoints: expected a list of numbers"),
        (lambda d: d[1]["keypoints"].__setitem__(4, 10**400), "[1].keypoints"),
        (lambda d: d[1].pop("keypoints"), "[1]: has no 'keypoints'; it has: image_id"),
        (lambda d: d[1].pop("image_id"), "[1]: has no 'image_id'"),
        (lambda d: d[1].update(image_id=1.5), "[1].image_id: expected a whole number or a text"),
        (lambda d: d[1].update(image_id=4), "some images have a number and some a name"),
        (lambda d: d[1].update(score="high"), "[1].score"),
        (lambda d: d[1].update(score=float("inf")), "[1].score"),
        (lambda d: d[1].update(idx="a"), "[1].idx"),
        (lambda d: d[1].update(category_id=3), "[1].category_id: expected 1, a person; got 3"),
        (lambda d: d[1].update(keypoints=written.xyc(written.HALPE_ORDER, 26).ravel().tolist()), "[1].keypoints: has 26 keypoints"),
        (lambda d: d.insert(1, 7), "[1]: expected an object"),
        (lambda d: d.clear(), "empty list: nobody was found"),
    ],
    "coco-results": [
        (lambda d: d[1].update(image_id=-1), "[1].image_id"),
        (lambda d: d[1].update(image_id=2**40), "[1].image_id"),
        (lambda d: d[1].update(image_id=True), "[1].image_id: expected a whole number or a text, got True"),
        (lambda d: d[1].update(keypoints=[[1, 2, 3]] * 17), "[1].keypoints: expected x, y and confidence"),
        (lambda d: d[1].update(keypoints="1 2 3"), "[1].keypoints: expected a list, got '1 2 3'"),
        (lambda d: [p["keypoints"].__setitem__(slice(2, None, 3), [0] * 17) for p in d], "confidence above 0"),
        (lambda d: [p.update(keypoints=[v / 1024 for v in p["keypoints"]]) for p in d], "expected pixels"),
        (lambda d: d[1]["keypoints"].__setitem__(0, 1e6), "coordinates reach 1e+06 pixels"),
    ],
    "mmpose": [
        (lambda d: d[2]["instances"][0]["keypoints"].pop(), "[2].instances[0].keypoints: expected [x, y]"),
        (lambda d: d[2]["instances"][0]["keypoints"].__setitem__(3, [1.0]), "[2].instances[0].keypoints: expected a list of numbers"),
        (lambda d: d[2]["instances"][0]["keypoints"][3].__setitem__(1, float("nan")), "[2].instances[0].keypoints[3][1] is nan"),
        (lambda d: [p.append(0.0) for p in d[2]["instances"][0]["keypoints"]], "poses in 3D"),
        (lambda d: d[2]["instances"][0]["keypoint_scores"].pop(), "[2].instances[0].keypoint_scores: expected 17 numbers"),
        (lambda d: d[2]["instances"][0].pop("keypoint_scores"), "[2].instances[0]: has no 'keypoint_scores'"),
        (lambda d: d[2].pop("frame_id"), "[2]: has no 'frame_id'"),
        (lambda d: d[2].update(frame_id=0), "[2].frame_id is 0, as of a frame before it"),
        (lambda d: d[2].update(frame_id="2"), "[2].frame_id: expected a whole number, got '2'"),
        (lambda d: d[2].update(instances={}), "[2].instances: expected a list, got an object"),
        (lambda d: [frame["instances"].clear() for frame in d], "nobody was found in any of its 3 frames"),
    ],
}
CASES = [(name, i) for name, changes in CHANGED.items() for i in range(len(changes))]


@pytest.mark.parametrize(("name", "i"), CASES, ids=[f"{name}-{i}" for name, i in CASES])
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, name: str, i: int) -> None:
    change, said = CHANGED[name][i]
    path = FILES[name](tmp_path)
    open_clip(path, name, image_size=SIZE)
    document = json.loads(path.read_text())
    change(document)
    assert said in _said(written.put(path, document), name)


OPENPOSE: list[tuple[Change, str]] = [
    (lambda d: d["people"][0].update(pose_keypoints_2d=[1.0] * 54), "--model_pose BODY_25"),
    (lambda d: d["people"][0].update(pose_keypoints_2d=[1.0] * 74), "expected x, y and confidence of each keypoint, 75 (body25)"),
    (lambda d: d["people"][0].update(pose_keypoints_2d=[]), "got a list of 0"),
    (lambda d: d["people"][0]["pose_keypoints_2d"].__setitem__(7, float("nan")), "people[0].pose_keypoints_2d[7] is nan"),
    (lambda d: d["people"][0].pop("pose_keypoints_2d"), "people[0]: has no 'pose_keypoints_2d'"),
    (lambda d: d.pop("people"), "has no 'people'"),
    (lambda d: d.update(people=3), "people: expected a list, got 3"),
    (lambda d: d["people"][0].update(person_id="a"), "people[0].person_id"),
    (lambda d: d["people"][0].update(person_id=[[2]]), "people[0].person_id: expected a list of one number"),
]


@pytest.mark.parametrize("i", range(len(OPENPOSE)))
def test_openpose_files_are_named_one_by_one(tmp_path: Path, i: int) -> None:
    change, said = OPENPOSE[i]
    file = written.openpose(tmp_path / "frames") / "walk_000000000002_keypoints.json"
    document = json.loads(file.read_text())
    change(document)
    written.put(file, document)
    message = _said(tmp_path / "frames")
    assert said in message
    assert file.name in message


def test_a_folder_of_two_videos_is_refused(tmp_path: Path) -> None:
    written.openpose(tmp_path)
    written.put(tmp_path / "run_000000000000_keypoints.json", {"people": []})
    assert "run, walk" in _said(tmp_path)


@pytest.mark.parametrize("name", JSON_FILES)
def test_a_file_that_is_cut_off_anywhere(tmp_path: Path, name: str) -> None:
    path = FILES[name](tmp_path)
    whole = path.read_text()
    for end in range(0, len(whole), len(whole) // 23):
        path.write_text(whole[:end])
        assert "not JSON" in _said(path)
    path.write_text(whole[: len(whole) // 2])
    assert "line 1, column" in _said(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b'[{"image_id": ' + b"1" * 5000 + b"}]", "cannot be read as JSON"),
        (b"[]", "none of the formats"),
        (b"7", "none of the formats"),
        (b'{"annotations": [], "images": []}', "COCO's annotations are a data set's truth"),
        (b'{"version": 1.3, "bodies": []}', "none of the formats h36m17, coco17"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_what_is_no_file_of_keypoints(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "f.json").write_bytes(text)
    assert said in _said(tmp_path / "f.json")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = written.alphapose(tmp_path / "a.json")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert detect_format(path) == "alphapose"


def test_a_file_beyond_the_bound_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written.alphapose(tmp_path / "a.json")
    monkeypatch.setattr(json_text, "MOST_BYTES", path.stat().st_size - 1)
    assert "are read. Split it" in _said(path)
    monkeypatch.setattr(json_text, "MOST_BYTES", path.stat().st_size)
    open_clip(path, image_size=SIZE)


def test_places_where_there_is_no_file(tmp_path: Path) -> None:
    assert "check the path" in _said(tmp_path / "gone.json")
    assert "no JSON files" in _said(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in _said(tmp_path / "pipe")


@pytest.mark.parametrize("name", KEYPOINT_FORMATS)
def test_a_file_of_another_format_than_was_named(tmp_path: Path, name: str) -> None:
    for other, make in FILES.items():
        # One layout of 17 in an npz is as good as another, and AlphaPose's list is COCO's.
        if other != name and {other, name} not in ({"h36m17", "coco17"}, {"alphapose", "coco-results"}):
            _said(make(tmp_path / other if (tmp_path / other).mkdir() is None else tmp_path), name)


def test_an_unknown_format_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(KeypointError, match=r"one of h36m17, coco17, .*mmpose, got 'yolo'"):
        read_detections(FILES["openpose"](tmp_path), "yolo")


@pytest.mark.parametrize("name", ["openpose", "alphapose", "coco-results", "mmpose"])
def test_without_the_images_size_the_option_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeypointError, match="--image-size WxH"):
        open_clip(FILES[name](tmp_path))


@pytest.mark.parametrize("name", ["h36m17", "coco17", "mediapipe33", "videopose3d"])
def test_a_size_that_contradicts_the_files_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeypointError, match="1024x512, the option 640x480"):
        open_clip(FILES[name](tmp_path), image_size=(640, 480))


def test_a_size_for_normalised_keypoints_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "n.npz", keypoints=np.full((2, 17, 2), 0.25))
    with pytest.raises(KeypointError, match="normalised already"):
        open_clip(tmp_path / "n.npz", image_size=SIZE)


@pytest.mark.parametrize("rate", [0.0, -30.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(tmp_path: Path, rate: float) -> None:
    with pytest.raises(KeypointError, match="frame rate"):
        open_clip(FILES["h36m17"](tmp_path), fps=rate)


NPZ = {
    "joints": ({"keypoints": np.zeros((2, 16, 3))}, "(2, 16, 3)"),
    "numbers": ({"keypoints": np.zeros((2, 17, 4))}, "(2, 17, 4)"),
    "words": ({"keypoints": np.full((2, 17, 3), "x")}, "of <U1"),
    "frames": ({"keypoints": np.zeros((0, 17, 3))}, "(0, 17, 3)"),
    "confidence": ({"keypoints": np.full((2, 17, 3), 2.0)}, "keypoint 0 (nose) in row 0 is 2"),
    "two confidences": ({"keypoints": np.ones((2, 17, 3)), "confidence": np.ones((2, 17))}, "confidence"),
    "another confidence": ({"keypoints": np.ones((2, 17, 2)), "confidence": np.ones((3, 17))}, "(2, 17)"),
    "no keypoints": ({"poses": np.ones(3)}, "it has: poses"),
    "size": ({"keypoints": np.ones((2, 17, 3)), "image_size": np.array([0.0, 512.0])}, "image_size"),
    "rate": ({"keypoints": np.ones((2, 17, 3)), "fps": np.array([0.0])}, "fps"),
}


@pytest.mark.parametrize("kind", NPZ)
def test_an_npz_of_the_wrong_arrays(tmp_path: Path, kind: str) -> None:
    arrays, said = NPZ[kind]
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(KeypointError) as raised:
        open_clip(tmp_path / "c.npz", "coco17")
    assert said in str(raised.value)


def test_an_npz_of_an_unknown_layout_is_refused_with_those_there_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", keypoints=np.ones((2, 17, 3)), layout="coco18")
    assert "one of h36m17, coco17, body25, halpe26, mediapipe33, got 'coco18'" in _said(tmp_path / "c.npz")


def test_mmposes_other_data_sets_of_17_keypoints_are_refused(tmp_path: Path) -> None:
    path = written.mmpose(tmp_path / "p.json", "demo video")
    for name in ("ap10k", "posetrack18"):
        document = json.loads(path.read_text())
        document["meta_info"]["dataset_name"] = name
        assert f"dataset_name is '{name}'" in _said(written.put(path, document))


# Anything at all in place of any part of a good file.
KEYS = st.text(max_size=5) | st.sampled_from(["keypoints", "instances"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def _places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = document.items() if isinstance(document, dict) else enumerate(document[:5]) if isinstance(document, list) else ()
    return [path, *(place for key, value in below for place in _places(value, (*path, key)))]


@pytest.mark.parametrize("name", ["alphapose", "coco-results", "mmpose", "openpose"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_put_anywhere_into_a_file_it_is_read_or_refused(tmp_path: Path, name: str, data: st.DataObject) -> None:
    path = FILES[name](tmp_path)
    file = path / "walk_000000000002_keypoints.json" if path.is_dir() else path
    document = json.loads(file.read_text())
    place = data.draw(st.sampled_from(_places(document)))
    value = data.draw(ANYTHING)
    changed: Any = copy.deepcopy(document)
    if place:
        parent = changed
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = value
    else:
        changed = value
    written.put(file, changed if not isinstance(changed, str) else json.dumps(changed))
    _read_or_refused(path, name)
    _read_or_refused(path, None)


def _read_or_refused(path: Path, name: str | None) -> None:
    try:
        clip = open_clip(path, name, image_size=SIZE)
    except KeypointError as err:
        if str(path) not in str(err):
            raise AssertionError("the message does not name the file") from err
    else:
        assert np.isfinite(clip.keypoints.uv[clip.keypoints.confidence > 0]).all()
