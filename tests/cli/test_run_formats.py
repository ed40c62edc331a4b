"""``run`` from every kind of keypoints to every kind of poses, and ``formats``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpose_edge.clips import street_walk
from diffpose_edge.formats import (
    KEYPOINT_FORMATS,
    POSE_FORMATS,
    Detections,
    Frame,
    Person,
    open_clip,
    read_poses,
    write_detections,
)
from diffpose_edge.keypoints import denormalise
from diffpose_edge.layouts import COCO17, LAYOUTS
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.skeleton import BONES
from diffpose_edge.tolerances import BVH_JOINT_ABS_M, TRC_JOINT_ABS_M

from .conftest import Mistake, Run

SIZE = street_walk().image_size
W, H = map(int, SIZE)
ROWS = 4


def _detections(layout: str = "coco17", tracks: tuple[str | None, ...] = (None,)) -> Detections:
    """A few frames of the real clip; its joints stand for whatever the layout's keypoints with their names are. The second is empty."""
    clip, to = street_walk(), LAYOUTS[layout]
    rows = slice(60, 60 + ROWS)
    xy = denormalise(clip.keypoints.uv[rows], SIZE)
    points = np.concatenate([np.repeat(xy[:, 10:11], len(to), axis=1), np.full((ROWS, len(to), 1), 0.5)], axis=-1)
    for i, joint in enumerate(LAYOUTS["h36m17"].points):
        if joint in to.direct:
            points[:, to.direct[joint], :2] = xy[:, i]
    frames = [Frame(i, tuple(Person(point + [30.0 * n, 0, 0], track) for n, track in enumerate(tracks))) for i, point in enumerate(points)]
    frames[1] = Frame(1, ())
    return Detections(to, tuple(frames), SIZE)


@pytest.fixture
def walk(tmp_path: Path) -> Path:
    """COCO results of the only person in four frames, of which the second has nobody."""
    write_detections(tmp_path / "walk.json", _detections(), "coco-results")
    return tmp_path / "walk.json"


@pytest.fixture
def ran(cli: Run, golden_bundle: Path, walk: Path) -> Callable[..., Path]:
    def run(out: str, *options: object) -> Path:
        path = walk.parent / out
        cli("run", golden_bundle, "--keypoints", walk, "--out", path, "--image-size", f"{W}x{H}", "--timesteps", "0", *options)
        return path

    return run


def test_poses_are_the_runtimes_own_whatever_the_keypoints_come_in(ran: Callable[..., Path], golden_bundle: Path, walk: Path) -> None:
    with np.load(ran("poses.npz")) as content:
        written = dict(content)
    clip = open_clip(walk, image_size=SIZE)
    with PoseRuntime.load(golden_bundle) as runtime:
        own = list(runtime.estimate_clip(clip.keypoints, 0, timesteps=(0,)))
    np.testing.assert_array_equal(written["joints"], np.concatenate([e.joints for e in own]))
    assert np.isnan(written["joints"]).all(axis=(1, 2)).tolist() == [False, True, False, False]


def test_every_output_holds_the_poses_of_the_npz(ran: Callable[..., Path]) -> None:
    with np.load(ran("poses.npz")) as content:
        joints, covariance, observed = content["joints"], content["covariance"], content["observed"]
    found = np.isfinite(joints).all(axis=(1, 2))
    lines = read_poses(ran("poses.jsonl", "--fps", 25))
    np.testing.assert_array_equal(lines.joints, joints)
    np.testing.assert_array_equal(lines.covariance, covariance)
    np.testing.assert_array_equal(lines.observed, observed)
    assert lines.fps == 25
    np.testing.assert_array_equal(read_poses(ran("poses.csv")).joints, joints)
    markers = read_poses(ran("poses.trc", "--fps", 25))
    scale = max(1.0, float(np.abs(joints[found]).max()))  # an untrained pair's poses are metres large
    np.testing.assert_allclose(markers.joints, joints, rtol=0, atol=TRC_JOINT_ABS_M * scale)
    assert (markers.fps, markers.frames.tolist()) == (25, [0, 1, 2, 3])
    skeleton = read_poses(ran("poses.bvh", "--fps", 25))
    np.testing.assert_allclose(skeleton.joints[1], skeleton.joints[0], rtol=0, atol=BVH_JOINT_ABS_M * scale)
    for parent, child in BONES:
        bones = [(a[:, child] - a[:, parent])[found] for a in (skeleton.joints, joints)]
        own, theirs = (bone / np.linalg.norm(bone, axis=1, keepdims=True) for bone in bones)
        assert (own * theirs).sum(axis=1).min() > 1 - 1e-6  # directions are kept


