"""ROS messages that come in, turned into keypoints and intrinsics, or refused with a reason.

Nothing of ROS is imported: messages are read by their fields, so that any binding's classes do. Only Python floats and numpy are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import DiffPoseEdgeError, KeypointError
from diffpose_edge.keypoints import Keypoints, checked_keypoints, normalise_pixels
from diffpose_edge.runtime.bridges.plain_messages import MOST_FRAME_ID
from diffpose_edge.runtime.bridges.skeleton2d import h36m17_from_skeleton2d
from diffpose_edge.skeleton import J

NANOSECONDS = 1_000_000_000
# Why a message is refused: how many entries it has, the numbers in it, its frame, its stamp, or that it is no usable CameraInfo.
REASONS = ("length", "number", "frame", "stamp", "camera")
# Units of the keypoints of a PoseArray: pixels; 0..1 over the image's width and height; or u, v as the networks take them.
UNITS = ("pixels", "image", "normalised")


# The longest model of OpenCV has 14.
MOST_COEFFICIENTS = 64


class MalformedMessage(DiffPoseEdgeError):
    """A message that cannot be meant; ``reason`` is one of REASONS."""

    def __init__(self, reason: str, told: str):
        super().__init__(told)
        self.reason = reason


@dataclass(frozen=True)
class Intrinsics:
    """What a ``sensor_msgs/CameraInfo`` tells: the image's size and focal lengths in pixels, and the distortion as it came.

    Focal lengths and centre are None for a camera that is not calibrated, whose K is zero by the message's definition.
    """

    frame_id: str
    image_size: tuple[int, int]
    focal: tuple[float, float] | None
    centre: tuple[float, float] | None
    distortion_model: str
    distortion: tuple[float, ...]


def stamp_ns_of(stamp: Any) -> int:
    """Return a ``builtin_interfaces/Time`` as nanoseconds. Raises MalformedMessage for one that was never set, or cannot be."""
    seconds, nanoseconds = int(stamp.sec), int(stamp.nanosec)
    if seconds < 0 or not 0 <= nanoseconds < NANOSECONDS or (seconds == 0 and nanoseconds == 0):
        raise MalformedMessage("stamp", f"expected header.stamp as the time of the image, got {seconds} s and {nanoseconds} ns")
    return seconds * NANOSECONDS + nanoseconds


def frame_id_of(header: Any) -> str:
    """Return a header's frame. Raises MalformedMessage ("frame") where its name is too long to be said in every answer."""
    frame_id = str(header.frame_id)
    if len(frame_id) > MOST_FRAME_ID:
        raise MalformedMessage("frame", f"expected header.frame_id in at most {MOST_FRAME_ID} characters, got {len(frame_id)}")
    return frame_id


def intrinsics_of(info: Any) -> Intrinsics:
    """Return what a ``sensor_msgs/CameraInfo`` tells. Raises MalformedMessage ("camera") for sizes or numbers that no camera has."""
    w, h = int(info.width), int(info.height)
    if len(info.d) > MOST_COEFFICIENTS or len(info.distortion_model) > MOST_FRAME_ID:
        raise MalformedMessage("camera", f"expected at most {MOST_COEFFICIENTS} coefficients of distortion, got {len(info.d)}")
    K, D = (np.asarray(values, np.float64) for values in (info.k, info.d))
    if w < 1 or h < 1:
        raise MalformedMessage("camera", f"expected a CameraInfo with the size of the image, got {w} x {h}")
    if K.shape != (9,) or not np.isfinite(K).all() or not np.isfinite(D).all():
        raise MalformedMessage("camera", f"expected a CameraInfo of finite numbers, got k = {K.tolist()}, d = {D.tolist()}")
    if K[0] < 0 or K[4] < 0:
        raise MalformedMessage("camera", f"expected focal lengths in pixels, got {K[0]:g} and {K[4]:g}")
    known = K[0] > 0 and K[4] > 0
    return Intrinsics(
        str(info.header.frame_id),
        (w, h),
        (float(K[0]), float(K[4])) if known else None,
        (float(K[2]), float(K[5])) if known else None,
        str(info.distortion_model),
        tuple(D.tolist()),
    )


def people_of_pose_array(message: Any, units: str, image_size: tuple[float, float] | None, most_people: int) -> Keypoints:
    """Return the people of a ``geometry_msgs/PoseArray``, B of them: keypoints (B, 17, 2) with their confidence; B may be 0.

    17 poses for each person, in Human3.6M order: position x and y are the keypoint in ``units`` (see UNITS), z its confidence, 0 for a
    joint that was not seen, whose x and y are ignored. Orientations are ignored. ``image_size`` (w, h), for all units but "normalised".
    Raises MalformedMessage: "length" for another number of poses or more than ``most_people``, "number" for what no detector means.
    """
    B, rest = divmod(len(message.poses), J)
    if rest or len(message.poses) > most_people * J:
        raise MalformedMessage("length", f"expected {J} poses for each of at most {most_people} people, got {len(message.poses)}")
    rows = np.array([(pose.position.x, pose.position.y, pose.position.z) for pose in message.poses], np.float64).reshape(B, J, 3)
    return _checked(rows, units, image_size)


def person_of_skeleton2d(message: Any, image_size: tuple[float, float]) -> Keypoints:
    """Return the person of an ``hri_msgs/Skeleton2D``: keypoints (1, 17, 2), derived as :mod:`.skeleton2d` says.

    Raises MalformedMessage as :func:`people_of_pose_array` does.
    """
    if len(message.skeleton) != 18:
        raise MalformedMessage("length", f"expected the 18 points of a Skeleton2D, got {len(message.skeleton)}")
    points = np.array([(point.x, point.y, point.c) for point in message.skeleton], np.float64)
    return _checked(h36m17_from_skeleton2d(points)[None], "image", image_size)


def _checked(rows: NDArray[np.float64], units: str, image_size: tuple[float, float] | None) -> Keypoints:
    """Return rows (B, 17, 3) of x, y, confidence as checked keypoints, normalised."""
    if not len(rows):
        return Keypoints(np.zeros((0, J, 2), np.float32), np.zeros((0, J), np.float32))
    xy, confidence = rows[..., :2], rows[..., 2]
    if units != "normalised":
        assert image_size is not None
        xy = normalise_pixels(xy * image_size if units == "image" else xy, image_size)
    try:
        return checked_keypoints(xy, confidence)
    except KeypointError as err:
        raise MalformedMessage("number", str(err)) from None
