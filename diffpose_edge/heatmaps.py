"""Heatmaps as Gaussian mixtures on their pixel grid: rendered from one, and fitted by one.

A heatmap is read as a density that is constant on each pixel's unit square. Coordinates are (column, row), and the centre
of the first pixel is (0, 0).

Source of the fit: expectation maximisation, Dempster, Laird and Rubin 1977; Bishop, *Pattern Recognition and Machine
Learning*, chapter 9.2. DiffPose (CVPR 2023) fits M = 5 components to each joint.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.arrays import real_array
from diffpose_edge.errors import KeypointError

Array = NDArray[np.float64]

# Variance of a uniform density on a unit square, along each axis.
EXTENT = 1.0 / 12.0

# Only this many pixels of a heatmap, the heaviest, enter the fit: a quarter of 64 x 48. Measured against all of them on 17
# random heatmaps of a kind, largest difference in the mixture's mean and deviation: peaks of deviation 2 pixels, as detectors are
# trained on, 1e-4 pixel; two peaks of deviation 4, 0.10 and 0.16 pixel. Where noise of 0.005 covers the grid, 6 % of the mass
# are left out, and that is noise. All the pixels take three to four times as long.
PIXELS = 768

# A joint is fitted when an iteration raises its mean log-likelihood by less than this; scikit-learn's default.
GAIN = 1e-3
ITERATIONS = 100

# A component with less of the mass than this has died out: what is left of it are roundings.
EMPTY = 1e-12


def render_heatmaps(centres: ArrayLike, weights: ArrayLike, sigma: float, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return heatmaps (…, H, W) as sums of K Gaussian blobs: ``centres`` (…, K, 2) in heatmap pixels, heights ``weights`` (…, K).

    ``sigma`` is the blobs' deviation in pixels, ``size`` is (H, W). For B persons the leading axes are (B, 17). A blob of
    weight 1 has height 1 at its centre, as the heatmaps have that detectors are trained on.

    Raises KeypointError for shapes that do not belong together, and a sigma or a size that is not positive.
    """
    at, height = real_array(centres, "centres", KeypointError), real_array(weights, "weights", KeypointError)
    if at.ndim < 2 or at.shape[-1] != 2 or height.shape != at.shape[:-1]:
        raise KeypointError(f"expected centres (…, K, 2) and weights (…, K), got {at.shape} and {height.shape}")
    if len(size) != 2 or not all(isinstance(n, int | np.integer) for n in size):
        raise KeypointError(f"expected a size (H, W) of two whole numbers, got {size!r}")
    if not (np.isfinite(sigma) and sigma > 0 and min(size) > 0):
        raise KeypointError(f"expected a positive sigma in pixels and a positive size (H, W), got {sigma} and {size}")
    # A round Gaussian is the product of one along the columns and one along the rows.
    across, down = (np.exp(-0.5 * ((np.arange(size[1 - i]) - at[..., i, None]) / sigma) ** 2) for i in (0, 1))
    return np.asarray(np.swapaxes(height[..., None] * down, -1, -2) @ across, np.float32)


def fit_heatmaps(heatmaps: NDArray[np.floating], components: int) -> tuple[Array, Array, Array]:
    """Fit a Gaussian mixture to each of G heatmaps (G, H, W): weight (G, M), mean (G, M, 2), covariance (G, M, 2, 2), in pixels.

    Negative values count as zero; the caller has seen to it that all are finite and each heatmap has a positive one.

    The fit is exact EM, with the pixel's extent in both of its steps: the E-step weighs components by their log-density
    averaged over the pixel's square, which is that at its centre less tr(covariance^-1) / 24, and the M-step adds the
    square's own variance of 1/12 to each axis. So no covariance is smaller than I/12, a single bright pixel has just that,
    and the mixture's whole mean and covariance are those of the heatmap as a density (of the pixels that enter: ``PIXELS``). A
    heatmap is fitted alike whichever others are in the batch. A component that finds no mass of its own keeps its place, with weight zero.

    The start is deterministic: the first centre is the heaviest pixel; each next one the pixel with the largest weight times
    squared distance to the nearest centre so far (k-means++ with the likeliest draw in place of a random one); every pixel
    then goes to its nearest centre.
    """
    H, W = heatmaps.shape[1:]
    # About the grid's middle, where squares of coordinates lose the fewest digits to cancellation.
    middle = np.array([(W - 1) / 2.0, (H - 1) / 2.0])
    share, xy = _heaviest_pixels(heatmaps)
    xy -= middle[:, None]
    x, y = xy[:, 0], xy[:, 1]
    powers = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    owner, seeds = _nearest_seeds(share, xy, components)

    fitted = _maximised(owner * share[:, None], powers, seeds)
    active, last = np.arange(len(share)), np.full(len(share), -np.inf)
    current = fitted
    for _ in range(ITERATIONS):
        responsibility, likelihood = _expected(current, share, powers)
        current = _maximised(responsibility, powers, current[1])
        for whole, part in zip(fitted, current, strict=True):
            whole[active] = part
        going = likelihood - last >= GAIN
        if not going.any():
            break
        if not going.all():
            active, last, likelihood, share, powers = (a[going] for a in (active, last, likelihood, share, powers))
            current = (current[0][going], current[1][going], current[2][going])
        last = likelihood
    weight, mean, packed = fitted
    return weight, mean + middle, packed[..., [0, 1, 1, 2]].reshape(*weight.shape, 2, 2)


