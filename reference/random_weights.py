"""Seeded random weights, for the demo until trained ones ship and for tests.

Every parameter is drawn anew and on its own. The networks' usual initialisation leaves copies and zeros behind (equal
biases, an identity adjacency), on which a graph with scrambled weights can still agree.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from diffpose_edge.reference.checkpoints import save_released
from diffpose_edge.reference.graph_networks import Denoiser, FrameEncoder


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
