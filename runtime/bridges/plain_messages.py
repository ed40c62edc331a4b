"""ROS 2 messages in whatever classes a library has for them: what is read from them, and how bodies are written into them.

A message class is asked for by its ROS name and made with its fields as keywords. Libraries differ in the classes alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.body import BodyEstimate
from diffpose_edge.errors import KeypointError
from diffpose_edge.events import Seldom
from diffpose_edge.keypoints import Keypoints, checked_keypoints, normalise_pixels
from diffpose_edge.readings import Histogram, Reading
from diffpose_edge.runtime.bridges.shapes import bone_ends, ellipsoids
from diffpose_edge.skeleton import J

log = logging.getLogger(__name__)

POSE_ARRAY = "geometry_msgs/msg/PoseArray"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
MARKER_ARRAY = "visualization_msgs/msg/MarkerArray"

# "geometry_msgs/msg/Point" → the class of that message.
Classes = Callable[[str], Callable[..., Any]]

SECOND_NS = 1_000_000_000
# What a peer may ask for. A message of so many people has 240 kB as it lies in CDR, and its answers as much and a little more: larger
# ones are dropped before a Python object is made of them. A name of a frame is said in every answer.
MOST_PEOPLE = 256
MOST_MESSAGE_BYTES = 1 << 20
MOST_FRAME_ID = 256
# visualization_msgs/msg/Marker
SPHERE, LINE_LIST, SPHERE_LIST = 2, 5, 7
ADD, DELETE_ALL = 0, 3
BONE_M, JOINT_M = 0.02, 0.05
# Colours of people in turn, red, green, blue; of Okabe and Ito, who chose them for colour-blind readers too.
COLOURS = ((0.34, 0.71, 0.91), (0.90, 0.62, 0.0), (0.0, 0.62, 0.45), (0.80, 0.47, 0.65), (0.94, 0.89, 0.26))


class Refused(KeypointError):
    """A message that is dropped. ``kind`` is what it is counted under: length, keypoints, stamp, frame, camera, people or undecodable."""

    def __init__(self, kind: str, why: str):
        super().__init__(why)
        self.kind = kind


@dataclass
class Counts:
    """What came and what became of it: every message is answered, or refused under a kind, or its answer was ``unsent``, because a
    reader that wants every message did not keep up."""

    received: int = 0
    answered: int = 0
    unsent: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=Histogram)
    seldom: Seldom = field(default_factory=lambda: Seldom(log), compare=False, repr=False)

    def __str__(self) -> str:
        why = ", ".join(f"{count} {kind}" for kind, count in sorted(self.refused.items()))
        unsent = f"{self.unsent} answers unsent, " if self.unsent else ""
        return (
            f"{self.received} messages, {self.answered} answered, {unsent}{sum(self.refused.values())} refused{f' ({why})' if why else ''}"
        )

    def refuse(self, refused: Refused) -> None:
        """Count a message that was refused; one of each kind is logged now and then."""
        self.refused[refused.kind] += 1
        self.seldom.tell(logging.WARNING, "message_refused", "a message was refused (%s): %s", refused.kind, refused, kind=refused.kind)

    def readings(self) -> list[Reading]:
        """Return the counts, for :class:`diffpose_edge.readings.Readable`."""
        dropped = {f"malformed_{kind}": count for kind, count in sorted(self.refused.items())} | {"unsent": self.unsent}
        return [
            Reading("diffpose_frames_total", self.received),
            Reading("diffpose_frames_answered_total", self.answered),
            *(Reading("diffpose_frames_dropped_total", count, {"reason": reason}) for reason, count in dropped.items()),
            Reading("diffpose_frame_latency_seconds", self.latency.copy()),
        ]


def stamp_ns_of(header: Any) -> int:
    """Return a header's stamp in nanoseconds. Raises Refused where it is no time, or was never set."""
    seconds, nanoseconds = int(header.stamp.sec), int(header.stamp.nanosec)
    if seconds < 0 or not 0 <= nanoseconds < SECOND_NS or seconds == nanoseconds == 0:
        raise Refused("stamp", f"expected header.stamp as the time of the image, got sec {seconds} and nanosec {nanoseconds}")
    return seconds * SECOND_NS + nanoseconds


def frame_id_of(header: Any) -> str:
    """Return a header's frame. Raises Refused where its name is longer than ``MOST_FRAME_ID`` characters."""
    frame_id = str(header.frame_id)
    if len(frame_id) > MOST_FRAME_ID:
        raise Refused("frame", f"expected header.frame_id in at most {MOST_FRAME_ID} characters, got {len(frame_id)}")
    return frame_id


def keypoints_of(message: Any, image_size: tuple[int, int] | None = None) -> Keypoints:
    """Return the people (B, 17) of a PoseArray: 17 poses each, in Human3.6M order; an empty one is nobody.

    position.x and .y are the keypoint, in pixels where ``image_size`` (w, h) is given, else normalised; position.z is its confidence
    within 0..1, 0 for not seen. Orientations are ignored. Raises Refused.
    """
    poses: Sequence[Any] = message.poses
    if len(poses) % J:
        raise Refused("length", f"expected {J} poses for each person, got {len(poses)}")
    if len(poses) > MOST_PEOPLE * J:
        raise Refused("people", f"expected at most {MOST_PEOPLE} people in a message, got {len(poses) // J}")
    if not len(poses):
        return Keypoints(np.zeros((0, J, 2), np.float32), np.zeros((0, J), np.float32))
    numbers = np.array([(pose.position.x, pose.position.y, pose.position.z) for pose in poses], np.float64).reshape(-1, J, 3)
    if image_size is not None:
        numbers[..., :2] = normalise_pixels(numbers[..., :2], image_size)
    try:
        return checked_keypoints(numbers)
    except KeypointError as err:
        raise Refused("keypoints", str(err)) from None


