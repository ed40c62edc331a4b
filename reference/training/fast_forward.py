"""The graph networks' forward pass, arranged for training on a CPU: the same function of the same parameters, 3.5 times as fast.

Joints come first, (17, B, C), so that every mixing of joints is one matrix product; Chebyshev convolutions are taken in
the Laplacian's eigenbasis, where they are one product for each joint; softmax attention is PyTorch's fused kernel. There is
no dropout: batches never repeat. Tests compare it with the networks themselves, in evaluation mode.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from diffpose_edge.reference.graph_networks import Denoiser, FrameEncoder
from diffpose_edge.reference.layers import AttentionBlock, ChebConv, GraphBlock, LearnedAdjacency, ReleasedLayerNorm, SelfAttention
from diffpose_edge.skeleton import J, adjacency, laplacian


def _eigenbasis() -> tuple[Tensor, Tensor, Tensor]:
    """Return U, U^-1 and the polynomials of the eigenvalues (3, 17): T_k = U diag(p_k) U^-1."""
    # L = I - A is similar to a symmetric matrix (A is a row-normalised symmetric one): its eigenvalues are real.
    values, vectors = np.linalg.eig(laplacian(adjacency()))
    u = vectors.real
    polynomials = np.stack([np.ones(J), values.real, 2.0 * values.real**2 - 1.0])
    return tuple(torch.tensor(m, dtype=torch.float32) for m in (u, np.linalg.inv(u), polynomials))  # type: ignore[return-value]


U, U_INVERSE, POLYNOMIALS = _eigenbasis()


def _mixed(mix: Tensor, x: Tensor) -> Tensor:
    return (mix @ x.reshape(J, -1)).view(x.shape)


def _conv(conv: ChebConv, x: Tensor) -> Tensor:
    weight = torch.einsum("kj,kio->jio", POLYNOMIALS, conv.weight[:, 0])
    return _mixed(U, torch.bmm(_mixed(U_INVERSE, x), weight)) + conv.bias[0]


def _norm(norm: ReleasedLayerNorm, x: Tensor) -> Tensor:
    c = x.shape[-1]
    return functional.layer_norm(x, (c,), norm.a_2 * math.sqrt((c - 1) / c), norm.b_2, 1e-10)


def _attention(attention: SelfAttention, x: Tensor) -> Tensor:
    j, b, c = x.shape
    q, k, v, out = attention.linears
    weight, bias = torch.cat([q.weight, k.weight, v.weight]), torch.cat([q.bias, k.bias, v.bias])
    parts = functional.linear(x, weight, bias).view(j, b, 3, attention.heads, c // attention.heads).permute(2, 1, 3, 0, 4)
    q_of, k_of, v_of = parts.unbind(0)
    h = functional.scaled_dot_product_attention(q_of, k_of, v_of)
    return out(h.permute(2, 0, 1, 3).reshape(j, b, c))


def _adjacency(layer: LearnedAdjacency, x: Tensor) -> Tensor:
    mix = layer.mixing()
    return layer.gconv2(_mixed(mix, torch.relu(layer.gconv1(_mixed(mix, x)))))


def _layer(attention: AttentionBlock, graph: GraphBlock, h: Tensor, temb: Tensor | None) -> Tensor:
    h = h + _attention(attention.self_attn, _norm(attention.sublayer[0].norm, h))
    h = h + _adjacency(attention.feed_forward, _norm(attention.sublayer[1].norm, h))
    r = torch.relu(_conv(graph.gconv1.gconv, h))
    if temb is not None:
        assert graph.temb_proj is not None
        r = r + graph.temb_proj(temb)
    return h + torch.relu(_conv(graph.gconv2.gconv, r))


def encoded(network: FrameEncoder, channels: Tensor) -> tuple[Tensor, Tensor]:
    """channels (B, 17, c) → xyz (B, 17, 3) and f_ST (B, 17, C), as ``network`` and ``network.features`` give them."""
    h = _conv(network.gconv_input, channels.transpose(0, 1).contiguous())
    for attention, graph in zip(network.atten_layers, network.gconv_layers, strict=True):
        h = _layer(attention, graph, h, None)
    return _conv(network.gconv_output, h).transpose(0, 1), h.transpose(0, 1)


def denoised(network: Denoiser, x: Tensor, t: Tensor, feature: Tensor, start: Tensor) -> Tensor:
    """x (B, 17, 5), t (B,), feature (B, 17, C'), start (B, 17, 10) → what the conditioned ``network`` predicts, (B, 17, 5)."""
    temb = nn.functional.silu(network.temb(t))
    h = _conv(network.gconv_input, x.transpose(0, 1).contiguous())
    h = h + network.condition(torch.cat([feature, start], dim=-1)).transpose(0, 1)
    for attention, graph in zip(network.atten_layers, network.gconv_layers, strict=True):
        h = _layer(attention, graph, h, temb)
    return _conv(network.gconv_output, h).transpose(0, 1)
