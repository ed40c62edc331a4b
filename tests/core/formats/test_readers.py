"""Every format of 2D keypoints, from files as detectors write them: recognised, and read to the joints that the person has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from diffpose_edge.clips import street_walk
from diffpose_edge.formats import KEYPOINT_FORMATS, PersonClip, detect_format, open_clip, read_detections
from diffpose_edge.keypoints import checked_keypoints, denormalise, load_keypoints
from diffpose_edge.layouts import BODY25, COCO17, HALPE26, HEAD_TOP_OVER_EARS, LAYOUTS, MEDIAPIPE33
from diffpose_edge.skeleton import JOINTS, MIRROR

from . import written
from .written import AT, FILES, SIZE

DIRECT = {
    "neck": "nose", "right_foot": "right_ankle", "left_foot": "left_ankle",
    **{f"{side}_{part}": f"{side}_{part}" for side in ("left", "right") for part in ("hip", "knee", "shoulder", "elbow", "wrist")},
}  # fmt: skip


def _middle(a: str, b: str) -> NDArray[np.float64]:
    return (np.array(AT[a], float) + AT[b]) / 2


def _expected(has: tuple[str, ...]) -> NDArray[np.float64]:
    """The 17 joints of the person in pixels, as documented, for a detector that ``has`` some of hip, thorax and head itself."""
    at = {joint: np.array(AT[name], float) for joint, name in DIRECT.items()}
    at["hip"] = np.array(AT["mid_hip"], float) if "hip" in has else _middle("left_hip", "right_hip")
    at["thorax"] = np.array(AT["neck_base"], float) if "thorax" in has else _middle("left_shoulder", "right_shoulder")
    at["spine"] = (at["hip"] + at["thorax"]) / 2
    ears = _middle("left_ear", "right_ear")
    at["head"] = np.array(AT["head_top"], float) if "head" in has else at["thorax"] + HEAD_TOP_OVER_EARS * (ears - at["thorax"])
    return np.stack([at[joint] for joint in JOINTS])


def _assert_person(clip: PersonClip, has: tuple[str, ...] = (), *, shift: float = 1.0) -> None:
    """Each row shows the person, moved by ``shift`` pixels for each frame's number, or nobody."""
    assert clip.image_size == SIZE
    for row, number in enumerate(clip.frames.tolist()):
        seen = clip.keypoints.confidence[row] > 0
        pixels = denormalise(clip.keypoints.uv[row], SIZE) - [shift * number, 0]
        np.testing.assert_allclose(pixels[seen], _expected(has)[seen], atol=1e-4)
        checked_keypoints(clip.keypoints.uv, clip.keypoints.confidence)


def test_each_format_is_recognised_and_only_as_itself(tmp_path: Path) -> None:
    assert set(FILES) == set(KEYPOINT_FORMATS)
    for name, make in FILES.items():
        assert detect_format(make(tmp_path)) == name


@pytest.mark.parametrize("name", FILES)
def test_a_format_that_is_named_gives_what_recognising_it_gives(tmp_path: Path, name: str) -> None:
    path = FILES[name](tmp_path)
    a, b = open_clip(path, image_size=SIZE), open_clip(path, name, image_size=SIZE)
    np.testing.assert_array_equal(a.keypoints.uv, b.keypoints.uv)
    np.testing.assert_array_equal(a.keypoints.confidence, b.keypoints.confidence)


def test_openpose_frames_people_and_what_was_not_found(tmp_path: Path) -> None:
    clip = open_clip(written.openpose(tmp_path / "frames"), image_size=SIZE)
    assert clip.frames.tolist() == [0, 1, 2]
    _assert_person(clip, ("hip", "thorax"))
    np.testing.assert_array_equal(clip.keypoints.confidence[0], np.full(17, 0.5, np.float32))
    assert (clip.keypoints.confidence[1] == 0).all()
    # 0, 0, 0 is no coordinate: the foot is not seen, and nothing else is touched.
    foot = JOINTS.index("left_foot")
    assert clip.keypoints.confidence[2, foot] == 0
    assert np.isnan(clip.keypoints.uv[2, foot]).all()
    assert (np.delete(clip.keypoints.confidence[2], foot) == 0.5).all()


def test_an_openpose_file_of_a_single_frame(tmp_path: Path) -> None:
    written.openpose(tmp_path)
    clip = open_clip(tmp_path / "walk_000000000002_keypoints.json", image_size=SIZE)
    assert clip.frames.tolist() == [2]
    _assert_person(clip, ("hip", "thorax"))


def test_openpose_tracks_by_person_id(tmp_path: Path) -> None:
    people = [written.openpose_person(written.xyc(written.OPENPOSE_ORDER, 25, shift=50.0 * n), person_id=n) for n in (3, 9)]
    written.put(tmp_path / "a_000000000005_keypoints.json", {"version": 1.3, "people": people})
    assert read_detections(tmp_path).tracks() == {"3": [5], "9": [5]}
    _assert_person(open_clip(tmp_path, person="9", image_size=SIZE), ("hip", "thorax"), shift=90.0)


