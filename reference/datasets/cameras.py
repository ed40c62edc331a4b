"""A calibrated camera: from the world to its frame, and from there to pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Camera:
    """A camera with lens distortion.

    ``image_size`` (w, h), ``focal`` (x, y) and ``centre`` (x, y) are in pixels; ``radial`` are k1, k2, k3 and
    ``tangential`` p1, p2, without unit; ``orientation`` is the quaternion (w, x, y, z) that turns camera axes (x right,
    y down, z forward) into world axes, and ``translation`` the camera's place in the world, metres.
    """

    name: str
    image_size: tuple[int, int]
    focal: tuple[float, float]
    centre: tuple[float, float]
    radial: tuple[float, float, float]
    tangential: tuple[float, float]
    orientation: tuple[float, float, float, float]
    translation: tuple[float, float, float]

    def from_world(self, xyz: ArrayLike) -> NDArray[np.float64]:
        """Map points (…, 3) in the world to the camera's frame, metres: R^T (x - t)."""
        # A row vector times R is R^T times the column.
        return (np.asarray(xyz, np.float64) - np.array(self.translation)) @ rotation(self.orientation)

    def project(self, xyz: ArrayLike) -> NDArray[np.float64]:
        """Map points (…, 3) in the camera's frame, in front of it, to pixels (…, 2).

        With (a, b) = (x, y) / z and r2 = a^2 + b^2, the point (a, b) (1 + k1 r2 + k2 r2^2 + k3 r2^3 + p1 a + p2 b) +
        (p1, p2) r2 is scaled by ``focal`` and moved by ``centre``. Source: Human3.6M's own projection, in the form of
        Pavllo et al., VideoPose3D (CVPR 2019), for which p1 and p2 of the table are ordered.
        """
        points = np.asarray(xyz, np.float64)
        ab = points[..., :2] / points[..., 2:]
        p = np.array(self.tangential)
        r2 = (ab**2).sum(axis=-1, keepdims=True)
        k1, k2, k3 = self.radial
        bent = ab * (1.0 + r2 * (k1 + r2 * (k2 + r2 * k3)) + (ab * p).sum(axis=-1, keepdims=True)) + p * r2
        return bent * self.focal + self.centre


def rotation(quaternion: ArrayLike) -> NDArray[np.float64]:
    """Return the rotation matrix (3, 3) of a quaternion (w, x, y, z) of any length but zero."""
    q = np.asarray(quaternion, np.float64)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
