"""Where a person stands: the root's place in the camera's frame, from the pose, the keypoints and the camera.

A pose relative to the hip, put at q in front of the camera, has to project onto the keypoints. q is found by weighted least squares on
the reprojection error, and what is known of the body's size turns q into the place: docs/camera.md has the equations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.arrays import real_array
from diffpose_edge.body_scale import Scale
from diffpose_edge.camera import Camera
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.reprojection import Reprojection, fitted
from diffpose_edge.skeleton import J

Array = NDArray[np.float64]

# Two joints determine the three numbers; four still do when one of them is wrong.
LEAST_JOINTS = 4
# What all joints have in common is the hip that they are relative to: metres by which it is misplaced, which no residual shows. The
# spread of the hip between ways to annotate it, as in training (docs/training.md).
HIP_SIGMA = 0.02
# Joints whose covariance nobody knows, metres along each axis: poses err by 8 cm on average (README.md).
UNKNOWN_JOINT_SIGMA = 0.05
# A distance that is known no better than this, as a share of it, is not known.
MOST_DEPTH_SPREAD = 0.5

# The default pixel noise, in extents: the root mean square distance of the seen joints from their centre. It is about what the model
# detector of the training errs by from the true joints, its own idea of where joints lie included (reference/training/detector.py):
# measured on the held-out motions, 0.06, 0.12, 0.19 and 0.26 extents along each axis at confidences around 0.9, 0.7, 0.5 and 0.3.
SIGMA_EXTENTS = 0.05
SIGMA_EXTENTS_BY_DOUBT = 0.2
LEAST_CONFIDENCE = 0.02

TOO_FEW = "fewer than {least} joints were seen that the pose and the camera know"
NO_POSE = "there is no pose"
DEGENERATE = "the joints that were seen do not determine a distance"
NOT_CONVERGED = "the least squares did not converge"


@dataclass(frozen=True)
class Root:
    """Where one person's hip is. ``position`` (3,), metres, camera axes; ``covariance`` (3, 3), square metres, of the place, with what
    is not known of the body's size; ``scale``: what the joints have to be multiplied by, and ``scale_sigma``; ``residual_px``: the root
    mean square distance of the keypoints that count from the projected joints; ``weights`` (17,): what part of its weight a joint kept,
    0 where it was not seen or is wrong. ``reason`` says why there is no place, which then is NaN; None where there is one.
    """

    position: Array
    covariance: Array
    scale: float
    scale_sigma: float
    residual_px: float
    weights: Array
    converged: bool
    reason: str | None = None

    @property
    def found(self) -> bool:
        """Whether there is a place."""
        return self.reason is None


@dataclass(frozen=True)
class Roots:
    """B people's :class:`Root`, in arrays with B as their first axis; ``reasons`` has B entries."""

    position: Array
    covariance: Array
    scale: float
    scale_sigma: float
    residual_px: Array
    weights: Array
    converged: NDArray[np.bool_]
    reasons: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, b: int) -> Root:
        return Root(
            self.position[b],
            self.covariance[b],
            self.scale,
            self.scale_sigma,
            float(self.residual_px[b]),
            self.weights[b],
            bool(self.converged[b]),
            self.reasons[b],
        )


def keypoint_sigma(pixels: ArrayLike, confidence: ArrayLike) -> Array:
    """Return what a detector errs by along each axis, pixels, for people's keypoints (…, 17, 2) with confidences (…, 17).

    extent (0.05 + 0.2 ln(1 / confidence)), where the extent is the root mean square distance of the seen joints from their centre, a
    quarter of the height of somebody who stands. A default for detectors of which nothing is known: measure yours.
    """
    xy, c = np.asarray(pixels, np.float64), np.asarray(confidence, np.float64)
    seen = (c > 0) & np.isfinite(xy).all(axis=-1)
    count = np.maximum(seen.sum(axis=-1), 1)[..., None]
    xy = np.where(seen[..., None], xy, 0.0)
    centred = np.where(seen[..., None], xy - (xy.sum(axis=-2) / count)[..., None, :], 0.0)
    extent = np.sqrt(np.square(centred).sum(axis=(-2, -1)) / count[..., 0])
    # Nobody's extent is less than a pixel, and no detector is exact.
    doubt = -np.log(np.clip(c, LEAST_CONFIDENCE, 1.0))
    return np.maximum(extent, 1.0)[..., None] * (SIGMA_EXTENTS + SIGMA_EXTENTS_BY_DOUBT * doubt)


def root_position(
    joints: ArrayLike,
    covariance: ArrayLike | None,
    pixels: ArrayLike,
    camera: Camera,
    confidence: ArrayLike | None = None,
    *,
    scale: Scale | None = None,
    pixel_sigma: ArrayLike | None = None,
    hip_sigma: float = HIP_SIGMA,
) -> Root:
    """Return where one person's hip is: :func:`root_positions` for joints (17, 3), covariance (17, 3, 3), pixels (17, 2)."""
    joints, pixels = np.asarray(joints), np.asarray(pixels)
    if joints.ndim != 2 or pixels.ndim != 2:
        raise DiffPoseEdgeError(f"expected one person, joints (17, 3) and pixels (17, 2), got {joints.shape} and {pixels.shape}")
    return root_positions(
        joints[None],
        None if covariance is None else np.asarray(covariance)[None],
        pixels[None],
        camera,
        None if confidence is None else np.asarray(confidence)[None],
        scale=scale,
        pixel_sigma=pixel_sigma,
        hip_sigma=hip_sigma,
    )[0]


