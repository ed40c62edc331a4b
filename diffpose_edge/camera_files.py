"""Cameras from where they are written down: ROS's CameraInfo, the YAML that its calibrator writes, and JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_edge.camera import Camera
from diffpose_edge.errors import CameraError, told_by
from diffpose_edge.plain_json import json_of
from diffpose_edge.reading import read_file

# Names of the models that occur beside ROS's own.
ALSO = {"": "none", "fisheye": "equidistant", "kannala_brandt4": "equidistant", "pinhole": "none"}


def camera_of_info(info: Any, *, rectified: bool = False) -> Camera:
    """Return the camera of a sensor_msgs/CameraInfo, or of a mapping with its names: width, height, k, d, distortion_model.

    ``k`` is the matrix (9 numbers, row by row, or 3x3); fx, fy, cx, cy may stand for it. ``rectified``: the keypoints were found in
    the rectified image, whose matrix is the left of ``p`` and which has no distortion. The capital names of ROS 1 are read too.

    Raises CameraError where something is missing or is no camera's: no calibration (k all zero), a skew, a binned image or a part of one.
    """
    width, height = _of(info, "width"), _of(info, "height")
    for name, fine in (("binning_x", (0, 1, None)), ("binning_y", (0, 1, None))):
        if (value := _of(info, name, None)) not in fine:
            raise CameraError(f"expected a camera's full image, got {name} = {value}; give the intrinsics of the binned image")
    roi = _of(info, "roi", None)
    if roi is not None and any(_of(roi, name, 0) for name in ("x_offset", "y_offset")):
        raise CameraError("expected a camera's full image, got a region of interest; move cx and cy by its offset and leave it out")
    if rectified:
        p = _numbers(_of(info, "p"), 12, "p, the 3x4 projection matrix")
        return _camera(width, height, np.delete(p.reshape(3, 4), 3, axis=1).ravel(), "none", ())
    model = str(_of(info, "distortion_model", "none")).strip().lower()
    d = _of(info, "d", ())
    coefficients = tuple(np.ravel(np.asarray(() if d is None else d, object)))
    if _of(info, "k", None) is None and _of(info, "fx", None) is not None:
        k: Any = [_of(info, "fx"), 0, _of(info, "cx"), 0, _of(info, "fy"), _of(info, "cy"), 0, 0, 1]
    else:
        k = _of(info, "k")
    return _camera(width, height, _numbers(k, 9, "k, the 3x3 camera matrix"), ALSO.get(model, model), coefficients)


def _camera(width: Any, height: Any, k: Any, model: str, coefficients: tuple[Any, ...]) -> Camera:
    if not k.any():
        raise CameraError("the camera is not calibrated: its matrix k is all zeros. Calibrate it, or guess: Camera.from_fov")
    if abs(k[1]) > 1e-6 * abs(k[0]):
        raise CameraError(f"expected a camera without skew, got k[1] = {k[1]:g}; rectify the image")
    if model == "none" and not any(coefficients):
        coefficients = ()
    return Camera(width, height, k[0], k[4], k[2], k[5], model, coefficients)


_REQUIRED = object()


def _of(info: Any, name: str, default: Any = _REQUIRED) -> Any:
    for key in (name, name.upper()):
        if isinstance(info, Mapping):
            if key in info:
                return info[key]
        elif hasattr(info, key):
            return getattr(info, key)
    if default is _REQUIRED:
        raise CameraError(f"the camera information has no {name!r}; expected width, height, k, d and distortion_model")
    return default


def _numbers(values: Any, count: int, what: str) -> Any:
    try:
        array = np.asarray(values, np.float64).ravel()
    except (TypeError, ValueError, OverflowError):
        raise CameraError(f"expected {what}, as numbers, got {values!r}") from None
    if array.shape != (count,):
        raise CameraError(f"expected {what}, {count} numbers, got {array.size}")
    return array


# A calibrator's file has 1 kB.
MOST_BYTES = 1 << 20


def load_camera(path: str | Path) -> Camera:
    """Read a camera from the YAML of ROS's camera_calibration (.yaml, .yml), or from JSON with CameraInfo's names (.json).

    Raises CameraError for a file that is not there, is neither, or lacks something.
    """
    path = Path(path)
    try:
        text = read_file(path, MOST_BYTES).decode("utf-8").replace("\r\n", "\n")
    except FileNotFoundError:
        raise CameraError(f"no camera file at {path}; check the path") from None
    except OSError as err:
        raise CameraError(f"{path} cannot be read: {err.strerror or err}") from None
    except UnicodeDecodeError as err:
        raise CameraError(f"{path} cannot be read as text: {err}") from None
    try:
        if path.suffix.lower() in (".yaml", ".yml"):
            return camera_of_info(_of_yaml(text))
        if path.suffix.lower() == ".json":
            return camera_of_info(_of_json(text))
    except CameraError as err:
        raise CameraError(f"{path}: {err}") from None
    raise CameraError(f"{path}: expected a camera as .yaml (of ROS's camera_calibration) or .json")


def _of_json(text: str) -> Mapping[str, Any]:
    try:
        content = json_of(text)
    except ValueError as err:
        raise CameraError(f"it is not JSON: {told_by(err)}") from None
    if not isinstance(content, dict):
        raise CameraError("expected a JSON object with width, height, k, d and distortion_model")
    return content


def _of_yaml(text: str) -> dict[str, Any]:
    """Return CameraInfo's names out of the calibrator's YAML, which is always of one form: names, and matrices with ``data: […]``."""
    found: dict[str, Any] = {}
    for name, ours in (("image_width", "width"), ("image_height", "height"), ("distortion_model", "distortion_model")):
        if (line := re.search(rf"^{name}[ \t]*:[ \t]*['\"]?([\w.]*)['\"]?[ \t]*(?:#.*)?$", text, re.MULTILINE)) is not None:
            found[ours] = line[1]
    for name, ours in (("camera_matrix", "k"), ("distortion_coefficients", "d"), ("projection_matrix", "p")):
        # The matrix's own lines are indented; its list may run over several.
        block = re.search(rf"^{name}[ \t]*:[^\n]*\n((?:[ \t]+[^\n]*(?:\n|\Z)|[ \t]*\n)+)", text, re.MULTILINE)
        data = None if block is None else re.search(r"\bdata[ \t]*:\s*\[([^\]]*)\]", block[1])
        if data is not None:
            found[ours] = [part.strip() for part in data[1].split(",") if part.strip()]
    if "k" not in found:
        raise CameraError("expected the YAML of ROS's camera_calibration, with camera_matrix: and an indented data: [9 numbers]")
    return found
