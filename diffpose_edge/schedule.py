"""The noise schedule and the DDIM update, as data; other samplers are in :mod:`diffpose_edge.samplers`.

``a_t`` is the paper's alpha_bar at timestep t: the share of the clean pose's variance that is left. ``a`` after the last
reverse step is 1 by definition. Source: Song et al., *Denoising Diffusion Implicit Models* (ICLR 2021), equation 12 with
eta = 0; the released DiffPose configuration for the numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import TimestepError

RELEASED_T = 51
RELEASED_BETA_START = 1e-4
RELEASED_BETA_END = 1e-3
RELEASED_TIMESTEPS = (12, 0)


def linear_betas(T: int = RELEASED_T, beta_start: float = RELEASED_BETA_START, beta_end: float = RELEASED_BETA_END) -> NDArray[np.float32]:
    """Return T variances spaced evenly from ``beta_start`` to ``beta_end``, rounded to float32 as released."""
    return np.linspace(beta_start, beta_end, T, dtype=np.float64).astype(np.float32)


def alpha_bar_of(betas: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return alpha_bar, shape (T,): the running product of 1 - beta.

    1 - beta is rounded to float32, as the released code does, and the product is kept in float64.
    """
    alphas: NDArray[np.float64] = (np.float32(1.0) - betas.astype(np.float32)).astype(np.float64)
    return np.cumprod(alphas, dtype=np.float64)


def released_alpha_bar() -> NDArray[np.float64]:
    """Return the alpha_bar table, shape (51,), that the published weights were trained with."""
    return alpha_bar_of(linear_betas())


