"""People of the shipped motion capture, put in front of cameras of every kind."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.camera import Camera
from diffpose_edge.clips import mocap_clips_path

Array = NDArray[np.float64]

# Coefficients of the size that calibrations have; the plumb bob's are the first camera's of Human3.6M, k1 k2 p1 p2 k3.
CAMERAS = {
    "none": Camera(1000, 1002, 1145.0, 1143.8, 512.5, 515.5),
    "plumb_bob": Camera(1000, 1002, 1145.0, 1143.8, 512.5, 515.5, "plumb_bob", (-0.207, 0.248, -0.00142, -0.00098, -0.0031)),
    "rational_polynomial": Camera(
        1280, 720, 640.0, 642.0, 655.0, 352.0, "rational_polynomial", (0.3, -0.01, 0.001, -0.0005, 0.001, 0.38, 0.005, 0.001)
    ),
    "equidistant": Camera(1600, 1200, 560.0, 561.0, 803.0, 596.0, "equidistant", (0.02, -0.01, 0.003, -0.0005)),
}

# World (z up) to a level camera's axes.
LEVEL = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


def poses(count: int, seed: int = 0) -> Array:
    """Return ``count`` poses (count, 17, 3), metres, camera axes, relative to the hip, turned about the vertical."""
    rng = np.random.default_rng(seed)
    with np.load(mocap_clips_path()) as clips:
        world = np.concatenate([clips["cmu_01_01"][::20], clips["boxing"][::60]]).astype(np.float64)
    yaw = rng.uniform(0, 2 * np.pi, count)
    zero, one = np.zeros(count), np.ones(count)
    turn = np.stack([np.cos(yaw), -np.sin(yaw), zero, np.sin(yaw), np.cos(yaw), zero, zero, zero, one], axis=-1).reshape(-1, 3, 3)
    return ((world - world[:, :1])[rng.integers(len(world), size=count)] @ np.swapaxes(turn, -1, -2)) @ LEVEL.T


def roots(count: int, seed: int = 0) -> Array:
    """Return places (count, 3), 2.5 to 8 m away, within 15 degrees of the axis."""
    rng = np.random.default_rng([seed, 1])
    z = rng.uniform(2.5, 8.0, count)
    return np.stack([rng.uniform(-0.27, 0.27, count) * z, rng.uniform(-0.15, 0.15, count) * z, z], axis=-1)
