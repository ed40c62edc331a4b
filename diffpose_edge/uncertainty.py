"""Whether a predicted spread tells the truth about the error: coverage of its ellipsoids, and rank correlation.

Poses are (…, 17, 3) in metres, covariances (…, 17, 3, 3) in square metres. The hip is the origin: its covariance is zero
and says nothing, so results for each joint are NaN there, and results over all joints leave it out. On ``valid`` and on
NaN see :mod:`diffpose_edge.metrics`. Every function raises ValueError for shapes that do not fit.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.metrics import checked_poses, counted, joint_errors
from diffpose_edge.skeleton import ROOT, J
from diffpose_edge.tolerances import MILLIMETRES

Array = NDArray[np.float64]

# The least standard deviation of an ellipsoid along any axis. Fewer than four samples span no volume, and equal samples
# none at all; the truth, from motion capture, is not known to better than about this either.
LEAST_DEVIATION_M = 1e-3


def checked_covariance(covariance: ArrayLike, poses: Array) -> Array:
    """Return the covariance as float64, (…, 17, 3, 3). Raises ValueError when it does not belong to the poses (…, 17, 3)."""
    c = np.asarray(covariance, np.float64)
    if c.shape != (*poses.shape, 3):
        raise ValueError(f"expected covariance of shape {(*poses.shape, 3)}, for poses {poses.shape}, got {c.shape}")
    return c


def mahalanobis2(prediction: ArrayLike, covariance: ArrayLike, truth: ArrayLike) -> Array:
    """Return the squared Mahalanobis distance (t - p)ᵀ S⁻¹ (t - p) of each joint's truth, (…, 17); no unit.

    S is the covariance with its principal standard deviations raised to at least 1 mm (``LEAST_DEVIATION_M``), so that a
    singular one has an inverse; wider ones are taken as they are. NaN where the covariance or a pose is NaN, and for the
    hip. Source: Mahalanobis 1936.
    """
    p, t = checked_poses(prediction, truth)
    c = checked_covariance(covariance, p)
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(c).all(axis=(-2, -1)))
    variances, axes = np.linalg.eigh(np.where(finite[..., None, None], c, 0.0))
    along = (np.swapaxes(axes, -1, -2) @ (t - p)[..., None])[..., 0]
    distance = (along**2 / np.maximum(variances, LEAST_DEVIATION_M**2)).sum(axis=-1)
    distance[~finite] = np.nan
    distance[..., ROOT] = np.nan
    return distance


def chi2_3_cdf(x: ArrayLike) -> Array:
    """Return P(X <= x) for a chi-square of 3 degrees of freedom: erf(sqrt(x / 2)) - sqrt(2 x / pi) exp(-x / 2), x >= 0.

    It is zero at 0, and its derivative is that distribution's density, sqrt(x / (2 pi)) exp(-x / 2).
    """
    values = np.asarray(x, np.float64)
    erf = np.array([math.erf(root) for root in np.sqrt(values / 2).ravel()]).reshape(values.shape)
    return erf - np.sqrt(2 * values / np.pi) * np.exp(-values / 2)


def chi2_3_quantile(level: float) -> float:
    """Return the x with ``chi2_3_cdf(x) = level``, by bisection to the last bit. Raises ValueError outside 0 < level < 1."""
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}")
    low, high = 0.0, 1.0
    while chi2_3_cdf(high) < level:
        high *= 2
    while low < (middle := (low + high) / 2) < high:
        if chi2_3_cdf(middle) < level:
            low = middle
        else:
            high = middle
    return high


def coverage_of(distance2: Array, level: float) -> Array:
    """Return which part of the squared Mahalanobis distances (n, 17) lies within the level's ellipsoid, (17,), 0..1.

    NaN for a joint with a distance that is NaN, and for n = 0.
    """
    if not len(distance2):
        return np.full(J, np.nan)
    return np.where(np.isnan(distance2), np.nan, distance2 <= chi2_3_quantile(level)).mean(axis=0)


def coverage(prediction: ArrayLike, covariance: ArrayLike, truth: ArrayLike, level: float, valid: ArrayLike | None = None) -> Array:
    """Return for each joint which part of the truths lies within the predicted ellipsoid of probability ``level``: (17,), 0..1.

    The ellipsoid of a Gaussian holds the points whose squared Mahalanobis distance is at most the level's quantile of
    chi-square with 3 degrees of freedom. A Gaussian that tells the truth covers ``level``. A covariance *measured on a few
    samples* covers less, though the samples be perfect: see :func:`expected_coverage`.
    """
    return coverage_of(counted(mahalanobis2(prediction, covariance, truth), valid), level)


def expected_coverage(level: float, samples: int) -> float:
    """Return the coverage of ``level`` that mean and covariance of N perfect samples reach: less, as N is small.

    When the truth and the N samples come from one Gaussian, the squared Mahalanobis distance of the truth, by the samples'
    own mean and unbiased covariance, is distributed as (1 + 1/N)(N - 1) X / W with X chi-square of 3 and W of N - 3
    degrees of freedom (Hotelling's T², 1931). Here P(X <= q W / ((1 + 1/N)(N - 1))) is integrated over W. NaN for N < 4,
    whose covariance is singular.
    """
    if samples < 4:
        return float("nan")
    q, m = chi2_3_quantile(level), samples - 3
    # Over z = sqrt(W), whose density (chi's) is smooth at 0 and negligible 12 beyond its mode, which is near sqrt(m). What
    # is summed is zero at both ends, so that the sum is the trapezoidal rule.
    z = np.linspace(max(0.0, math.sqrt(m) - 12.0), math.sqrt(m) + 12.0, 4001)
    density = np.exp((m - 1) * np.log(np.maximum(z, 1e-300)) - z**2 / 2 - (m / 2 - 1) * math.log(2) - math.lgamma(m / 2))
    within = chi2_3_cdf(q * z**2 / ((1 + 1 / samples) * (samples - 1)))
    return float((density * within).sum() * (z[1] - z[0]))


def spread(covariance: ArrayLike) -> Array:
    """Return sqrt(trace S) of covariances (…, 3, 3), (…), millimetres: the root mean square distance from the mean."""
    return np.sqrt(np.trace(np.asarray(covariance, np.float64), axis1=-2, axis2=-1)) * MILLIMETRES


def ranks(values: ArrayLike) -> Array:
    """Return the ranks 1..n of values (n,); equal values share the mean of the ranks that they take up."""
    array = np.asarray(values, np.float64)
    _, index, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[index]


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Return the rank correlation of a (n,) and b (n,), -1..1: Pearson's of their :func:`ranks`. Source: Spearman 1904.

    NaN for fewer than two values, when all of one side are equal, and when a value is NaN.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"expected two rows of one length, got {x.shape} and {y.shape}")
    if len(x) < 2 or np.isnan(x).any() or np.isnan(y).any():
        return float("nan")
    p, q = (r - r.mean() for r in (ranks(x), ranks(y)))
    scale = math.sqrt(float(p @ p) * float(q @ q))
    return float(p @ q) / scale if scale > 0 else float("nan")


def rank_correlations(spreads: Array, errors: Array) -> tuple[Array, float]:
    """Return Spearman's correlation of spreads (n, 17) with errors (n, 17): for each joint (17,), and over all of them."""
    body = [j for j in range(J) if j != ROOT]
    per_joint = np.full(J, np.nan)
    per_joint[body] = [spearman(spreads[:, j], errors[:, j]) for j in body]
    return per_joint, spearman(spreads[:, body].ravel(), errors[:, body].ravel())


def spread_error_correlation(
    prediction: ArrayLike, covariance: ArrayLike, truth: ArrayLike, valid: ArrayLike | None = None
) -> tuple[Array, float]:
    """Return Spearman's correlation of the predicted :func:`spread` with the error, for each joint (17,) and pooled.

    A joint's own tells whether the spread finds the frames that are wrong; the pooled one also has it that a wrist is
    harder than a hip. NaN where either is the same in every frame.
    """
    p, _ = checked_poses(prediction, truth)
    spreads = spread(checked_covariance(covariance, p))
    return rank_correlations(counted(spreads, valid), counted(joint_errors(prediction, truth), valid))
