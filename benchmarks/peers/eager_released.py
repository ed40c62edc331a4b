"""PyTorch eager as released: the published networks and loop, with everything that they compute anew in each call.

:mod:`diffpose_edge.reference` computes the same numbers with less: its Chebyshev stack is a constant, its schedule a table. What
the published code (``GONGJIA0208/Diffpose`` at commit 11813f1) does besides is done here again, in our own words, because it is
what a user of the released code waits for:

- each graph convolution makes its Laplacian and its Chebyshev stack from the adjacency;
- each learned-adjacency layer repeats its adjacency for every row of the batch and normalises it, twice;
- attention masks its scores, with a mask that hides nothing; graph convolutions rectify twice;
- the step embedding is computed for every row, though all are at the same timestep;
- each step of DDIM multiplies up alpha_bar twice, and draws noise that eta = 0 then takes out.

On the CPU, as everything in this comparison: the published loop itself asks for a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffpose_edge.benchmarks.peers.peer import Array, Setting, released_pair
from diffpose_edge.reference.layers import ChebConv, ConvRelu, GraphBlock, LearnedAdjacency, SelfAttention, StepEmbedding
from diffpose_edge.schedule import linear_betas
from diffpose_edge.skeleton import J, adjacency


class _ChebConv(nn.Module):
    """A Chebyshev convolution that makes its Laplacian, and the polynomials of it, in every call."""

    A: Tensor

    def __init__(self, conv: ChebConv):
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.register_buffer("A", torch.tensor(adjacency(), dtype=torch.float32), persistent=False)

    def laplacian(self) -> Tensor:
        """Return I - D^-1/2 A D^-1/2, shape (17, 17)."""
        root = torch.diag(self.A.sum(dim=-1) ** -0.5)
        return torch.eye(J, device=self.A.device) - torch.mm(torch.mm(root, self.A), root)

    def polynomials(self, lap: Tensor) -> Tensor:
        """Return T_0, T_1, T_2 by their recursion, written into one array, shape (3, 17, 17)."""
        stack = torch.zeros(3, J, J, device=lap.device)
        stack[0] = torch.eye(J, device=lap.device)
        stack[1] = lap
        stack[2] = 2 * torch.mm(lap, stack[1]) - stack[0]
        return stack

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.matmul(self.polynomials(self.laplacian())[:, None], x)
        return torch.matmul(mixed, self.weight).sum(dim=0) + self.bias


class _ConvRelu(nn.Module):
    """A graph convolution whose rectifier stands before the dropout, and again after it."""

    def __init__(self, layer: ConvRelu):
        super().__init__()
        self.gconv, self.dropout, self.relu = layer.gconv, layer.dropout, nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.dropout(self.relu(self.gconv(x))))


class _GraphBlock(nn.Module):
    """Two graph convolutions and the residual; the step embedding's activation is taken in every block."""

    def __init__(self, block: GraphBlock):
        super().__init__()
        self.gconv1, self.gconv2, self.temb_proj = block.gconv1, block.gconv2, block.temb_proj

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        h = self.gconv1(x)
        if self.temb_proj is not None:
            assert temb is not None
            h = h + self.temb_proj(_swish(temb))[:, None, :]
        return x + self.gconv2(h)


