"""Rotations as the bridges need them: matrices to quaternions, and the shortest turn of the z axis onto a direction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def quaternion_of(rotation: Array) -> tuple[float, float, float, float]:
    """Return the unit quaternion (x, y, z, w) of a rotation matrix (3, 3).

    Source: Shepperd 1978: of the four numbers the one of the largest square is taken from the diagonal, so that nothing small is
    divided by.
    """
    trace, diagonal = float(np.trace(rotation)), np.diagonal(rotation)
    squares = np.array([1 + 2 * diagonal[0] - trace, 1 + 2 * diagonal[1] - trace, 1 + 2 * diagonal[2] - trace, 1 + trace])
    largest = int(squares.argmax())
    q = np.empty(4)
    if largest == 3:
        q[3] = squares[3]
        q[:3] = rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]
    else:
        i, j, k = largest, (largest + 1) % 3, (largest + 2) % 3
        q[i], q[j], q[k] = squares[i], rotation[j, i] + rotation[i, j], rotation[k, i] + rotation[i, k]
        q[3] = rotation[k, j] - rotation[j, k]
    x, y, z, w = (q / np.linalg.norm(q)).tolist()
    return x, y, z, w


def swing_of_z(directions: Array) -> Array:
    """Return the quaternions (n, 4), x y z w, of the least turns that bring the z axis onto unit vectors ``directions`` (n, 3).

    They have no twist about z: half-way between the identity and twice the turn lies (-d_y, d_x, 0, 1 + d_z). Onto -z every axis across
    it turns by as little: then the turn is about y.
    """
    q = np.stack([-directions[:, 1], directions[:, 0], np.zeros(len(directions)), 1 + directions[:, 2]], axis=1)
    q[q[:, 3] < 1e-9] = 0.0, 1.0, 0.0, 0.0
    quaternions: Array = q / np.linalg.norm(q, axis=1, keepdims=True)
    return quaternions
