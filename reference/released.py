"""A released DiffPose: a denoiser with its context encoder, as published, in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffpose_edge.config import ContextConfig, GraphNetworkConfig, VideoConfig
from diffpose_edge.errors import CheckpointError
from diffpose_edge.reference import checkpoints
from diffpose_edge.reference.diffusion import ddim_trajectory
from diffpose_edge.reference.graph_networks import Denoiser, FrameEncoder
from diffpose_edge.reference.mixste import MirrorAverage, MixSTE
from diffpose_edge.schedule import RELEASED_TIMESTEPS, released_alpha_bar
from diffpose_edge.skeleton import ROOT


class ReleasedDiffPose:
    """Both networks in evaluation mode on the CPU, float32.

    ``denoiser_network`` and ``context_network`` are the modules; ``alpha_bar`` is the schedule's table, shape (51,).
    """

    def __init__(self, denoiser: Denoiser, context: FrameEncoder | MirrorAverage | MixSTE):
        self.denoiser_network = denoiser.eval().requires_grad_(False)
        self.context_network = context.eval().requires_grad_(False)
        self.alpha_bar: NDArray[np.float64] = released_alpha_bar()
        self.prediction = "eps"

    @property
    def denoiser_config(self) -> GraphNetworkConfig:
        """Size of the denoiser."""
        net = self.denoiser_network
        return GraphNetworkConfig(net.hidden, net.layers, net.heads)

    @property
    def context_config(self) -> ContextConfig:
        """Size of the context encoder."""
        net = self.context_network
        if isinstance(net, FrameEncoder):
            return GraphNetworkConfig(net.hidden, net.layers, net.heads)
        video = net.encoder if isinstance(net, MirrorAverage) else net
        assert isinstance(video, MixSTE)
        return VideoConfig(video.frames, video.width, video.depth, video.heads, isinstance(net, MirrorAverage))

    @torch.no_grad()
    def context(self, uv: Tensor) -> Tensor:
        """Lift normalised 2D joints: (B, 17, 2) → (B, 17, 3) metres; with a video encoder (B, F, 17, 2) → (B, F, 17, 3).

        The answer is the encoder's own: not yet root-relative.
        """
        return self.context_network(uv)

    @torch.no_grad()
    def denoiser(self, x: Tensor, t: Tensor | int) -> Tensor:
        """Predict epsilon: state (B, 17, 5) and timestep (an int, or (B,)) → (B, 17, 5)."""
        return self.denoiser_network(x, t)

    def start(self, uv: Tensor, xyz: Tensor | None = None) -> Tensor:
        """Return the released start h_K (B, 17, 5): u, v as detected, x, y, z from the context, root subtracted."""
        xyz = self.context(uv) if xyz is None else xyz
        return torch.cat([uv, xyz - xyz[..., ROOT : ROOT + 1, :]], dim=-1)

    def sample(self, uv: Tensor, timesteps: Sequence[int] = RELEASED_TIMESTEPS, xyz: Tensor | None = None) -> Tensor:
        """Run the reverse process from the released start; return the trajectory (K + 1, B, 17, 5), start first.

        uv: (B, 17, 2) normalised. xyz: the context (B, 17, 3), computed from uv when not given; a video encoder needs
        whole windows, so for one it must be given. The pose is ``pose_of(trajectory[-1])``. Raises TimestepError.
        """
        return ddim_trajectory(self.denoiser, self.start(uv, xyz), self.alpha_bar, timesteps)


def pose_of(state: Tensor) -> Tensor:
    """Return the root-relative pose (…, 17, 3), metres, of a state (…, 17, 5)."""
    xyz = state[..., 2:]
    return xyz - xyz[..., ROOT : ROOT + 1, :]


def load_mixste(path: str | Path, heads: int = 8, mirror_average: bool = False) -> MixSTE | MirrorAverage:
    """Load a released MixSTE: uv (B, F, 17, 2) → (B, F, 17, 3).

    With ``mirror_average`` the answer is averaged with that for the mirrored input, as in the released evaluation.
    Raises CheckpointError.
    """
    network = checkpoints.mixste_from_file(path, heads)
    _check_released(path, network.channels)
    return MirrorAverage(network).eval() if mirror_average else network


def load_released(
    denoiser: str | Path,
    context: str | Path,
    heads: int = 4,
    *,
    video_heads: int = 8,
    mirror_average: bool = True,
) -> ReleasedDiffPose:
    """Load a released pair of checkpoints; the context is a frame encoder or a MixSTE, told apart by its tensors.

    ``heads`` is that of the denoiser and the frame encoder, ``video_heads`` that of a MixSTE: checkpoints do not record
    them. ``mirror_average`` applies to a MixSTE. Raises CheckpointError.
    """
    network = checkpoints.denoiser_from_file(denoiser, heads)
    if network.condition_width:
        raise CheckpointError(
            f"{denoiser} is conditioned on the encoder's feature: its schedule and its start are not in this form. "
            f"Take the safetensors files that diffpose-edge train wrote"
        )
    if checkpoints.is_video(checkpoints.state_dict_from_file(context)):
        return ReleasedDiffPose(network, load_mixste(context, video_heads, mirror_average))
    encoder = checkpoints.frame_encoder_from_file(context, heads)
    _check_released(context, encoder.channels)
    return ReleasedDiffPose(network, encoder)


def _check_released(path: str | Path, channels: int) -> None:
    if channels != 2:
        raise CheckpointError(
            f"{path} takes {channels} numbers for each joint; a released context encoder takes 2, u and v. "
            f"Take the safetensors files that diffpose-edge train wrote"
        )
