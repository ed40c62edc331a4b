"""What is drawn of a body: bones, joints, and the ellipsoid within which each joint lies with a given probability."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.body import BodyEstimate
from diffpose_edge.skeleton import BONES
from diffpose_edge.uncertainty import chi2_3_quantile

Array = NDArray[np.float64]

# The probability that an ellipsoid encloses, as in the project's tables of coverage.
LEVEL = 0.9
# Below this an ellipsoid is a point: the hip, which poses are relative to, errs by nothing.
LEAST_DIAMETER_M = 1e-4


@dataclass(frozen=True)
class Ellipsoid:
    """Around ``joint``: ``centre`` (3,) and full ``diameters`` (3,) in metres, ``orientation`` (x, y, z, w) of its axes, w >= 0."""

    joint: int
    centre: Array
    diameters: Array
    orientation: Array


def bone_ends(body: BodyEstimate) -> Array:
    """Return both ends of every bone in turn, (32, 3) metres in the body's frame: parent, child, parent, child, …"""
    return body.placed_joints.astype(np.float64)[np.array(BONES).ravel()]


def ellipsoids(body: BodyEstimate, level: float = LEVEL) -> list[Ellipsoid]:
    """Return the ellipsoids of the joints of a body that has a pose, about joints as they are placed.

    They are of the pose around the hip: what is not known of the root's own place is not in them. A joint without a covariance, or
    with none to speak of, has no ellipsoid. A Gaussian's point lies within k standard deviations with probability ``level`` where
    k^2 is the quantile of chi-square with 3 degrees of freedom.
    """
    covariance = body.covariance.astype(np.float64)
    known = np.flatnonzero(np.isfinite(covariance).all(axis=(1, 2)))
    variances, axes = np.linalg.eigh(covariance[known])
    diameters = 2.0 * np.sqrt(_quantile(level) * np.maximum(variances, 0.0))
    # Eigenvectors may be a reflection: turning one of them round keeps the ellipsoid.
    axes[:, :, 0] *= np.linalg.det(axes)[:, None]
    orientations = quaternions(axes)
    centres = body.placed_joints.astype(np.float64)
    return [
        Ellipsoid(int(joint), centres[joint], np.maximum(diameters[i], LEAST_DIAMETER_M), orientations[i])
        for i, joint in enumerate(known)
        if diameters[i].max() > LEAST_DIAMETER_M
    ]


@cache
def _quantile(level: float) -> float:
    return chi2_3_quantile(level)


def quaternions(rotation: Array) -> Array:
    """Return (n, 4) unit quaternions (x, y, z, w), w >= 0, of rotation matrices (n, 3, 3), whose columns are the turned axes.

    Each is the eigenvector of the largest eigenvalue of a symmetric matrix, which has no case in which it loses digits.
    Source: Bar-Itzhack, New method for extracting the quaternion from a rotation matrix (2000).
    """
    r = np.asarray(rotation, np.float64)
    k = np.empty((len(r), 4, 4))
    xx, yy, zz = r[:, 0, 0], r[:, 1, 1], r[:, 2, 2]
    k[:, 0, 0], k[:, 1, 1], k[:, 2, 2], k[:, 3, 3] = xx - yy - zz, yy - xx - zz, zz - xx - yy, xx + yy + zz
    k[:, 0, 1] = k[:, 1, 0] = r[:, 0, 1] + r[:, 1, 0]
    k[:, 0, 2] = k[:, 2, 0] = r[:, 0, 2] + r[:, 2, 0]
    k[:, 1, 2] = k[:, 2, 1] = r[:, 1, 2] + r[:, 2, 1]
    k[:, 0, 3] = k[:, 3, 0] = r[:, 2, 1] - r[:, 1, 2]
    k[:, 1, 3] = k[:, 3, 1] = r[:, 0, 2] - r[:, 2, 0]
    k[:, 2, 3] = k[:, 3, 2] = r[:, 1, 0] - r[:, 0, 1]
    q = np.linalg.eigh(k)[1][:, :, -1]
    return np.where(q[:, 3:] < 0, -q, q)