@pytest.mark.parametrize(("count", "has"), [(17, ()), (26, ("hip", "thorax", "head")), (136, ("hip", "thorax", "head"))])
def test_alphapose_frames_in_which_nobody_was_found_are_rows_too(tmp_path: Path, count: int, has: tuple[str, ...]) -> None:
    path = written.alphapose(tmp_path / "alphapose-results.json", count)
    clip = open_clip(path, image_size=SIZE)
    assert clip.frames.tolist() == [0, 1, 2]
    assert clip.person == "7"
    assert (clip.keypoints.confidence[1] == 0).all()
    _assert_person(clip, has)
    frame = read_detections(path).frames[1]
    assert (frame.number, frame.name, frame.people[0].score) == (2, "2.jpg", 2.5)


def test_without_tracking_alphaposes_idx_is_no_track(tmp_path: Path) -> None:
    people = [{"image_id": "0.jpg", "keypoints": written.xyc(written.COCO_ORDER, 17).ravel().tolist(), "score": 2.0, "idx": [0.0, 3.0]}]
    assert read_detections(written.put(tmp_path / "a.json", people), "alphapose").tracks() == {}


def test_coco_results_third_number_is_a_confidence(tmp_path: Path) -> None:
    clip = open_clip(written.coco_results(tmp_path / "results.json"), image_size=SIZE)
    assert clip.frames.tolist() == [4, 5]
    confidence = dict(zip(JOINTS, clip.keypoints.confidence[0].tolist(), strict=True))
    # 2 counts as 1; the left ankle has 0; the head's sources are ears at 1 and 0.5, and the shoulders.
    assert (confidence["neck"], confidence["left_foot"], confidence["head"], confidence["hip"]) == (1.0, 0.0, 0.5, 0.5)
    _assert_person(clip, shift=0.0)


@pytest.mark.parametrize(("form", "frames"), [("video", [0, 1, 2]), ("image", [0]), ("demo video", [1, 2, 3]), ("demo image", [0])])
def test_mmpose_in_each_of_its_forms(tmp_path: Path, form: str, frames: list[int]) -> None:
    path = written.mmpose(tmp_path / "predictions.json", form)
    assert detect_format(path) == "mmpose"
    clip = open_clip(path, image_size=SIZE)
    assert clip.frames.tolist() == frames
    assert read_detections(path).frames[0].people[0].score == 0.9
    pixels = denormalise(clip.keypoints.uv[0], SIZE)
    np.testing.assert_allclose(pixels, _expected(()), atol=1e-4)
    if len(frames) == 3:
        assert (clip.keypoints.confidence[1] == 0).all()
        np.testing.assert_allclose(denormalise(clip.keypoints.uv[2], SIZE) - [2, 0], _expected(()), atol=1e-4)


def test_mmpose_folder_of_images(tmp_path: Path) -> None:
    for i in (10, 9):
        written.put(tmp_path / f"frame{i}.json", [written.mmpose_instance(i)])
    clip = open_clip(tmp_path, image_size=SIZE)
    assert clip.frames.tolist() == [9, 10]
    _assert_person(clip)


def test_mmpose_scores_beyond_one_are_one_and_below_zero_unseen(tmp_path: Path) -> None:
    person = written.mmpose_instance()
    person["keypoint_scores"][0], person["keypoint_scores"][15] = 1.09, -0.01
    clip = open_clip(written.put(tmp_path / "p.json", [{"frame_id": 0, "instances": [person]}]), image_size=SIZE)
    confidence = dict(zip(JOINTS, clip.keypoints.confidence[0].tolist(), strict=True))
    assert (confidence["neck"], confidence["left_foot"], confidence["left_knee"]) == (1.0, 0.0, 0.5)


def test_mmpose_whole_body_has_cocos_17_first(tmp_path: Path) -> None:
    document = [{"frame_id": 0, "instances": [written.mmpose_instance(count=133)]}]
    _assert_person(open_clip(written.put(tmp_path / "p.json", document), image_size=SIZE))


def test_videopose3d_brings_its_size_and_knows_no_confidence(tmp_path: Path) -> None:
    clip = open_clip(written.videopose3d(tmp_path / "custom.npz"))
    assert clip.person == "walk.mp4"
    assert (clip.keypoints.confidence == 1).all()
    _assert_person(clip)


def test_videopose3d_videos_are_tracks_with_sizes_of_their_own(tmp_path: Path) -> None:
    path = written.videopose3d(tmp_path / "custom.npz", ("a", "b"))
    detections = read_detections(path)
    assert detections.sizes == {"a": SIZE, "b": SIZE}
    clip = open_clip(path, person="b")
    np.testing.assert_allclose(denormalise(clip.keypoints.uv[0], SIZE) - 10, _expected(()), atol=1e-4)


