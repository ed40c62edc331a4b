"""A clip's poses put in the camera's frame: what ``diffpose-edge run --camera`` adds to its results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.body_scale import Scale, checked_stature, scale_of_stature
from diffpose_edge.camera import Camera
from diffpose_edge.errors import CameraError
from diffpose_edge.facing import FacingView
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.root import root_positions

Results = dict[str, NDArray[Any]]

# What somebody's stature is known to when they tell it, metres: shoes, and the time of day.
TOLD_STATURE_SIGMA = 0.02


def check_camera_options(camera: object, stature: float | None, faced: bool) -> None:
    """Raise CameraError for options that need a camera and have none, DiffPoseEdgeError for a stature that nobody has."""
    if camera is None and (stature is not None or faced):
        raise CameraError(f"{'--stature' if stature is not None else '--facing'} needs the camera: give --camera too")
    if stature is not None:
        checked_stature(stature)


def turned_back(results: Mapping[str, NDArray[Any]], view: FacingView) -> Results:
    """Return joints, context, samples and covariance of the views that faced the person in the camera's axes."""
    turned: Results = {name: view.points_back(results[name]) for name in ("joints", "context", "samples")}
    return {**turned, "covariance": view.covariance_back(results["covariance"])}


def placed_clip(results: Mapping[str, NDArray[Any]], keypoints: Keypoints, camera: Camera, stature: float | None = None) -> Results:
    """Return ``root`` (frames, 3), ``root_covariance`` (frames, 3, 3) and ``joints_camera`` (frames, 17, 3) of one person's clip, metres.

    ``results`` has joints, samples and covariance in the camera's axes, relative to the hip; ``keypoints`` are normalised to its image.
    ``stature``, metres: with it the body's size is that of all samples of the clip brought to this stature; without it the network's
    metres are trusted as far as adults are alike. joints_camera is the pose at the body's size, put at the root. Frames that cannot be
    placed are NaN.
    """
    posed = np.isfinite(results["joints"]).all(axis=(1, 2))
    scale = Scale() if stature is None or not posed.any() else scale_of_stature(results["samples"][posed], stature, TOLD_STATURE_SIGMA)
    found = root_positions(results["joints"], results["covariance"], camera.pixels(keypoints.uv), camera, keypoints.confidence, scale=scale)
    return {
        "root": found.position.astype(np.float32),
        "root_covariance": found.covariance.astype(np.float32),
        "joints_camera": (scale.mean * results["joints"] + found.position[:, None]).astype(np.float32),
    }
