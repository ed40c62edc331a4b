"""The start distribution H_K and the centred process between it and a pose.

DiffPose (section 4.2) fits a Gaussian mixture to what is known of a pose before the reverse process and walks from the
true pose h_0 to one of its components, drawn with its weight:

    h_k = mu + sqrt(a_k) (h_0 - mu) + sqrt(1 - a_k) e,    e ~ N(0, Sigma)

With Sigma = L L^T and r = L^-1 (h - mu) this is r_k = sqrt(a_k) r_0 + sqrt(1 - a_k) eps with eps ~ N(0, 1): the usual
process, of which the K steps stay affine. The state that the networks see is r. At k = K, a_K ~ 0 and h_K ~ N(mu, Sigma),
over all components the mixture itself.

u, v are in the person's own frame (:mod:`diffpose_edge.person`), x, y, z in metres relative to the hip. The mixture's mean
in x, y, z is the context encoder's pose. What spreads around it was measured in training, for each joint and depending on
the detector's confidence: :class:`StartSpread`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import BundleError, told_by
from diffpose_edge.skeleton import J

Array = NDArray[np.float32]

# mu (5) and log sigma (5) of a sample's start: what the denoiser is told besides f_ST.
START_CHANNELS = 10
# Brings the logarithms of usual spreads, 1 cm to 1 m, to within about +-2.
LOG_SIGMA_SHIFT = 2.5
# No coordinate is known better than this, in metres or in shares of the person's size: keeps L invertible (the hip is
# exactly zero by definition).
LEAST_SIGMA = 2e-3
# Bounds on what a manifest may hold, far above any use.
MOST_SPREAD, MOST_KNOTS = 1e3, 64


@dataclass(frozen=True, eq=False)
class StartSpread:
    """Standard deviations around the start's mean as training measured them, at a few confidences between 0 and 1.

    ``confidence`` (B,) increasing from 0 to 1; ``uv`` (B, 17) in the person's frame; ``xyz`` (B, 17, 3) metres: what the
    context encoder errs by when that joint was seen with that confidence. ``residual`` (B, 17, 3) metres is what the whole
    model errs by (see :func:`diffpose_edge.runtime.estimate.calibrated`).
    """

    confidence: Array
    uv: Array
    xyz: Array
    residual: Array

    def __post_init__(self) -> None:
        c = self.confidence
        if c.ndim == 1 and len(c) > MOST_KNOTS:
            raise BundleError(f"the start's spread: expected at most {MOST_KNOTS} confidences, got {len(c)}")
        if c.ndim != 1 or len(c) < 2 or c[0] != 0.0 or c[-1] != 1.0 or not (np.diff(c) > 0).all():
            raise BundleError(f"the start's spread: expected confidences increasing from 0 to 1, got {c.tolist()}")
        B = len(c)
        shapes = {"uv": (B, J), "xyz": (B, J, 3), "residual": (B, J, 3)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value.shape != shape or not ((value >= 0) & (value <= MOST_SPREAD)).all():
                raise BundleError(
                    f"the start's spread: expected {name} as numbers within 0..{MOST_SPREAD:g}, shape {shape}; got shape {value.shape}"
                )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StartSpread) and self.as_record() == other.as_record()

    __hash__ = None  # type: ignore[assignment]

    def uv_at(self, confidence: Array) -> Array:
        """Return sigma of u, v (…, 17) for joints of these confidences (…, 17), between the knots linearly in variance."""
        return self._between(self.uv[..., None], confidence)[..., 0]

    def xyz_at(self, confidence: Array) -> Array:
        """Return sigma of x, y, z (…, 17, 3) for joints of these confidences (…, 17)."""
        return self._between(self.xyz, confidence)

    def residual_at(self, confidence: Array) -> Array:
        """Return the whole model's error in x, y, z (…, 17, 3), one standard deviation."""
        return self._between(self.residual, confidence)

    def _between(self, table: Array, confidence: Array) -> Array:
        knots = self.confidence
        # The first knot is for joints that were not found at all: a weak detection is not part of the way there.
        confidence = np.where(confidence > 0, np.maximum(confidence, knots[1]), confidence)
        upper = np.clip(np.searchsorted(knots, confidence), 1, len(knots) - 1)
        share = ((confidence - knots[upper - 1]) / (knots[upper] - knots[upper - 1]))[..., None]
        joint = np.arange(J)
        variance = np.square(table)
        return np.sqrt((1.0 - share) * variance[upper - 1, joint] + share * variance[upper, joint]).astype(np.float32)

    def as_record(self) -> dict[str, Any]:
        """Return the tables as lists, for a manifest."""
        names = ("confidence", "uv", "xyz", "residual")
        # Six digits are far more than was measured.
        return {name: np.round(getattr(self, name).astype(np.float64), 6).tolist() for name in names}


