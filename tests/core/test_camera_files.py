"""Cameras from CameraInfo, from the calibrator's YAML and from JSON."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diffpose_edge.camera import Camera
from diffpose_edge.camera_files import camera_of_info, load_camera
from diffpose_edge.errors import CameraError

INFO = {
    "width": 640,
    "height": 480,
    "distortion_model": "plumb_bob",
    "d": [0.1, -0.2, 0.001, 0.002, 0.03],
    "k": [500.0, 0, 320.5, 0, 501.0, 240.5, 0, 0, 1],
    "p": [490.0, 0, 318, 0, 0, 491.0, 239, 0, 0, 0, 1, 0],
}
CAMERA = Camera(640, 480, 500, 501, 320.5, 240.5, "plumb_bob", (0.1, -0.2, 0.001, 0.002, 0.03))

# As camera_calibration prints it, and as yaml-cpp does, with lists over several lines.
YAML = """\
image_width: 640
image_height: 480
camera_name: narrow_stereo
camera_matrix:
  rows: 3
  cols: 3
  data: [500.0, 0, 320.5, 0, 501.0, 240.5,
         0, 0, 1]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [0.1, -0.2, 1e-3, 0.002, 0.03]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1, 0, 0, 0, 1, 0, 0, 0, 1]
projection_matrix:
  rows: 3
  cols: 4
  data: [490, 0, 318, 0, 0, 491, 239, 0, 0, 0, 1, 0]
"""


def test_messages_and_mappings_are_read_alike() -> None:
    assert camera_of_info(INFO) == CAMERA
    assert camera_of_info(SimpleNamespace(**INFO)) == CAMERA
    ros1 = {key.upper() if len(key) == 1 else key: value for key, value in INFO.items()}
    assert camera_of_info(ros1) == CAMERA
    assert camera_of_info({**INFO, "k": [[500.0, 0, 320.5], [0, 501.0, 240.5], [0, 0, 1]]}) == CAMERA


def test_the_rectified_image_has_the_projections_matrix_and_no_distortion() -> None:
    assert camera_of_info(INFO, rectified=True) == Camera(640, 480, 490, 491, 318, 239)


def test_a_camera_without_distortion_may_say_so_in_several_ways() -> None:
    straight = Camera(640, 480, 500, 501, 320.5, 240.5)
    assert camera_of_info({**INFO, "distortion_model": "", "d": []}) == straight
    assert camera_of_info({**INFO, "distortion_model": "none", "d": [0, 0, 0, 0, 0]}) == straight
    assert camera_of_info({"width": 640, "height": 480, "fx": 500, "fy": 501, "cx": 320.5, "cy": 240.5}) == straight


@pytest.mark.parametrize("name", ["camera.yaml", "camera.yml", "camera.json"])
def test_files_hold_the_same_camera(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(json.dumps(INFO) if name.endswith("json") else YAML, encoding="utf-8")
    assert load_camera(path) == CAMERA


def test_comments_quotes_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "camera.yaml"
    text = YAML.replace("image_width: 640", "# by hand\nimage_width: 640   # pixels").replace(": plumb_bob", ': "plumb_bob"')
    path.write_bytes(text.replace("\n", "\r\n").encode())
    assert load_camera(path) == CAMERA


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"k": [0.0] * 9}, "not calibrated"),
        ({"k": [1.0] * 8}, "9 numbers, got 8"),
        ({"k": ["a"] * 9}, "as numbers"),
        ({"k": [500, 3, 320, 0, 500, 240, 0, 0, 1]}, "without skew"),
        ({"binning_x": 2}, "binning_x = 2"),
        ({"roi": {"x_offset": 8, "y_offset": 0}}, "region of interest"),
        ({"distortion_model": "thin_prism"}, "unknown distortion model"),
        ({"distortion_model": "none"}, "which the model 'none' takes"),
        ({"width": None}, "width as a number"),
    ],
)
def test_information_that_is_no_cameras(change: dict[str, Any], said: str) -> None:
    with pytest.raises(CameraError, match=said):
        camera_of_info({**INFO, **change})


def test_what_is_missing_is_named() -> None:
    with pytest.raises(CameraError, match="has no 'height'"):
        camera_of_info({"width": 3})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("camera.json", "{", "not JSON"),
        ("camera.json", "[]", "JSON object"),
        ("camera.yaml", "image_width: 640\n", "camera_matrix: and an indented data"),
        ("camera.yaml", YAML.replace("image_height: 480\n", ""), "has no 'height'"),
        ("camera.yaml", YAML.replace("[0.1,", "[0.1, x,"), "distortion coefficient as a number, got 'x'"),
        ("camera.txt", YAML, r"\.yaml"),
        ("camera.yaml", None, "no camera file"),
    ],
)
def test_files_that_are_no_cameras(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(CameraError, match=said):
        load_camera(path)
    if text is not None:
        with pytest.raises(CameraError, match=name):
            load_camera(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="cannot be read"):
        load_camera(tmp_path)
