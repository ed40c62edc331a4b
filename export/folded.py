"""The released networks rewritten for inference: the same function in fewer, larger operations.

Every rewrite is exact in real arithmetic and is made in float64 before the weights are rounded to float32:

- a Chebyshev convolution is one mixing by the stacked polynomials and one matmul with the stacked weights, in either
  order; the narrower side is mixed;
- the rows of L sum to zero, so the step embedding, equal for all joints, becomes a bias temb (W_0 - W_2) of the second
  convolution: one row per layer in a table over all T timesteps;
- 1/sqrt(d_head) goes into W_q; the bias of k adds the same number to every score of a row and leaves the softmax
  unchanged; the rows of the attention sum to one, so the bias of v passes through it into the output's bias;
- the learned adjacency is normalised once.

The LayerNorm keeps its released form. Modules here have no parameters to train: they are what is traced to ONNX. Each
``forward`` also returns its layers' outputs ("taps", named by :func:`tap_names`), the same ones that
:mod:`diffpose_edge.reference.taps` records in the unfolded network, so that every layer can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffpose_edge.distribution import START_CHANNELS
from diffpose_edge.reference.graph_networks import Denoiser, FrameEncoder
from diffpose_edge.reference.layers import AttentionBlock, ChebConv, GraphBlock, LearnedAdjacency, ReleasedLayerNorm, SelfAttention
from diffpose_edge.skeleton import J, chebyshev_stack


def _double(parameter: Tensor) -> Tensor:
    return parameter.detach().to(torch.float64)


class _Constants(nn.Module):
    """A module whose tensors are constants of the graph."""

    def hold(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.to(torch.float32).contiguous())


class MixThenProject(_Constants):
    """Chebyshev convolution, mixing the joints first: (B, 17, C) → (B, 17, 3C) → (B, 17, C')."""

    mix: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, conv: ChebConv, *, biased: bool = True):
        super().__init__()
        t = torch.tensor(chebyshev_stack())
        # Row 3 j + k of the mixing matrix is row j of T_k, so that (51, C) is (17, 3C) without a transpose.
        self.hold("mix", t.permute(1, 0, 2).reshape(3 * J, J))
        self.c_in = conv.weight.shape[2]
        self.hold("weight", _double(conv.weight).reshape(3 * self.c_in, -1))
        if biased:
            self.hold("bias", _double(conv.bias).reshape(-1))
        self.biased = biased

    def forward(self, x: Tensor) -> Tensor:
        y = torch.matmul(torch.matmul(self.mix, x).reshape(x.shape[0], J, 3 * self.c_in), self.weight)
        return y + self.bias if self.biased else y


class ProjectThenMix(_Constants):
    """Chebyshev convolution, projecting first: (B, 17, C) → (B, 17, 3C') → (B, 17, C'); for C' much less than C."""

    mix: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, conv: ChebConv):
        super().__init__()
        t = torch.tensor(chebyshev_stack())
        self.hold("mix", t.permute(1, 2, 0).reshape(J, 3 * J))
        self.c_out = conv.weight.shape[3]
        self.hold("weight", _double(conv.weight).squeeze(1).permute(1, 0, 2).reshape(-1, 3 * self.c_out))
        self.hold("bias", _double(conv.bias).reshape(-1))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.matmul(x, self.weight).reshape(x.shape[0], 3 * J, self.c_out)
        return torch.matmul(self.mix, y) + self.bias


class ExactLayerNorm(_Constants):
    """The released LayerNorm, decomposed: the mean is subtracted once and the unbiased variance taken of the rest."""

    a_2: Tensor
    b_2: Tensor

    def __init__(self, norm: ReleasedLayerNorm):
        super().__init__()
        self.hold("a_2", _double(norm.a_2))
        self.hold("b_2", _double(norm.b_2))
        self.eps = norm.eps
        self.unbias = norm.a_2.numel() / (norm.a_2.numel() - 1)

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        std = torch.sqrt((centred * centred).mean(dim=-1, keepdim=True) * self.unbias)
        return centred / (std + self.eps) * self.a_2 + self.b_2


