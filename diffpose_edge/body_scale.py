"""How large a body is, against the pose that a network made of it: what one camera cannot see.

A person twice as large, twice as far away, looks the same. So a distance is as good as what is known of the body's size, and that has to
be told: a stature, bones that were measured, or nothing but that it is an adult.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.arrays import real_array
from diffpose_edge.bones import bone_lengths
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.skeleton import BONES, J
from diffpose_edge.tolerances import MILLIMETRES

Array = NDArray[np.float64]

# Adults' stature, metres: mean and standard deviation of a half-and-half mixture of men, 1.756 +- 0.071, and women, 1.626 +- 0.064.
# Source: Whitlock and Schluter, The Analysis of Biological Data, example 10.4 (adults of the United States). Children are far from it.
ADULT_STATURE = 1.691
ADULT_STATURE_SIGMA = 0.094
ADULT_SPREAD = ADULT_STATURE_SIGMA / ADULT_STATURE

# How far a pose's size is off beside its body's, as a share: how large one makes somebody who leans towards the camera depends on what one
# takes the lean for. Measured: with statures known, the frame pair's distances err by 4.9 %, and the fit alone claims 3.9 %
# (benchmarks/results/root_accuracy.json).
POSE_SPREAD = 0.03

# The height of the ankle over the stature: what the skeleton, from ankle to the top of the head, lacks. Source: Drillis and Contini
# 1966, body segment lengths, after Winter, Biomechanics.
ANKLE_HEIGHT = 0.039

_LEGS = [BONES.index(bone) for bone in ((1, 2), (2, 3), (4, 5), (5, 6))]
_TRUNK = [BONES.index(bone) for bone in ((0, 7), (7, 8), (8, 9), (9, 10))]


@dataclass(frozen=True)
class Scale:
    """What the joints have to be multiplied by to have the body's true size: ``mean``, and its standard deviation ``sigma``.

    The default trusts the network's metres, as far as adults are alike and poses are right: it learned from bodies of usual size, and
    knows no other. Sigma 0 says that the size is known.

    Raises DiffPoseEdgeError for a mean that is not positive or a sigma that is negative.
    """

    mean: float = 1.0
    sigma: float = math.hypot(ADULT_SPREAD, POSE_SPREAD)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and self.mean > 0 and math.isfinite(self.sigma) and self.sigma >= 0):
            raise DiffPoseEdgeError(f"expected a scale above 0 with a standard deviation of 0 or more, got {self.mean} and {self.sigma}")


def stature_of(poses: ArrayLike) -> float:
    """Return how tall the body of poses (…, 17, 3) stands, metres: its mean leg and trunk, stretched out, and its feet.

    Poses with NaN are left out. Lengths are of whole poses: a mean of samples that disagree is shorter than they are, so give samples
    where there are some. The frames of one person together are steadier than one frame. Raises DiffPoseEdgeError for no pose at all.
    """
    lengths = _mean_lengths(poses)
    return float((lengths[_LEGS].sum() / 2 + lengths[_TRUNK].sum()) / (1 - ANKLE_HEIGHT))


def checked_stature(stature: float) -> float:
    """Return a stature, metres; raise DiffPoseEdgeError for one that nobody has."""
    if not 0.4 <= stature <= 2.8:
        raise DiffPoseEdgeError(f"expected a stature in metres, such as 1.75, got {stature}")
    return stature


def scale_of_stature(
    poses: ArrayLike, stature: float = ADULT_STATURE, sigma: float = ADULT_STATURE_SIGMA, *, pose_spread: float = POSE_SPREAD
) -> Scale:
    """Return the scale that gives the body of poses (…, 17, 3) this stature, metres, known to ``sigma`` metres.

    ``pose_spread``: how far the poses' own size is off, as a share.

    Raises DiffPoseEdgeError for a stature that nobody has (metres are expected, not centimetres), a negative sigma, and no pose.
    """
    own = stature_of(poses)
    return Scale(checked_stature(stature) / own, _joined(sigma / own, stature / own * pose_spread))


def scale_of_bones(poses: ArrayLike, lengths: ArrayLike, sigma: float = 0.01, *, pose_spread: float = POSE_SPREAD) -> Scale:
    """Return the scale that brings the bones of poses (…, 17, 3) nearest to measured ``lengths`` (16,), metres.

    In the order of :data:`diffpose_edge.skeleton.BONES`; NaN for a bone that was not measured; ``sigma``, metres: what each of them is
    known to, and ``pose_spread``: how far the poses' own size is off, as a share. By least squares.

    Raises DiffPoseEdgeError for other shapes, no bone, and lengths that are not positive.
    """
    known = real_array(lengths, "lengths")
    if known.shape != (len(BONES),):
        raise DiffPoseEdgeError(f"expected {len(BONES)} bone lengths in metres, NaN for those not measured, got shape {known.shape}")
    measured = ~np.isnan(known)
    if not measured.any() or not (np.isfinite(known[measured]) & (known[measured] > 0)).all():
        raise DiffPoseEdgeError("expected at least one measured bone, and lengths above zero, in metres")
    own = _mean_lengths(poses)[measured]
    squared = float(own @ own)
    mean = float(own @ known[measured]) / squared
    return Scale(mean, _joined(sigma / math.sqrt(squared), mean * pose_spread))


def _joined(*sigmas: float) -> float:
    if not all(math.isfinite(sigma) and sigma >= 0 for sigma in sigmas):
        raise DiffPoseEdgeError(f"expected standard deviations of 0 or more, got {', '.join(f'{sigma:g}' for sigma in sigmas)}")
    return math.hypot(*sigmas)


def _mean_lengths(poses: ArrayLike) -> Array:
    """Return the mean length of each bone, metres."""
    array = real_array(poses, "poses")
    if array.ndim < 2 or array.shape[-2:] != (J, 3):
        raise DiffPoseEdgeError(f"expected poses of shape (…, {J}, 3), metres, got {array.shape}")
    lengths = bone_lengths(array).reshape(-1, len(BONES)) / MILLIMETRES
    lengths = lengths[np.isfinite(lengths).all(axis=-1)]
    if not len(lengths) or not (lengths.mean(axis=0) > 0).all():
        raise DiffPoseEdgeError("expected at least one pose whose bones have a length; there is none without NaN")
    mean: Array = lengths.mean(axis=0)
    return mean
