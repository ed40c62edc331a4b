"""How lenses bend: the distortion models that ROS's CameraInfo names, their derivatives, and their inverses.

The image plane lies at distance 1. Models, as OpenCV defines them (its documentation of calib3d and of calib3d's fisheye):

- ``plumb_bob``, k1 k2 p1 p2 k3, and ``rational_polynomial``, k1 k2 p1 p2 k3 k4 k5 k6. With (a, b) = (x, y) / z, r² = a² + b² and
  L = (1 + k1 r² + k2 r⁴ + k3 r⁶) / (1 + k4 r² + k5 r⁴ + k6 r⁶): a' = a L + 2 p1 a b + p2 (r² + 2 a²), b' = b L + p1 (r² + 2 b²) + 2 p2 a b.
- ``equidistant``, k1 k2 k3 k4. With the angle θ from the optical axis: (a', b') = θ (1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸) (x, y) / |(x, y)|.

A polynomial fitted within the image need not mean anything outside it: beyond some radius it turns back, and two directions share a
pixel. :func:`limit_of` finds that radius; nothing beyond it is projected.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# How many coefficients each model takes.
MODELS = {"none": (0,), "plumb_bob": (0, 4, 5), "rational_polynomial": (8,), "equidistant": (4,)}

MOST_STEPS = 60
# Half an image of 179 degrees is 115 wide at distance 1.
FARTHEST = 1e3
# Newton's steps end where they are rounding: relative to the image plane at distance 1.
SMALLEST_STEP = 1e-13
# What a pixel may be off by after going there and back, on the same plane. A ten-thousandth of a pixel where the focal length is 1000.
LARGEST_MISFIT = 1e-7


def limit_of(model: str, coefficients: tuple[float, ...]) -> float:
    """Return up to where the model is one to one: a radius r of the plane at distance 1, or an angle θ for ``equidistant``.

    The first place at which d(r L)/dr, or dθ'/dθ, is zero, or L infinite; infinite, or π, where there is none. p1 and p2 do not count.
    """
    if model == "equidistant":
        root = _first_root(np.array([9.0, 7.0, 5.0, 3.0, 1.0]) * [*coefficients[::-1], 1.0])
        return float(min(np.sqrt(root), np.pi))
    k = _eight(coefficients)
    # As polynomials of q = r², highest power first: L = N / D, and d(r L)/dr = (N D + 2 q (N' D - N D')) / D².
    N, D = np.array([k[4], k[1], k[0], 1.0]), np.array([k[7], k[6], k[5], 1.0])
    turn = np.polyadd(np.polymul(N, D), np.polymul([2.0, 0.0], np.polysub(np.polymul(np.polyder(N), D), np.polymul(N, np.polyder(D)))))
    return float(np.sqrt(min(_first_root(turn), _first_root(D))))


def _first_root(polynomial: Array) -> float:
    # What matters only where r is some thousands is no term: it would overflow as the leading one.
    clean = np.where(np.abs(polynomial) > 1e-12 * np.abs(polynomial).max(), polynomial, 0.0)
    roots = np.roots(clean)
    real = roots.real[(np.abs(roots.imag) < 1e-9 * np.maximum(1.0, np.abs(roots))) & (roots.real > 0)]
    return float(real.min()) if len(real) else np.inf


def _eight(coefficients: tuple[float, ...]) -> Array:
    return np.pad(np.array(coefficients, np.float64), (0, 8 - len(coefficients)))


def bent(model: str, coefficients: tuple[float, ...], points: Array) -> tuple[Array, Array]:
    """Return where points (…, 3) in camera axes come to lie on the plane at distance 1, (…, 2), and the derivative (…, 2, 3)."""
    if model == "equidistant":
        return _equidistant(coefficients, points)
    z = points[..., 2:]
    ab = points[..., :2] / z
    out, inner = _polynomial(_eight(coefficients), ab)
    outer = np.zeros((*points.shape[:-1], 2, 3))
    outer[..., 0, 0] = outer[..., 1, 1] = 1.0
    outer[..., :, 2] = -ab
    return out, inner @ outer / z[..., None]


def _polynomial(k: Array, ab: Array) -> tuple[Array, Array]:
    """Return (a', b') for (a, b) on the plane at distance 1, (…, 2), and the derivative (…, 2, 2)."""
    a, b = ab[..., 0], ab[..., 1]
    q = a * a + b * b
    N, D = 1.0 + q * (k[0] + q * (k[1] + q * k[4])), 1.0 + q * (k[5] + q * (k[6] + q * k[7]))
    L = N / D
    slope = (k[0] + q * (2 * k[1] + 3 * q * k[4]) - L * (k[5] + q * (2 * k[6] + 3 * q * k[7]))) / D
    p1, p2 = k[2], k[3]
    out = np.stack([a * L + 2 * p1 * a * b + p2 * (q + 2 * a * a), b * L + p1 * (q + 2 * b * b) + 2 * p2 * a * b], axis=-1)
    derivative = np.empty((*ab.shape, 2))
    derivative[..., 0, 0] = L + 2 * a * a * slope + 2 * p1 * b + 6 * p2 * a
    derivative[..., 1, 1] = L + 2 * b * b * slope + 6 * p1 * b + 2 * p2 * a
    derivative[..., 0, 1] = derivative[..., 1, 0] = 2 * a * b * slope + 2 * p1 * a + 2 * p2 * b
    return out, derivative


def _angles(coefficients: tuple[float, ...], theta: Array) -> tuple[Array, Array]:
    """Return θ' of ``equidistant`` and dθ'/dθ."""
    k1, k2, k3, k4 = coefficients
    q = theta * theta
    out = theta * (1.0 + q * (k1 + q * (k2 + q * (k3 + q * k4))))
    return out, 1.0 + q * (3 * k1 + q * (5 * k2 + q * (7 * k3 + q * 9 * k4)))


def _equidistant(coefficients: tuple[float, ...], points: Array) -> tuple[Array, Array]:
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    rho = np.hypot(x, y)
    squared = rho * rho + z * z
    out, slope = _angles(coefficients, np.arctan2(rho, z))
    # On the axis every direction does: the derivative there is 1 / z in all of them.
    axis = rho < 1e-12 * np.abs(z)
    safe = np.where(axis, 1.0, rho)
    c, s = np.where(axis, 1.0, x / safe), np.where(axis, 0.0, y / safe)
    stretch = np.where(axis, 1.0 / np.where(z == 0, 1.0, z), out / safe)
    derivative = np.empty((*points.shape[:-1], 2, 3))
    along = slope * z / squared
    derivative[..., 0, 0] = along * c * c + stretch * s * s
    derivative[..., 1, 1] = along * s * s + stretch * c * c
    derivative[..., 0, 1] = derivative[..., 1, 0] = (along - stretch) * c * s
    derivative[..., 0, 2] = -slope * rho * c / squared
    derivative[..., 1, 2] = -slope * rho * s / squared
    return np.stack([stretch * x, stretch * y], axis=-1), derivative


def straightened(model: str, coefficients: tuple[float, ...], limit: float, plane: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Return the rays (…, 3), of length 1, of points (…, 2) on the distorted plane at distance 1, and where that succeeded (…).

    Newton's iteration, held within ``limit``; where it loses its way, from where bisection along the radius leads. It succeeds where
    the ray found leads back to the point, on the side of the limit that the image is on; NaN elsewhere.
    """
    good: NDArray[np.bool_] = np.asarray(np.isfinite(plane).all(axis=-1))
    plane = np.where(good[..., None], plane, 0.0)
    if model == "equidistant":
        rays, found = _straightened_equidistant(coefficients, limit, plane)
    else:
        rays, found = _straightened_polynomial(_eight(coefficients), limit, plane)
    good = good & found
    return np.where(good[..., None], rays, np.nan), good


