"""The denoiser and the frame context encoder: one trunk of attention and graph blocks, with different ends."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffpose_edge.reference.layers import AttentionBlock, ChebConv, GraphBlock, StepEmbedding, module_list


class Denoiser(nn.Module):
    """Predicts epsilon of the pose state h = (u, v, x, y, z) at a timestep.

    Source: DiffPose, section 4.3; the released ``GCNdiff`` network.
    """

    def __init__(self, hidden: int = 96, layers: int = 5, heads: int = 4, state: int = 5):
        super().__init__()
        self.hidden, self.layers, self.heads = hidden, layers, heads
        self.gconv_input = ChebConv(state, hidden)
        self.gconv_layers = module_list(GraphBlock(hidden, 4 * hidden) for _ in range(layers))
        self.atten_layers = module_list(AttentionBlock(hidden, heads) for _ in range(layers))
        self.gconv_output = ChebConv(hidden, state)
        self.temb = StepEmbedding(hidden)

    def forward(self, x: Tensor, t: Tensor | int) -> Tensor:
        """x (B, 17, 5), t an int or (B,) timesteps → epsilon (B, 17, 5)."""
        steps = t if isinstance(t, Tensor) else torch.full((x.shape[0],), t)
        temb = self.temb(steps)
        h = self.gconv_input(x)
        for attention, graph in zip(self.atten_layers, self.gconv_layers, strict=True):
            h = graph(attention(h), temb)
        return self.gconv_output(h)


class FrameEncoder(nn.Module):
    """Lifts one frame's 2D joints to a first 3D pose, the context of the reverse process.

    The checkpoints carry a step embedding that this network never uses; it is kept so that they load strictly.
    """

    def __init__(self, hidden: int = 96, layers: int = 5, heads: int = 4):
        super().__init__()
        self.hidden, self.layers, self.heads = hidden, layers, heads
        self.gconv_input = ChebConv(2, hidden)
        self.gconv_layers = module_list(GraphBlock(hidden) for _ in range(layers))
        self.atten_layers = module_list(AttentionBlock(hidden, heads) for _ in range(layers))
        self.gconv_output = ChebConv(hidden, 3)
        self.temb = StepEmbedding(hidden)

    def forward(self, uv: Tensor) -> Tensor:
        """uv (B, 17, 2) normalised → xyz (B, 17, 3) metres, as trained: not yet root-relative."""
        h = self.gconv_input(uv)
        for attention, graph in zip(self.atten_layers, self.gconv_layers, strict=True):
            h = graph(attention(h))
        return self.gconv_output(h)
