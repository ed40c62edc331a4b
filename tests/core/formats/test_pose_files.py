"""3D poses written and read again, in each format; and files that are no poses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffpose_edge.errors import OutputError, PoseFileError
from diffpose_edge.formats import POSE_FORMATS, PoseSequence, read_poses, write_poses
from diffpose_edge.formats.pose_files import check_rate, pose_format
from diffpose_edge.skeleton import JOINTS
from diffpose_edge.tolerances import TRC_JOINT_ABS_M


def poses(
    frames: int = 4, *, seed: int = 0, fps: float | None = 30.0, root: bool = True, first: int = 7, more: bool = False
) -> PoseSequence:
    """A sequence with a frame without a pose, its second."""
    rng = np.random.default_rng(seed)
    joints = rng.normal(0, 0.4, (frames, 17, 3)).astype(np.float32)
    joints[:, 0] = 0
    where = rng.normal(0, 3, (frames, 3)).astype(np.float32) if root else None
    factor = rng.normal(0, 0.03, (frames, 17, 3, 3))
    covariance = (factor @ np.swapaxes(factor, -1, -2)).astype(np.float32) if more else None
    if covariance is not None:
        covariance = np.triu(covariance) + np.swapaxes(np.triu(covariance, 1), -1, -2)
    if frames > 1:
        joints[1] = np.nan
        if where is not None:
            where[1] = np.nan
        if covariance is not None:
            covariance[1] = np.nan
    observed = rng.random((frames, 17)) > 0.2 if more else None
    return PoseSequence(joints, fps, np.arange(first, first + frames), where, covariance, observed, "3" if more else None)


def _same(a: Any, b: Any) -> None:
    if a is None or b is None:
        assert a is b
    else:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["jsonl", "csv"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 4), st.integers(0, 2**32), st.none() | st.floats(0.01, 1000), st.booleans(), st.booleans())
def test_json_lines_and_tables_give_every_number_back(
    tmp_path: Path, name: str, frames: int, seed: int, fps: float | None, root: bool, more: bool
) -> None:
    given_ones = poses(frames, seed=seed, fps=fps, root=root, more=more and name == "jsonl")
    write_poses(tmp_path / f"p.{name}", given_ones)
    back = read_poses(tmp_path / f"p.{name}")
    for field in ("joints", "root", "frames", "covariance", "observed"):
        _same(getattr(back, field), getattr(given_ones, field))
    assert back.fps == fps
    assert back.person == given_ones.person


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 4), st.integers(0, 2**32), st.floats(0.01, 1000), st.booleans(), st.integers(0, 10_000))
def test_markers_come_back(tmp_path: Path, frames: int, seed: int, fps: float, root: bool, first: int) -> None:
    given_ones = poses(frames, seed=seed, fps=fps, root=root, first=first)
    write_poses(tmp_path / "p.trc", given_ones)
    back = read_poses(tmp_path / "p.trc")
    np.testing.assert_allclose(back.placed, given_ones.placed, rtol=0, atol=TRC_JOINT_ABS_M)
    np.testing.assert_allclose(back.joints, given_ones.joints, rtol=0, atol=TRC_JOINT_ABS_M)
    assert back.fps == pytest.approx(fps, rel=1e-8)
    assert back.frames.tolist() == given_ones.frames.tolist()
    assert (back.root is None) == (given_ones.root is None)


def test_a_trc_file_word_by_word(tmp_path: Path) -> None:
    """What OpenSim's reader asks for (TRCFileAdapter.cpp): eight names, a column label for each marker, X1 Y1 Z1 X2 …, tabs."""
    joints = np.zeros((2, 17, 3), np.float32)
    joints[:, 16] = (0.25, -0.5, 0.125)
    joints[1] = np.nan
    root = np.array([[1, 2, 4], [np.nan] * 3], np.float32)
    write_poses(tmp_path / "p.trc", PoseSequence(joints, 50.0, np.array([3, 4]), root))
    lines = (tmp_path / "p.trc").read_text().split("\n")
    assert lines[0] == "PathFileType\t4\t(X/Y/Z)\tp.trc"
    assert lines[1] == "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames"
    assert lines[2] == "50\t50\t2\t17\tmm\t50\t3\t2"
    assert lines[3].split("\t")[:6] == ["Frame#", "Time", "hip", "", "", "right_hip"]
    assert [word for word in lines[3].split("\t") if word][2:] == list(JOINTS)
    assert lines[4].split("\t")[:6] == ["", "", "X1", "Y1", "Z1", "X2"]
    assert lines[4].endswith("X17\tY17\tZ17")
    assert lines[5] == ""
    # y up and z to the camera: both turned round.
    assert lines[6].split("\t")[:5] == ["3", "0", "1000", "-2000", "-4000"]
    assert lines[6].split("\t")[-3:] == ["1250", "-1500", "-4125"]
    assert lines[7].split("\t") == ["4", "0.02"] + ["nan"] * 51
    assert lines[8:] == [""]


