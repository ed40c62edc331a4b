"""From the 18 points of ``hri_msgs/Skeleton2D`` to Human3.6M-17."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.layouts import HEAD_TOP_OVER_EARS
from diffpose_edge.skeleton import JOINTS

# Points that stand for a Human3.6M joint as they are. Source: Skeleton2D.msg of hri_msgs, which has OpenPose's COCO order.
DIRECT = {
    "right_hip": 8,
    "right_knee": 9,
    "right_foot": 10,
    "left_hip": 11,
    "left_knee": 12,
    "left_foot": 13,
    "thorax": 1,
    "neck": 0,
    "left_shoulder": 5,
    "left_elbow": 6,
    "left_wrist": 7,
    "right_shoulder": 2,
    "right_elbow": 3,
    "right_wrist": 4,
}
EARS = (16, 17)


def h36m17_from_skeleton2d(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert points (18, 3), x, y over the image and confidence, to Human3.6M-17 (17, 3) of the same units.

    As for MediaPipe (:func:`diffpose_edge.layouts.h36m17_from_mediapipe33`), except that OpenPose's neck, which lies between the
    shoulders, is the thorax: the hip is the mean of both hips, the spine that of hip and thorax, the head's top is extrapolated from
    the ears. A derived joint is as confident as the least of its sources.
    """
    joints = {name: points[i] for name, i in DIRECT.items()}
    joints["hip"] = _mean(joints["right_hip"], joints["left_hip"])
    joints["spine"] = _mean(joints["hip"], joints["thorax"])
    ears = _mean(*points[list(EARS)])
    top = joints["thorax"] + HEAD_TOP_OVER_EARS * (ears - joints["thorax"])
    joints["head"] = np.append(top[:2], min(ears[2], joints["thorax"][2]))
    return np.stack([joints[name] for name in JOINTS])


def _mean(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.append((a[:2] + b[:2]) / 2, min(a[2], b[2]))
