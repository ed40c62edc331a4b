"""The denoiser and the frame context encoder: one trunk of attention and graph blocks, with different ends."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffpose_edge.distribution import START_CHANNELS
from diffpose_edge.reference.layers import AttentionBlock, ChebConv, GraphBlock, StepEmbedding, module_list


class Denoiser(nn.Module):
    """Predicts epsilon (or v) of the pose state h = (u, v, x, y, z) at a timestep.

    With ``condition`` = C' > 0 it is conditioned on the context encoder's feature f_ST of width C' and on the start of
    the sample: both are projected to C features by ``condition``, which starts at zero, and added after the input
    convolution. A released network is the special case in which that projection stays zero.

    Source: DiffPose, section 4.3; the released ``GCNdiff`` network.
    """

    def __init__(self, hidden: int = 96, layers: int = 5, heads: int = 4, state: int = 5, condition: int = 0):
        super().__init__()
        self.hidden, self.layers, self.heads = hidden, layers, heads
        if condition:
            self.condition = nn.Linear(condition + START_CHANNELS, hidden)
            nn.init.zeros_(self.condition.weight)
            nn.init.zeros_(self.condition.bias)
        self.gconv_input = ChebConv(state, hidden)
        self.gconv_layers = module_list(GraphBlock(hidden, 4 * hidden) for _ in range(layers))
        self.atten_layers = module_list(AttentionBlock(hidden, heads) for _ in range(layers))
        self.gconv_output = ChebConv(hidden, state)
        self.temb = StepEmbedding(hidden)

    @property
    def condition_width(self) -> int:
        """Width of the feature f_ST that it is conditioned on; 0 for none."""
        return self.condition.in_features - START_CHANNELS if hasattr(self, "condition") else 0

    def forward(self, x: Tensor, t: Tensor | int, feature: Tensor | None = None, start: Tensor | None = None) -> Tensor:
        """x (B, 17, 5), t an int or (B,) timesteps → epsilon (B, 17, 5).

        A conditioned network also takes ``feature`` (B, 17, C') and ``start`` (B, 17, 10), see
        :func:`diffpose_edge.distribution.start_channels`.
        """
        steps = t if isinstance(t, Tensor) else torch.full((x.shape[0],), t, device=x.device)
        temb = self.temb(steps)
        h = self.gconv_input(x)
        if self.condition_width:
            assert feature is not None
            assert start is not None
            h = h + self.condition(torch.cat([feature, start], dim=-1))
        for attention, graph in zip(self.atten_layers, self.gconv_layers, strict=True):
            h = graph(attention(h), temb)
        return self.gconv_output(h)


class FrameEncoder(nn.Module):
    """Lifts one frame's 2D joints to a first 3D pose, the context of the reverse process.

    The checkpoints carry a step embedding that this network never uses; it is kept so that they load strictly.
    """

    def __init__(self, hidden: int = 96, layers: int = 5, heads: int = 4, channels: int = 2):
        super().__init__()
        self.hidden, self.layers, self.heads, self.channels = hidden, layers, heads, channels
        self.gconv_input = ChebConv(channels, hidden)
        self.gconv_layers = module_list(GraphBlock(hidden) for _ in range(layers))
        self.atten_layers = module_list(AttentionBlock(hidden, heads) for _ in range(layers))
        self.gconv_output = ChebConv(hidden, 3)
        self.temb = StepEmbedding(hidden)

    def features(self, uv: Tensor) -> Tensor:
        """uv (B, 17, 2), or (B, 17, 6) in the person's frame → f_ST (B, 17, C): what the output convolution takes."""
        h = self.gconv_input(uv)
        for attention, graph in zip(self.atten_layers, self.gconv_layers, strict=True):
            h = graph(attention(h))
        return h

    def forward(self, uv: Tensor) -> Tensor:
        """uv (B, 17, 2) normalised → xyz (B, 17, 3) metres, as trained: not yet root-relative."""
        return self.gconv_output(self.features(uv))
