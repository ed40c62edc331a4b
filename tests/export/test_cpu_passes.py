"""Each pass of the graphs for the CPU on a graph made for it: it finds what it is for, keeps the function, and leaves the rest alone."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn

from diffpose_edge.errors import ExportError
from diffpose_edge.export.cpu_fusions import fuse_attention, fuse_biases, fuse_layer_norms
from diffpose_edge.export.eigenbasis import chebyshev_in_eigenbasis, laplacian_eigenbasis
from diffpose_edge.export.folded import ExactLayerNorm, FoldedAdjacency, FoldedAttention, MixThenProject
from diffpose_edge.export.projected_chebyshev import chebyshev_after_projection
from diffpose_edge.export.row_form import by_sample, merge_reshapes, to_row_form
from diffpose_edge.export.trace import onnx_from_module
from diffpose_edge.reference.layers import ChebConv, LearnedAdjacency, ReleasedLayerNorm, SelfAttention
from diffpose_edge.skeleton import J, adjacency, chebyshev_stack, laplacian

B, C = 3, 24
X = np.random.default_rng(0).normal(size=(B, J, C)).astype(np.float32)


def drawn(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.0, 0.4)
    return module


def traced(module: nn.Module, samples: int = B) -> onnx.ModelProto:
    proto = onnx_from_module(module, {"x": torch.zeros(samples, J, C)}, ["y"]).model
    return onnx.shape_inference.infer_shapes(proto, data_prop=True)


def run(model, x=X):
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def assert_same(model, proto, x=X):
    expected = run(proto, x)
    np.testing.assert_allclose(run(model, x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_released_norm_becomes_one_operator():
    proto = traced(ExactLayerNorm(drawn(ReleasedLayerNorm(C))))
    model = ir.from_proto(proto)
    assert fuse_layer_norms(model) == 1
    assert kinds(model) == ["LayerNormalization"]
    assert_same(model, proto)


class BiasedNorm(nn.Module):
    """A LayerNorm with its epsilon within the root, as everybody else's: another function, another pattern."""

    def forward(self, x):
        centred = x - x.mean(dim=-1, keepdim=True)
        return centred / torch.sqrt((centred * centred).mean(dim=-1, keepdim=True) + 0.1) * 2.0 + 1.0


def test_another_norm_is_left_alone():
    model = ir.from_proto(traced(BiasedNorm()))
    assert fuse_layer_norms(model) == 0


def test_attention_becomes_one_operator():
    proto = traced(FoldedAttention(drawn(SelfAttention(C, 4))))
    model = ir.from_proto(proto)
    assert fuse_attention(model) == 1
    (attention,) = [node for node in model.graph if node.op_type == "MultiHeadAttention"]
    assert attention.domain == "com.microsoft"
    assert attention.attributes["num_heads"].as_int() == 4
    assert_same(model, proto)


def test_a_matmul_and_its_row_become_one_only_on_matrices():
    proto = traced(FoldedAdjacency(drawn(LearnedAdjacency(C))))
    model = ir.from_proto(proto)
    assert fuse_biases(model) == 0
    assert to_row_form(model) > 0
    assert fuse_biases(model) == 2
    assert_same(model, proto)


def test_the_eigenbasis_is_that_of_the_laplacian():
    U, values, U_inverse = laplacian_eigenbasis()
    np.testing.assert_allclose(U @ np.diag(values) @ U_inverse, laplacian(adjacency()), atol=1e-14)
    np.testing.assert_allclose(U @ U_inverse, np.eye(J), atol=1e-14)
    T = np.stack([np.ones(J), values, 2 * values**2 - 1])
    for k, polynomial in enumerate(chebyshev_stack()):
        np.testing.assert_allclose(U @ np.diag(T[k]) @ U_inverse, polynomial, atol=1e-14)


def test_a_chebyshev_convolution_in_the_eigenbasis():
    proto = traced(MixThenProject(drawn(ChebConv(C, C))))
    model = ir.from_proto(proto)
    assert chebyshev_in_eigenbasis(model) == 1
    spectral = next(v for name, v in model.graph.initializers.items() if name.endswith(".spectral"))
    assert tuple(spectral.shape) == (J, C, C)
    assert_same(model, proto)


