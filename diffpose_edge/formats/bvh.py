"""Poses as BVH, which animation programs open: joint rotations of a skeleton with bones of constant length.

*Hierarchy.* The 17 joints by their names, from the hip; each joint's rotation turns the bone to its child. Where bones part, at hip and
thorax, a joint without length stands before each of them, ``<joint>_pivot``: our poses are no rigid bodies there, so each bone has a
rotation of its own, and forward kinematics can follow any pose. Channels are Zrotation Xrotation Yrotation, with the position first at the
root. The rest pose is a T: legs down, arms out, facing z.

*Bones* have the median length over the clip, since a BVH skeleton has one length for each. Every bone's direction is kept in every
frame, so forward kinematics gives the joints exactly when bones are of constant length, and otherwise errs by the lengths' differences,
summed along the chain from the hip. About its own axis a bone turns as little as its parent lets it: the poses do not tell more. The
hip's and the thorax's rotations are those that fit their three bones best.

*Units.* Centimetres; y up, z to the camera, x stays. With a root, the hip is where the person is, seen from the camera, otherwise at the
origin. A frame without a pose repeats the nearest one before it, or the first: BVH has no blank.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import OutputError, PoseFileError
from diffpose_edge.formats.bvh_file import POSITIONS, Motion, Node, motion_lines, parse_bvh, positions
from diffpose_edge.formats.poses import PoseSequence, from_placed, y_up
from diffpose_edge.skeleton import BONES, JOINTS, ROOT

Array = NDArray[np.float64]
PER_METRE = 100.0
TURNS = ("Zrotation", "Xrotation", "Yrotation")
# Where each bone points in the rest pose, by the joint at its end. The person's left is +x, as when facing z with y up.
_DOWN, _UP, _LEFT, _RIGHT = (0.0, -1.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (-1.0, 0.0, 0.0)
REST = {
    1: _RIGHT, 2: _DOWN, 3: _DOWN, 4: _LEFT, 5: _DOWN, 6: _DOWN, 7: _UP, 8: _UP, 9: _UP, 10: _UP,
    11: _LEFT, 12: _LEFT, 13: _LEFT, 14: _RIGHT, 15: _RIGHT, 16: _RIGHT,
}  # fmt: skip
PARENT = {child: parent for parent, child in BONES}
CHILDREN = {j: [child for parent, child in BONES if parent == j] for j in range(len(JOINTS))}
# So long is what is drawn beyond feet, hands and head; no joint lies there.
END_LENGTH = 5.0
# Vectors whose sum is shorter are opposite, and the turn between them may go about any axis across.
OPPOSITE = 1e-7


def bvh_lines(poses: PoseSequence, name: str) -> Iterator[str]:
    """Yield the lines of a sequence, for a file called ``name``. Raises OutputError without a frame rate, or when no frame has a pose."""
    if poses.fps is None:
        raise OutputError(f"cannot write {name}: BVH needs the frame rate, and it is not known; give it (--fps)")
    if not poses.found.any():
        raise OutputError(f"cannot write {name}: no frame has a pose")
    motion = motion_of(y_up(poses.placed)[_shown(poses.found)] * PER_METRE, 1.0 / poses.fps)
    leaves = [joint for joint in range(len(JOINTS)) if not CHILDREN[joint]]
    ends = {JOINTS[joint]: (END_LENGTH * REST[joint][0], END_LENGTH * REST[joint][1], END_LENGTH * REST[joint][2]) for joint in leaves}
    yield from motion_lines(motion, ends)


def read_bvh(path: Path) -> PoseSequence:
    """Read a BVH file that has the 17 joints by their names, in centimetres, y up. Frames are numbered from 0. Raises PoseFileError."""
    motion = parse_bvh(path)
    places = positions(motion)
    missing = [joint for joint in JOINTS if joint not in places]
    if missing:
        raise PoseFileError(f"{path} has no joint {missing[0]!r}; it has: {', '.join(list(places)[:12])}, …. Its skeleton is another one")
    placed = y_up(np.stack([places[joint] for joint in JOINTS], axis=1)) / PER_METRE
    return from_placed(placed, 1.0 / motion.frame_time, np.arange(len(placed)))


def _shown(found: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return which frame stands for each: itself, else the last one found before it, else the first one found."""
    last = np.maximum.accumulate(np.where(found, np.arange(len(found)), -1))
    return np.where(last >= 0, last, int(np.flatnonzero(found)[0]))