def spread_from_record(record: Mapping[str, Any]) -> StartSpread:
    """Read :meth:`StartSpread.as_record`. Raises BundleError."""
    try:
        with np.errstate(over="ignore"):  # what overflows becomes inf, and is refused
            return StartSpread(**{name: _numbers(record[name]) for name in ("confidence", "uv", "xyz", "residual")})
    except (KeyError, TypeError, ValueError, OverflowError) as err:
        raise BundleError(f"the start's spread is not four tables of numbers: {told_by(err)}") from None


def _numbers(values: Any) -> Array:
    array = np.asarray(values)
    # numpy would also read strings and truth values as numbers.
    if array.dtype.kind in "USb":
        raise TypeError(f"{array.dtype.name} instead of numbers")
    return np.array(values, np.float32)


def start_channels(mu: Array, sigma: Array) -> Array:
    """Return what the denoiser is told of a sample's start, (…, 17, 10): mu (…, 17, 5) and the logarithm of sigma (…, 17, 5)."""
    return np.concatenate([mu, np.log(sigma) + LOG_SIGMA_SHIFT], axis=-1).astype(np.float32)


def whitened(h: Array, mu: Array, cholesky: Array) -> Array:
    """Return r = L^-1 (h - mu): h, mu (…, 17, 5), cholesky as :func:`unwhitened` takes it."""
    d = h - mu
    r = d / np.stack([cholesky[..., 0], cholesky[..., 2], *(cholesky[..., i] for i in (3, 4, 5))], axis=-1)
    # The lower triangle has one entry off the diagonal: v depends on u.
    r[..., 1] = (d[..., 1] - cholesky[..., 1] * r[..., 0]) / cholesky[..., 2]
    return r.astype(np.float32)


def unwhitened(r: Array, mu: Array, cholesky: Array) -> Array:
    """Return h = mu + L r, (…, 17, 5).

    ``cholesky`` (…, 17, 6) holds L's entries: uu, vu, vv of the 2x2 block, then the standard deviations of x, y, z.
    """
    h = mu + r * np.stack([cholesky[..., 0], cholesky[..., 2], *(cholesky[..., i] for i in (3, 4, 5))], axis=-1)
    h[..., 1] += cholesky[..., 1] * r[..., 0]
    return h.astype(np.float32)


def start_parameters(uv: Array, covariance: Array | None, confidence: Array, xyz: Array, spread: StartSpread) -> tuple[Array, Array]:
    """Return mu (…, 17, 5) and L's entries (…, 17, 6) of the components that samples start from.

    uv (…, 17, 2): the components' means in the person's frame; covariance (…, 17, 2, 2): theirs, None for plain keypoints;
    confidence (…, 17); xyz (…, 17, 3): the context encoder's pose, metres, relative to the hip. What the detector errs by
    at that confidence is added to every component's covariance: a heatmap's blob tells how sharp the detector drew it, not
    how right it is. A joint of confidence 0 is somewhere on the person: its uv is not looked at.
    """
    seen = (confidence > 0)[..., None]
    mu = np.concatenate([np.where(seen, uv, 0.0), xyz], axis=-1).astype(np.float32)
    variance = np.square(spread.uv_at(confidence))
    uu, vv, vu = variance, variance, np.zeros_like(variance)
    if covariance is not None:
        own = np.where(seen[..., None], covariance, 0.0)
        uu, vv, vu = uu + own[..., 0, 0], vv + own[..., 1, 1], vu + own[..., 1, 0]
    l_uu = np.maximum(np.sqrt(uu), LEAST_SIGMA)
    l_vu = vu / l_uu
    l_vv = np.maximum(np.sqrt(np.maximum(vv - l_vu**2, 0.0)), LEAST_SIGMA)
    sigma = np.maximum(spread.xyz_at(confidence), LEAST_SIGMA)
    return mu, np.concatenate([np.stack([l_uu, l_vu, l_vv], axis=-1), sigma], axis=-1).astype(np.float32)


def sigma_of(cholesky: Array) -> Array:
    """Return the standard deviations (…, 17, 5) that L's entries (…, 17, 6) mean."""
    v = np.sqrt(np.square(cholesky[..., 1]) + np.square(cholesky[..., 2]))
    return np.stack([cholesky[..., 0], v, *(cholesky[..., i] for i in (3, 4, 5))], axis=-1).astype(np.float32)
