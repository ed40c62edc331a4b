"""The graphs for the CPU against PyTorch, layer by layer, in each of their forms, on weights drawn anew; and faults planted in them."""

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper

from diffpose_edge.config import BatchShape
from diffpose_edge.export import graphs
from diffpose_edge.export.cpu_graph import EIGENBASIS_FROM, cpu_graph, rows_of
from diffpose_edge.export.graphs import compare_context, compare_step, context_graph, step_graph
from diffpose_edge.reference import load_released
from diffpose_edge.reference.graph_networks import Denoiser, FrameEncoder
from diffpose_edge.reference.released import ReleasedDiffPose
from diffpose_edge.reference.trained import load_conditioned
from diffpose_edge.tolerances import FP32_CPU_LAYER_REL

ONE, FEW, MANY = BatchShape(P=1, N=1), BatchShape(P=2, N=3), BatchShape(P=4, N=10)
TIMESTEPS = (0, 12, 50)


@pytest.fixture(scope="module")
def model(random_pair):
    return load_released(*random_pair)


def made_for_cpu(model, shape):
    traced = step_graph(model, shape)
    return traced, cpu_graph(traced.model, shape.P * shape.N)


@pytest.fixture(scope="module")
def few(model):
    return made_for_cpu(model, FEW)


@pytest.fixture(scope="module")
def many(model):
    return made_for_cpu(model, MANY)


def x_of(shape):
    return np.random.default_rng(3).normal(0.0, 0.5, shape.state).astype(np.float32)


@pytest.fixture(scope="module")
def one(model):
    return made_for_cpu(model, ONE)


@pytest.mark.parametrize(("size", "shape"), [("one", ONE), ("few", FEW), ("many", MANY)])
def test_every_layer_and_epsilon_of_the_step(model, size, shape, request):
    traced, graph = request.getfixturevalue(size)
    comparisons = compare_step(model, graph, traced.taps, x_of(shape), TIMESTEPS)
    assert len(comparisons) == len(TIMESTEPS) * (1 + 5 * 7 + 2)
    assert [str(c) for c in comparisons if not c.passed] == []
    assert rows_of(graph) == "joints"


@pytest.mark.parametrize("persons", [1, 3, EIGENBASIS_FROM])
def test_every_layer_of_the_context_encoder(model, persons):
    traced = context_graph(model, BatchShape(P=persons, N=1))
    uv = np.random.default_rng(4).uniform(-1.0, 1.0, (persons, 17, 2)).astype(np.float32)
    comparisons = compare_context(model, cpu_graph(traced.model, persons), traced.taps, uv)
    assert [str(c) for c in comparisons if not c.passed] == []


@pytest.mark.parametrize("shape", [FEW, MANY], ids=["few", "many"])
def test_a_conditioned_pair_and_its_feature(conditioned_pair, shape):
    model = load_conditioned(*conditioned_pair)
    proved = graphs.proved_graphs(model, shape)
    assert set(proved) == {(role, kind) for role in ("context", "step") for kind in ("fp32", "fp32-cpu")}
    for role in ("context", "step"):
        assert all(c.passed for c in proved[role, "fp32-cpu"].comparisons)
        # Not the form that stands in where the fused norms err too much.
        assert "LayerNormalization" in [n.op_type for n in proved[role, "fp32-cpu"].traced.model.graph.node]
    assert rows_of(proved["step", "fp32-cpu"].traced.model) == "joints"


def test_the_border_of_the_graph_is_the_portable_ones(few):
    traced, graph = few
    assert graphs.input_shapes(graph) == graphs.input_shapes(traced.model)
    assert [o.name for o in graph.graph.output] == [o.name for o in traced.model.graph.output]