class FoldedAttention(_Constants):
    """Self-attention over the joints with q, k, v from one matmul."""

    w_qkv: Tensor
    b_q: Tensor
    w_out: Tensor
    b_out: Tensor

    def __init__(self, attention: SelfAttention):
        super().__init__()
        q, k, v, out = attention.linears
        c = q.weight.shape[0]
        self.heads, self.d_head = attention.heads, c // attention.heads
        scale = 1.0 / math.sqrt(self.d_head)
        self.hold("w_qkv", torch.cat([_double(q.weight).T * scale, _double(k.weight).T, _double(v.weight).T], dim=1))
        self.hold("b_q", _double(q.bias) * scale)
        self.hold("w_out", _double(out.weight).T)
        self.hold("b_out", _double(out.weight) @ _double(v.bias) + _double(out.bias))

    def forward(self, x: Tensor) -> Tensor:
        b, c = x.shape[0], self.heads * self.d_head
        q, k, v = torch.matmul(x, self.w_qkv).split(c, dim=-1)
        by_head = (b, J, self.heads, self.d_head)
        q = (q + self.b_q).reshape(by_head).permute(0, 2, 1, 3)
        k = k.reshape(by_head).permute(0, 2, 3, 1)
        v = v.reshape(by_head).permute(0, 2, 1, 3)
        h = torch.matmul(torch.softmax(torch.matmul(q, k), dim=-1), v)
        return torch.matmul(h.permute(0, 2, 1, 3).reshape(b, J, c), self.w_out) + self.b_out


class FoldedAdjacency(_Constants):
    """The learned-adjacency layer with its adjacency normalised beforehand."""

    mix: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor

    def __init__(self, layer: LearnedAdjacency):
        super().__init__()
        a_hat = _double(layer.A_hat)
        d = (a_hat.sum(dim=0) + 1e-5) ** -0.5
        self.hold("mix", d[:, None] * a_hat * d[None, :])
        for i, linear in ((1, layer.gconv1.fc), (2, layer.gconv2.fc)):
            self.hold(f"w{i}", _double(linear.weight).T)
            self.hold(f"b{i}", _double(linear.bias))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(torch.matmul(torch.matmul(self.mix, x), self.w1) + self.b1)
        return torch.matmul(torch.matmul(self.mix, h), self.w2) + self.b2


class FoldedLayer(_Constants):
    """One attention block and one graph block; the second convolution's bias comes from outside when steps are embedded."""

    def __init__(self, attention: AttentionBlock, graph: GraphBlock):
        super().__init__()
        self.norm1 = ExactLayerNorm(attention.sublayer[0].norm)
        self.attention = FoldedAttention(attention.self_attn)
        self.norm2 = ExactLayerNorm(attention.sublayer[1].norm)
        self.adjacency = FoldedAdjacency(attention.feed_forward)
        self.conv1 = MixThenProject(graph.gconv1.gconv)
        self.conv2 = MixThenProject(graph.gconv2.gconv, biased=graph.temb_proj is None)

    def forward(self, x: Tensor, step_bias: Tensor | None = None) -> list[Tensor]:
        norm1 = self.norm1(x)
        attention = self.attention(norm1)
        x = x + attention
        norm2 = self.norm2(x)
        adjacency = self.adjacency(norm2)
        x = x + adjacency
        conv1 = torch.relu(self.conv1(x))
        conv2 = self.conv2(conv1)
        if step_bias is not None:
            conv2 = conv2 + step_bias
        conv2 = torch.relu(conv2)
        return [norm1, attention, norm2, adjacency, conv1, conv2, x + conv2]


LAYER_TAPS = ("norm1", "attention", "norm2", "adjacency", "conv1", "conv2", "out")


def tap_names(layers: int) -> list[str]:
    """Return the names of the layer outputs, in the order in which the folded networks return them."""
    return ["conv_in", *(f"layer{i}.{tap}" for i in range(layers) for tap in LAYER_TAPS)]


class FoldedTrunk(_Constants):
    """Input convolution and layers; returns every tap, the last one being the trunk's output."""

    def __init__(self, network: Denoiser | FrameEncoder):
        super().__init__()
        self.input = MixThenProject(network.gconv_input)
        self.layers = nn.ModuleList(FoldedLayer(a, g) for a, g in zip(network.atten_layers, network.gconv_layers, strict=True))

    def forward(self, x: Tensor, step_biases: Sequence[Tensor] | None = None, condition: Tensor | None = None) -> list[Tensor]:
        taps = [self.input(x)]
        h = taps[0] if condition is None else taps[0] + condition
        for i, layer in enumerate(self.layers):
            taps += layer(h, None if step_biases is None else step_biases[i])
            h = taps[-1]
        return taps


