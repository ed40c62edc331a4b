"""Where each 2D joint may lie: a Gaussian mixture for every joint, in the networks' normalised image coordinates.

This is the 2D side of DiffPose's start distribution (Gong et al., CVPR 2023, section 4.2): the detector's uncertainty about
u, v, as a mixture of M = 5 components fitted to its heatmaps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.errors import DiffPoseEdgeError, KeypointError
from diffpose_edge.heatmaps import fit_heatmaps
from diffpose_edge.keypoints import MOST_NORMALISED, normalise_pixels, numbers_of
from diffpose_edge.skeleton import JOINTS, J

Array = NDArray[np.float64]

# Weights that a network computed in float16 sum to one within this.
WEIGHT_SUM = 1e-3

# A covariance computed in float32 is symmetric, and its correlation within -1..1, to within this.
COVARIANCE = 1e-5

COMPONENTS = 5


@dataclass(frozen=True)
class Mixture:
    """Checked mixtures of M components: ``weight`` (…, 17, M), sum 1; ``mean`` (…, 17, M, 2); ``covariance`` (…, 17, M, 2, 2).

    Float64, normalised u = 2x/w - 1, v = 2y/w - h/w. ``confidence`` (…, 17) float32 within 0..1. A confidence of zero means
    that the joint was not seen; its weights are then equal and its means and covariances zero, and stand for nothing.
    """

    weight: Array
    mean: Array
    covariance: Array
    confidence: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.weight)


def checked_mixture(weight: ArrayLike, mean: ArrayLike, covariance: ArrayLike, confidence: ArrayLike | None = None) -> Mixture:
    """Check the arrays of a :class:`Mixture` and return it; without ``confidence`` every joint has 1.

    Weights are at least 0 and sum to 1 within 1e-3, and are then divided by their sum. Covariances are finite, symmetric
    and positive semi-definite within 1e-5; zero is a point. Joints with confidence 0 are not looked at.

    Raises KeypointError, which names the person and the joint at fault.
    """
    w, mu, cov = (_float64(a, what) for a, what in ((weight, "weights"), (mean, "means"), (covariance, "covariances")))
    if w.ndim < 2 or w.shape[-2] != J or w.size == 0:
        raise KeypointError(f"expected weights (…, {J}, M) of at least one person, got {w.shape}")
    for array, what, tail in ((mu, "means", (2,)), (cov, "covariances", (2, 2))):
        if array.shape != (*w.shape, *tail):
            raise KeypointError(f"expected {what} of shape {(*w.shape, *tail)} to go with weights {w.shape}, got {array.shape}")
    seen = _confidence_of(confidence, w.shape[:-1])

    unseen = (seen == 0)[..., None]
    w = np.where(unseen, 1.0 / w.shape[-1], w)
    mu = np.where(unseen[..., None], 0.0, mu)
    cov = np.where(unseen[..., None, None], 0.0, cov)

    wrong = ~((w >= 0) & (w <= 1 + WEIGHT_SUM)).all(axis=-1)
    _refuse(wrong, lambda at: f"weights {w[at].tolist()}: expected numbers within 0..1")
    total = w.sum(axis=-1)
    _refuse(np.abs(total - 1) > WEIGHT_SUM, lambda at: f"weights that sum to {total[at]:.6g}: expected 1; divide them by their sum")
    _refuse(~np.isfinite(mu).all(axis=(-1, -2)), lambda at: f"means {mu[at].tolist()}: expected finite numbers")
    _refuse(
        (np.abs(mu) > MOST_NORMALISED).any(axis=(-1, -2)),
        lambda at: (
            f"means that reach {np.abs(mu[at]).max():.4g}; normalised ones lie around -1..1. Are they pixels? Use "
            f"diffpose_edge.keypoints.normalise_pixels, and (2/w)^2 for covariances"
        ),
    )
    _refuse(~np.isfinite(cov).all(axis=(-1, -2, -3)), lambda at: f"covariances {cov[at].tolist()}: expected finite numbers")
    _refuse(
        (np.abs(cov) > MOST_NORMALISED**2).any(axis=(-1, -2, -3)),
        lambda at: (
            f"covariances that reach {np.abs(cov[at]).max():.4g}; normalised ones lie below 1. Are they in pixels? Multiply by (2/w)^2"
        ),
    )
    a, b, c, d = cov[..., 0, 0], cov[..., 0, 1], cov[..., 1, 0], cov[..., 1, 1]
    _refuse(
        (np.abs(b - c) > COVARIANCE * np.maximum(np.abs(a), np.abs(d))).any(axis=-1),
        lambda at: f"covariances {cov[at].tolist()}: expected symmetric matrices",
    )
    off = (b + c) / 2
    negative = (a < 0) | (d < 0) | (off * off > (1 + COVARIANCE) * np.maximum(a, 0) * np.maximum(d, 0))
    _refuse(
        negative.any(axis=-1),
        lambda at: (
            f"covariances {cov[at].tolist()}: expected positive semi-definite matrices (no variance below zero, no correlation "
            f"beyond -1..1)"
        ),
    )
    symmetric = np.stack([a, off, off, d], axis=-1).reshape(cov.shape)
    return Mixture(w / total[..., None], mu, symmetric, seen)


def mixture_from_keypoints(uv: ArrayLike, covariance: ArrayLike, confidence: ArrayLike | None = None) -> Mixture:
    """Return M = 1 Gaussian for each joint: ``uv`` (B, 17, 2), ``covariance`` (B, 17, 2, 2), both normalised.

    Raises KeypointError.
    """
    mean, cov = _float64(uv, "uv"), _float64(covariance, "covariances")
    if mean.ndim != 3 or mean.shape[1:] != (J, 2) or cov.shape != (*mean.shape, 2):
        raise KeypointError(f"expected uv (B, {J}, 2) and covariance (B, {J}, 2, 2), got {mean.shape} and {cov.shape}")
    return checked_mixture(np.ones((*mean.shape[:2], 1)), mean[:, :, None], cov[:, :, None], confidence)


def mixture_from_parameters(weight: ArrayLike, mean: ArrayLike, scale: ArrayLike, confidence: ArrayLike | None = None) -> Mixture:
    """Return mixtures with u, v independent within a component: ``weight`` (B, 17, M), ``mean`` and ``scale`` (B, 17, M, 2).

    ``scale`` holds standard deviations, normalised, at least 0. Raises KeypointError.
    """
    w, mu, deviation = _float64(weight, "weights"), _float64(mean, "means"), _float64(scale, "scales")
    if w.ndim != 3 or w.shape[1] != J or deviation.shape != (*w.shape, 2):
        raise KeypointError(f"expected weights (B, {J}, M) and scales (B, {J}, M, 2), got {w.shape} and {deviation.shape}")
    seen = _confidence_of(confidence, w.shape[:-1])
    wrong = ~(np.isfinite(deviation) & (deviation >= 0)).all(axis=(-1, -2)) & (seen > 0)
    _refuse(wrong, lambda at: f"scales {deviation[at].tolist()}: expected standard deviations, finite and at least 0")
    with np.errstate(over="ignore"):  # what overflows becomes inf, and is refused below
        return checked_mixture(w, mu, (deviation**2)[..., None] * np.eye(2), seen)


def mixture_from_heatmaps(heatmaps: ArrayLike, affine: ArrayLike, image_size: tuple[float, float], components: int = COMPONENTS) -> Mixture:
    """Fit a mixture to each of a detector's heatmaps (B, 17, H, W), by EM on the pixel grid: see ``heatmaps.fit_heatmaps``.

    ``affine`` (2, 3), or (B, 2, 3) with one for each person, maps heatmap coordinates (column, row, 1), in which the first
    pixel's centre is (0, 0), to image pixels x, y. ``image_size`` is the image's (w, h). The mixtures keep the sub-pixel
    position, and at least the variance of one heatmap pixel.

    A heatmap's negative values count as zero: detectors that regress heatmaps undershoot a little around a peak. The
    confidence is the heatmap's highest value, clipped to 1. One person takes 10 to 25 ms for 64 x 48, by the shape of
    the heatmaps (one core of a 2.5 GHz Xeon).

    Raises KeypointError for wrong shapes, an affine map that is not finite or maps onto a line, and for a heatmap with NaN or
    inf, or without a positive value, named by person and joint.
    """
    maps = numbers_of(heatmaps, "heatmaps")
    if maps.ndim != 4 or maps.shape[1] != J or maps.size == 0:
        raise KeypointError(f"expected heatmaps (B, {J}, H, W) of at least one person, got {maps.shape}")
    if isinstance(components, bool) or not isinstance(components, int | np.integer) or components < 1:
        raise DiffPoseEdgeError(f"expected components as a whole number of at least 1, got {components!r}")
    to_image = _checked_affine(affine, len(maps))
    _refuse(~np.isfinite(maps).all(axis=(-1, -2)), lambda at: "a heatmap with NaN or inf in it: expected finite numbers")
    peak = maps.max(axis=(-1, -2))
    _refuse(
        peak <= 0,
        lambda at: (
            f"a heatmap without a positive value (the highest is {peak[at]:.4g}): it says nothing about where the joint is. "
            f"Leave this person out, or give keypoints with confidence 0 for this joint"
        ),
    )
    weight, mean, cov = fit_heatmaps(maps.reshape(-1, *maps.shape[2:]), int(components))
    leading = (*maps.shape[:2], components)
    linear, shift = to_image[:, None, None, :, :2], to_image[:, None, None, :, 2]
    pixels = (linear @ mean.reshape(*leading, 2, 1))[..., 0] + shift
    uv = normalise_pixels(pixels, image_size)
    linear = linear * (2.0 / float(image_size[0]))
    cov = linear @ cov.reshape(*leading, 2, 2) @ np.swapaxes(linear, -1, -2)
    return checked_mixture(weight.reshape(leading), uv, cov, np.minimum(peak, np.float32(1.0)))


def draw(mixture: Mixture, N: int, rng: np.random.Generator, balanced: bool = False) -> tuple[NDArray[np.intp], Array, Array]:
    """Draw N components for each person and joint by their weights: index (B, N, 17), mean (B, N, 17, 2), Cholesky (B, N, 17, 2, 2).

    The Cholesky factor L is lower triangular, L L^T the component's covariance; without variance it is zero. Exactly
    B N 17 uniforms are taken from ``rng``, in the order b, n, j: a person's draws do not depend on who comes after.

    ``balanced`` spreads a joint's N draws over its components: a component of weight w comes floor(N w) or ceil(N w)
    times (systematic sampling, in an order that is random and independent between joints). Each draw by itself still has
    the mixture's distribution, while means over the N scatter less.

    Raises KeypointError for a mixture without exactly one leading axis, DiffPoseEdgeError for N below 1.
    """
    if mixture.weight.ndim != 3:
        raise KeypointError(f"expected a mixture with weights (B, {J}, M), got {mixture.weight.shape}")
    if isinstance(N, bool) or not isinstance(N, int | np.integer) or N < 1:
        raise DiffPoseEdgeError(f"expected N, the draws for each person, as a whole number of at least 1, got {N!r}")
    u = rng.random((len(mixture), int(N), J))
    if balanced:
        # Sorting gives a random order; the sum's fraction is uniform and, as it does not know the order, independent of it.
        order = u.argsort(axis=1)
        offset = u.sum(axis=1, keepdims=True) % 1.0
        u = np.minimum((order + offset) / N, np.nextafter(1.0, 0.0))
    cumulative = np.cumsum(mixture.weight, axis=-1)
    # Ends at exactly 1, above every u, so that rounding never selects a last component of weight zero.
    cumulative /= cumulative[..., -1:]
    component = (u[..., None] >= cumulative[:, None]).sum(axis=-1)
    person, joint = np.arange(len(mixture))[:, None, None], np.arange(J)
    return component, mixture.mean[person, joint, component], _cholesky(mixture.covariance)[person, joint, component]


def moments(mixture: Mixture) -> tuple[Array, Array]:
    """Return mean (…, 17, 2) and covariance (…, 17, 2, 2) of each joint's whole mixture (Bishop, equations 9.49 and 9.50)."""
    weight = mixture.weight[..., None]
    mean = (weight * mixture.mean).sum(axis=-2)
    apart = mixture.mean - mean[..., None, :]
    spread = mixture.covariance + apart[..., :, None] * apart[..., None, :]
    return mean, (weight[..., None] * spread).sum(axis=-3)


