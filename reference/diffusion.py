"""DDIM in PyTorch, written as the paper writes it: the reference that the folded, exported update is checked against."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffpose_edge.schedule import checked_timesteps


@torch.no_grad()
def ddim_trajectory(
    eps_of: Callable[[Tensor, int], Tensor], x_K: Tensor, alpha_bar: NDArray[np.float64], timesteps: Sequence[int]
) -> Tensor:
    """Walk x_K (B, 17, 5) through the reverse process with eta = 0; return every state, shape (K + 1, B, 17, 5).

    At each timestep t with next timestep s: x0 = (x_t - sqrt(1 - a_t) eps) / sqrt(a_t), then
    x_s = sqrt(a_s) x0 + sqrt(1 - a_s) eps, and a_s = 1 after the last. Source: Song et al. 2021, equation 12.

    Raises TimestepError.
    """
    steps = checked_timesteps(timesteps, len(alpha_bar))
    states = [x_K]
    for k, t in enumerate(steps):
        a_t = float(alpha_bar[t])
        a_s = float(alpha_bar[steps[k + 1]]) if k + 1 < len(steps) else 1.0
        x_t = states[-1]
        eps = eps_of(x_t, t)
        x0 = (x_t - (1.0 - a_t) ** 0.5 * eps) / a_t**0.5
        states.append(a_s**0.5 * x0 + (1.0 - a_s) ** 0.5 * eps)
    return torch.stack(states)


def clean_of(x_t: Tensor, out: Tensor, a_t: float, prediction: str) -> Tensor:
    """Return the clean state x0 that a network's output means at alpha_bar = a_t; see the schedule's step_coefficients."""
    if prediction == "v":
        return a_t**0.5 * x_t - (1.0 - a_t) ** 0.5 * out
    return (x_t - (1.0 - a_t) ** 0.5 * out) / a_t**0.5


def noise_of(x_t: Tensor, out: Tensor, a_t: float, prediction: str) -> Tensor:
    """Return the noise epsilon that a network's output means at alpha_bar = a_t."""
    return (1.0 - a_t) ** 0.5 * x_t + a_t**0.5 * out if prediction == "v" else out