def test_videopose3d_may_hold_human36m_joints(tmp_path: Path) -> None:
    clip = open_clip(written.videopose3d(tmp_path / "custom.npz", layout="h36m"))
    pixels = written.xyc(written.COCO_ORDER, 17)[:, :2]  # taken as they are, whatever they are
    np.testing.assert_allclose(denormalise(clip.keypoints.uv[0], SIZE), pixels, atol=1e-4)


def test_coco17_npz_with_a_rate(tmp_path: Path) -> None:
    clip = open_clip(written.coco17(tmp_path / "coco.npz", fps=np.array(29.97)))
    assert clip.fps == 29.97
    _assert_person(clip)


def test_a_coco_npz_that_does_not_say_so_is_read_as_such_when_it_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", keypoints=written.xyc(written.COCO_ORDER, 17)[None], image_size=np.array(SIZE))
    assert detect_format(tmp_path / "c.npz") == "h36m17"
    _assert_person(open_clip(tmp_path / "c.npz", "coco17"))


def test_mediapipe_frames_without_anybody(tmp_path: Path) -> None:
    clip = open_clip(written.mediapipe33(tmp_path / "m.npz"))
    assert clip.fps == 25
    assert (clip.keypoints.confidence[1] == 0).all()
    _assert_person(clip, shift=0.0)


def test_the_shipped_mediapipe_clip_is_what_the_demo_shows() -> None:
    path = Path(__file__).parents[3] / "diffpose_edge" / "data" / "street_walk_mediapipe33.npz"
    clip, shown = open_clip(path), street_walk()
    np.testing.assert_array_equal(clip.keypoints.uv, shown.keypoints.uv)
    np.testing.assert_array_equal(clip.keypoints.confidence, shown.keypoints.confidence)
    assert (clip.fps, clip.image_size) == (shown.fps, shown.image_size)


def test_human36m_npz_is_what_load_keypoints_gives(tmp_path: Path) -> None:
    path = written.h36m17(tmp_path / "h.npz")
    clip, loaded = open_clip(path), load_keypoints(path)
    np.testing.assert_array_equal(clip.keypoints.uv, loaded.uv)
    np.testing.assert_array_equal(clip.keypoints.confidence, loaded.confidence)
    assert (clip.fps, clip.image_size) == (50.0, SIZE)


def test_human36m_pixels_whose_image_size_the_user_gives(tmp_path: Path) -> None:
    with np.load(written.h36m17(tmp_path / "h.npz")) as content:
        np.savez(tmp_path / "bare.npz", keypoints=content["keypoints"])
    a, b = open_clip(tmp_path / "bare.npz", image_size=SIZE), open_clip(tmp_path / "h.npz")
    np.testing.assert_array_equal(a.keypoints.uv, b.keypoints.uv)


@pytest.mark.parametrize("layout", [COCO17, BODY25, HALPE26, MEDIAPIPE33], ids=lambda layout: layout.name)
def test_left_and_right_of_a_layout_stand_for_left_and_right(layout) -> None:
    """A table in which one side's keypoint was exchanged would show here."""
    assert len(set(layout.points)) == len(layout.points)
    swap = {"left": "right", "right": "left"}
    for joint, at in layout.direct.items():
        side, _, rest = layout.points[at].partition("_")
        other = layout.direct[JOINTS[MIRROR[JOINTS.index(joint)]]]
        assert layout.points[other] == (f"{swap[side]}_{rest}" if side in swap else layout.points[at])


def test_the_orders_are_those_of_the_sources() -> None:
    assert list(COCO17.points) == written.COCO_ORDER
    assert list(BODY25.points[:19]) == written.OPENPOSE_ORDER
    assert list(HALPE26.points[:20]) == written.HALPE_ORDER
    assert [len(layout) for layout in LAYOUTS.values()] == [17, 17, 25, 26, 33]


@pytest.mark.parametrize("layout", [COCO17, BODY25, HALPE26], ids=lambda layout: layout.name)
def test_a_keypoint_that_was_not_seen_takes_its_joints_with_it_and_no_others(layout, tmp_path: Path) -> None:
    from diffpose_edge.layouts import h36m17_from

    order = {"coco17": written.COCO_ORDER, "body25": written.OPENPOSE_ORDER, "halpe26": written.HALPE_ORDER}[layout.name]
    whole = written.xyc(order, len(layout))
    derived = {joint for joint in ("hip", "thorax", "head") if joint not in layout.direct}
    sources = {"hip": {"left_hip", "right_hip"}, "thorax": {"left_shoulder", "right_shoulder"}, "head": {"left_ear", "right_ear"}}
    for i, name in enumerate(order):
        points = whole.copy()
        points[i] = 0.0
        k = h36m17_from(layout, points[None], SIZE)
        lost = {joint for joint, at in layout.direct.items() if at == i} | {joint for joint in derived if name in sources[joint]}
        lost |= {"spine"} if lost & {"hip", "thorax"} else set()
        lost |= {"head"} if "thorax" in lost and "head" in derived else set()
        assert {JOINTS[j] for j in np.flatnonzero(k.confidence[0] == 0)} == lost, name
        assert np.isnan(k.uv[0][k.confidence[0] == 0]).all()