def root_positions(
    joints: ArrayLike,
    covariance: ArrayLike | None,
    pixels: ArrayLike,
    camera: Camera,
    confidence: ArrayLike | None = None,
    *,
    scale: Scale | None = None,
    pixel_sigma: ArrayLike | None = None,
    hip_sigma: float = HIP_SIGMA,
) -> Roots:
    """Return where the hips of B people are.

    joints (B, 17, 3), metres, camera axes, relative to the hip; covariance (B, 17, 3, 3), square metres, which makes a joint that is
    uncertain count less (None, or NaN: 5 cm along each axis); pixels (B, 17, 2), the keypoints in the camera's image as it is, distorted
    (:meth:`Camera.pixels` makes them of normalised ones); confidence (B, 17), 0 for not seen, by default 1. ``scale``: the body's size,
    by default an adult's. ``pixel_sigma``: what the detector errs by along each axis, pixels, a number or (B, 17) or (17,); by default
    :func:`keypoint_sigma`. ``hip_sigma``: metres.

    A joint that contradicts the others counts less (Huber), and not at all when it does so grossly. People without a pose, with fewer
    than four joints seen, or whose joints do not determine a distance get NaN and a reason. Raises DiffPoseEdgeError for shapes and
    numbers that cannot be.
    """
    scale = Scale() if scale is None else scale
    xyz = _array(joints, "joints", (None, J, 3))
    B = len(xyz)
    xy = _array(pixels, "pixels", (B, J, 2))
    c = np.ones((B, J)) if confidence is None else _array(confidence, "confidence", (B, J))
    if not ((c >= 0) & (c <= 1)).all():
        raise DiffPoseEdgeError("expected confidences within 0..1, 0 for not seen")
    if not (math.isfinite(hip_sigma) and hip_sigma >= 0):
        raise DiffPoseEdgeError(f"expected hip_sigma in metres, 0 or more, got {hip_sigma}")
    C = np.full((B, J, 3, 3), np.nan) if covariance is None else _array(covariance, "covariance", (B, J, 3, 3))
    known: NDArray[np.bool_] = np.asarray(np.isfinite(C).all(axis=(-2, -1)))
    C = np.where(known[..., None, None], C, UNKNOWN_JOINT_SIGMA**2 * np.eye(3))
    C[:, 0] += hip_sigma**2 * np.eye(3)
    rays, good = camera.rays(xy)
    posed: NDArray[np.bool_] = np.asarray(np.isfinite(xyz).all(axis=(1, 2)))
    seen = good & (c > 0) & posed[:, None]
    sigma = keypoint_sigma(xy, np.where(good, c, 0.0)) if pixel_sigma is None else _sigma(pixel_sigma, (B, J))

    rays = np.where(good[..., None], rays, (0.0, 0.0, 1.0))
    measured = Reprojection(np.where(posed[:, None, None], xyz, 0.0), C, rays, camera.derivative(rays), np.square(sigma))
    enough: NDArray[np.bool_] = seen.sum(axis=-1) >= LEAST_JOINTS
    fit = fitted(measured, seen & enough[:, None], LEAST_JOINTS)

    hip = hip_sigma**2 * np.eye(3)
    q, P = fit.place, fit.covariance + hip
    position = scale.mean * q
    total = scale.mean**2 * P + scale.sigma**2 * (q[:, :, None] * q[:, None, :] + P)
    distance = np.linalg.norm(q, axis=-1)
    along = np.sqrt(np.maximum(np.einsum("bi,bij,bj->b", q, fit.covariance, q), 0.0)) / np.maximum(distance, 1e-9) ** 2
    reasons = tuple(
        NO_POSE
        if not posed[b]
        else TOO_FEW.format(least=LEAST_JOINTS)
        if not enough[b]
        else DEGENERATE
        if not (fit.determined[b] and along[b] < MOST_DEPTH_SPREAD)
        else None
        if fit.converged[b]
        else NOT_CONVERGED
        for b in range(B)
    )
    none = np.array([reason is not None for reason in reasons], bool)
    position[none], total[none] = np.nan, np.nan
    residual = np.where(none, np.nan, fit.residual_px)
    weights = np.where(none[:, None], 0.0, fit.weights)
    return Roots(position, total, scale.mean, scale.sigma, residual, weights, fit.converged & ~none, reasons)


def _array(values: ArrayLike, what: str, shape: tuple[int | None, ...]) -> Array:
    array = real_array(values, what).copy()
    if array.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("B" if n is None else str(n) for n in shape)
        raise DiffPoseEdgeError(f"expected {what} of shape ({wanted}), got {array.shape}")
    return array


def _sigma(values: ArrayLike, shape: tuple[int, int]) -> Array:
    array = real_array(values, "pixel_sigma")
    if array.shape not in ((), shape[1:], shape) or not (np.isfinite(array) & (array > 0)).all():
        raise DiffPoseEdgeError(
            f"expected pixel_sigma in pixels, above zero: a number, {shape[1:]} or {shape}; got shape {array.shape}"
            + (f", from {array.min():g}" if array.size else "")
        )
    return np.broadcast_to(array, shape)
