"""People as ROS messages: poses, a cloud of joints with their covariance, transforms.

The classes of the messages come as an argument (:mod:`.ros_types`); every number is a Python float or int, as rclpy wants them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffpose_edge.body import BodyEstimate
from diffpose_edge.runtime.bridges.incoming import NANOSECONDS
from diffpose_edge.runtime.bridges.limb_frames import limb_frames
from diffpose_edge.runtime.bridges.ros_types import RosTypes

# A point of the cloud: where a joint is, whose and which it is, whether it was seen, and the upper triangle of its covariance.
CLOUD = np.dtype(
    [(name, "<f4") for name in ("x", "y", "z")]
    + [(name, "<i4") for name in ("body_id", "joint", "observed")]
    + [(name, "<f4") for name in ("xx", "xy", "xz", "yy", "yz", "zz")]
)


def header(types: RosTypes, stamp_ns: int, frame_id: str) -> Any:
    """Return a ``std_msgs/Header`` of the image's time."""
    stamp = types.Time(sec=stamp_ns // NANOSECONDS, nanosec=stamp_ns % NANOSECONDS)
    return types.Header(stamp=stamp, frame_id=frame_id)


def pose_array(types: RosTypes, stamp_ns: int, frame_id: str, bodies: Sequence[BodyEstimate]) -> Any:
    """Return a ``geometry_msgs/PoseArray``: 17 poses, metres, for each person in the order given.

    A person without a pose is NaN, so that person b stays poses 17 b … 17 b + 16. Joints have no orientation: every quaternion is the
    identity.
    """
    upright = types.Quaternion(x=0.0, y=0.0, z=0.0, w=1.0)
    poses = [
        types.Pose(position=types.Point(x=x, y=y, z=z), orientation=upright) for body in bodies for x, y, z in body.placed_joints.tolist()
    ]
    return types.PoseArray(header=header(types, stamp_ns, frame_id), poses=poses)


def joint_cloud(types: RosTypes, stamp_ns: int, frame_id: str, bodies: Sequence[BodyEstimate]) -> Any:
    """Return a ``sensor_msgs/PointCloud2`` of the joints of everybody who has a pose, with the fields of CLOUD.

    Covariances are square metres, of the joint relative to its hip; NaN where nothing is known of it.
    """
    found = [body for body in bodies if body.found]
    points = np.zeros((len(found), 17), CLOUD)
    for row, body in zip(points, found, strict=True):
        for i, axis in enumerate("xyz"):
            row[axis] = body.placed_joints[:, i]
            for j in range(i, 3):
                row[axis + "xyz"[j]] = body.covariance[:, i, j]
        row["body_id"], row["joint"], row["observed"] = body.body_id, np.arange(17), body.observed
    kinds = {"f": types.PointField.FLOAT32, "i": types.PointField.INT32}
    fields = []
    for name in CLOUD.names or ():
        kind, offset = CLOUD.fields[name][:2]  # type: ignore[index]
        fields.append(types.PointField(name=name, offset=offset, datatype=kinds[kind.kind], count=1))
    return types.PointCloud2(
        header=header(types, stamp_ns, frame_id),
        height=1,
        width=points.size,
        fields=fields,
        is_bigendian=False,
        point_step=CLOUD.itemsize,
        row_step=points.nbytes,
        data=array("B", points.tobytes()),
        is_dense=all(bool(np.isfinite(body.covariance).all()) for body in found),
    )


def transforms(types: RosTypes, stamp_ns: int, frame_id: str, bodies: Sequence[BodyEstimate], unplaced: bool) -> list[Any]:
    """Return ``geometry_msgs/TransformStamped`` of every person's frames (:mod:`.limb_frames`).

    People whose place is not known are left out, or, where ``unplaced`` says so, put with their hip at the origin of ``frame_id``.
    """
    frames = []
    for body in bodies:
        root = np.zeros(3, np.float32) if body.root is None and unplaced else body.root
        if root is not None:
            frames += limb_frames(body.joints, root, frame_id, body.body_id)
    made = []
    for frame in frames:
        x, y, z = frame.translation
        a, b, c, w = frame.rotation
        transform = types.Transform(translation=types.Vector3(x=x, y=y, z=z), rotation=types.Quaternion(x=a, y=b, z=c, w=w))
        made.append(types.TransformStamped(header=header(types, stamp_ns, frame.parent), child_frame_id=frame.child, transform=transform))
    return made
