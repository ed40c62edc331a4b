"""The lengths of a pose's bones, and how they change over a clip: a body's do not."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.metrics import counted
from diffpose_edge.skeleton import BONES, J
from diffpose_edge.tolerances import MILLIMETRES

Array = NDArray[np.float64]


def bone_lengths(poses: ArrayLike) -> Array:
    """Return the length of each bone of poses (…, 17, 3) in metres: (…, 16), millimetres, in the order of ``skeleton.BONES``.

    Raises ValueError for arrays that are no poses.
    """
    array = np.asarray(poses, np.float64)
    if array.shape[-2:] != (J, 3):
        raise ValueError(f"expected poses (…, {J}, 3), got {array.shape}")
    parents, children = np.array(BONES).T
    return np.linalg.norm(array[..., children, :] - array[..., parents, :], axis=-1) * MILLIMETRES


def bone_length_variation(poses: ArrayLike, valid: ArrayLike | None = None) -> Array:
    """Return each bone's coefficient of variation over the frames (…, 17, 3) of one person: standard deviation / mean, (16,).

    Zero for a rigid skeleton, whatever its size. The deviation is that of the frames themselves (divided by their number).
    NaN for a bone that is of no length throughout, and where no frame counts; see :mod:`diffpose_edge.metrics` on ``valid``.
    """
    lengths = counted(bone_lengths(poses), valid)
    if not len(lengths):
        return np.full(len(BONES), np.nan)
    mean = lengths.mean(axis=0)
    return np.divide(lengths.std(axis=0), mean, out=np.full_like(mean, np.nan), where=mean != 0)
