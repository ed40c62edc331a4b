"""Rotations in bulk: matrices (…, 3, 3) from angles, axes and body landmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def about(axis: int, angle: Array) -> Array:
    """Return the rotation by ``angle`` (…) radians about coordinate axis 0, 1 or 2."""
    angle = np.asarray(angle, np.float32)
    c, s = np.cos(angle), np.sin(angle)
    r = np.zeros((*angle.shape, 3, 3), np.float32)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    r[..., axis, axis] = 1.0
    r[..., i, i] = c
    r[..., j, j] = c
    r[..., i, j] = -s
    r[..., j, i] = s
    return r


def small(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Array:
    """Return random rotations (*shape, 3, 3): the rotation vector is normal with ``sigma`` radians per axis (Rodrigues)."""
    vector = (sigma * rng.standard_normal((*shape, 3))).astype(np.float32)
    return from_vector(vector)


def from_vector(vector: Array) -> Array:
    """Return the rotations (…, 3, 3) about vectors (…, 3) by their length in radians (Rodrigues' formula)."""
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vector / np.maximum(angle[..., 0], 1e-9), -1, 0)
    zero = np.zeros_like(x)
    k = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*x.shape, 3, 3)
    return (np.eye(3, dtype=np.float32) + np.sin(angle) * k + (1.0 - np.cos(angle)) * (k @ k)).astype(np.float32)


def frame_of(lateral: Array, up: Array) -> Array:
    """Return body frames (…, 3, 3) whose columns are left, backward and up.

    ``lateral`` (…, 3) points from right to left and is kept; ``up`` (…, 3) is made perpendicular to it.
    """
    x = lateral / np.maximum(np.linalg.norm(lateral, axis=-1, keepdims=True), 1e-6)
    z = up - (up * x).sum(axis=-1, keepdims=True) * x
    z = z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-6)
    return np.stack([x, np.cross(z, x), z], axis=-1).astype(np.float32)


def rotated(r: Array, vectors: Array) -> Array:
    """Apply rotations (…, 3, 3) to vectors (…, n, 3)."""
    return np.matmul(vectors, np.swapaxes(r, -1, -2))