def _straightened_polynomial(k: Array, limit: float, plane: Array) -> tuple[Array, NDArray[np.bool_]]:
    ab, good = plane, np.ones(plane.shape[:-1], bool)
    if k.any():
        ab, good = _newton(k, limit, plane, plane)
        if not good.all():
            radius = np.linalg.norm(plane, axis=-1)
            straight = np.where(np.arange(8) // 2 == 1, 0.0, k)  # without p1 and p2
            found = _bisected(lambda r: _polynomial(straight, np.stack([r, 0 * r], axis=-1))[0][..., 0], radius, limit)
            start = plane * (found / np.maximum(radius, 1e-12))[..., None]
            again, better = _newton(k, limit, plane, start)
            ab, good = np.where(good[..., None], ab, again), good | better
    rays = np.concatenate([ab, np.ones((*ab.shape[:-1], 1))], axis=-1)
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True), good


def _newton(k: Array, limit: float, wanted: Array, ab: Array) -> tuple[Array, NDArray[np.bool_]]:
    ab = _within(ab, limit)
    for _ in range(MOST_STEPS):
        out, derivative = _polynomial(k, ab)
        step = _solved(derivative, wanted - out)
        ab = _within(ab + step, limit)
        if not (np.abs(step) > SMALLEST_STEP).any():
            break
    out, derivative = _polynomial(k, ab)
    return ab, (np.abs(out - wanted) < LARGEST_MISFIT).all(axis=-1) & (_determinant(derivative) > 0)