class FoldedFrameEncoder(_Constants):
    """uv (P, 17, 2), or the observation (P, 17, 6), → xyz (P, 17, 3), followed by the taps; the last one is f_ST."""

    def __init__(self, encoder: FrameEncoder):
        super().__init__()
        self.trunk = FoldedTrunk(encoder)
        self.output = ProjectThenMix(encoder.gconv_output)

    def forward(self, uv: Tensor) -> tuple[Tensor, ...]:
        taps = self.trunk(uv)
        return (self.output(taps[-1]), *taps)


class Condition(_Constants):
    """The projection of f_ST (P, 17, C') and of the samples' starts (P N, 17, 10) to (P N, 17, C).

    f_ST is projected once for each person and then repeated for the samples.
    """

    w_feature: Tensor
    w_start: Tensor
    bias: Tensor

    def __init__(self, condition: nn.Linear, samples: int):
        super().__init__()
        weight = _double(condition.weight).T
        width = weight.shape[0] - START_CHANNELS
        self.samples = samples
        self.hold("w_feature", weight[:width])
        self.hold("w_start", weight[width:])
        self.hold("bias", _double(condition.bias))

    def forward(self, feature: Tensor, start: Tensor) -> Tensor:
        told = torch.matmul(feature, self.w_feature) + self.bias
        persons, _, c = told.shape
        told = told.unsqueeze(1).expand(persons, self.samples, J, c).reshape(persons * self.samples, J, c)
        return told + torch.matmul(start, self.w_start)


class FoldedStep(_Constants):
    """One reverse step: x (P N, 17, 5), timestep (1,), coefficients (3,), previous (P N, 17, 5) → x_next, eps, and the taps.

    A conditioned denoiser also takes feature (P, 17, C') and start (P N, 17, 10); ``samples`` is N.

    x_next = c0 x + c1 eps (x, timestep) + c2 previous, where previous is the eps of the step before: every sampler of
    :mod:`diffpose_edge.samplers` is three numbers a step. The timestep is a float32 that holds a whole number: TensorRT's
    handling of int64 inputs differs between versions.
    """

    step_table: Tensor

    def __init__(self, denoiser: Denoiser, T: int, samples: int = 1):
        super().__init__()
        self.hidden = denoiser.hidden
        self.condition = Condition(denoiser.condition, samples) if denoiser.condition_width else None
        self.trunk = FoldedTrunk(denoiser)
        self.output = ProjectThenMix(denoiser.gconv_output)
        self.hold("step_table", step_bias_table(denoiser, T))

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        coefficients: Tensor,
        previous: Tensor,
        feature: Tensor | None = None,
        start: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        row = self.step_table.index_select(0, timestep.to(torch.int64))
        condition = None
        if self.condition is not None:
            assert feature is not None
            assert start is not None
            condition = self.condition(feature, start)
        taps = self.trunk(x, row.split(self.hidden, dim=-1), condition)
        eps = self.output(taps[-1])
        c0, c1, c2 = coefficients.split(1)
        return (c0 * x + c1 * eps + c2 * previous, eps, *taps)


def step_bias_table(denoiser: Denoiser, T: int) -> Tensor:
    """Return the second convolutions' biases for every timestep, shape (T, layers C), float64.

    Row t, layer l: temb_l(t) (W_0 - W_2) + b, with W_k and b of layer l's second convolution.
    """
    # The sinusoid is taken in float32, as the reference does; the linear layers after it in float64.
    sinusoid = _double(denoiser.temb.sinusoid(torch.arange(T)))
    first, second = denoiser.temb.dense
    silu = nn.functional.silu
    h = silu(sinusoid @ _double(first.weight).T + _double(first.bias))
    temb = silu(h @ _double(second.weight).T + _double(second.bias))
    rows = []
    for graph in denoiser.gconv_layers:
        assert graph.temb_proj is not None
        projected = temb @ _double(graph.temb_proj.weight).T + _double(graph.temb_proj.bias)
        conv = graph.gconv2.gconv
        w = _double(conv.weight).squeeze(1)
        rows.append(projected @ (w[0] - w[2]) + _double(conv.bias).reshape(-1))
    return torch.cat(rows, dim=1)
