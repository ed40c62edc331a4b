"""The One-Euro filter on a body's joints: still joints stop trembling, moving ones hardly lag.

Casiez, Roussel, Vogel, *1 € Filter: A Simple Speed-based Low-pass Filter for Noisy Input in Interactive Systems*, CHI 2012. A
first-order low-pass filter of X_i, sampled T_e seconds after the one before:

    Xhat_i = alpha X_i + (1 - alpha) Xhat_(i-1),    alpha = 1 / (1 + tau / T_e),    tau = 1 / (2 pi f_c)

whose cutoff frequency grows with the speed, itself low-passed at a fixed cutoff:

    f_c = f_cmin + beta |dXhat_i|,    dX_i = (X_i - Xhat_(i-1)) / T_e

The paper filters a number. A joint is three, and |dXhat| is here the length of its velocity, so that nothing depends on the axes; of a
motion along one axis it is the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import pi

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.body import BodyEstimate
from diffpose_edge.errors import DiffPoseEdgeError

SECOND_NS = 1e9
# No joint gets this far from where it was, relative to the hip, metres: a pose that does is not one that the body moved to.
MOST_MOVED = 3.0


@dataclass(frozen=True)
class OneEuro:
    """The filter's parameters: ``min_cutoff`` f_cmin, Hz: lower, and a still joint trembles less; ``beta``, Hz per metre per second:
    higher, and a moving joint lags less; ``d_cutoff``, Hz, of the speed. The paper's way to choose: beta = 0, lower f_cmin until a
    still body is still, then raise beta until a moving one does not lag.

    Raises DiffPoseEdgeError for cutoffs that are not positive, or a negative beta.
    """

    min_cutoff: float = 1.0
    beta: float = 1.0
    d_cutoff: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("min_cutoff", "positive"), ("beta", "at least 0"), ("d_cutoff", "positive")):
            value = getattr(self, name)
            real = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
            if not real or value < 0 or (value == 0 and least == "positive"):
                raise DiffPoseEdgeError(f"expected {name} of a One-Euro filter as a number that is {least}, got {value!r}")


def smoothing_factor(cutoff: NDArray[np.float64] | float, T_e: float) -> NDArray[np.float64]:
    """Return alpha for a cutoff frequency (Hz) and a sampling period (seconds)."""
    tau = 1.0 / (2.0 * pi * np.asarray(cutoff, np.float64))
    return np.asarray(1.0 / (1.0 + tau / T_e))


class OneEuroFilter:
    """The filter of one body's joints; it knows the sample before, and nothing else."""

    def __init__(self, parameters: OneEuro):
        self.parameters = parameters
        self._stamp_ns: int | None = None
        self._x: NDArray[np.float64] = np.zeros(0)
        self._dx: NDArray[np.float64] = np.zeros(0)

    def smoothed(self, joints: NDArray[np.float32], stamp_ns: int) -> NDArray[np.float32]:
        """Return the joints (17, 3) of a moment later than the one before, filtered. The first ones are returned as they are, and so is
        a pose further from the one before than a body reaches, with which the filter begins anew: one such pose, however wild, bends
        no other.
        """
        X = joints.astype(np.float64)
        if self._stamp_ns is None or np.abs(X - self._x).max() > MOST_MOVED:
            self._x, self._dx = X, np.zeros_like(X)
        else:
            T_e = (stamp_ns - self._stamp_ns) / SECOND_NS
            alpha = smoothing_factor(self.parameters.d_cutoff, T_e)
            self._dx = alpha * (X - self._x) / T_e + (1.0 - alpha) * self._dx
            speed = np.linalg.norm(self._dx, axis=-1, keepdims=True)
            alpha = smoothing_factor(self.parameters.min_cutoff + self.parameters.beta * speed, T_e)
            self._x = alpha * X + (1.0 - alpha) * self._x
        self._stamp_ns = stamp_ns
        return self._x.astype(np.float32)

    def body(self, body: BodyEstimate) -> BodyEstimate:
        """Return a body with filtered joints; its samples go with their mean, its covariance stays. One without a pose stays as it is."""
        if not body.found:
            return body
        joints = self.smoothed(body.joints, body.stamp_ns)
        samples = None if body.samples is None else body.samples + (joints - body.joints)
        return replace(body, joints=joints, samples=samples)