def _bisected(function: Callable[[Array], Array], wanted: Array, limit: float) -> Array:
    """Return where an increasing function of the radius has the wanted values, up to ``limit``."""
    low, high = np.zeros_like(wanted), np.full_like(wanted, min(limit, FARTHEST))
    for _ in range(MOST_STEPS):
        middle = (low + high) / 2
        less = function(middle) < wanted
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    return (low + high) / 2


def _within(ab: Array, limit: float) -> Array:
    """Hold points of the plane within the limit; and where there is none, where float64 can still compute."""
    r = np.linalg.norm(ab, axis=-1, keepdims=True)
    most = min(limit, FARTHEST)
    return ab * np.where(r > most, most / np.where(r > most, r, 1.0), 1.0)


def _determinant(m: Array) -> Array:
    return m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] * m[..., 1, 0]


def _solved(m: Array, v: Array) -> Array:
    """Return m⁻¹ v for m (…, 2, 2); no step where m is singular."""
    det = _determinant(m)
    inverse = np.where(np.abs(det) > 1e-12, 1.0 / np.where(det == 0, 1.0, det), 0.0)
    return (
        np.stack(
            [m[..., 1, 1] * v[..., 0] - m[..., 0, 1] * v[..., 1], m[..., 0, 0] * v[..., 1] - m[..., 1, 0] * v[..., 0]],
            axis=-1,
        )
        * inverse[..., None]
    )


def _straightened_equidistant(coefficients: tuple[float, ...], limit: float, plane: Array) -> tuple[Array, NDArray[np.bool_]]:
    wanted = np.linalg.norm(plane, axis=-1)
    theta = _newton_angle(coefficients, limit, wanted, np.minimum(wanted, limit))
    good = np.abs(_angles(coefficients, theta)[0] - wanted) < LARGEST_MISFIT
    if not good.all():
        start = _bisected(lambda angle: _angles(coefficients, angle)[0], wanted, limit)
        theta = np.where(good, theta, _newton_angle(coefficients, limit, wanted, start))
        good = np.abs(_angles(coefficients, theta)[0] - wanted) < LARGEST_MISFIT
    # sin θ / θ' has the limit 1 on the axis.
    stretch = np.where(wanted > 1e-12, np.sin(theta) / np.where(wanted > 1e-12, wanted, 1.0), 1.0)
    return np.concatenate([plane * stretch[..., None], np.cos(theta)[..., None]], axis=-1), good


def _newton_angle(coefficients: tuple[float, ...], limit: float, wanted: Array, theta: Array) -> Array:
    for _ in range(MOST_STEPS):
        out, slope = _angles(coefficients, theta)
        step = np.where(slope > 1e-12, (wanted - out) / np.where(slope > 1e-12, slope, 1.0), 0.0)
        theta = np.clip(theta + step, 0.0, limit)
        if not (np.abs(step) > SMALLEST_STEP).any():
            break
    return theta