def test_other_mixings_and_narrow_convolutions_keep_their_form():
    wide = MixThenProject(drawn(ChebConv(C, C)))
    wide.mix[4, 4] += 0.5
    model = ir.from_proto(traced(wide))
    assert chebyshev_in_eigenbasis(model) == 0
    model = ir.from_proto(traced(MixThenProject(drawn(ChebConv(C, C)))))
    assert chebyshev_in_eigenbasis(model, least_width=C + 1) == 0
    assert not [name for name in model.graph.initializers if name.startswith("eigen")], "constants are left over"


class Layer(nn.Module):
    """Everything that the row form meets: linear layers, mixings, a residual, a convolution, and an attention that wants (B, 17, C)."""

    def __init__(self):
        super().__init__()
        self.adjacency = FoldedAdjacency(drawn(LearnedAdjacency(C)))
        self.attention = FoldedAttention(drawn(SelfAttention(C, 4)))
        self.conv = MixThenProject(drawn(ChebConv(C, C)))

    def forward(self, x):
        x = x + self.attention(x)
        x = x + self.adjacency(x)
        return x + torch.relu(self.conv(x))


@pytest.mark.parametrize("fused", [False, True], ids=["parts", "attention"])
@pytest.mark.parametrize("samples", [1, 2, 5])
@pytest.mark.parametrize("form", [None, chebyshev_in_eigenbasis, chebyshev_after_projection], ids=["stacked", "eigenbasis", "projected"])
def test_row_form_keeps_the_function(form, samples, fused):
    proto = traced(Layer(), samples)
    model = ir.from_proto(proto)
    if fused:
        assert fuse_attention(model) == 1
    if form is not None:
        assert form(model) == 1
    assert to_row_form(model) >= 8
    assert kinds(model).count("FusedMatMul") == 2 * fused
    # One at each end, and behind attention; what is stacked is put side by side, what is not in rows turned back and forth.
    if fused and samples > 1:
        assert kinds(model).count("Transpose") == (4 if form is None else 3)
    x = np.random.default_rng(1).normal(size=(samples, J, C)).astype(np.float32)
    assert_same(model, proto, x)


class ReadTwice(nn.Module):
    """What is stacked is read as it is stacked as well."""

    def __init__(self):
        super().__init__()
        self.conv = MixThenProject(drawn(ChebConv(C, C)))

    def forward(self, x):
        x = torch.relu(x @ torch.eye(C))
        stacked = torch.matmul(self.conv.mix, x)
        return (torch.matmul(stacked.reshape(B, J, 3 * C), self.conv.weight) + self.conv.bias) * stacked.sum()


def test_what_is_stacked_has_to_be_read_side_by_side():
    with pytest.raises(ExportError, match=r"reads .* otherwise than side by side"):
        to_row_form(ir.from_proto(traced(ReadTwice())))


def test_one_sample_needs_no_reshape_to_mix_its_joints():
    model = ir.from_proto(traced(FoldedAdjacency(drawn(LearnedAdjacency(C))), 1))
    to_row_form(model)
    assert kinds(model).count("Reshape") == 2, "one at each end"


def test_rows_turn_back():
    samples_first = X.reshape(B * J, C)
    joints_first = X.transpose(1, 0, 2).reshape(J * B, C)
    np.testing.assert_array_equal(by_sample(samples_first, X.shape, "samples"), X)
    np.testing.assert_array_equal(by_sample(joints_first, X.shape, "joints"), X)
    np.testing.assert_array_equal(by_sample(X, X.shape, "joints"), X)


class Reshaped(nn.Module):
    def forward(self, x):
        return torch.relu(torch.relu(x.reshape(B * J, C).reshape(J, B * C)).reshape(J, B * C + 0))


def test_reshapes_of_reshapes_are_merged():
    proto = traced(Reshaped())
    model = ir.from_proto(proto)
    before = kinds(model).count("Reshape")
    assert merge_reshapes(model) == before - 1
    assert_same(model, proto)
