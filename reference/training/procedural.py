"""Plausible poses made up from joint angles: what motion capture of a dozen minutes does not show (sitting, squatting, reaching).

Body axes: x left, y backward, z up. Angles in degrees, ranges roughly those of a healthy adult; nothing here is exact, it
only has to surround what people do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.reference.training.bodies import BONE_TO
from diffpose_edge.reference.training.rotations import about
from diffpose_edge.skeleton import BONES

Array = NDArray[Any]
DOWN = np.array([0.0, 0.0, -1.0], np.float32)
UP = -DOWN

# The columns of an array of angles.
ANGLES = (
    "bend", "side", "twist", "head nod", "head turn",
    "hip flex L", "hip abd L", "hip rot L", "knee L", "hip flex R", "hip abd R", "hip rot R", "knee R",
    "arm flex L", "arm abd L", "arm rot L", "elbow L", "arm flex R", "arm abd R", "arm rot R", "elbow R",
)  # fmt: skip
COLUMN = {name: i for i, name in enumerate(ANGLES)}


def random_angles(count: int, rng: np.random.Generator) -> Array:
    """Draw joint angles (count, 21), degrees: standing, sitting, squatting and free poses."""

    def normal(mean: float, sigma: float) -> Array:
        return (mean + sigma * rng.standard_normal(count)).astype(np.float32)

    def uniform(low: float, high: float) -> Array:
        return rng.uniform(low, high, count).astype(np.float32)

    a = np.zeros((count, len(ANGLES)), np.float32)
    bent = rng.random(count) < 0.35
    a[:, COLUMN["bend"]] = np.where(bent, uniform(-15, 80), normal(5, 10))
    a[:, COLUMN["side"]] = normal(0, 8)
    a[:, COLUMN["twist"]] = normal(0, 15)
    a[:, COLUMN["head nod"]] = normal(5, 15)
    a[:, COLUMN["head turn"]] = normal(0, 20)
    folded = rng.random(count) < 0.55
    flex = np.where(folded, uniform(0, 115), np.abs(normal(0, 20)))
    together = rng.random(count) < 0.6
    couple = uniform(0.3, 1.6)
    for side in "LR":
        own = np.where(together, flex + normal(0, 12), np.where(rng.random(count) < 0.5, uniform(-20, 110), normal(5, 20)))
        a[:, COLUMN[f"hip flex {side}"]] = own
        a[:, COLUMN[f"hip abd {side}"]] = normal(8, 12)
        a[:, COLUMN[f"hip rot {side}"]] = normal(8, 15)
        knee = np.where(rng.random(count) < 0.5, couple * np.maximum(own, 0) + np.abs(normal(0, 10)), np.abs(normal(0, 35)))
        a[:, COLUMN[f"knee {side}"]] = np.clip(knee, 0, 145)
        hanging = rng.random(count) < 0.45
        a[:, COLUMN[f"arm flex {side}"]] = np.where(hanging, normal(10, 25), uniform(-40, 165))
        a[:, COLUMN[f"arm abd {side}"]] = np.where(hanging, np.abs(normal(8, 10)), uniform(-15, 110))
        a[:, COLUMN[f"arm rot {side}"]] = uniform(-60, 80)
        a[:, COLUMN[f"elbow {side}"]] = np.where(rng.random(count) < 0.5, uniform(0, 140), np.abs(normal(15, 20)))
    return a


def directions_of(angles: Array) -> Array:
    """Joint angles (…, 21) in degrees → unit bone vectors (…, 16, 3) in the pelvis frame."""
    a = np.deg2rad(angles)

    def angle(name: str) -> Array:
        return a[..., COLUMN[name]]

    bones = np.zeros((*angles.shape[:-1], len(BONES), 3), np.float32)

    def put(child: int, r: Array, direction: Array) -> None:
        bones[..., BONE_TO[child], :] = r @ direction

    lower = about(0, 0.4 * angle("bend")) @ about(1, 0.5 * angle("side")) @ about(2, 0.3 * angle("twist"))
    upper = about(0, angle("bend")) @ about(1, angle("side")) @ about(2, angle("twist"))
    head = upper @ about(0, angle("head nod")) @ about(2, angle("head turn"))
    put(7, lower, UP)
    put(8, upper, UP)
    put(9, head @ about(0, np.full_like(angle("bend"), 0.25)), UP)
    put(10, head, UP)
    # Sideways rotations have opposite signs on the two sides.
    for side, sign, hip, shoulder in (("L", 1.0, 4, 11), ("R", -1.0, 1, 14)):
        out = np.array([sign, 0.0, 0.0], np.float32)
        put(hip, np.broadcast_to(np.eye(3, dtype=np.float32), upper.shape), out)
        leg = about(0, -angle(f"hip flex {side}")) @ about(1, -sign * angle(f"hip abd {side}")) @ about(2, sign * angle(f"hip rot {side}"))
        put(hip + 1, leg, DOWN)
        put(hip + 2, leg @ about(0, angle(f"knee {side}")), DOWN)
        put(shoulder, upper, np.array([sign * 0.98, 0.0, -0.2], np.float32))
        arm = upper @ about(0, -angle(f"arm flex {side}")) @ about(1, -sign * angle(f"arm abd {side}"))
        arm = arm @ about(2, sign * angle(f"arm rot {side}"))
        put(shoulder + 1, arm, DOWN)
        put(shoulder + 2, arm @ about(0, -angle(f"elbow {side}")), DOWN)
    return bones


def random_motions(count: int, frames: int, rng: np.random.Generator) -> Array:
    """Return bone vectors of unit length (to 0.02 %) in the pelvis frame, (count, frames, 16, 3): windows between two drawn poses."""
    first = random_angles(count, rng)
    if frames == 1:
        return directions_of(first)[:, None]
    # Neighbouring poses: the second lies part of the way to another random pose, so that speeds vary from still to fast.
    reach = rng.uniform(0.0, 0.8, (count, 1)).astype(np.float32)
    second = first + reach * (random_angles(count, rng) - first)
    begin, length = rng.uniform(-0.5, 0.5, (2, count, 1)).astype(np.float32)
    phase = np.clip(np.linspace(0.0, 1.0, frames, dtype=np.float32) * (1.2 + length) + begin, 0.0, 1.0)
    ease = (phase * phase * (3.0 - 2.0 * phase))[..., None]
    return directions_of(first[:, None] * (1.0 - ease) + second[:, None] * ease)