def test_trc_as_others_write_it(tmp_path: Path) -> None:
    """Metres, rows that end with a tab, blank cells for a marker that was not seen, and markers besides."""
    names = ["extra", *JOINTS]
    rows = ["1\t0\t" + "0.5\t0.25\t1\t" * len(names), "2\t0.1\t" + "\t".join([""] * 54)]
    keys = "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames"
    header = ["PathFileType\t4\t(X/Y/Z)\tother", keys, "10.00\t10.00\t2\t18\tm\t10.00\t1\t2"]
    header += ["Frame#\tTime\t" + "\t\t\t".join(names) + "\t\t", "\t\tX1"]
    (tmp_path / "p.trc").write_text("\r\n".join([*header, *rows, ""]))
    back = read_poses(tmp_path / "p.trc")
    assert back.found.tolist() == [True, False]
    np.testing.assert_array_equal(back.placed[0], [[0.5, -0.25, -1]] * 17)


def test_a_json_lines_file_word_by_word(tmp_path: Path) -> None:
    write_poses(tmp_path / "p.jsonl", poses(2, more=True))
    header, first, second = map(json.loads, (tmp_path / "p.jsonl").read_text().splitlines())
    assert (header["format"], header["version"], header["fps"], header["joints"]) == ("diffpose-edge poses", 1, 30.0, list(JOINTS))
    assert list(first) == ["frame", "time", "joints", "root", "covariance", "observed"]
    assert (np.shape(first["joints"]), np.shape(first["covariance"]), len(first["observed"])) == ((17, 3), (17, 6), 17)
    assert (second["frame"], second["time"], second["joints"], second["root"], second["covariance"]) == (8, 1 / 30, None, None, None)


def test_a_table_has_a_column_for_each_number(tmp_path: Path) -> None:
    write_poses(tmp_path / "p.csv", poses(2))
    header, first, second = (tmp_path / "p.csv").read_text().splitlines()
    assert header.startswith("frame,time,fps,hip_x,hip_y,hip_z,right_hip_x")
    assert header.endswith("right_wrist_z,root_x,root_y,root_z")
    assert first.startswith("7,0.0,30.0,0,0,0,")
    assert second == "8,0.03333333333333333,30.0" + "," * 54
    assert len(header.split(",")) == len(first.split(",")) == len(second.split(",")) == 57


def test_the_format_is_named_or_told_by_the_suffix() -> None:
    assert [pose_format(f"a.{suffix}") for suffix in ("npz", "jsonl", "CSV", "bvh", "trc", "out", "json")] == [
        "npz", "jsonl", "csv", "bvh", "trc", "npz", "npz",
    ]  # fmt: skip
    assert pose_format("a.csv", "trc") == "trc"
    with pytest.raises(PoseFileError, match="one of npz, jsonl, csv, bvh, trc, got 'fbx'"):
        pose_format("a.csv", "fbx")
    with pytest.raises(PoseFileError, match="one of jsonl, csv, bvh, trc"):
        read_poses("a.npz")


