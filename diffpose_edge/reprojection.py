"""Weighted least squares on the reprojection error: q, such that joints J_j + q project onto their keypoints.

The error is measured in pixels, to first order around each keypoint: with the keypoint's ray d and the derivative A of the camera there,
e = A (J + q) / (d · (J + q)). It is what projecting gives, up to second order in the error, for every kind of lens alike; it is smooth
wherever the joint is in front of the ray, and the lens has to be inverted once. Its derivative is D = (A - e dᵀ) / (d · (J + q)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Huber's threshold, in standard deviations of an error of two dimensions. Of true errors 13.5 % lie beyond it, and the estimate keeps
# 98 % of its efficiency: with b = 1 - exp(-δ²/2) and a = b + δ/2 sqrt(π/2) erfc(δ/√2) that is a² / b (Huber 1964, in two dimensions).
HUBER = 2.0
# A joint this far out is wrong: of true errors 3 in 10,000 are.
WRONG = 4.0
# The median of an error of two dimensions and deviation 1: sqrt(2 ln 2).
MEDIAN = float(np.sqrt(2 * np.log(2)))
# No joint is nearer than this along its ray, metres.
NEAREST = 0.05
MOST_ITERATIONS = 60
# Steps end where they are this part of the place's own standard deviation.
CERTAIN = 1e-5
# The normal equations' smallest eigenvalue over their largest, scaled by the distance: what float64 can still tell from none.
LEAST_CONDITION = 1e-13


@dataclass(frozen=True)
class Reprojection:
    """What B people's places are fitted to: ``joints`` (B, 17, 3), their ``covariance`` (B, 17, 3, 3), the keypoints' ``rays``
    (B, 17, 3), of length 1, the camera's ``derivative`` there (B, 17, 2, 3), and the keypoints' ``variance`` (B, 17), square pixels.
    """

    joints: Array
    covariance: Array
    rays: Array
    derivative: Array
    variance: Array

    def of(self, people: NDArray[np.bool_] | NDArray[np.intp]) -> Reprojection:
        """Return these people alone: of which (B,), or their numbers."""
        return Reprojection(*(a[people] for a in (self.joints, self.covariance, self.rays, self.derivative, self.variance)))

    def errors(self, q: Array) -> tuple[Array, Array, Array]:
        """Return e (B, 17, 2), pixels, D = de/dq (B, 17, 2, 3) and the distance along the rays (B, 17) for places q (B, 3)."""
        p = self.joints + q[:, None]
        depth = (self.rays * p).sum(axis=-1)
        safe = np.where(np.abs(depth) < NEAREST, NEAREST, depth)
        e = (self.derivative @ p[..., None])[..., 0] / safe[..., None]
        D = (self.derivative - e[..., None] * self.rays[:, :, None, :]) / safe[..., None, None]
        return e, D, depth

    def precision(self, D: Array) -> Array:
        """Return the inverse covariance of each error (B, 17, 2, 2): of the keypoint, and of the joint as it shows in the image."""
        S = D @ self.covariance @ np.swapaxes(D, -1, -2)
        a, b, d = S[..., 0, 0] + self.variance, S[..., 0, 1], S[..., 1, 1] + self.variance
        det = a * d - b * b
        return np.stack([d, -b, -b, a], axis=-1).reshape(S.shape) / det[..., None, None]


@dataclass(frozen=True)
class Fit:
    """``place`` q (B, 3) and its ``covariance`` (B, 3, 3); ``weights`` (B, 17) that the joints ended with, 0..1; ``residual_px`` (B,)
    over those that count; whether it ``converged`` (B,), and whether the joints ``determined`` it (B,).
    """

    place: Array
    covariance: Array
    weights: Array
    residual_px: Array
    converged: NDArray[np.bool_]
    determined: NDArray[np.bool_]


def closed_form(measured: Reprojection, seen: NDArray[np.bool_]) -> Array:
    """Return the places q (B, 3) with the least squared distances of the joints from their rays: a linear problem.

    Where that lies behind the camera, or the rays are one: along the mean ray, as far as the body's extent in the image says.
    """
    J, d, w = measured.joints, measured.rays, seen[..., None].astype(np.float64)
    across = np.eye(3) - d[..., :, None] * d[..., None, :]
    M = (w[..., None] * across).sum(axis=1)
    count = np.maximum(w.sum(axis=1), 1.0)
    mean = (w * d).sum(axis=1) / count
    mean /= np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-9)
    size = np.sqrt((w * np.square(J - (w * J).sum(axis=1, keepdims=True) / count[:, None])).sum(axis=(1, 2)))
    angle = np.sqrt((w * np.square(d - mean[:, None])).sum(axis=(1, 2)))
    guess = mean * (np.maximum(size, 0.1) / np.maximum(angle, 1e-3))[:, None] - (w * J).sum(axis=1) / count
    singular = np.linalg.eigvalsh(M)[:, 0] < 1e-9
    q = -np.linalg.solve(np.where(singular[:, None, None], np.eye(3), M), (w * (across @ J[..., None])[..., 0]).sum(axis=1)[..., None])[
        ..., 0
    ]
    depth = np.where(seen, (d * (J + q[:, None])).sum(axis=-1), np.inf).min(axis=1)
    return np.where((singular | (depth < NEAREST))[:, None], guess, q)


def fitted(measured: Reprojection, seen: NDArray[np.bool_], least: int) -> Fit:
    """Fit B people, each to the joints that were ``seen`` (B, 17); then once more without joints that are plainly wrong.

    Those lie ``WRONG`` deviations out, of what the others say a deviation is. At least ``least`` and half of the joints stay.
    """
    first = _minimised(measured, seen, closed_form(measured, seen))
    distance = _distances(measured, first.place)
    among = np.where(seen, distance, np.nan)
    middle = np.array([np.median(row[s]) if s.any() else 0.0 for row, s in zip(among, seen, strict=True)])
    kept = seen & (distance <= WRONG * np.maximum(1.0, middle / MEDIAN)[:, None])
    again = (kept != seen).any(axis=1) & (kept.sum(axis=1) >= np.maximum(least, (seen.sum(axis=1) + 1) // 2))
    if not again.any():
        return first
    second = _minimised(measured.of(again), kept[again], first.place[again])
    merged = []
    for name in ("place", "covariance", "weights", "residual_px", "converged", "determined"):
        whole = getattr(first, name).copy()
        whole[again] = getattr(second, name)
        merged.append(whole)
    return Fit(*merged)


def _distances(measured: Reprojection, q: Array) -> Array:
    e, D, depth = measured.errors(q)
    return np.where(depth > NEAREST, _deviations(measured.precision(D), e), np.inf)


def _deviations(W: Array, e: Array) -> Array:
    """Return how many standard deviations each error is, (B, 17): its Mahalanobis distance m."""
    return np.sqrt(np.maximum((e * (W @ e[..., None])[..., 0]).sum(axis=-1), 0.0))


def _weights(m: Array, seen: NDArray[np.bool_]) -> Array:
    return np.where(seen, HUBER / np.maximum(m, HUBER), 0.0)


def _cost(m: Array, seen: NDArray[np.bool_]) -> Array:
    """Return Huber's cost (B,)."""
    inner = np.minimum(m, HUBER)
    return np.where(seen, inner * (m - inner / 2), 0.0).sum(axis=1)


