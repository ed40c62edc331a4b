"""From other keypoint layouts to Human3.6M-17."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.errors import KeypointError
from diffpose_edge.keypoints import Keypoints, normalise_pixels
from diffpose_edge.skeleton import JOINTS

# MediaPipe Pose landmarks that stand for a Human3.6M joint as they are. Source: MediaPipe Pose Landmarker documentation.
# "Left" and "right" are the person's in both layouts.
MEDIAPIPE33_DIRECT = {
    "right_hip": 24,
    "right_knee": 26,
    "right_foot": 28,
    "left_hip": 23,
    "left_knee": 25,
    "left_foot": 27,
    "neck": 0,
    "left_shoulder": 11,
    "left_elbow": 13,
    "left_wrist": 15,
    "right_shoulder": 12,
    "right_elbow": 14,
    "right_wrist": 16,
}
MEDIAPIPE33_EARS = (7, 8)

# Height of the head's top above the shoulders, over that of the eyes and ears, for an upright person: (1 - 0.818) /
# (0.936 - 0.818) of the stature. Source: Drillis and Contini 1966, body segment lengths, after Winter, Biomechanics.
HEAD_TOP_OVER_EARS = (1.0 - 0.818) / (0.936 - 0.818)


def h36m17_from_mediapipe33(landmarks: ArrayLike, image_size: tuple[float, float]) -> Keypoints:
    """Convert MediaPipe Pose landmarks (frames, 33, 3), pixels x, y and visibility, to normalised Human3.6M-17 keypoints.

    Thirteen joints are taken as they are (the ankle for the foot, the nose for joint 9, which Human3.6M puts between
    neck and nose). Four are not measured and are derived: the hip is the mean of both hips, the thorax the mean of both
    shoulders, the spine the mean of hip and thorax; the head's top continues the line from the thorax through the mean
    of the ears, by the proportions of an upright person. A derived joint is as confident as the least of its sources.
    Landmarks with NaN anywhere count as not seen: confidence 0.

    Raises KeypointError for another shape, no frames, or visibilities outside 0..1.
    """
    try:
        array = np.asarray(landmarks, dtype=np.float64)
    except (TypeError, ValueError) as err:
        raise KeypointError(f"expected MediaPipe landmarks as an array of numbers: {err}") from None
    if array.ndim != 3 or array.shape[1:] != (33, 3):
        raise KeypointError(f"expected MediaPipe landmarks of shape (frames, 33, 3), got {array.shape}")
    if len(array) == 0:
        raise KeypointError("expected at least one frame of MediaPipe landmarks, got none")
    # A sum is finite exactly when every term is: pixels and visibilities are far from overflowing float64.
    missing: NDArray[np.bool_] = ~np.isfinite(array.sum(axis=-1))
    xy = np.where(missing[..., None], np.nan, array[..., :2])
    visibility = np.where(missing, 0.0, array[..., 2])
    if ((visibility < 0) | (visibility > 1)).any():
        raise KeypointError(f"expected visibilities within 0..1, got {visibility.min():.3g}..{visibility.max():.3g}")

    points = {name: xy[:, i] for name, i in MEDIAPIPE33_DIRECT.items()}
    seen = {name: visibility[:, i] for name, i in MEDIAPIPE33_DIRECT.items()}
    ears, ears_seen = xy[:, MEDIAPIPE33_EARS].mean(axis=1), visibility[:, MEDIAPIPE33_EARS].min(axis=1)
    points["hip"] = (points["right_hip"] + points["left_hip"]) / 2
    seen["hip"] = np.minimum(seen["right_hip"], seen["left_hip"])
    points["thorax"] = (points["right_shoulder"] + points["left_shoulder"]) / 2
    seen["thorax"] = np.minimum(seen["right_shoulder"], seen["left_shoulder"])
    points["spine"] = (points["hip"] + points["thorax"]) / 2
    seen["spine"] = np.minimum(seen["hip"], seen["thorax"])
    points["head"] = points["thorax"] + HEAD_TOP_OVER_EARS * (ears - points["thorax"])
    seen["head"] = np.minimum(ears_seen, seen["thorax"])

    with np.errstate(over="ignore"):
        uv = normalise_pixels(np.stack([points[name] for name in JOINTS], axis=1), image_size).astype(np.float32)
    confidence = np.stack([seen[name] for name in JOINTS], axis=1)
    # A coordinate that does not exist has no confidence, whatever its source said.
    confidence = np.where(np.isfinite(uv).all(axis=-1), confidence, 0.0)
    return Keypoints(uv, confidence.astype(np.float32))
