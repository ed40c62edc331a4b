"""People put where they stand: in the camera's frame, and in the world's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.body import BodyEstimate
from diffpose_edge.body_scale import Scale
from diffpose_edge.camera import Camera
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.root import HIP_SIGMA, root_position

# How far a rotation may be from orthonormal: of float32 matrices that were multiplied a few times.
ROTATION_MISFIT = 1e-4


def placed(
    body: BodyEstimate,
    camera: Camera,
    *,
    scale: Scale | None = None,
    pixel_sigma: ArrayLike | None = None,
    hip_sigma: float = HIP_SIGMA,
) -> BodyEstimate:
    """Return the person with ``root`` and ``root_covariance`` filled in, from their keypoints as ``camera`` took them.

    Joints, samples and their covariance are brought to the body's size: multiplied by the scale's mean. The root stays None where
    there is no pose, or no place can be told (:func:`diffpose_edge.root.root_position` says why). Raises DiffPoseEdgeError for a person
    without keypoints (:func:`diffpose_edge.body.bodies_of` takes them).
    """
    if body.keypoints is None:
        raise DiffPoseEdgeError("a root is found from the keypoints, and this person has none; give them to bodies_of")
    scale = Scale() if scale is None else scale
    found = root_position(
        body.joints,
        body.covariance,
        camera.pixels(body.keypoints[:, :2]),
        camera,
        body.keypoints[:, 2],
        scale=scale,
        pixel_sigma=pixel_sigma,
        hip_sigma=hip_sigma,
    )
    if not found.found:
        return replace(body, root=None, root_covariance=None)
    s = np.float32(scale.mean)
    return replace(
        body,
        joints=s * body.joints,
        covariance=s * s * body.covariance,
        samples=None if body.samples is None else s * body.samples,
        root=found.position.astype(np.float32),
        root_covariance=found.covariance.astype(np.float32),
    )


def in_world(body: BodyEstimate, pose: ArrayLike, translation: ArrayLike | None = None, *, frame_id: str = "world") -> BodyEstimate:
    """Return the person in another frame: ``pose`` (4, 4), or a rotation (3, 3) with a translation (3,), of the camera in that frame.

    p_world = R p_camera + t. Joints, samples and covariances are turned; the root, where it is known, is moved too. The pose itself is
    taken as exact. Raises DiffPoseEdgeError for what is no rigid motion.
    """
    R, t = _rigid(pose, translation)
    return replace(
        body,
        frame_id=frame_id,
        joints=_turned(body.joints, R),
        covariance=_turned_covariance(body.covariance, R),
        samples=None if body.samples is None else _turned(body.samples, R),
        root=None if body.root is None else (_turned(body.root, R) + t).astype(np.float32),
        root_covariance=None if body.root_covariance is None else _turned_covariance(body.root_covariance, R),
    )


def _turned(points: ArrayLike, R: NDArray[np.float64]) -> NDArray[np.float32]:
    return (np.asarray(points, np.float64) @ R.T).astype(np.float32)


def _turned_covariance(covariance: ArrayLike, R: NDArray[np.float64]) -> NDArray[np.float32]:
    return (R @ np.asarray(covariance, np.float64) @ R.T).astype(np.float32)


def _rigid(pose: ArrayLike, translation: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    try:
        matrix = np.asarray(pose, np.float64)
        t = np.zeros(3) if translation is None else np.asarray(translation, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise DiffPoseEdgeError("expected the camera's pose as numbers, (4, 4) or a rotation (3, 3) with a translation (3,)") from None
    if matrix.shape == (4, 4):
        if translation is not None:
            raise DiffPoseEdgeError("the translation came twice: in the (4, 4) pose and on its own; give one of them")
        if np.abs(matrix[3] - (0, 0, 0, 1)).max() > ROTATION_MISFIT:
            raise DiffPoseEdgeError(f"expected (0, 0, 0, 1) as the pose's last row, got {matrix[3].tolist()}; is it transposed?")
        matrix, t = matrix[:3, :3], matrix[:3, 3]
    if matrix.shape != (3, 3) or t.shape != (3,):
        raise DiffPoseEdgeError(f"expected a pose (4, 4), or a rotation (3, 3) and a translation (3,), got {matrix.shape} and {t.shape}")
    if not (np.isfinite(matrix).all() and np.isfinite(t).all()):
        raise DiffPoseEdgeError("expected a pose of finite numbers")
    if np.abs(matrix @ matrix.T - np.eye(3)).max() > ROTATION_MISFIT or np.linalg.det(matrix) < 0:
        raise DiffPoseEdgeError("expected a rotation: R Rᵀ = 1 and determinant +1; this matrix scales, shears or mirrors")
    return matrix, t