def _heaviest_pixels(heatmaps: NDArray[np.floating]) -> tuple[Array, Array]:
    """Return the shares (G, n) of the mass, which sum to one, and the coordinates (G, 2, n) of the n heaviest pixels."""
    G, H, W = heatmaps.shape
    S = H * W
    n = min(PIXELS, S)
    # Pixels are listed in strides of the golden ratio, so that those taken out of many equal ones (a flat background) lie
    # all over the grid and not in one corner of it.
    stride = next(s for s in range(max(1, round(0.618 * S)), 2 * S + 2) if math.gcd(s, S) == 1)
    order = np.arange(S) * stride % S
    mass = np.maximum(heatmaps.reshape(G, S)[:, order], 0.0).astype(np.float64)
    # By value and then by place in the list, because what a partition does with equal values differs between machines.
    least = np.partition(mass, S - n, axis=1)[:, S - n, None]
    chosen, equal = mass > least, mass == least
    chosen |= equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= n - chosen.sum(axis=1, keepdims=True))
    pixel = np.flatnonzero(chosen)
    kept = mass.reshape(-1)[pixel].reshape(G, n)
    kept /= kept.sum(axis=1, keepdims=True)
    pixel %= S
    return kept, np.stack([(order % W)[pixel].reshape(G, n), (order // W)[pixel].reshape(G, n)], axis=1).astype(np.float64)


def _nearest_seeds(share: Array, xy: Array, components: int) -> tuple[Array, Array]:
    """Return which seed is nearest to each pixel, one-hot (G, M, n), and the seeds (G, M, 2)."""
    heatmap, heaviest = np.arange(len(share)), share.argmax(axis=1)
    seeds = np.empty((len(share), components, 2))
    nearest = np.zeros(share.shape, int)
    squared = np.full(share.shape, np.inf)
    for m in range(components):
        reach = share * squared if m else share
        # Where all pixels with mass have been chosen, the heaviest is taken again.
        pixel = np.where(reach.max(axis=1) > 0, reach.argmax(axis=1), heaviest)
        seeds[:, m] = xy[heatmap, :, pixel]
        to_seed = ((xy - seeds[:, m, :, None]) ** 2).sum(axis=1)
        # Not when equally far: a seed that repeats another owns nothing.
        nearest[to_seed < squared] = m
        np.minimum(squared, to_seed, out=squared)
    return (nearest[:, None] == np.arange(components)[:, None]).astype(np.float64), seeds


def _maximised(responsibility: Array, powers: Array, before: Array) -> tuple[Array, Array, Array]:
    """M-step: weight (G, M), mean (G, M, 2), covariance (G, M, 3) as (xx, xy, yy).

    A component without mass keeps its mean ``before`` (G, M, 2), and its covariance is a pixel's.
    """
    moments = responsibility @ np.swapaxes(powers, -1, -2)
    alive = moments[..., :1] > EMPTY
    weight = np.where(alive, moments[..., :1], 0.0)
    moments = np.where(alive, moments / np.where(alive, weight, 1.0), 0.0)
    mean = moments[..., 1:3]
    covariance = moments[..., 3:] - mean[..., [0, 0, 1]] * mean[..., [0, 1, 1]]
    covariance[..., ::2] += EXTENT
    return weight[..., 0] / weight.sum(axis=-2), np.where(alive, mean, before), covariance


def _expected(mixture: tuple[Array, Array, Array], share: Array, powers: Array) -> tuple[Array, Array]:
    """E-step: responsibilities times the pixels' shares (G, M, n), and the mean log-likelihood (G,) that EM raises."""
    weight, mean, covariance = mixture
    a, b, d = np.moveaxis(covariance, -1, 0)
    x, y = np.moveaxis(mean, -1, 0)
    determinant = a * d - b * b
    A, B, D = d / determinant, -b / determinant, a / determinant
    with np.errstate(divide="ignore"):  # a component of weight zero has log-density -inf, and no pixel is its own
        constant = np.log(weight) - 0.5 * np.log((2 * np.pi) ** 2 * determinant)
    constant = constant - 0.5 * (A * x * x + 2 * B * x * y + D * y * y) - 0.5 * EXTENT * (A + D)
    # The log-density is a polynomial of second order in the pixel's coordinates: one matrix product evaluates it.
    log = np.stack([constant, A * x + B * y, B * x + D * y, -0.5 * A, -B, -0.5 * D], axis=-1) @ powers
    highest = log.max(axis=1)
    log -= highest[:, None]
    density = np.exp(log, out=log)
    total = density.sum(axis=1)
    likelihood = (share * (highest + np.log(total))).sum(axis=1)
    density *= (share / total)[:, None]
    return density, likelihood
