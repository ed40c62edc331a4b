"""Stage two: the denoiser, conditioned on the trained context encoder, which stays as it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffpose_edge.distribution import StartSpread, sigma_of, start_channels, start_parameters, unwhitened, whitened
from diffpose_edge.reference.graph_networks import Denoiser
from diffpose_edge.reference.training.batches import Batch
from diffpose_edge.reference.training.bodies import CHILDREN, PARENTS
from diffpose_edge.reference.training.context_stage import Encoder, context_of
from diffpose_edge.reference.training.fast_forward import denoised
from diffpose_edge.schedule import step_coefficients, trailing_timesteps

Array = NDArray[np.float32]

# How often a batch's starts come from mixtures with a second mode, as heatmaps give, instead of plain keypoints.
MIXTURE_SHARE = 0.3
# The noisiest fifth of the schedule is drawn more often: the first step from pure noise decides most of the pose.
LATE_SHARE = 0.5
# Beyond this many standard deviations an error counts linearly, not squared: detectors fail in ways that no normal law has.
HUBER = 1.5
METRIC_SHARE = 0.5
BONE_SHARE = 0.5


@dataclass(frozen=True)
class Starts:
    """Single frames of a batch with drawn starts: ``feature`` (B, 17, C), ``mu`` (B, 17, 5), ``cholesky`` (B, 17, 6) and the
    true state ``h0`` (B, 17, 5).
    """

    feature: Tensor
    mu: Array
    cholesky: Array
    h0: Array

    @property
    def channels(self) -> Array:
        """What the denoiser is told of the starts, (B, 17, 10)."""
        return start_channels(self.mu, sigma_of(self.cholesky))


@torch.no_grad()
def draw_starts(encoder: Encoder, batch: Batch, spread: StartSpread, frames: int, rng: np.random.Generator) -> Starts:
    """Run the encoder and draw one component for each joint of ``frames`` frames of every window."""
    xyz, feature = context_of(encoder, torch.from_numpy(batch.channels))
    B, F = batch.xyz.shape[:2]
    # Distinct frames of each window; the last one always, since a robot asks for the newest.
    at = np.sort(np.argsort(rng.random((B, F)) + np.where(np.arange(F) == F - 1, -1.0, 0.0), axis=1)[:, :frames], axis=1)
    row = np.arange(B)[:, None]

    def chosen(values: Array) -> Array:
        return values[row, at].reshape(B * frames, *values.shape[2:])

    found = batch.detections
    mixed = (rng.random(B * frames) < MIXTURE_SHARE)[:, None]
    second = mixed & (rng.random(chosen(found.other_weight).shape) < chosen(found.other_weight))
    uv = np.where(second[..., None], chosen(batch.view.to_person(found.other)), chosen(batch.channels)[..., :2])
    blob = np.where(mixed, np.exp(rng.uniform(np.log(0.01), np.log(0.12), (B * frames, 1))), 0.0)
    covariance = (np.square(blob)[..., None, None] * np.eye(2)).astype(np.float32)
    covariance = np.broadcast_to(covariance, (*uv.shape[:2], 2, 2))
    mu, cholesky = start_parameters(uv, covariance, chosen(found.confidence), chosen(xyz.numpy()), spread)
    h0 = np.concatenate([chosen(batch.view.to_person(batch.uv)), chosen(batch.xyz)], axis=-1)
    return Starts(torch.from_numpy(chosen(feature.numpy())), mu, cholesky, h0)


def diffusion_loss(
    network: Denoiser, starts: Starts, alpha_bar: NDArray[np.float64], rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of predicting v at drawn timesteps.

    Three parts: the error of v in whitened units (all five coordinates, Huber's loss); the distance in metres between the
    pose that v means and the true one; and how much longer or shorter its bones are, since the most likely place of every
    joint for itself makes limbs shrink wherever the depth is in doubt.
    """
    B, T = len(starts.mu), len(alpha_bar)
    t = np.where(rng.random(B) < LATE_SHARE, rng.integers(T - T // 5, T, B), rng.integers(0, T, B))
    a = alpha_bar[t].astype(np.float32)[:, None, None]
    r0 = whitened(starts.h0, starts.mu, starts.cholesky)
    eps = rng.standard_normal(r0.shape, dtype=np.float32)
    root_a, root_b = np.sqrt(a), np.sqrt(1.0 - a)
    x_t = root_a * r0 + root_b * eps
    v = torch.from_numpy(root_a * eps - root_b * r0)
    # The network takes sqrt(a) x_t: see diffpose_edge.schedule.scaled_coefficients.
    out = denoised(network, torch.from_numpy(root_a * x_t), torch.from_numpy(t), starts.feature, torch.from_numpy(starts.channels))
    whitened_loss = nn.functional.huber_loss(out, v, delta=HUBER)
    # x0 = sqrt(a) x_t - sqrt(1 - a) v: its error is that of v times sqrt(1 - a), in metres times sigma.
    sigma = torch.from_numpy(starts.cholesky[..., 3:])
    metric = (torch.from_numpy(root_b) * sigma * (out - v)[..., 2:]).square().sum(dim=-1).add(1e-8).sqrt().mean()
    r0_hat = torch.from_numpy(root_a * x_t) - torch.from_numpy(root_b) * out
    pose = torch.from_numpy(starts.mu[..., 2:]) + sigma * r0_hat[..., 2:]
    bones = (bone_lengths_of(pose) - bone_lengths_of(torch.from_numpy(starts.h0[..., 2:]))).abs().mean()
    # A twentieth of a metre is about what the starts spread by: the parts count alike.
    loss = whitened_loss + METRIC_SHARE * metric / 0.05 + BONE_SHARE * bones / 0.05
    return loss, {"x0_mm": 1000.0 * float(metric.detach()), "bones_mm": 1000.0 * float(bones.detach())}


def bone_lengths_of(poses: Tensor) -> Tensor:
    """Poses (…, 17, 3) → lengths of the 16 bones (…, 16), in the same unit."""
    return (poses[..., CHILDREN, :] - poses[..., PARENTS, :]).square().sum(dim=-1).add(1e-8).sqrt()


@torch.no_grad()
def sampled(network: Denoiser, starts: Starts, alpha_bar: NDArray[np.float64], K: int, r: Array) -> Array:
    """Return the states h (B, 17, 5) after K DDIM steps from whitened draws r (B, 17, 5)."""
    steps = trailing_timesteps(len(alpha_bar), K)
    x, told = torch.from_numpy(r), torch.from_numpy(starts.channels)
    for t, (c0, c1) in zip(steps, step_coefficients(alpha_bar, steps, "v").tolist(), strict=True):
        x = c0 * x + c1 * denoised(network, float(alpha_bar[t]) ** 0.5 * x, torch.full((len(r),), t), starts.feature, told)
    return unwhitened(x.numpy(), starts.mu, starts.cholesky)


@torch.no_grad()
def diffusion_error(network: nn.Module, held_out: list[Starts], alpha_bar: NDArray[np.float64]) -> dict[str, float]:
    """Return the held-out MPJPE in millimetres of K = 5 steps: of the mean of an antithetic pair, and of its first sample."""
    assert isinstance(network, Denoiser)
    pair, single = [], []
    for i, starts in enumerate(held_out):
        r = np.random.default_rng(i).standard_normal(starts.mu.shape, dtype=np.float32)
        poses = [sampled(network, starts, alpha_bar, 5, sign * r)[..., 2:] for sign in (1.0, -1.0)]
        poses = [p - p[:, :1] for p in poses]
        truth = starts.h0[..., 2:]
        pair.append(np.linalg.norm((poses[0] + poses[1]) / 2 - truth, axis=-1).mean())
        single.append(np.linalg.norm(poses[0] - truth, axis=-1).mean())
    return {"held_out_mm": 1000.0 * float(np.mean(pair)), "held_out_one_sample_mm": 1000.0 * float(np.mean(single))}