@pytest.mark.parametrize("name", ["openpose", "alphapose", "mmpose", "coco17", "mediapipe33"])
def test_each_format_runs(cli: Run, golden_bundle: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / ("walk.npz" if name in LAYOUTS else "walk")
    write_detections(path, _detections(KEYPOINT_FORMATS[name].layouts[0].name, ("3",) if name not in LAYOUTS else (None,)), name)
    size = [] if name in LAYOUTS else ["--image-size", f"{W}x{H}"]
    cli("run", golden_bundle, "--keypoints", path, "--out", tmp_path / "poses.npz", "--timesteps", "0", *size)
    with np.load(tmp_path / "poses.npz") as content:
        assert np.isfinite(content["joints"]).all(axis=(1, 2)).tolist() == [True, False, True, True]


def test_the_frames_numbers_and_the_person_go_into_the_file(cli: Run, golden_bundle: Path, tmp_path: Path) -> None:
    given = _detections(tracks=("3", "8"))
    later = Detections(COCO17, tuple(Frame(frame.number + 20, frame.people) for frame in given.frames), SIZE)
    write_detections(tmp_path / "two.json", later, "mmpose")
    arguments = (
        "run",
        golden_bundle,
        "--keypoints",
        tmp_path / "two.json",
        "--image-size",
        f"{W}x{H}",
        "--timesteps",
        "0",
        "--format",
        "mmpose",
    )
    said = cli(*arguments, "--out", tmp_path / "8.jsonl", "--person", "8").out
    assert "4 frames of person 8, 1 of them without a pose" in " ".join(said.split())
    poses = read_poses(tmp_path / "8.jsonl")
    assert (poses.person, poses.frames.tolist(), poses.fps) == ("8", [20, 21, 22, 23], None)


def test_the_format_may_be_named_instead_of_the_suffix(ran: Callable[..., Path]) -> None:
    path = ran("poses.txt", "--out-format", "jsonl")
    assert json.loads(path.read_text().splitlines()[0])["format"] == "diffpose-edge poses"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--out", "p.bvh"], "--fps"),
        (["--out", "p.trc"], "--fps"),
        (["--out", "p.csv", "--trace"], "--trace"),
        (["--out", "p.npz", "--out-format", "fbx"], "one of npz, jsonl, csv, bvh, trc, got 'fbx'"),
        (["--out", "p.npz", "--format", "yolo"], "got 'yolo'"),
        (["--out", "p.npz", "--format", "openpose"], "expected an object with 'people', got a list of 3"),
        (["--out", "p.npz", "--person", "4"], "expected --person 0 to 0"),
        (["--out", "p.npz", "--fps", "0"], "frame rate"),
        (["--out", "p.npz", "--image-size", "1920"], "such as 640x480; got '1920'"),
        (["--out", "p.npz", "--image-size", "0x1080"], "such as 640x480; got '0x1080'"),
        (["--out", "walk.json"], "would replace the input"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_run_with_a_wrong_option(
    mistake: Mistake, golden_bundle: Path, walk: Path, tmp_path: Path, options: list[str], expected: str
) -> None:
    size = [] if "--image-size" in options else ["--image-size", f"{W}x{H}"]
    placed: list[Any] = [tmp_path / word if word in ("p.bvh", "p.trc", "p.csv", "p.npz", "walk.json") else word for word in options]
    assert expected in mistake("run", golden_bundle, "--keypoints", walk, *placed, *size)


def test_without_the_size_and_with_several_people_run_says_what_to_do(mistake: Mistake, golden_bundle: Path, walk: Path) -> None:
    out = walk.parent / "p.npz"
    assert "--image-size WxH" in mistake("run", golden_bundle, "--keypoints", walk, "--out", out)
    write_detections(walk.parent / "two.json", _detections(tracks=("3", "8")), "mmpose")
    arguments = ("run", golden_bundle, "--keypoints", walk.parent / "two.json", "--image-size", f"{W}x{H}", "--out", out)
    assert "choose one with --person. There are: 3 (3 frames, 0 to 3), 8" in mistake(*arguments)


def test_formats_lists_them_all(cli: Run) -> None:
    shown = cli("formats").out
    for name in (*KEYPOINT_FORMATS, *POSE_FORMATS, "npz"):
        assert f" {name} " in shown