def _minimised(measured: Reprojection, seen: NDArray[np.bool_], start: Array) -> Fit:
    """Levenberg and Marquardt's iteration from places (B, 3). Errors' covariances are those at the place that a step starts from."""
    places = start.copy()
    converged: NDArray[np.bool_] = np.logical_not(seen.any(axis=1))
    # Those who are still on their way: whoever has arrived costs no more.
    people = np.flatnonzero(~converged)
    still, visible, q, damping = measured.of(people), seen[people], places[people], np.full(len(people), 1e-9)
    e, D, _ = still.errors(q)
    for _ in range(MOST_ITERATIONS):
        if not len(people):
            break
        W = still.precision(D)
        m = _deviations(W, e)
        weighted = np.swapaxes(D, -1, -2) @ W * _weights(m, visible)[..., None, None]
        H = (weighted @ D).sum(axis=1)
        g = (weighted @ e[..., None])[..., 0].sum(axis=1)
        damped = H + np.eye(3) * (damping[:, None] * np.einsum("bii->bi", H))[:, None, :]
        singular = ~(np.linalg.det(damped) > 0)
        step = -np.linalg.solve(np.where(singular[:, None, None], np.eye(3), damped), g[..., None])[..., 0]
        step[singular] = 0.0
        tried, tried_D, depth = still.errors(q + step)
        inside = np.where(visible, depth, np.inf).min(axis=1) > NEAREST
        small = np.einsum("bi,bij,bj->b", step, H, step) <= CERTAIN**2
        # Beside the minimum costs differ by rounding alone.
        better = inside & (small | (_cost(_deviations(W, tried), visible) <= _cost(m, visible)))
        q = np.where(better[:, None], q + step, q)
        places[people] = q
        arrived = small & inside & ~singular
        converged[people[arrived]] = True
        e, D = np.where(better[:, None, None], tried, e), np.where(better[:, None, None, None], tried_D, D)
        damping = np.where(better, np.maximum(damping * 0.1, 1e-12), np.minimum(np.maximum(damping, 1e-6) * 10.0, 1e12))
        if arrived.any():
            left = ~arrived
            people, visible, q, damping, e, D = people[left], visible[left], q[left], damping[left], e[left], D[left]
            still = still.of(left)
    return _fit(measured, seen, places, converged)


def _fit(measured: Reprojection, seen: NDArray[np.bool_], q: Array, converged: NDArray[np.bool_]) -> Fit:
    e, D, _ = measured.errors(q)
    W = measured.precision(D)
    m = _deviations(W, e)
    weight = _weights(m, seen)
    H = (np.swapaxes(D, -1, -2) @ W * weight[..., None, None] @ D).sum(axis=1)
    eigenvalues = np.linalg.eigvalsh(H)
    determined = eigenvalues[:, 0] > LEAST_CONDITION * np.maximum(eigenvalues[:, 2], 1e-300)
    covariance = np.linalg.inv(np.where(determined[:, None, None], H, np.eye(3)))
    # Errors larger than they were said to be make the place as much less certain (Birge 1932); smaller ones do not make it more.
    freedom = np.maximum(2 * seen.sum(axis=1) - 3, 1)
    ratio = (weight * m * m).sum(axis=1) / freedom
    covariance = covariance * np.maximum(1.0, ratio)[:, None, None]
    counted = np.maximum(seen.sum(axis=1), 1)
    residual = np.sqrt(np.where(seen, np.square(e).sum(axis=-1), 0.0).sum(axis=1) / counted)
    return Fit(q, covariance, weight, residual, converged, determined)
