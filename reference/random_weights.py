"""Seeded random weights, for tests and benchmarks.

Every parameter is drawn anew and on its own. The networks' usual initialisation leaves copies and zeros behind (equal
biases, an identity adjacency), on which a graph with scrambled weights can still agree.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from diffpose_edge.distribution import StartSpread
from diffpose_edge.person import CHANNELS
from diffpose_edge.reference.causal_mixste import CausalMixSTE
from diffpose_edge.reference.checkpoints import save_released
from diffpose_edge.reference.graph_networks import Denoiser, FrameEncoder
from diffpose_edge.reference.mixste import MixSTE
from diffpose_edge.reference.safetensors_files import save_trained
from diffpose_edge.schedule import cosine_alpha_bar
from diffpose_edge.skeleton import J


@torch.no_grad()
def randomise(network: nn.Module, seed: int, gain: float = 1.0) -> None:
    """Draw every parameter of ``network`` from a distribution that keeps activations of order one.

    Matrices: normal with deviation ``gain`` / sqrt(fan-in); vectors: 0.1 normal, around 1 for scales; the learned
    adjacency: uniform and positive, because its column sums are taken to the power -1/2.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        noise = torch.randn(parameter.shape, generator=generator)
        if leaf == "A_hat":
            value = 0.05 + torch.rand(parameter.shape, generator=generator)
        elif leaf == "a_2" or (leaf == "weight" and parameter.dim() == 1):
            value = 1.0 + 0.1 * noise
        elif parameter.dim() == 4:
            value = noise * gain / (3 * parameter.shape[2]) ** 0.5
        elif parameter.dim() == 2:
            value = noise * gain / parameter.shape[1] ** 0.5
        else:
            value = 0.1 * noise
        parameter.copy_(value)


def write_random_pair(folder: str | Path, seed: int = 0, hidden: int = 96, layers: int = 5, heads: int = 4) -> tuple[Path, Path]:
    """Write an untrained denoiser and frame encoder in the released format; return their paths in ``folder``.

    The output convolutions are scaled so that the encoder's poses are about a person's size and epsilon stays small.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "untrained_denoiser.pth", folder / "untrained_context.pth"
    networks: tuple[Denoiser | FrameEncoder, ...] = Denoiser(hidden, layers, heads), FrameEncoder(hidden, layers, heads)
    for i, (network, output_scale) in enumerate(zip(networks, (0.2, 0.8), strict=True)):
        randomise(network, seed + i, gain=0.7)
        with torch.no_grad():
            network.gconv_output.weight.mul_(output_scale)
        save_released(network, paths[i])
    return paths


def write_random_conditioned_pair(
    folder: str | Path,
    seed: int = 0,
    frames: int = 1,
    hidden: int = 16,
    layers: int = 2,
    *,
    causal: bool = False,
    encoder: tuple[int, int, int] | None = None,
) -> tuple[Path, Path]:
    """Write an untrained conditioned pair as ``diffpose-edge train`` writes one; return denoiser and context in ``folder``.

    ``frames`` of 1: a frame encoder, more: a video encoder, or a ``causal`` one. The start's spread is made up: wider for low
    confidence, and different for every joint and axis, so that one taken for another shows. ``encoder``: width, depth and heads of a
    video encoder that is larger than the denoiser.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    width, depth, heads = encoder or (hidden, layers, 4)
    context: FrameEncoder | MixSTE | CausalMixSTE
    if frames == 1:
        context = FrameEncoder(width, depth, heads, CHANNELS)
    else:
        context = (CausalMixSTE if causal else MixSTE)(frames, width, depth, heads, 2 * width, CHANNELS)
    denoiser = Denoiser(hidden, layers, 4, condition=width)
    for i, network in enumerate((context, denoiser)):
        randomise(network, seed + i, gain=0.7)
    rng = np.random.default_rng(seed)
    knots = np.linspace(0.0, 1.0, 3, dtype=np.float32)
    widen = (1.5 - knots)[:, None]
    uv, xyz, residual = (0.05 + 0.1 * rng.random((2, J))), 0.05 + 0.1 * rng.random((J, 3)), 0.03 + 0.05 * rng.random((J, 3))
    spread = StartSpread(
        knots,
        (widen * uv[0]).astype(np.float32),
        (widen[..., None] * xyz).astype(np.float32),
        (widen[..., None] * residual).astype(np.float32),
    )
    record = {"prediction": "v", "alpha_bar": cosine_alpha_bar().tolist(), "start": spread.as_record()}
    paths = folder / "denoiser.safetensors", folder / "context.safetensors"
    save_trained(denoiser, record, paths[0])
    save_trained(context, {}, paths[1])
    return paths