def test_the_fused_operators_and_nothing_that_stayed_behind(one, few, many):
    for size, (_, graph) in {"one": one, "few": few, "many": many}.items():
        count = [node.op_type for node in graph.graph.node].count
        assert count("LayerNormalization") == 10
        # Scores and their mixing of each layer; of the exchanges, one behind each attention and one at each end.
        assert count("FusedMatMul") == 2 * count("Softmax") == 10
        assert count("Transpose") == (5 if size == "one" else 7)
        assert count("MultiHeadAttention") == 0
        # Behind a convolution no sum is left but the residual's: three of a layer, and what x_next and eps are made of.
        assert count("Add") == 5 * 3 + 3
        # Matmuls with a row: q, attention's last, the adjacency's first, one of each convolution. Mixings: two of the adjacency, two of
        # each convolution; of one sample one of each, and one at the end. And the input's convolution.
        assert count("Gemm") == (1 + 5 * (3 + 2 + 2 + 2) + 1 if size == "one" else 1 + 5 * (3 + 2 + 2 + 4))
        assert count("Concat") == (10 if size == "many" else 0)


def test_each_eigenvalue_has_one_matrix(many):
    names = [t.name for t in many[1].graph.initializer if "layers.0.conv1.weight.spectral" in t.name]
    assert len(names) == 14
    (split,) = [n for n in many[1].graph.node if n.op_type == "Split" and f"{names[0]}" in readers_of(many[1], n)]
    sizes = next(numpy_helper.to_array(t) for t in many[1].graph.initializer if t.name == split.input[1])
    assert sizes.sum() == 17
    assert sorted(sizes) == [1] * 11 + [2] * 3


def readers_of(graph: ModelProto, node) -> set[str]:
    """Return what else those nodes read that read what a node gives, or a view of it."""
    given = set(node.output)
    for other in graph.graph.node:
        if other.op_type == "Reshape" and given & set(other.input):
            given |= set(other.output)
    return {name for other in graph.graph.node if given & set(other.input) for name in other.input}


def test_the_same_bytes_again(few):
    assert cpu_graph(few[0].model, 6).SerializeToString(deterministic=True) == few[1].SerializeToString(deterministic=True)


def test_the_released_norm_where_the_fused_one_errs_too_much(golden, monkeypatch):
    model = load_released(golden.denoiser, golden.context)

    def operators():
        return [node.op_type for node in graphs.proved_graphs(model, ONE)["step", "fp32-cpu"].traced.model.graph.node]

    assert operators().count("LayerNormalization") == 4
    monkeypatch.setattr(graphs, "FP32_CPU_LAYER_REL", 5e-6)
    assert "LayerNormalization" not in operators()
    assert operators().count("FusedMatMul") == 4


@pytest.mark.parametrize("N", [1, 3, EIGENBASIS_FROM, 17])
def test_equal_weights_are_one_constant_and_the_graph_is_whole(N):
    """PyTorch's exporter gives equal tensors one name, and a network as it is initialised is full of them."""
    torch.manual_seed(0)
    encoder, denoiser = (network(hidden=16, layers=2, heads=1) for network in (FrameEncoder, Denoiser))
    for layers in (denoiser.atten_layers, denoiser.gconv_layers):
        layers[1].load_state_dict(layers[0].state_dict())
    proved = graphs.proved_graphs(ReleasedDiffPose(denoiser, encoder), BatchShape(P=1, N=N))
    assert all(c.passed for graph in proved.values() for c in graph.comparisons)


# Faults planted in the finished graphs.


def altered(model: ModelProto, ending: str, change) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    (tensor,) = [i for i in copy.graph.initializer if i.name.endswith(ending)]
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(tensor))), tensor.name))
    return copy


