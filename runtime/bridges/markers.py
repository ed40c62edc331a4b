"""People as markers for RViz and Foxglove: bones, ellipsoids of their uncertainty, names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.body import BodyEstimate
from diffpose_edge.runtime.bridges.incoming import NANOSECONDS
from diffpose_edge.runtime.bridges.outgoing import header
from diffpose_edge.runtime.bridges.ros_types import RosTypes
from diffpose_edge.runtime.bridges.rotations import quaternion_of
from diffpose_edge.skeleton import BONES, JOINTS, J
from diffpose_edge.uncertainty import chi2_3_quantile

# Red, green, blue of right limbs, left limbs and the trunk, as in the pictures of clips.
RIGHT, LEFT, TRUNK = (0.757, 0.267, 0.055), (0.122, 0.373, 0.659), (0.6, 0.6, 0.6)
BONE_WIDTH_M, TEXT_HEIGHT_M, TEXT_ABOVE_M = 0.02, 0.12, 0.2
# RViz refuses a marker without size: ellipsoids that are flat, as of fewer than four samples, are given this diameter.
LEAST_DIAMETER_M = 1e-3


@dataclass(frozen=True)
class MarkerStyle:
    """``level``: the share of a Gaussian that an ellipsoid holds, within 0..1; ``lifetime_s``: when a marker goes that is not renewed."""

    level: float = 0.9
    lifetime_s: float = 0.5


def ellipsoid(covariance: NDArray[np.float32], level: float) -> tuple[tuple[float, float, float], tuple[float, float, float, float]] | None:
    """Return diameters (metres) and orientation (quaternion x, y, z, w) of the ellipsoid that holds ``level`` of a Gaussian.

    Its axes are the eigenvectors of ``covariance`` (3, 3), half as long as its diameters: sqrt(q λ), with q the quantile of chi-square
    with 3 degrees of freedom. None where the covariance is not known.
    """
    if not np.isfinite(covariance).all():
        return None
    variances, axes = np.linalg.eigh(covariance.astype(np.float64))
    if np.linalg.det(axes) < 0:
        axes[:, 0] *= -1  # a rotation, not a reflection
    x, y, z = np.maximum(2 * np.sqrt(_quantile(level) * np.maximum(variances, 0)), LEAST_DIAMETER_M).tolist()
    return (x, y, z), quaternion_of(axes)


@lru_cache(maxsize=8)
def _quantile(level: float) -> float:
    """Return the quantile, found once for a level: its bisection takes longer than a frame's poses."""
    return chi2_3_quantile(level)


def marker_array(types: RosTypes, stamp_ns: int, frame_id: str, bodies: Sequence[BodyEstimate], style: MarkerStyle) -> Any:
    """Return a ``visualization_msgs/MarkerArray`` of everybody who has a pose.

    Namespaces ``bones`` and ``names``, id the body's; ``ellipsoids_<id>``, id the joint's. A joint has no ellipsoid where its covariance
    is not known, and the hip has none: it is where the others are measured from.
    """
    made: list[Any] = []
    whole = header(types, stamp_ns, frame_id)
    lifetime_ns = round(style.lifetime_s * NANOSECONDS)
    lifetime = types.Duration(sec=lifetime_ns // NANOSECONDS, nanosec=lifetime_ns % NANOSECONDS)

    def add(ns: str, number: int, kind: int, scale: tuple[float, float, float], alpha: float, colour: tuple[float, float, float]) -> Any:
        marker = types.Marker(header=whole, ns=ns, id=number, type=kind, action=types.Marker.ADD, lifetime=lifetime)
        marker.scale = types.Vector3(x=scale[0], y=scale[1], z=scale[2])
        marker.color = types.ColorRGBA(r=colour[0], g=colour[1], b=colour[2], a=alpha)
        marker.pose = types.Pose(position=types.Point(x=0.0, y=0.0, z=0.0), orientation=types.Quaternion(x=0.0, y=0.0, z=0.0, w=1.0))
        made.append(marker)
        return marker

    for body in bodies:
        if not body.found:
            continue
        joints = [types.Point(x=x, y=y, z=z) for x, y, z in body.placed_joints.tolist()]
        bones = add("bones", body.body_id, types.Marker.LINE_LIST, (BONE_WIDTH_M, 0.0, 0.0), 1.0, TRUNK)
        bones.points = [joints[joint] for bone in BONES for joint in bone]
        bones.colors = [types.ColorRGBA(r=r, g=g, b=b, a=1.0) for r, g, b in (_colour(bone[1]) for bone in BONES) for _ in range(2)]
        name = add("names", body.body_id, types.Marker.TEXT_VIEW_FACING, (0.0, 0.0, TEXT_HEIGHT_M), 1.0, TRUNK)
        name.text = f"body {body.body_id}"
        top = joints[JOINTS.index("head")]
        # The camera's y points down.
        name.pose.position = types.Point(x=top.x, y=top.y - TEXT_ABOVE_M, z=top.z)
        for j in range(1, J):
            shape = ellipsoid(body.covariance[j], style.level)
            if shape is None:
                continue
            ball = add(f"ellipsoids_{body.body_id}", j, types.Marker.SPHERE, shape[0], 0.35, _colour(j))
            ball.pose.position = joints[j]
            x, y, z, w = shape[1]
            ball.pose.orientation = types.Quaternion(x=x, y=y, z=z, w=w)
    return types.MarkerArray(markers=made)


def nothing_left(types: RosTypes) -> Any:
    """Return a ``visualization_msgs/MarkerArray`` that removes every marker of its topic."""
    return types.MarkerArray(markers=[types.Marker(action=types.Marker.DELETEALL)])


def _colour(joint: int) -> tuple[float, float, float]:
    return RIGHT if JOINTS[joint].startswith("right") else LEFT if JOINTS[joint].startswith("left") else TRUNK
