"""What an estimate is: joints, how far the samples spread, and where the time went."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.skeleton import ROOT, J

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Timings:
    """Seconds of one call: the context encoder, each of the K steps (``steps``, shape (K,)), what a GPU spends on copies and
    the start (``copies``, 0 on the CPU), the aggregation, and the whole call by the wall clock (``total``, which also has
    checking in it).

    On a GPU encoder, steps and copies are taken by the device itself, if the runtime was loaded with ``timed=True``; else
    they are NaN, except that an encoder that is run apart from the steps, as ``estimate_clip`` does with windows, is timed
    by the wall clock, and copies then are not. When more people came than the bundle's P, the figures are sums over the
    ``batches`` that they took. A step that was not walked, because a budget was used up, has taken no time: 0.
    """

    context: float
    steps: NDArray[np.float64]
    copies: float
    aggregate: float
    total: float
    batches: int


@dataclass(frozen=True)
class PoseEstimate:
    """3D poses of B people (or frames), metres, camera axes (x right, y down, z forward), relative to the hip.

    ``joints`` (B, 17, 3) is the mean of the ``samples`` (B, N, 17, 3), ``context`` (B, 17, 3) the context encoder's own
    pose, where the reverse process began. ``covariance`` (B, 17, 3, 3), square metres: in the modes of released weights the
    samples' unbiased covariance, NaN for N = 1, which says nothing about spread; in mode ``distribution`` what
    :func:`calibrated` makes of it. ``observed`` (B, 17) tells which joints the detector saw. A person with too few of them
    has NaN throughout. ``trajectory`` (K + 1, B, N, 17, 5) holds every state h = (u, v, x, y, z) of the reverse process,
    start first, if it was asked for.

    ``truncated``: the time budget was used up before all K steps were walked. ``walked`` (B,) tells how many were, the same number for
    all samples of a person; people of different batches may differ. After 0 < m < K steps the samples are the clean poses that step
    m meant; after none they are the start: N draws around the context encoder's pose, of which the mean is that pose (for N = 1, and in the
    modes of released weights, that pose itself). States of ``trajectory`` that were not reached are NaN.

    ``out_of_range`` (B,): people with a pose of whom the networks were shown what training never showed them: it is as good as a guess.
    ``non_finite`` (B,): people whose walk met a result that is no number, and whose pose is that of their last finite state: ``walked``
    tells after how many steps. What is NaN where is told by ``valid``, ``walked``, N and ``timed`` alone (docs/reliability.md).
    """

    joints: Array
    covariance: Array
    samples: Array
    observed: NDArray[np.bool_]
    timings: Timings
    context: Array
    trajectory: Array | None = None
    truncated: bool = False
    walked: NDArray[np.int64] | None = None
    out_of_range: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    non_finite: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    def __post_init__(self) -> None:
        # Nobody, where nobody was named.
        for name in ("out_of_range", "non_finite"):
            if len(getattr(self, name)) == 0:
                object.__setattr__(self, name, np.zeros(len(self.joints), np.bool_))

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Who has a pose (B,): all others have NaN in every result, because too few of their joints were observed, or because not even
        the context encoder said anything finite of them (``non_finite``).
        """
        return np.asarray(np.isfinite(self.joints).all(axis=(1, 2)))


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


# How many draws the error that training measured counts for, beside the N that were made.
PRIOR_DRAWS = 10.0


def calibrated(covariance: Array, N: int, residual: Array) -> Array:
    """Return the covariance (B, 17, 3, 3) of a pose, from its balanced samples and what training found the pose to err by.

    covariance: the samples' unbiased covariance, NaN or anything for N = 1; residual (B, 17, 3): standard deviations for
    joints of these confidences. A few samples scatter too much to be trusted alone, and know nothing of what all of them
    get wrong. The answer is the mean of the inverse-Wishart posterior whose prior is the measured error, worth PRIOR_DRAWS
    draws (Gelman et al., *Bayesian Data Analysis*, section 3.6). Balanced draws that sum to zero have (N - 1) / N of the
    unbiased covariance as their expectation.
    """
    prior = np.zeros_like(covariance)
    for i in range(3):
        prior[..., i, i] = np.square(residual[..., i])
    if N == 1:
        return prior
    balanced = covariance * np.float32((N - 1) / N)
    return ((PRIOR_DRAWS * prior + N * balanced) / (PRIOR_DRAWS + N)).astype(np.float32)