def first_layer_off(model, traced, graph, shape) -> str:
    order = [*(t for t in traced.taps if t != "eps"), "eps"]
    comparisons = compare_step(model, graph, traced.taps, x_of(shape), (12,))
    off = {c.name.split()[-1]: c.relative for c in comparisons if not c.passed}
    assert off, "the fault was not found"
    assert max(off.values()) > 10 * FP32_CPU_LAYER_REL
    return next(tap for tap in order if tap in off)


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (2, 1, 0)], ids=["q<->k", "k<->v", "q<->v"])
@pytest.mark.parametrize("size", ["few", "many"])
def test_scrambled_query_key_value_is_found(model, order, size, request):
    traced, graph = request.getfixturevalue(size)

    wrong, weights = graph, {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    names = [f"layers.2.attention.w_qkv.{letter}" for letter in "qkv"]
    (prefix,) = {name.removesuffix(names[0]) for name in weights if name.endswith(names[0])}
    for name, other in zip(names, (names[i] for i in order), strict=True):
        wrong = altered(wrong, name, lambda _, other=other: weights[prefix + other])
    assert first_layer_off(model, traced, wrong, FEW if size == "few" else MANY) == "layer2.attention"


def test_a_norm_without_the_unbiased_factor_is_found(model, few):
    traced, graph = few
    wrong = altered(graph, "layers.1.norm2.a_2.biased", lambda a: a * np.float32(np.sqrt(96 / 95)))
    assert first_layer_off(model, traced, wrong, FEW) == "layer1.norm2"


def test_exchanged_eigenvalues_are_found(model, many):
    traced, graph = many
    weights = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    first, second = sorted(name for name in weights if name.endswith(("layers.0.conv1.weight.spectral.4", "conv1.weight.spectral.5")))[:2]
    assert first.rpartition(".")[0] == second.rpartition(".")[0]
    wrong = altered(altered(graph, first, lambda _: weights[second]), second, lambda _: weights[first])
    assert first_layer_off(model, traced, wrong, MANY) == "layer0.conv1"


def test_a_row_added_to_another_eigenvectors_product_is_found(model, many):
    """The step's row goes to the product of the constant eigenvector: planted by exchanging that product with another."""
    traced, graph = many
    wrong = ModelProto()
    wrong.CopyFrom(graph)
    weights = {f"layers.2.conv2.weight.spectral.{i}" for i in (0, 1)}
    first, second = (n for n in wrong.graph.node if len(n.input) > 1 and any(n.input[1].endswith(w) for w in weights))
    (view,) = (n for n in wrong.graph.node if n.op_type == "Reshape" and n.input[0] == first.output[0])
    (joined,) = (n for n in wrong.graph.node if n.op_type == "Concat" and view.output[0] in n.input)
    at, other = list(joined.input).index(view.output[0]), list(joined.input).index(second.output[0])
    joined.input[at], joined.input[other] = joined.input[other], joined.input[at]
    assert first_layer_off(model, traced, wrong, MANY) == "layer2.conv2"


@pytest.mark.parametrize("part", ["still", "once", "twice"])
def test_a_part_of_a_convolution_that_is_off_is_found(model, few, part):
    traced, graph = few
    wrong = altered(graph, f"layers.3.conv2.weight.{part}", lambda w: w * np.float32(1.01))
    assert first_layer_off(model, traced, wrong, FEW) == "layer3.conv2"


def test_a_laplacian_of_another_skeleton_is_found(model, few):
    traced, graph = few
    wrong = altered(graph, "laplacian", lambda L: L + np.float32(0.01) * np.eye(17, dtype=np.float32))
    assert first_layer_off(model, traced, wrong, FEW) == "layer0.conv1"


def test_rows_read_in_the_wrong_order_are_found(model, many):
    traced, graph = many
    wrong = ModelProto()
    wrong.CopyFrom(graph)
    (entry,) = wrong.metadata_props
    entry.value = "samples"
    assert first_layer_off(model, traced, wrong, MANY) == "conv_in"


def test_another_heads_bias_is_found(model, few):
    traced, graph = few
    wrong = altered(graph, "layers.0.attention.b_q", lambda b: np.roll(b, 24))
    assert first_layer_off(model, traced, wrong, FEW) == "layer0.attention"


def test_the_graph_is_well_formed(one, few, many):
    for _, graph in (one, few, many):
        onnx.checker.check_model(graph, full_check=True)
        used = {name for node in graph.graph.node for name in node.input}
        assert {i.name for i in graph.graph.initializer} <= used, "an initialiser is left over"
