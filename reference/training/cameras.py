"""Virtual cameras: any focal length, height, tilt, distance, and the person anywhere in the image.

Instead of placing a camera in the world, the world is turned into camera axes (x right, y down, z forward) by a drawn
yaw, pitch and roll, and the person put at a drawn distance along the ray of a drawn image position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.reference.training.rotations import about

Array = NDArray[Any]

# Height over width of the image, and how often.
ASPECTS = np.array([9 / 16, 3 / 4, 1.0, 4 / 3, 16 / 9])
ASPECT_SHARES = np.array([0.4, 0.2, 0.25, 0.05, 0.1])
NEAREST = 0.35  # metres from the camera to the closest joint

# World (x, y ground, z up) to camera axes of a level camera that looks along y.
LEVEL = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]], np.float32)


@dataclass(frozen=True)
class Cameras:
    """``rotation`` (B, 3, 3) world to camera, ``place`` (B, 3) of the window's origin in camera axes, metres, ``focal`` (B,)
    in half image widths, ``aspect`` (B,) height over width.
    """

    rotation: Array
    place: Array
    focal: Array
    aspect: Array


def random_cameras(count: int, rng: np.random.Generator) -> Cameras:
    """Draw cameras. Focal lengths 1.0 to 3.2 half widths: horizontal fields of view from 90 down to 35 degrees."""
    aspect = rng.choice(ASPECTS, count, p=ASPECT_SHARES)
    focal = np.exp(rng.uniform(np.log(1.0), np.log(3.2), count)) * np.maximum(aspect, 1.0)
    yaw = rng.uniform(0, 2 * np.pi, count)
    usual = rng.random(count) < 0.75
    # Mostly at eye level and looking down a little; sometimes from the ceiling or from the floor.
    pitch = np.deg2rad(np.where(usual, rng.normal(7.0, 8.0, count), rng.uniform(-20.0, 55.0, count)))
    roll = np.deg2rad(rng.normal(0.0, 2.5, count))
    rotation = about(2, roll) @ about(0, pitch) @ LEVEL @ about(2, yaw)
    distance = np.exp(rng.uniform(np.log(2.0), np.log(9.0), count))
    central = rng.random(count) < 0.5
    u = np.where(central, rng.normal(0, 0.25, count), rng.uniform(-0.8, 0.8, count))
    v = np.where(central, rng.normal(0, 0.2, count), rng.uniform(-0.6, 0.6, count)) * aspect
    ray = np.stack([u / focal, v / focal, np.ones(count)], axis=-1)
    place = distance[:, None] * ray / np.linalg.norm(ray, axis=-1, keepdims=True)
    return Cameras(rotation.astype(np.float32), place.astype(np.float32), focal.astype(np.float32), aspect.astype(np.float32))


def seen_by(cameras: Cameras, world: Array) -> Array:
    """World points (B, F, n, 3) → camera axes, metres. People who would be too near move away from the camera."""
    turned = np.matmul(world, np.swapaxes(cameras.rotation, -1, -2)[:, None])
    nearest = turned[..., 2].min(axis=(1, 2))
    # Along the same ray, so that the image position stays.
    further = np.maximum(1.0, (NEAREST - nearest) / np.maximum(cameras.place[:, 2], 1e-3))
    return turned + (cameras.place * further[:, None])[:, None, None]


def projected(cameras: Cameras, points: Array) -> Array:
    """Camera points (B, F, n, 3) → normalised image coordinates (B, F, n, 2)."""
    return (cameras.focal[:, None, None, None] * points[..., :2] / points[..., 2:]).astype(np.float32)