class _Attention(nn.Module):
    """Multi-head attention with a mask over the scores, all of which are let through."""

    mask: Tensor

    def __init__(self, attention: SelfAttention):
        super().__init__()
        self.heads, self.linears, self.dropout = attention.heads, attention.linears, nn.Dropout(0.1)
        self.register_buffer("mask", torch.ones(1, 1, J, dtype=torch.bool), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, j, c = x.shape
        mask = self.mask.unsqueeze(1)
        q, k, v = (linear(x).view(b, j, self.heads, c // self.heads).transpose(1, 2) for linear in self.linears[:3])
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(c // self.heads)
        shares = self.dropout(torch.softmax(scores.masked_fill(mask == 0, -1e9), dim=-1))
        return self.linears[3](torch.matmul(shares, v).transpose(1, 2).contiguous().view(b, j, c))


class _LearnedAdjacency(nn.Module):
    """The two layers over the learned adjacency, each of which repeats it for the batch and normalises it."""

    def __init__(self, layer: LearnedAdjacency):
        super().__init__()
        self.A_hat, self.gconv1, self.gconv2 = layer.A_hat, layer.gconv1, layer.gconv2

    def mixed(self, x: Tensor) -> Tensor:
        """Return L x, with L computed for every row of the batch."""
        a_hat = self.A_hat.unsqueeze(0).repeat(len(x), 1, 1)
        d = (a_hat.sum(dim=1) + 1e-5) ** -0.5
        return torch.bmm(d.view(-1, J, 1) * a_hat * d.view(-1, 1, J), x)

    def forward(self, x: Tensor) -> Tensor:
        return self.gconv2(self.mixed(torch.relu(self.gconv1(self.mixed(x)))))


class _StepEmbedding(nn.Module):
    """f_D, with its activation written out."""

    def __init__(self, embedding: StepEmbedding):
        super().__init__()
        self.dense, self.sinusoid = embedding.dense, embedding.sinusoid

    def forward(self, t: Tensor) -> Tensor:
        return self.dense[1](_swish(self.dense[0](self.sinusoid(t))))


def _swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


_AS_PUBLISHED: dict[type[nn.Module], type[nn.Module]] = {
    ChebConv: _ChebConv,
    ConvRelu: _ConvRelu,
    GraphBlock: _GraphBlock,
    SelfAttention: _Attention,
    LearnedAdjacency: _LearnedAdjacency,
    StepEmbedding: _StepEmbedding,
}


def as_published(network: nn.Module) -> nn.Module:
    """Exchange the layers of a denoiser or a frame encoder, in place, for those that work as the published ones; return it."""
    for name, child in network.named_children():
        as_published(child)
        if type(child) in _AS_PUBLISHED:
            setattr(network, name, _AS_PUBLISHED[type(child)](child))
    return network.eval()


def published_alpha_bar(betas: Tensor, t: Tensor) -> Tensor:
    """Return alpha_bar at the timesteps t (B,), of which -1 means the clean pose, shape (B, 1, 1): multiplied up in every call."""
    padded = torch.cat([torch.zeros(1), betas], dim=0)
    return (1 - padded).cumprod(dim=0).index_select(0, t + 1).view(-1, 1, 1)


class EagerReleased:
    """See the module; a :class:`diffpose_edge.benchmarks.peers.peer.Peer`."""

    def __init__(self, setting: Setting):
        torch.set_num_threads(setting.threads)
        model = released_pair(setting)
        self._denoiser, self._context = as_published(model.denoiser_network), as_published(model.context_network)
        self._betas = torch.from_numpy(linear_betas())

    @torch.no_grad()
    def encode(self, uv: Array) -> Array:
        return self._context(torch.from_numpy(uv)).numpy()

    @torch.no_grad()
    def epsilon(self, x: Array, t: int) -> Array:
        return self._denoiser(torch.from_numpy(x), torch.ones(len(x)) * t).numpy()

    @torch.no_grad()
    def walk(self, x_K: Array, timesteps: Sequence[int], step_s: NDArray[np.float64]) -> Array:
        x, rows = torch.from_numpy(x_K), len(x_K)
        for k, (t, s) in enumerate(zip(timesteps, [*timesteps[1:], -1], strict=True)):
            began = perf_counter()
            now, then = torch.ones(rows) * t, torch.ones(rows) * s
            a_t, a_s = published_alpha_bar(self._betas, now.long()), published_alpha_bar(self._betas, then.long())
            eps = self._denoiser(x, now)
            x0 = (x - eps * (1 - a_t).sqrt()) / a_t.sqrt()
            # eta of the noise goes back in, and eta is 0.
            c1 = 0 * ((1 - a_t / a_s) * (1 - a_s) / (1 - a_t)).sqrt()
            c2 = ((1 - a_s) - c1**2).sqrt()
            x = a_s.sqrt() * x0 + c1 * torch.randn_like(x) + c2 * eps
            step_s[k] = perf_counter() - began
        return x.numpy()

    def describe(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    def close(self) -> None:
        pass


def load(setting: Setting) -> EagerReleased:
    """Load it. Raises CheckpointError, MissingPackage."""
    return EagerReleased(setting)
