"""Faults planted in a graph: the comparison must find each, and name the first layer that it touches.

Without these, a comparison that cannot fail would look the same as one that passes.
"""

import math

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from diffpose_edge.config import BatchShape
from diffpose_edge.errors import VerificationError
from diffpose_edge.export import graphs
from diffpose_edge.export.folded import ExactLayerNorm
from diffpose_edge.reference import load_released
from diffpose_edge.tolerances import FP32_LAYER_REL

SHAPE = BatchShape(P=1, N=2)


@pytest.fixture(scope="module")
def model(random_pair):
    return load_released(*random_pair)


@pytest.fixture(scope="module")
def step(model):
    return graphs.step_graph(model, SHAPE)


def initialiser(model: ModelProto, ending: str):
    found = [i for i in model.graph.initializer if i.name.endswith(ending)]
    assert len(found) == 1, [i.name for i in found]
    return found[0]


def altered(model: ModelProto, ending: str, change) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    tensor = initialiser(copy, ending)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(tensor))), tensor.name))
    return copy


def comparisons_of(model, step, graph):
    x = np.random.default_rng(5).normal(0.0, 0.5, SHAPE.state).astype(np.float32)
    return graphs.compare_step(model, graph, step.taps, x, (12,))


def first_layer_off(model, step, graph, margin: float = 10.0) -> str:
    """The first tap in execution order that is off; every fault here is far beyond the budget, not just over it."""
    order = [*(t for t in step.taps if t != "eps"), "eps"]
    off = {c.name.split()[-1]: c.relative for c in comparisons_of(model, step, graph) if not c.passed}
    assert off, "the fault was not found"
    assert max(off.values()) > margin * FP32_LAYER_REL
    return next(tap for tap in order if tap in off)


def test_the_unaltered_graph_passes(model, step):
    assert all(c.passed for c in comparisons_of(model, step, step.model))


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (2, 1, 0)], ids=["q<->k", "k<->v", "q<->v"])
def test_scrambled_query_key_value_is_found(model, step, order):
    def scramble(w):
        return np.concatenate([np.split(w, 3, axis=1)[i] for i in order], axis=1)

    graph = altered(step.model, "layers.2.attention.w_qkv", scramble)
    assert first_layer_off(model, step, graph) == "layer2.attention"


def test_a_layer_norm_without_the_unbiased_factor_is_found(model, monkeypatch):
    def biased(self, norm, original=ExactLayerNorm.__init__):
        original(self, norm)
        self.unbias = 1.0

    monkeypatch.setattr(ExactLayerNorm, "__init__", biased)
    wrong = graphs.step_graph(model, SHAPE)
    assert first_layer_off(model, wrong, wrong.model) == "layer0.norm1"
    norm = next(c for c in comparisons_of(model, wrong, wrong.model) if c.name.endswith("layer0.norm1"))
    # std is too small by sqrt(95/96): its output is too large by half a per cent.
    assert norm.relative == pytest.approx(math.sqrt(96 / 95) - 1, rel=0.2)
    with pytest.raises(VerificationError, match=r"layer0\.norm1"):
        graphs.proved_graphs(model, SHAPE)


def test_the_layer_norms_own_epsilon_is_the_graphs(step):
    """Epsilon 1e-6 beside a deviation of order one is below float32's rounding: only the graph itself shows it."""
    constants = {i.name: numpy_helper.to_array(i) for i in step.model.graph.initializer}
    producers = {o: n for n in step.model.graph.node for o in n.output}
    divisions = [n for n in step.model.graph.node if n.op_type == "Div"]
    assert len(divisions) == 10
    for division in divisions:
        addition = producers[division.input[1]]
        assert addition.op_type == "Add"
        assert producers[addition.input[0]].op_type == "Sqrt"
        assert constants[addition.input[1]] == np.float32(1e-6)


@pytest.mark.parametrize(
    ("ending", "layer"),
    [
        ("trunk.input.weight", "conv_in"),
        ("layers.1.attention.b_out", "layer1.attention"),
        ("layers.3.adjacency.mix", "layer3.adjacency"),
        ("layers.4.conv1.bias", "layer4.conv1"),
        ("layers.0.conv2.weight", "layer0.conv2"),
        ("step_table", "layer0.conv2"),
        ("output.weight", "eps"),
    ],
)
def test_one_per_cent_on_any_weight_is_found_where_it_is(model, step, ending, layer):
    graph = altered(step.model, ending, lambda w: w * np.float32(1.01))
    assert first_layer_off(model, step, graph) == layer


def test_a_table_off_by_one_timestep_is_found(model, step):
    graph = altered(step.model, "step_table", lambda table: np.roll(table, 1, axis=0))
    assert first_layer_off(model, step, graph) == "layer0.conv2"


def test_left_and_right_exchanged_in_the_skeleton_would_be_found(model, step):
    swap = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 12, 13, 11, 15, 16]

    def reorder(mix):
        return mix.reshape(17, 3, 17)[:, :, swap].reshape(51, 17)

    graph = altered(step.model, "trunk.input.mix", reorder)
    assert first_layer_off(model, step, graph) == "conv_in"
