"""MixSTE, the video context encoder: spatial and temporal transformer blocks in turn.

Source: Zhang et al., *MixSTE: Seq2seq Mixed Spatio-Temporal Encoder for 3D Human Pose Estimation in Video* (CVPR 2022).
Attribute names are those of the published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffpose_edge.reference.layers import module_list
from diffpose_edge.skeleton import MIRROR, J

NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention over the second-to-last axis, q, k, v from one projection."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        d_head = c // self.heads
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d_head).permute(2, 0, 3, 1, 4).unbind(0)
        if self.training:
            # The same function in one kernel; spelt out below, where it is traced and compared.
            return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))
        attention = torch.softmax((q @ k.transpose(-2, -1)) * d_head**-0.5, dim=-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(b, n, c))


class Mlp(nn.Module):
    """Linear, GELU (exact), Linear."""

    def __init__(self, width: int, mlp_width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, mlp_width)
        self.fc2 = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_width: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, mlp_width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class MixSTE(nn.Module):
    """2D joints of F frames to their 3D poses: (B, F, 17, 2) → (B, F, 17, 3), metres, not yet root-relative.

    ``channels`` is 2 as released, or 6 for keypoints in the person's frame (:mod:`diffpose_edge.person`).
    """

    def __init__(self, frames: int = 243, width: int = 512, depth: int = 8, heads: int = 8, mlp_width: int = 1024, channels: int = 2):
        super().__init__()
        self.frames, self.width, self.depth, self.heads, self.channels = frames, width, depth, heads, channels
        self.Spatial_patch_to_embedding = nn.Linear(channels, width)
        self.Spatial_pos_embed = nn.Parameter(torch.zeros(1, J, width))
        self.Temporal_pos_embed = nn.Parameter(torch.zeros(1, frames, width))
        self.STEblocks = module_list(Block(width, heads, mlp_width) for _ in range(depth))
        self.TTEblocks = module_list(Block(width, heads, mlp_width) for _ in range(depth))
        self.Spatial_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.Temporal_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3))

    def blocks(self, uv: Tensor) -> list[Tensor]:
        """Return the normalised output of every block, spatial and temporal in turn; each holds (B, F, 17, width)
        elements, spatial ones as (B F, 17, width), temporal ones as (B 17, F, width).
        """
        b, f, j, _ = uv.shape
        width = self.width
        outputs = []
        x = self.Spatial_patch_to_embedding(uv.reshape(b * f, j, self.channels)) + self.Spatial_pos_embed
        for i, (spatial, temporal) in enumerate(zip(self.STEblocks, self.TTEblocks, strict=True)):
            outputs.append(self.Spatial_norm(spatial(x)))
            x = outputs[-1].view(b, f, j, width).transpose(1, 2).reshape(b * j, f, width)
            if i == 0:
                x = x + self.Temporal_pos_embed
            outputs.append(self.Temporal_norm(temporal(x)))
            x = outputs[-1].view(b, j, f, width).transpose(1, 2).reshape(b * f, j, width)
        return outputs

    def feature_of(self, last: Tensor) -> Tensor:
        """Bring the last block's output (B 17, F, width) into the order of f_ST (B, F, 17, width)."""
        return last.view(-1, J, self.frames, self.width).transpose(1, 2)

    def head_of(self, last: Tensor) -> Tensor:
        """Map the last block's output (B 17, F, width) to poses (B, F, 17, 3)."""
        return self.head(self.feature_of(last))

    def forward(self, uv: Tensor) -> Tensor:
        return self.head_of(self.blocks(uv)[-1])


class MirrorAverage(nn.Module):
    """Averages an encoder's answer with its answer for the mirrored input, as the released code does at test time.

    Mirroring negates u (and x) and swaps the left joints with the right ones. Works for frames and for windows: the
    joints are the second-to-last axis.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.register_buffer("swap", torch.tensor(MIRROR), persistent=False)
        self.register_buffer("flip_uv", torch.tensor([-1.0, 1.0]), persistent=False)
        self.register_buffer("flip_xyz", torch.tensor([-1.0, 1.0, 1.0]), persistent=False)

    swap: Tensor
    flip_uv: Tensor
    flip_xyz: Tensor

    def with_mirrored(self, uv: Tensor) -> Tensor:
        """Return the batch followed by its mirror image: (B, …, 17, 2) → (2B, …, 17, 2)."""
        return torch.cat([uv, (uv * self.flip_uv).index_select(-2, self.swap)], dim=0)

    def average(self, both: Tensor) -> Tensor:
        """Undo the mirroring of the second half and average: (2B, …, 17, 3) → (B, …, 17, 3)."""
        straight, turned = both.chunk(2, dim=0)
        return (straight + (turned * self.flip_xyz).index_select(-2, self.swap)) / 2

    def forward(self, uv: Tensor) -> Tensor:
        return self.average(self.encoder(self.with_mirrored(uv)))
