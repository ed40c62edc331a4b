"""What an estimate is: joints, how far the samples spread, and where the time went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.skeleton import ROOT, J

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds of one call: the context encoder, each of the K steps (``steps``, shape (K,)), the aggregation,
    and the whole call (``total``, which also has checking and copying in it).

    When more people came than the bundle's P, the figures are sums over the ``batches`` that they took.
    """

    context: float
    steps: NDArray[np.float64]
    aggregate: float
    total: float
    batches: int


@dataclass(frozen=True)
class PoseEstimate:
    """3D poses of B people (or frames), metres, camera axes (x right, y down, z forward), relative to the hip.

    ``joints`` (B, 17, 3) is the mean of the ``samples`` (B, N, 17, 3). ``covariance`` (B, 17, 3, 3), square metres, is
    the samples' unbiased covariance; it is NaN for N = 1, which says nothing about spread. ``observed`` (B, 17) tells
    which joints the detector saw: the others were filled in. A person with too few of them has NaN throughout.
    ``trajectory`` (K + 1, B, N, 17, 5) holds every state of the reverse process, start first, if it was asked for.
    """

    joints: Array
    covariance: Array
    samples: Array
    observed: NDArray[np.bool_]
    timings: Timings
    trajectory: Array | None = None


def aggregate(states: Array, samples: Array, joints: Array, covariance: Array) -> None:
    """Reduce states (B N, 17, 5) to root-relative ``samples`` (B, N, 17, 3), their mean and their covariance, in place.

    DiffPose, section 4.4: the pose is the mean of the N results.
    """
    b, n = samples.shape[:2]
    xyz = states.reshape(b, n, J, 5)[..., 2:]
    np.subtract(xyz, xyz[:, :, ROOT : ROOT + 1], out=samples)
    # In float64, so that the mean of equal samples is exactly that sample.
    joints[...] = np.mean(samples, axis=1, dtype=np.float64)
    if n == 1:
        covariance.fill(np.nan)
        return
    centred = samples - np.mean(samples, axis=1, dtype=np.float64, keepdims=True)
    covariance[...] = np.einsum("bnji,bnjk->bjik", centred, centred) / (n - 1)