def _cholesky(cov: Array) -> Array:
    """Return the lower factor of covariances (…, 2, 2), zeros where there is no variance."""
    factor = np.zeros_like(cov)
    l00 = np.sqrt(cov[..., 0, 0])
    l10 = cov[..., 1, 0] / np.where(l00 > 0, l00, 1.0)
    factor[..., 0, 0], factor[..., 1, 0] = l00, l10
    factor[..., 1, 1] = np.sqrt(np.maximum(cov[..., 1, 1] - l10 * l10, 0.0))
    return factor


def _checked_affine(affine: ArrayLike, persons: int) -> Array:
    matrix = _float64(affine, "affine")
    if matrix.shape not in ((2, 3), (persons, 2, 3)):
        raise KeypointError(f"expected affine of shape (2, 3), or ({persons}, 2, 3) with one for each person, got {matrix.shape}")
    matrix = np.broadcast_to(matrix, (persons, 2, 3))
    finite = np.isfinite(matrix).all(axis=(-1, -2), keepdims=True)
    wrong = np.linalg.det(np.where(finite, matrix, 0.0)[..., :2]) == 0
    if wrong.any():
        at = int(wrong.argmax())
        raise KeypointError(
            f"the affine map of person {at} is {matrix[at].tolist()}: expected finite numbers that map the heatmap's plane onto the image's"
        )
    return matrix


def _float64(values: ArrayLike, what: str) -> Array:
    numbers_of(values, what)  # refuses what is no array of numbers
    return np.asarray(values, np.float64)


def _confidence_of(confidence: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if confidence is None:
        return np.ones(shape, np.float32)
    array = numbers_of(confidence, "confidence")
    if array.shape != shape:
        raise KeypointError(f"expected confidence of shape {shape}, one number for each joint, got {array.shape}")
    _refuse(~((array >= 0) & (array <= 1)), lambda at: f"confidence {float(array[at])}: expected a number within 0..1, 0 for not seen")
    return array


def _refuse(wrong: NDArray[np.bool_] | np.bool_, fault: Callable[[tuple[int, ...]], str]) -> None:
    """Raise KeypointError for the first place (…, 17) that is wrong, if any."""
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        person = f"person {', '.join(map(str, at[:-1]))}, " if len(at) > 1 else ""
        raise KeypointError(f"{person}joint {at[-1]} ({JOINTS[at[-1]]}) has {fault(at)}")