@pytest.mark.parametrize("name", ["bvh", "trc"])
def test_without_a_rate_there_is_no_motion(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="--fps"):
        write_poses(tmp_path / f"p.{name}", poses(fps=None))
    with pytest.raises(OutputError, match="--fps"):
        check_rate(name, None, tmp_path)
    check_rate(name, 30.0, tmp_path)
    check_rate("csv", None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_sequences_that_are_none() -> None:
    good = poses(3)
    partly = good.joints.copy()
    partly[0, 5, 1] = np.nan
    for joints, frames, root, said in (
        (good.joints[:2], good.frames, None, r"joints of 3 frames as \(3, 17, 3\), got \(2"),
        (good.joints[:0], good.frames[:0], None, "at least one frame"),
        (partly, good.frames, None, "frame 7 has a pose in part"),
        (good.joints, good.frames, np.full((3, 3), np.nan, np.float32), "a root for every frame"),
    ):
        with pytest.raises(PoseFileError, match=said):
            PoseSequence(joints, 30.0, frames, root)


# What is changed in the text of a good file, and what the message has to name.
WRONG: dict[str, list[tuple[str, str, str]]] = {
    "jsonl": [
        ('"format": "diffpose-edge poses"', '"format": "other"', "does not begin with the header"),
        ('"version": 1', '"version": 2', "this program reads version 1"),
        ('{"frame": 8', '{"frame": 8.5', "line 3.frame: expected a whole number, got 8.5"),
        ('{"frame": 8', '["frame": 8', "line 3 is not JSON"),
        ('"joints": null', '"joints": [[1, 2, 3]]', "line 3.joints: expected (17, 3) numbers, got (1, 3)"),
        ('"joints": null', '"joints": [NaN]', "line 3.joints[0] is nan"),
        ('"joints": null', '"joint": 3', "line 3: has no 'joints'"),
        (', "root": null', "", "some frames have root and some have not"),
        ('"fps": 30.0', '"fps": "fast"', "fps: expected a whole number or a number"),
    ],
    "csv": [
        ("frame,time", "number,time", "expected the columns frame, time"),
        ("\n8,", "\n8.5,", "line 3: expected a whole number, got '8.5'"),
        ("\n8,", "\n8,,", "line 3: expected 57 cells, got 58"),
        ("\n7,0.0,30.0,0,", "\n7,0.0,30.0,x,", "line 2: could not convert"),
        ("\n7,0.0,30.0,0,", "\n7,0.0,30.0,inf,", "line 2: expected finite numbers, got inf"),
        ("\n7,0.0,30.0,0,", "\n7,0.0,30.0,,", "frame 7 has a pose in part"),
        ("\n7,0.0,30.0,", "\n7,0.0,25.0,", "expected one fps throughout"),
    ],
    "trc": [
        ("PathFileType", "Path", "is not TRC"),
        ("CameraRate\t", "", "expected the names DataRate"),
        ("\tmm\t", "\tinch\t", "17 markers in inch"),
        ("\thip\t", "\tpelvis\t", "no single marker hip"),
        ("\t17\tmm", "\t18\tmm", "17 markers in mm"),
        ("30\t30\t4\t", "30\t30\t5\t", "the header says 5 frames, and there are 4"),
        ("\n8\t0.0333333333\tnan", "\n8\t0.0333333333", "line 8: expected 53 columns, got 52"),
        ("\n8\t", "\nx\t", "line 8: expected a whole number, got 'x'"),
        ("30\t30\t4", "0\t30\t4", "fps as a positive number"),
    ],
    "bvh": [
        ("HIERARCHY", "HIERARCHIE", "expected HIERARCHY in line 1"),
        ("JOINT right_knee", "JOINT left_shin", "no joint 'right_knee'"),
        ("JOINT right_knee", "JOINT hip", "expected a joint's name that no other has, got 'hip'"),
        ("JOINT right_knee", "ROOT right_knee", "ROOT is not expected here"),
        ("OFFSET 0.000000 0.000000 0.000000", "OFFSET 0 0", "expected a part of the hierarchy"),
        ("CHANNELS 6", "CHANNELS 5", "expected the number of channels"),
        ("Zrotation", "Wrotation", "expected the number of channels"),
        ("Frames: 4", "Frames: 5", "says that it has 5 frames, and there are 4"),
        ("Frame Time: ", "Frame Time: -", "positive frame time"),
        ("MOTION", "MOTIONS", "expected a part of the hierarchy"),
    ],
}
CASES = [(name, i) for name, changes in WRONG.items() for i in range(len(changes))]


@pytest.mark.parametrize(("name", "i"), CASES, ids=[f"{name}-{i}" for name, i in CASES])
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, name: str, i: int) -> None:
    before, after, said = WRONG[name][i]
    path = tmp_path / f"p.{name}"
    write_poses(path, poses())
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(PoseFileError) as raised:
        read_poses(path)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("name", POSE_FORMATS)
def test_a_file_that_is_cut_off_or_damaged_is_read_or_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"p.{name}"
    write_poses(path, poses(3))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        at = int(rng.integers(len(whole)))
        damaged = bytearray(whole)
        damaged[at] = int(rng.integers(256))
        for content in (whole[:at], bytes(damaged)):
            path.write_bytes(content)
            _read_or_refused(path)


def _read_or_refused(path: Path) -> None:
    try:
        read_poses(path)
    except PoseFileError as err:
        if str(path) not in str(err):
            raise AssertionError("the message does not name the file") from err


@pytest.mark.parametrize("name", POSE_FORMATS)
def test_places_where_no_file_is(tmp_path: Path, name: str) -> None:
    with pytest.raises(PoseFileError, match="check the path"):
        read_poses(tmp_path / f"gone.{name}")
    (tmp_path / f"folder.{name}").mkdir()
    with pytest.raises(PoseFileError, match="cannot be read"):
        read_poses(tmp_path / f"folder.{name}")
    with pytest.raises(OutputError, match="folder"):
        write_poses(tmp_path / f"folder.{name}", poses())
