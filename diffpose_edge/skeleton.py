"""The Human3.6M skeleton of 17 joints, and the matrices that graph convolutions draw from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

JOINTS = (
    "hip",
    "right_hip",
    "right_knee",
    "right_foot",
    "left_hip",
    "left_knee",
    "left_foot",
    "spine",
    "thorax",
    "neck",
    "head",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
)
J = len(JOINTS)
ROOT = 0

BONES = (
    (0, 1), (1, 2), (2, 3),
    (0, 4), (4, 5), (5, 6),
    (0, 7), (7, 8), (8, 9), (9, 10),
    (8, 11), (11, 12), (12, 13),
    (8, 14), (14, 15), (15, 16),
)  # fmt: skip

# MIRROR[j] is the joint that takes the place of joint j when left and right change sides.
MIRROR = (0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 11, 12, 13)


def adjacency() -> NDArray[np.float64]:
    """Return A, shape (17, 17): bones in both directions plus the identity, each row divided by its sum."""
    a = np.eye(J)
    for i, j in BONES:
        a[i, j] = a[j, i] = 1.0
    return a / a.sum(axis=1, keepdims=True)


def laplacian(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return L = I - D^-1/2 A D^-1/2, with D the row sums of A; for :func:`adjacency` these are one, so L = I - A."""
    d = a.sum(axis=1) ** -0.5
    return np.eye(len(a)) - d[:, None] * a * d[None, :]


def chebyshev_stack() -> NDArray[np.float64]:
    """Return the Chebyshev polynomials [I, L, 2 L L - I] of the skeleton's Laplacian, shape (3, 17, 17)."""
    lap = laplacian(adjacency())
    eye = np.eye(J)
    return np.stack([eye, lap, 2.0 * lap @ lap - eye])