def image_size_of(camera_info: Any) -> tuple[int, int]:
    """Return (w, h) in pixels of a CameraInfo. Raises Refused where one of them is not positive."""
    w, h = int(camera_info.width), int(camera_info.height)
    if w <= 0 or h <= 0:
        raise Refused("camera", f"expected a CameraInfo with a width and height, got {w} x {h}")
    return w, h


def pose_array(classes: Classes, bodies: Iterable[BodyEstimate], stamp_ns: int, frame_id: str) -> Any:
    """Return a PoseArray: 17 poses for each body, in the order of the bodies, placed joints in metres; orientations are unit.

    A body without a pose is NaN, so that person b stays poses 17 b … 17 b + 16.
    """
    return classes(POSE_ARRAY)(
        header=header_of(classes, stamp_ns, frame_id),
        poses=[_pose(classes, joint) for body in bodies for joint in body.placed_joints.astype(np.float64)],
    )


def marker_array(classes: Classes, bodies: Iterable[BodyEstimate], stamp_ns: int, frame_id: str) -> Any:
    """Return a MarkerArray for RViz: what was there before is deleted, then for each body with a pose its bones (ns "bones"), its joints
    ("joints") and its ellipsoids ("ellipsoids"; id: 17 times the body's, plus the joint)."""

    def marker(ns: str, number: int, kind: int, **fields: Any) -> Any:
        return _marker(classes, header=header_of(classes, stamp_ns, frame_id), ns=ns, id=number % 2**31, type=kind, **fields)

    markers = [marker("", 0, SPHERE, action=DELETE_ALL)]
    for body in bodies:
        if not body.found:
            continue
        colour = COLOURS[body.body_id % len(COLOURS)]
        points = [_point(classes, end) for end in bone_ends(body)]
        markers.append(marker("bones", body.body_id, LINE_LIST, scale=(BONE_M, 0.0, 0.0), colour=(*colour, 1.0), points=points))
        points = [_point(classes, joint) for joint in body.placed_joints.astype(np.float64)]
        markers.append(marker("joints", body.body_id, SPHERE_LIST, scale=(JOINT_M,) * 3, colour=(*colour, 1.0), points=points))
        for each in ellipsoids(body):
            pose = _pose(classes, each.centre, each.orientation)
            number = J * body.body_id + each.joint
            markers.append(marker("ellipsoids", number, SPHERE, pose=pose, scale=each.diameters, colour=(*colour, 0.25)))
    return classes(MARKER_ARRAY)(markers=markers)


def _marker(
    classes: Classes,
    *,
    action: int = ADD,
    pose: Any = None,
    scale: Sequence[float] | NDArray[np.float64] = (0.0, 0.0, 0.0),
    colour: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
    points: Sequence[Any] = (),
    **fields: Any,
) -> Any:
    x, y, z = (float(s) for s in scale)
    r, g, b, a = colour
    nothing = np.zeros(0, np.uint8)
    return classes("visualization_msgs/msg/Marker")(
        **fields,
        action=action,
        pose=_pose(classes, np.zeros(3)) if pose is None else pose,
        scale=classes("geometry_msgs/msg/Vector3")(x=x, y=y, z=z),
        color=classes("std_msgs/msg/ColorRGBA")(r=r, g=g, b=b, a=a),
        lifetime=classes("builtin_interfaces/msg/Duration")(sec=0, nanosec=0),
        frame_locked=False,
        points=list(points),
        colors=[],
        texture_resource="",
        texture=classes("sensor_msgs/msg/CompressedImage")(header=header_of(classes, 0, ""), format="", data=nothing),
        uv_coordinates=[],
        text="",
        mesh_resource="",
        mesh_file=classes("visualization_msgs/msg/MeshFile")(filename="", data=nothing),
        mesh_use_embedded_materials=False,
    )


def header_of(classes: Classes, stamp_ns: int, frame_id: str) -> Any:
    """Return a Header with the stamp of an image."""
    stamp = classes("builtin_interfaces/msg/Time")(sec=stamp_ns // SECOND_NS, nanosec=stamp_ns % SECOND_NS)
    return classes("std_msgs/msg/Header")(stamp=stamp, frame_id=frame_id)


def _point(classes: Classes, xyz: NDArray[np.float64]) -> Any:
    return classes("geometry_msgs/msg/Point")(x=float(xyz[0]), y=float(xyz[1]), z=float(xyz[2]))


def _pose(classes: Classes, xyz: NDArray[np.float64], orientation: Sequence[float] | NDArray[np.float64] = (0.0, 0.0, 0.0, 1.0)) -> Any:
    x, y, z, w = (float(q) for q in orientation)
    return classes("geometry_msgs/msg/Pose")(
        position=_point(classes, xyz), orientation=classes("geometry_msgs/msg/Quaternion")(x=x, y=y, z=z, w=w)
    )
