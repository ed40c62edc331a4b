"""The layers that the frame encoder and the denoiser are made of, as released.

Attribute names are those of the published checkpoints, so that a state dict loads key by key. Every layer maps
(B, 17, C) to (B, 17, C'). Source: DiffPose (Gong et al., CVPR 2023), supplementary; its graph layers follow GraFormer
(Zhao et al., CVPR 2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from diffpose_edge.skeleton import J, chebyshev_stack

M = TypeVar("M", bound=nn.Module)


def module_list(modules: Iterable[M]) -> Sequence[M]:
    """Return an nn.ModuleList, typed by what is in it: PyTorch's own type does not say."""
    return cast("Sequence[M]", nn.ModuleList(modules))


class ChebConv(nn.Module):
    """Chebyshev graph convolution of order 2 on the skeleton: y = sum_k (T_k x) W_k + b."""

    chebyshev: Tensor

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3, 1, c_in, c_out))
        self.bias = nn.Parameter(torch.zeros(1, 1, c_out))
        nn.init.xavier_normal_(self.weight)
        # A constant of the skeleton, not a weight: the checkpoints do not hold it.
        self.register_buffer("chebyshev", torch.tensor(chebyshev_stack(), dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.einsum("kij,bjc->kbic", self.chebyshev, x)
        return torch.matmul(mixed, self.weight).sum(dim=0) + self.bias


class ConvRelu(nn.Module):
    """Graph convolution followed by a rectifier (dropout while training)."""

    def __init__(self, c_in: int, c_out: int, dropout: float = 0.1):
        super().__init__()
        self.gconv = ChebConv(c_in, c_out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(torch.relu(self.gconv(x)))


class GraphBlock(nn.Module):
    """Two graph convolutions with a residual around both; a step embedding, if there is one, enters between them."""

    def __init__(self, c: int, c_step: int | None = None):
        super().__init__()
        self.gconv1 = ConvRelu(c, c)
        self.gconv2 = ConvRelu(c, c)
        self.temb_proj = None if c_step is None else nn.Linear(c_step, c)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        h = self.gconv1(x)
        if self.temb_proj is not None:
            assert temb is not None
            h = h + self.temb_proj(nn.functional.silu(temb))[:, None, :]
        return x + self.gconv2(h)


class ReleasedLayerNorm(nn.Module):
    """a_2 (x - mean) / (std + 1e-6) + b_2, with the *unbiased* standard deviation and epsilon outside the root."""

    eps = 1e-6

    def __init__(self, c: int):
        super().__init__()
        self.a_2 = nn.Parameter(torch.ones(c))
        self.b_2 = nn.Parameter(torch.zeros(c))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=-1, keepdim=True)
        std = x.std(dim=-1, keepdim=True)
        return self.a_2 * (x - mean) / (std + self.eps) + self.b_2


class SelfAttention(nn.Module):
    """Multi-head self-attention over the 17 joints; ``linears`` are q, k, v and the output projection."""

    def __init__(self, c: int, heads: int):
        super().__init__()
        self.heads = heads
        self.linears = module_list(nn.Linear(c, c) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, j, c = x.shape
        d_head = c // self.heads
        q, k, v = (w(x).view(b, j, self.heads, d_head).transpose(1, 2) for w in self.linears[:3])
        attention = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(d_head), dim=-1)
        return self.linears[3]((attention @ v).transpose(1, 2).reshape(b, j, c))


class FullyConnected(nn.Module):
    """A Linear under the name that the checkpoints give it."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.fc = nn.Linear(c_in, c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class LearnedAdjacency(nn.Module):
    """Two linear layers over a learned adjacency: x1 = relu(fc1(L x)) with C to 2C, then fc2(L x1) back to C.

    L_ij = d_i A_hat_ij d_j with d_j = (sum_i A_hat_ij + 1e-5)^-1/2.
    """

    def __init__(self, c: int):
        super().__init__()
        self.A_hat = nn.Parameter(torch.eye(J))
        self.gconv1 = FullyConnected(c, 2 * c)
        self.gconv2 = FullyConnected(2 * c, c)

    def mixing(self) -> Tensor:
        """Return the normalised adjacency L, shape (17, 17)."""
        d = (self.A_hat.sum(dim=0) + 1e-5) ** -0.5
        return d[:, None] * self.A_hat * d[None, :]

    def forward(self, x: Tensor) -> Tensor:
        mix = self.mixing()
        return self.gconv2(mix @ torch.relu(self.gconv1(mix @ x)))


class PreNorm(nn.Module):
    """x + layer(norm(x)), with dropout on the layer's output while training."""

    def __init__(self, c: int, dropout: float = 0.1):
        super().__init__()
        self.norm = ReleasedLayerNorm(c)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, layer: nn.Module) -> Tensor:
        return x + self.dropout(layer(self.norm(x)))


class AttentionBlock(nn.Module):
    """Self-attention, then the learned-adjacency layer, each normalised first and added to its input."""

    def __init__(self, c: int, heads: int):
        super().__init__()
        self.self_attn = SelfAttention(c, heads)
        self.feed_forward = LearnedAdjacency(c)
        self.sublayer = module_list(PreNorm(c) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.sublayer[0](x, self.self_attn)
        return self.sublayer[1](x, self.feed_forward)


class StepEmbedding(nn.Module):
    """f_D: sinusoidal embedding of the timestep (B,) and two linear layers, to (B, 4C)."""

    def __init__(self, c: int):
        super().__init__()
        self.c = c
        self.dense = module_list([nn.Linear(c, 4 * c), nn.Linear(4 * c, 4 * c)])

    def sinusoid(self, t: Tensor) -> Tensor:
        """[sin(t f), cos(t f)] with f_i = exp(-ln(10000) i / (C/2 - 1)); t (B,) gives (B, C)."""
        half = self.c // 2
        f = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * -(math.log(10000.0) / (half - 1)))
        angle = t.to(torch.float32)[:, None] * f[None, :]
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    def forward(self, t: Tensor) -> Tensor:
        return self.dense[1](nn.functional.silu(self.dense[0](self.sinusoid(t))))