def uniform_timesteps(T: int, K: int) -> tuple[int, ...]:
    """Return the K timesteps of the released uniform rule over the first ``T`` timesteps, largest first.

    The stride is ``T // K``; the sequence is ``range(0, T, stride)`` reversed, so it can hold more than K entries when K
    does not divide T. Released settings: (24, 2) gives (12, 0); (12, 2) gives (6, 0).
    """
    if not 1 <= K <= T:
        raise TimestepError(f"expected 1 <= K <= T steps, got K={K} and T={T}; choose fewer steps or a longer schedule")
    return tuple(reversed(range(0, T, T // K)))


def checked_timesteps(timesteps: Sequence[int], T: int) -> tuple[int, ...]:
    """Return ``timesteps`` as a tuple of ints, or raise :class:`TimestepError`.

    They must be whole numbers within 0..T-1, strictly decreasing, and at least one.
    """
    try:
        given = tuple(timesteps)
    except TypeError:
        raise TimestepError(f"expected timesteps as a decreasing list such as {RELEASED_TIMESTEPS}, got {timesteps!r}") from None
    if not given:
        raise TimestepError(f"expected at least one timestep, got none; give a decreasing list such as {RELEASED_TIMESTEPS}")
    for t in given:
        if isinstance(t, bool) or not isinstance(t, int | np.integer):
            raise TimestepError(f"expected whole numbers as timesteps, got {t!r} in {given}")
        if not 0 <= t < T:
            raise TimestepError(f"expected timesteps within 0..{T - 1} (this model's schedule has T={T}), got {t} in {given}")
    for before, after in itertools.pairwise(given):
        if after >= before:
            raise TimestepError(
                f"expected strictly decreasing timesteps (the reverse process walks from noise to pose), "
                f"got {before} then {after} in {given}; sort them largest first and drop repeats"
            )
    return tuple(int(t) for t in given)


def ddim_coefficients(alpha_bar: NDArray[np.float64], timesteps: Sequence[int]) -> NDArray[np.float32]:
    """Return the affine DDIM update of every reverse step, shape (K, 2): columns c0, c1 of x_s = c0 x_t + c1 eps.

    With x0 = (x_t - sqrt(1 - a_t) eps) / sqrt(a_t) and x_s = sqrt(a_s) x0 + sqrt(1 - a_s) eps, where s is the next
    timestep and a_s = 1 after the last. Computed in float64 because 1 - a_t cancels; applied in float32.

    Raises TimestepError when the timesteps do not fit the table.
    """
    return ddim_update(alpha_bar, timesteps, "eps").astype(np.float32)


def cosine_alpha_bar(T: int = 50) -> NDArray[np.float64]:
    """Return a schedule that ends in pure noise, shape (T,): a_t = cos^2(pi/2 (t + 1)/(T + 1)).

    a_0 is nearly 1 and a_{T-1} about (pi / (2 T + 2))^2: 0.001 for T = 50. After Nichol & Dhariwal, *Improved Denoising
    Diffusion Probabilistic Models* (ICML 2021), without their offset.
    """
    if T < 1:
        raise TimestepError(f"expected a schedule of at least one timestep, got T={T}")
    return np.square(np.cos(0.5 * np.pi * np.arange(1, T + 1) / (T + 1)))


def trailing_timesteps(T: int, K: int) -> tuple[int, ...]:
    """Return K timesteps spread evenly over the schedule and ending in its last one, largest first.

    A start of pure noise must be taken at the noisiest timestep: T - 1 is always among them. (50, 5) gives
    (49, 39, 29, 19, 9). Source: Lin et al., *Common Diffusion Noise Schedules and Sample Steps are Flawed* (WACV 2024).
    """
    if not 1 <= K <= T:
        raise TimestepError(f"expected 1 <= K <= T steps, got K={K} and T={T}; choose fewer steps or a longer schedule")
    return tuple(round(T - i * T / K) - 1 for i in range(K))


def step_coefficients(alpha_bar: NDArray[np.float64], timesteps: Sequence[int], prediction: str = "eps") -> NDArray[np.float32]:
    """Return the affine DDIM update x_s = c0 x_t + c1 out for a network that predicts ``eps`` or ``v``, shape (K, 2).

    v = sqrt(a_t) eps - sqrt(1 - a_t) x0 (Salimans & Ho, *Progressive Distillation*, ICLR 2022): with it x0 is
    sqrt(a_t) x_t - sqrt(1 - a_t) v, which stays well-conditioned where a_t is near 0 and epsilon says nothing about x0.
    Raises TimestepError; ValueError for another prediction.
    """
    return ddim_update(alpha_bar, timesteps, prediction).astype(np.float32)


def ddim_update(alpha_bar: NDArray[np.float64], timesteps: Sequence[int], prediction: str) -> NDArray[np.float64]:
    """Return c0, c1 of every step in float64, shape (K, 2): what :func:`step_coefficients` rounds. Raises as it does."""
    steps = checked_timesteps(timesteps, len(alpha_bar))
    a_t = np.asarray(alpha_bar, np.float64)[list(steps)]
    a_s = np.append(a_t[1:], 1.0)
    if prediction == "eps":
        c0 = np.sqrt(a_s / a_t)
        c1 = np.sqrt(1.0 - a_s) - c0 * np.sqrt(1.0 - a_t)
    elif prediction == "v":
        c0 = np.sqrt(a_s * a_t) + np.sqrt((1.0 - a_s) * (1.0 - a_t))
        c1 = np.sqrt((1.0 - a_s) * a_t) - np.sqrt(a_s * (1.0 - a_t))
    else:
        raise ValueError(f"expected prediction 'eps' or 'v', got {prediction!r}")
    return np.stack([c0, c1], axis=1)


def scaled_coefficients(alpha_bar: NDArray[np.float64], timesteps: Sequence[int], prediction: str) -> NDArray[np.float32]:
    """Return the DDIM update of the scaled state s_t = sqrt(a_t) x_t, shape (K, 2): s_next = c0 s_t + c1 out.

    Trained networks take s_t. At a_t near 0 x_t is noise and says nothing about the pose; scaled down it does not drown
    what the network is told besides (an input preconditioning after Karras et al., NeurIPS 2022, section 5). It is another
    scale of the same affine update; after the last step the scale is 1, and s_0 = x_0. Raises TimestepError.
    """
    c = ddim_update(alpha_bar, timesteps, prediction)
    return (c * scales_of(alpha_bar, timesteps)[:, :2]).astype(np.float32)


def scales_of(alpha_bar: NDArray[np.float64], timesteps: Sequence[int]) -> NDArray[np.float64]:
    """Return what turns the update of x_t into that of s_t = sqrt(a_t) x_t, shape (K, 3): factors of c0, and of what the
    network says now and said before. Raises TimestepError.
    """
    a_t = np.asarray(alpha_bar, np.float64)[list(checked_timesteps(timesteps, len(alpha_bar)))]
    a_s = np.append(a_t[1:], 1.0)
    return np.stack([np.sqrt(a_s / a_t), np.sqrt(a_s), np.sqrt(a_s)], axis=1)
