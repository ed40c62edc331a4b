"""A causal MixSTE: the video context encoder that can be computed frame by frame, with cached keys and values.

MixSTE's blocks in MixSTE's order (:mod:`diffpose_edge.reference.mixste`), with two differences. A temporal block attends to the
frame itself and the F - 1 before it, never to a later one. And what tells frames apart is their age, not their place in a window:
a learned bias for each head and age is added to the scores, so that a frame's keys and values stay what they are while it ages.
Relative biases: Raffel et al., *Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer* (JMLR 2020);
their start, a slope for each head: Press et al., *Train Short, Test Long* (ICLR 2022).

Each temporal layer looks back F - 1 frames, so L of them see L (F - 1) + 1 frames in all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffpose_edge.reference.layers import module_list
from diffpose_edge.reference.mixste import NORM_EPS, Block, Mlp
from diffpose_edge.skeleton import J


class CausalAttention(nn.Module):
    """Multi-head attention of each frame to itself and the F - 1 before it; x: (B, S, C), of any length S."""

    def __init__(self, width: int, heads: int, frames: int):
        super().__init__()
        self.heads, self.frames = heads, frames
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        slopes = 2.0 ** (-8.0 * torch.arange(heads) / heads)
        # Added to the score of a frame of age 0 (itself), 1, …, F - 1.
        self.age_bias = nn.Parameter(-slopes[:, None] * torch.arange(frames))

    def projections(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, S, C) → queries, keys and values, each (B, heads, S, C / heads)."""
        b, s, c = x.shape
        q, k, v = self.qkv(x).view(b, s, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def banded_bias(self, frames: int) -> Tensor:
        """Return what is added to the scores of a clip's frames (heads, S, S): the bias of their age, -inf outside the window."""
        at = torch.arange(frames)
        age = at[:, None] - at[None, :]
        bias = self.age_bias[:, age.clamp(0, self.frames - 1)]
        return bias.masked_fill((age < 0) | (age >= self.frames), float("-inf"))

    def forward(self, x: Tensor) -> Tensor:
        b, s, c = x.shape
        q, k, v = self.projections(x)
        # Spelt out in training too: PyTorch's one kernel for it takes no bias that is learned.
        attention = torch.softmax((q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5 + self.banded_bias(s), dim=-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(b, s, c))


class CausalBlock(nn.Module):
    """MixSTE's pre-norm transformer block with causal attention."""

    def __init__(self, width: int, heads: int, mlp_width: int, frames: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = CausalAttention(width, heads, frames)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, mlp_width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CausalMixSTE(nn.Module):
    """Keypoints of a clip to 3D poses, each from its past alone: (B, S, 17, 6) → (B, S, 17, 3), metres, not yet root-relative.

    ``frames`` is F, how many frames a temporal layer sees: the newest and F - 1 before it.
    """

    def __init__(self, frames: int = 27, width: int = 64, depth: int = 3, heads: int = 4, mlp_width: int = 128, channels: int = 6):
        super().__init__()
        self.frames, self.width, self.depth, self.heads, self.channels = frames, width, depth, heads, channels
        self.Spatial_patch_to_embedding = nn.Linear(channels, width)
        self.Spatial_pos_embed = nn.Parameter(torch.zeros(1, J, width))
        self.STEblocks = module_list(Block(width, heads, mlp_width) for _ in range(depth))
        self.TTEblocks = module_list(CausalBlock(width, heads, mlp_width, frames) for _ in range(depth))
        self.Spatial_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.Temporal_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3))

    @property
    def receptive_field(self) -> int:
        """How many frames, the newest included, an answer depends on: L (F - 1) + 1."""
        return self.depth * (self.frames - 1) + 1

    def blocks(self, observation: Tensor) -> list[Tensor]:
        """Return the normalised output of every block of a whole clip (B, S, 17, c), spatial and temporal in turn: spatial ones as
        (B S, 17, width), temporal ones as (B 17, S, width).
        """
        b, s, j, _ = observation.shape
        outputs = []
        x = self.Spatial_patch_to_embedding(observation.reshape(b * s, j, self.channels)) + self.Spatial_pos_embed
        for spatial, temporal in zip(self.STEblocks, self.TTEblocks, strict=True):
            outputs.append(self.Spatial_norm(spatial(x)))
            x = outputs[-1].view(b, s, j, self.width).transpose(1, 2).reshape(b * j, s, self.width)
            outputs.append(self.Temporal_norm(temporal(x)))
            x = outputs[-1].view(b, j, s, self.width).transpose(1, 2).reshape(b * s, j, self.width)
        return outputs

    def feature_of(self, last: Tensor) -> Tensor:
        """Bring the last block's output (B 17, S, width) into the order of f_ST (B, S, 17, width)."""
        return last.view(-1, J, last.shape[1], self.width).transpose(1, 2)

    def head_of(self, last: Tensor) -> Tensor:
        """Map the last block's output (B 17, S, width) to poses (B, S, 17, 3)."""
        return self.head(self.feature_of(last))

    def forward(self, observation: Tensor) -> Tensor:
        return self.head_of(self.blocks(observation)[-1])
