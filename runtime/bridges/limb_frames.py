"""The coordinate frames of a body and its limbs, named and oriented as REP-155 has them.

Source: REP 155, "Body Frames" and "Kinematic Model of the Human", and the URDF of its reference package human_description: a body's
frame lies between the hips, x out of the body, z towards the head; a limb hangs along -z of its frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.runtime.bridges.rotations import quaternion_of, swing_of_z
from diffpose_edge.skeleton import JOINTS

Array = NDArray[np.float64]
AT = {name: i for i, name in enumerate(JOINTS)}
# A limb shorter than this has no direction worth telling, metres.
LEAST_LENGTH_M = 1e-3

# Frame: the joint that it lies at, and the two joints from the second of which to the first its z axis points. An end of a limb has
# its limb's orientation: in the reference URDF it is fixed to it.
LIMBS = {
    "l_shoulder": ("left_shoulder", "left_shoulder", "left_elbow"),
    "l_elbow": ("left_elbow", "left_elbow", "left_wrist"),
    "l_wrist": ("left_wrist", "left_elbow", "left_wrist"),
    "r_shoulder": ("right_shoulder", "right_shoulder", "right_elbow"),
    "r_elbow": ("right_elbow", "right_elbow", "right_wrist"),
    "r_wrist": ("right_wrist", "right_elbow", "right_wrist"),
    "l_hip": ("left_hip", "left_hip", "left_knee"),
    "l_knee": ("left_knee", "left_knee", "left_foot"),
    "l_ankle": ("left_foot", "left_knee", "left_foot"),
    "r_hip": ("right_hip", "right_hip", "right_knee"),
    "r_knee": ("right_knee", "right_knee", "right_foot"),
    "r_ankle": ("right_foot", "right_knee", "right_foot"),
    "head": ("neck", "head", "thorax"),
}
PLACED, ABOVE, BELOW = (np.array([AT[joints[k]] for joints in LIMBS.values()]) for k in range(3))


@dataclass(frozen=True)
class LimbFrame:
    """A frame in its parent's: ``translation`` in metres, ``rotation`` a quaternion (x, y, z, w)."""

    parent: str
    child: str
    translation: tuple[float, ...]
    rotation: tuple[float, ...]


def body_axes(joints: Array) -> Array | None:
    """Return the axes of a body as columns x, y, z (3, 3), from joints (17, 3): z from the hip to the thorax, y to the person's left.

    None for a body without them: hip and thorax, or both hips, in one place, or the hips along the spine.
    """
    return _axes(joints[AT["thorax"]] - joints[AT["hip"]], joints[AT["left_hip"]] - joints[AT["right_hip"]])


def torso_axes(joints: Array) -> Array | None:
    """Return the axes (3, 3) of the upper trunk: z from the spine to the thorax, y along the shoulders to the left; None as above."""
    return _axes(joints[AT["thorax"]] - joints[AT["spine"]], joints[AT["left_shoulder"]] - joints[AT["right_shoulder"]])


def _axes(up: Array, left: Array) -> Array | None:
    z = _direction(up)
    y = None if z is None else _direction(left - (left @ z) * z)
    return None if y is None or z is None else np.stack([np.cross(y, z), y, z], axis=1)


def limb_frames(joints: NDArray[np.float32], root: NDArray[np.float32], parent: str, body_id: int) -> list[LimbFrame]:
    """Return the frames of a person whose joints (17, 3) are relative to the hip, which lies at ``root`` (3,) in ``parent``: ``body_<id>``,
    and in it the torso, the head and the limbs.

    How a limb is twisted about its own length does not show in joints: its frame is the body's, turned onto the limb by the shortest
    way. Empty for a pose of NaN or without axes; a limb without length is left out.
    """
    p = joints.astype(np.float64)
    axes = body_axes(p) if np.isfinite(p).all() else None
    if axes is None:
        return []
    body = f"body_{body_id}"
    frames = [LimbFrame(parent, body, _triple(p[AT["hip"]] + root), quaternion_of(axes))]
    local = (p - p[AT["hip"]]) @ axes
    torso = torso_axes(local)
    if torso is not None:
        frames.append(LimbFrame(body, f"torso_{body_id}", _triple(local[AT["thorax"]]), quaternion_of(torso)))
    along = local[ABOVE] - local[BELOW]
    lengths = np.linalg.norm(along, axis=1)
    long = lengths >= LEAST_LENGTH_M
    turns = iter(swing_of_z(along[long] / lengths[long, None]).tolist())
    for name, at, drawn in zip(LIMBS, local[PLACED].tolist(), long.tolist(), strict=True):
        if drawn:
            frames.append(LimbFrame(body, f"{name}_{body_id}", tuple(at), tuple(next(turns))))
    return frames


def _direction(v: Array) -> Array | None:
    length = float(np.linalg.norm(v))
    return None if length < LEAST_LENGTH_M else v / length


def _triple(v: Array) -> tuple[float, ...]:
    return tuple(v.tolist())