def motion_of(joints: Array, frame_time: float) -> Motion:
    """Return the skeleton, with bones of median length, and its rotations, for joints (frames, 17, 3), y up. Units stay."""
    frames = len(joints)
    bones = {child: joints[:, child] - joints[:, parent] for parent, child in BONES}
    lengths = {child: float(np.median(np.linalg.norm(bone, axis=1))) for child, bone in bones.items()}
    nodes = [Node(JOINTS[ROOT], -1, (0.0, 0.0, 0.0), (*POSITIONS, *TURNS))]
    turned = [_best_turn([REST[c] for c in CHILDREN[ROOT]], [bones[c] for c in CHILDREN[ROOT]])]
    channels = [joints[:, ROOT], _angles(turned[0])]
    waiting = [(child, 0) for child in reversed(CHILDREN[ROOT])]  # joints and where their parents stand in ``nodes``
    while waiting:
        joint, above = waiting.pop()
        if len(CHILDREN[PARENT[joint]]) > 1:
            pivot = Node(f"{JOINTS[joint]}_pivot", above, (0.0, 0.0, 0.0), TURNS)
            _append(nodes, turned, channels, pivot, _towards(turned[above], joint, bones))
            above = len(nodes) - 1
        x, y, z = (lengths[joint] * d for d in REST[joint])
        below = CHILDREN[joint]
        if not below:
            rotation = turned[above]
        elif len(below) == 1:
            rotation = _towards(turned[above], below[0], bones)
        else:
            rotation = _best_turn([REST[c] for c in below], [bones[c] for c in below])
        _append(nodes, turned, channels, Node(JOINTS[joint], above, (x, y, z), TURNS), rotation)
        waiting += [(child, len(nodes) - 1) for child in reversed(below)]
    # Angles go on beyond half a turn, so that what lies between frames is not a turn the other way round.
    table = np.concatenate([channels[0], *(np.unwrap(c, axis=0, period=360.0) for c in channels[1:])], axis=1)
    assert table.shape == (frames, 3 + 3 * len(nodes))
    return Motion(tuple(nodes), table, frame_time)


def _append(nodes: list[Node], turned: list[Array], channels: list[Array], node: Node, rotation: Array) -> None:
    nodes.append(node)
    turned.append(rotation)
    channels.append(_angles(np.swapaxes(turned[node.parent], 1, 2) @ rotation))


def _towards(above: Array, child: int, bones: dict[int, Array]) -> Array:
    """Return rotations (frames, 3, 3) that turn the bone to ``child`` from where ``above`` holds it to where it is, the shortest way."""
    bone = bones[child]
    length = np.linalg.norm(bone, axis=1, keepdims=True)
    held = above @ np.array(REST[child])
    to = np.where(length > 0, bone / np.where(length > 0, length, 1.0), held)
    # A half turn about the bone, then one about the middle between it and its aim: together the shortest turn between them.
    middle = held + to
    size = np.linalg.norm(middle, axis=1, keepdims=True)
    across = np.cross(held, np.eye(3)[np.abs(held).argmin(axis=1)])
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    middle = np.where(size > OPPOSITE, middle / np.where(size > OPPOSITE, size, 1.0), across)
    return _half_turn(middle) @ _half_turn(held) @ above


def _half_turn(axis: Array) -> Array:
    return 2.0 * axis[:, :, None] * axis[:, None, :] - np.eye(3)


def _best_turn(rest: list[tuple[float, float, float]], bones: list[Array]) -> Array:
    """Return the rotations (frames, 3, 3) that turn the rest directions nearest to the bones': Kabsch's, by directions."""
    total = np.zeros((len(bones[0]), 3, 3))
    for direction, bone in zip(rest, bones, strict=True):
        length = np.linalg.norm(bone, axis=1, keepdims=True)
        total += (bone / np.where(length > 0, length, 1.0))[:, :, None] * np.array(direction)
    u, _, vt = np.linalg.svd(total)
    u[:, :, 2] *= np.linalg.det(u @ vt)[:, None]
    return u @ vt


def _angles(rotation: Array) -> Array:
    """Return the angles (frames, 3), degrees, of R = Rz Rx Ry, in that order."""
    r = rotation
    x = np.arctan2(r[:, 2, 1], np.hypot(r[:, 0, 1], r[:, 1, 1]))
    # With x a quarter turn, z and y turn about the same axis: all of it is given to z.
    free = np.hypot(r[:, 0, 1], r[:, 1, 1]) > 1e-9
    z = np.where(free, np.arctan2(-r[:, 0, 1], r[:, 1, 1]), np.arctan2(r[:, 1, 0], r[:, 0, 0]))
    y = np.where(free, np.arctan2(-r[:, 2, 0], r[:, 2, 2]), 0.0)
    return np.degrees(np.stack([z, x, y], axis=1))
