"""Joints as a point cloud that says whose they are and how far they may err: what a PoseArray has no room for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.body import BodyEstimate
from diffpose_edge.runtime.bridges.plain_messages import Classes, header_of
from diffpose_edge.skeleton import J

POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
# sensor_msgs/msg/PointField
INT32, FLOAT32 = 5, 7
_PLACE, _WHOSE, _COVARIANCE = ("x", "y", "z"), ("body_id", "joint", "observed"), ("xx", "xy", "xz", "yy", "yz", "zz")
# Every field takes four bytes, so that a message is an array of words.
POINT = np.dtype([(name, "<i4" if name in _WHOSE else "<f4") for name in _PLACE + _WHOSE + _COVARIANCE])


def cloud_points(bodies: Iterable[BodyEstimate]) -> NDArray[Any]:
    """Return the joints of all bodies that have a pose, 17 each, as an array of ``POINT``.

    x, y, z: where the joint is placed, metres; ``observed``: 1 where the detector saw it; xx to zz: the covariance of the joint around
    the hip, square metres, NaN where nothing is known of it.
    """
    found = [body for body in bodies if body.found]
    points = np.zeros((len(found), J), POINT)
    upper = np.triu_indices(3)
    for row, body in zip(points, found, strict=True):
        for name, values in zip(_PLACE, body.placed_joints.T, strict=True):
            row[name] = values
        for name, values in zip(_COVARIANCE, body.covariance[:, upper[0], upper[1]].T, strict=True):
            row[name] = values
        row["body_id"], row["joint"], row["observed"] = body.body_id, np.arange(J), body.observed
    return points.ravel()


def point_cloud(classes: Classes, bodies: Iterable[BodyEstimate], stamp_ns: int, frame_id: str) -> Any:
    """Return a PointCloud2 of :func:`cloud_points`, little-endian, one row."""
    points = cloud_points(bodies)
    field = classes("sensor_msgs/msg/PointField")
    fields = [
        field(name=name, offset=4 * i, datatype=INT32 if name in _WHOSE else FLOAT32, count=1) for i, name in enumerate(POINT.names or ())
    ]
    return classes(POINT_CLOUD)(
        header=header_of(classes, stamp_ns, frame_id),
        height=1,
        width=len(points),
        fields=fields,
        is_bigendian=False,
        point_step=POINT.itemsize,
        row_step=points.nbytes,
        data=points.view(np.uint8),
        is_dense=all(bool(np.isfinite(points[name]).all()) for name in _PLACE + _COVARIANCE),
    )
