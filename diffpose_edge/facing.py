"""A known camera turned to face the person: what a network that does not know the camera can be shown instead of the image.

The networks were trained on cameras of many focal lengths, and are not told which. Somebody at the image's border was seen at an angle
that the position alone does not tell, and the pose, which is in camera axes, is as wrong as the guess of that angle. Where the camera is
known, the keypoints can be shown as a virtual camera sees them: without distortion, turned until the person is in its
middle, where the angle is zero whatever the focal length. The pose comes back by the same turn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.camera import Camera
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.skeleton import J

Array = NDArray[np.float64]

# Focal lengths that the networks were trained on, in half image widths (reference/training/cameras.py): the virtual camera keeps its own
# within them, so that somebody in the middle of a usual camera is shown as they were.
LEAST_FOCAL, MOST_FOCAL = 1.0, 3.2
# Whatever is further from the middle than this in the virtual image was not seen there: 4 half widths are 66 degrees.
FARTHEST = 4.0


@dataclass(frozen=True)
class FacingView:
    """``keypoints`` (B, 17, 2) as the virtual cameras see them, normalised, and their ``rotation`` (B, 3, 3): p_view = R p_camera."""

    keypoints: Keypoints
    rotation: Array

    def points_back(self, points: ArrayLike) -> NDArray[np.float32]:
        """Turn points or poses (B, …, 3) of the views into the camera's axes."""
        array = np.asarray(points, np.float64)
        R = self.rotation.reshape(len(self.rotation), *(1,) * (array.ndim - 2), 3, 3)
        return (R.swapaxes(-1, -2) @ array[..., None])[..., 0].astype(np.float32)

    def covariance_back(self, covariance: ArrayLike) -> NDArray[np.float32]:
        """Turn covariances (B, …, 3, 3) of the views into the camera's axes."""
        array = np.asarray(covariance, np.float64)
        R = self.rotation.reshape(len(self.rotation), *(1,) * (array.ndim - 3), 3, 3)
        return (R.swapaxes(-1, -2) @ array @ R).astype(np.float32)


def facing(camera: Camera, keypoints: Keypoints, *, together: bool = False) -> FacingView:
    """Return keypoints (B, 17, 2), normalised to ``camera``'s image, as cameras that face each of the B people see them.

    ``together``: one camera for all, which faces the middle of them: for the frames of a clip that a video encoder sees together. The
    virtual cameras are turned about the vertical and then up or down, never rolled. Joints without a ray are not seen. Somebody of whom
    nothing was seen is looked at straight ahead. Raises DiffPoseEdgeError for other shapes.
    """
    if keypoints.uv.ndim != 3 or keypoints.uv.shape[1:] != (J, 2):
        raise DiffPoseEdgeError(f"expected keypoints (B, {J}, 2), got {keypoints.uv.shape}")
    rays, good = camera.rays(camera.pixels(keypoints.uv))
    seen = good & (keypoints.confidence > 0)
    middle = np.where(seen[..., None], rays, 0.0).sum(axis=1)
    if together:
        middle = np.broadcast_to(middle.sum(axis=0), middle.shape)
    length = np.linalg.norm(middle, axis=-1, keepdims=True)
    z = np.where(length > 1e-9, middle / np.maximum(length, 1e-9), (0.0, 0.0, 1.0))
    x = np.stack([z[:, 2], np.zeros(len(z)), -z[:, 0]], axis=-1)
    # Straight up or down there is no vertical to keep.
    width = np.linalg.norm(x, axis=-1, keepdims=True)
    x = np.where(width > 1e-6, x / np.maximum(width, 1e-6), (1.0, 0.0, 0.0))
    rotation = np.stack([x, np.cross(z, x), z], axis=1)
    turned = rays @ np.swapaxes(rotation, -1, -2)
    focal = float(np.clip(2 * camera.fx / camera.width, LEAST_FOCAL, MOST_FOCAL))
    with np.errstate(divide="ignore", invalid="ignore"):
        uv = focal * turned[..., :2] / turned[..., 2:]
    within: NDArray[np.bool_] = seen & (turned[..., 2] > 0) & (np.abs(uv).max(axis=-1) <= FARTHEST)
    return FacingView(
        Keypoints(np.where(within[..., None], uv, 0.0).astype(np.float32), np.where(within, keypoints.confidence, 0.0).astype(np.float32)),
        rotation,
    )
