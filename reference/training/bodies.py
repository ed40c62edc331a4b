"""Bodies as bones: a pose is 16 bone vectors, so that lengths and directions can be changed apart.

Arrays of bones have shape (…, 16, 3), in the order of :data:`diffpose_edge.skeleton.BONES`; metres.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.skeleton import BONES, MIRROR, J

Array = NDArray[Any]

PARENTS = np.array([parent for parent, _ in BONES])
CHILDREN = np.array([child for _, child in BONES])
BONE_TO = {child: bone for bone, (_, child) in enumerate(BONES)}


def _paths() -> Array:
    """Row j marks the bones between the hip and joint j."""
    paths = np.zeros((J, len(BONES)), np.float32)
    for bone, (parent, child) in enumerate(BONES):
        paths[child] = paths[parent]
        paths[child, bone] = 1.0
    return paths


PATHS = _paths()

# Bones that have one length: the left and the right one, and the parts of the trunk and the head alone.
GROUPS = (
    ("hip width", (1, 4)), ("thigh", (2, 5)), ("shank", (3, 6)), ("lower spine", (7,)), ("upper spine", (8,)),
    ("neck", (9,)), ("head", (10,)), ("clavicle", (11, 14)), ("upper arm", (12, 15)), ("forearm", (13, 16)),
)  # fmt: skip
GROUP_OF_BONE = np.zeros(len(BONES), np.int64)
for _group, (_, _children) in enumerate(GROUPS):
    for _child in _children:
        GROUP_OF_BONE[BONE_TO[_child]] = _group

# How much bodies differ beyond their stature, as the standard deviation of the logarithm of each length. Neck and head
# vary most: every data set puts these joints elsewhere.
GROUP_SPREAD = np.array([0.12, 0.04, 0.04, 0.10, 0.10, 0.20, 0.15, 0.10, 0.05, 0.05], np.float32)
# Adults' stature as a share of the mean.
STATURE_SPREAD = 0.05


def bones_of(poses: Array) -> Array:
    """Poses (…, 17, 3) → bone vectors (…, 16, 3)."""
    return poses[..., CHILDREN, :] - poses[..., PARENTS, :]


def poses_of(bones: Array) -> Array:
    """Bone vectors (…, 16, 3) → poses (…, 17, 3) relative to the hip."""
    return np.matmul(PATHS, bones)


def group_lengths(bones: Array) -> Array:
    """Return the length of each group (10,), the mean over frames and sides, of one person's bones (frames, 16, 3)."""
    lengths = np.linalg.norm(bones, axis=-1).mean(axis=0)
    return np.array([lengths[g == GROUP_OF_BONE].mean() for g in range(len(GROUPS))], np.float32)


def with_lengths(bones: Array, lengths: Array) -> Array:
    """Give bones (B, F, 16, 3) the group lengths (B, 10), keeping their directions."""
    direction = bones / np.maximum(np.linalg.norm(bones, axis=-1, keepdims=True), 1e-6)
    return direction * lengths[:, None, GROUP_OF_BONE, None]


def random_lengths(bodies: Array, count: int, rng: np.random.Generator) -> Array:
    """Draw the group lengths (count, 10) of new bodies around those measured, ``bodies`` (n, 10)."""
    # A mixture of the measured bodies, each brought to the mean stature first (legs and trunk tell it).
    stature = bodies[:, [1, 2, 3, 4]].sum(axis=1, keepdims=True)
    shapes = bodies * (stature.mean() / stature)
    share = rng.dirichlet(np.ones(len(shapes)), count)
    size = 1.0 + STATURE_SPREAD * rng.standard_normal((count, 1))
    vary = np.exp(GROUP_SPREAD * rng.standard_normal((count, len(GROUPS))))
    return (share @ shapes * size * vary).astype(np.float32)


def mirrored(poses: Array) -> Array:
    """Exchange left and right: poses (…, 17, 3) whose first axis is lateral in any frame (x is negated)."""
    return poses[..., MIRROR, :] * np.array([-1.0, 1.0, 1.0], np.float32)
