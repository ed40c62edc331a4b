"""Gaussian mixtures fitted to samples, for training: the device fits heatmaps itself (``diffpose_edge.mixtures``)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.errors import DiffPoseEdgeError, KeypointError
from diffpose_edge.extras import require
from diffpose_edge.keypoints import numbers_of

Array = NDArray[np.float64]

# scikit-learn knows no weights, so samples are repeated by theirs, to this many rows or as many as there are samples.
ROWS = 20_000

# Added to each variance, as a share of the samples' own mean variance: keeps a component on few samples from collapsing.
REGULARISATION = 1e-6


def fit_mixture(samples: ArrayLike, components: int = 5, weights: ArrayLike | None = None, seed: int = 0) -> tuple[Array, Array, Array]:
    """Fit M Gaussians to 2D ``samples`` (n, 2): weight (M,), sum 1; mean (M, 2); covariance (M, 2, 2), in the samples' units.

    ``weights`` (n,), at least 0 with a positive sum, say how much each sample counts; they are rounded to about 1 in 20000 of
    their sum. The same seed gives the same mixture. Samples with no more distinct values than ``components`` become one
    point each, with covariance zero and its own weight, and the components left over repeat the heaviest with weight zero.

    Source: EM as in scikit-learn's GaussianMixture, started by k-means; DiffPose (CVPR 2023) fits M = 5. The samples are
    brought to unit variance first, so that the result follows their units.

    Raises KeypointError for samples or weights of another shape, not finite, or of no weight; DiffPoseEdgeError for
    components below 1; MissingPackage without scikit-learn.
    """
    require("sklearn")
    from sklearn.mixture import GaussianMixture

    if isinstance(components, bool) or not isinstance(components, int | np.integer) or components < 1:
        raise DiffPoseEdgeError(f"expected components as a whole number of at least 1, got {components!r}")
    x = _checked_samples(samples)
    if weights is not None:
        x = np.repeat(x, _counts(weights, len(x)), axis=0)

    points, counts = np.unique(x, axis=0, return_counts=True)
    if len(points) <= components:
        return _points_alone(points, counts, int(components))
    middle = x.mean(axis=0)
    scale = float(np.sqrt(x.var(axis=0).mean()))
    fit = GaussianMixture(int(components), reg_covar=REGULARISATION, max_iter=500, random_state=seed).fit((x - middle) / scale)
    weight = np.asarray(fit.weights_, np.float64)
    return weight / weight.sum(), fit.means_ * scale + middle, fit.covariances_ * scale**2


def _points_alone(points: Array, counts: NDArray[np.intp], components: int) -> tuple[Array, Array, Array]:
    weight = np.zeros(components)
    weight[: len(points)] = counts / counts.sum()
    mean = np.tile(points[counts.argmax()], (components, 1))
    mean[: len(points)] = points
    return weight, mean, np.zeros((components, 2, 2))


def _counts(weights: ArrayLike, n: int) -> NDArray[np.intp]:
    """Return how often each sample is repeated: the rounded steps of the running sum, so that errors do not add up."""
    numbers_of(weights, "weights")
    w = np.asarray(weights, np.float64)
    if w.shape != (n,):
        raise KeypointError(f"expected weights of shape ({n},), one for each sample, got {w.shape}")
    if not (np.isfinite(w).all() and (w >= 0).all() and w.max() > 0):
        raise KeypointError("expected weights that are finite, at least 0 and not all 0")
    running = np.cumsum(w / w.max())
    counts: NDArray[np.intp] = np.diff(np.rint(running / running[-1] * max(ROWS, n)), prepend=0.0).astype(np.intp)
    return counts


def _checked_samples(samples: ArrayLike) -> Array:
    numbers_of(samples, "samples")
    x = np.asarray(samples, np.float64)
    if x.ndim != 2 or x.shape[1] != 2 or len(x) == 0:
        raise KeypointError(f"expected samples (n, 2) with at least one, got {x.shape}")
    wrong = ~np.isfinite(x).all(axis=1)
    if wrong.any():
        at = int(wrong.argmax())
        raise KeypointError(f"sample {at} is {x[at].tolist()}: expected finite numbers")
    return x
