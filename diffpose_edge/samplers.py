"""Samplers of the reverse process, as data: three numbers for each step.

With D_t what the network says at timestep t (eps or v) and D_p what it said at the step before,

    x_s = c0 x_t + c1 D_t + c2 D_p

is every linear two-step method. The step graph applies it, so another sampler is another table and no other graph. DDIM has
c2 = 0. Rows are computed in float64 and applied in float32.

*The angle.* With a_t = cos^2 phi_t, x = cos phi x0 + sin phi eps is a point on an arc, and the reverse process, without
noise, the differential equation dx/dphi = v(x, phi) from phi_K down to 0: v = cos phi eps - sin phi x0 is its speed
(Salimans & Ho, *Progressive Distillation*, ICLR 2022, appendix D). DDIM holds x0 and eps still over a step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import TimestepError
from diffpose_edge.schedule import checked_timesteps, ddim_update, scales_of, trailing_timesteps

Rows = NDArray[np.float64]

# Those that follow from the schedule alone; "fitted" ones are numbers of a bundle (diffpose_edge.fitted).
SAMPLERS = ("ddim", "ab2")


def ddim_rows(alpha_bar: NDArray[np.float64], timesteps: Sequence[int], prediction: str) -> Rows:
    """Return DDIM's c0, c1, c2 = 0, shape (K, 3), float64. Raises TimestepError; ValueError for another prediction."""
    c = ddim_update(alpha_bar, timesteps, prediction)
    return np.concatenate([c, np.zeros((len(c), 1))], axis=1)


def ab2_rows(alpha_bar: NDArray[np.float64], timesteps: Sequence[int], prediction: str) -> Rows:
    """Return the rows of the second-order Adams-Bashforth method, shape (K, 3), float64; the first step is DDIM's.

    What the network says is taken to go on changing with phi as it did over the step before, D(phi) = D_t + (phi - phi_t)
    (D_t - D_p) / (phi_t - phi_p), and the equation is solved exactly with that D. For v it is dx/dphi = v, so

        x_s = x_t + h ((1 + r/2) v_t - r/2 v_p),    h = phi_s - phi_t,   r = h / (phi_t - phi_p),

    the method for steps of unequal length (Hairer, Norsett & Wanner, *Solving Ordinary Differential Equations I*, section
    III.5). For eps it is d(x / cos phi)/dphi = eps / cos^2 phi, of which the linear part in eps is kept under the integral
    (an exponential integrator: Zhang & Chen, *Fast Sampling of Diffusion Models with Exponential Integrator*, ICLR 2023).
    The error of one pass falls with the square of the step.

    Raises TimestepError; ValueError for another prediction.
    """
    rows = ddim_rows(alpha_bar, timesteps, prediction)
    a = np.append(np.asarray(alpha_bar, np.float64)[list(checked_timesteps(timesteps, len(alpha_bar)))], 1.0)
    phi = np.arctan2(np.sqrt(1.0 - a), np.sqrt(a))
    for k in range(1, len(rows)):
        before, now, then = phi[k - 1 : k + 2]
        if before == now:  # no way was made, so no slope is known
            continue
        h = then - now
        if prediction == "v":
            c0, whole, slope = 1.0, h, 0.5 * h**2
        else:
            c0 = np.cos(then) / np.cos(now)
            whole = np.cos(then) * (np.tan(then) - np.tan(now))
            slope = np.cos(then) * (h * np.tan(then) + np.log(c0))
        slope /= now - before
        rows[k] = c0, whole + slope, -slope
    return rows


def sampler_rows(
    sampler: str, alpha_bar: NDArray[np.float64], timesteps: Sequence[int], prediction: str, *, scaled: bool
) -> NDArray[np.float32]:
    """Return the rows (K, 3) that a step graph takes; ``scaled`` for networks whose state is sqrt(a_t) x_t.

    Raises TimestepError; ValueError for another sampler than SAMPLERS, or another prediction.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"expected a sampler out of {', '.join(SAMPLERS)}, got {sampler!r}")
    rows = (ddim_rows if sampler == "ddim" else ab2_rows)(alpha_bar, timesteps, prediction)
    return (rows * scales_of(alpha_bar, timesteps) if scaled else rows).astype(np.float32)


def even_timesteps(T: int, K: int, first: int | None = None) -> tuple[int, ...]:
    """Return K timesteps spread evenly: over the whole schedule, from T - 1 on (:func:`trailing_timesteps`), or with ``first``
    from that timestep to 0, as the released settings (12, 0) are.

    Raises TimestepError when there are not that many.
    """
    if first is None:
        return trailing_timesteps(T, K)
    if not 1 <= K <= first + 1:
        raise TimestepError(f"expected 1 <= K <= {first + 1} steps from timestep {first} down to 0, got K={K}; choose fewer steps")
    return tuple(round(t) for t in np.linspace(first, 0, K).tolist())
