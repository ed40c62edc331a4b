"""A graph's layers and its matmuls: names, work, borders, and the hash that a calibration is recognised by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from diffpose_edge.bundle import load_bundle
from diffpose_edge.export.layer_groups import (
    TAIL,
    border_nodes,
    groups_of,
    initialisers_of,
    matmul_macs,
    taps_of,
    weight_matmuls,
    weights_sha256,
)

BUNDLES = ("golden_bundle", "golden_video_bundle", "conditioned_bundle", "conditioned_video_bundle")
PER_LAYER = ("attention.w_qkv", "attention.w_out", "adjacency.w1", "adjacency.w2", "conv1", "conv2")
LAYERS = [f"layer{i}.{name}" for i in range(2) for name in PER_LAYER]
STEP = ["conv_in.input", *LAYERS, "eps.output"]
BLOCKS = [f"{kind}{i}.{name}" for i in range(2) for kind in ("spatial", "temporal") for name in ("qkv", "proj", "fc1", "fc2")]
VIDEO = ["spatial0.Spatial_patch_to_embedding", *BLOCKS, "output.1"]
FRAME = ["conv_in.input", *LAYERS, "output"]
EXPECTED = {
    ("golden_bundle", "context"): FRAME,
    ("golden_bundle", "step"): STEP,
    ("golden_video_bundle", "context"): VIDEO,
    ("conditioned_bundle", "context"): FRAME,
    ("conditioned_bundle", "step"): ["condition.w_feature", "condition.w_start", *STEP],
    ("conditioned_video_bundle", "context"): VIDEO,
}


def graph_of(path: Path, role: str) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    bundle = load_bundle(path)
    return onnx.load_model_from_string(bundle.read(role)), taps_of(bundle.manifest, role)


def model_of(nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, ...]], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("fixture", "role"), EXPECTED)
def test_matmuls_are_named_after_their_layers(fixture: str, role: str, request: pytest.FixtureRequest) -> None:
    model, taps = graph_of(request.getfixturevalue(fixture), role)
    matmuls = weight_matmuls(model, taps)
    assert [matmul.name for matmul in matmuls] == EXPECTED[fixture, role]
    nodes = {node.name: node for node in model.graph.node}
    for matmul in matmuls:
        assert matmul.name.startswith(matmul.group)
        assert list(nodes[matmul.node].input) == [matmul.activation, matmul.weight]
    # Every MatMul that is left out multiplies two activations, or mixes the joints.
    rest = [node for node in model.graph.node if node.op_type == "MatMul" and node.name not in {m.node for m in matmuls}]
    constants = initialisers_of(model)
    assert all(node.input[1] not in constants and constants.get(node.input[0], np.zeros((51, 17))).shape[1] in (17, 51) for node in rest)


def test_the_work_of_one_layer_is_counted_as_by_hand(golden_bundle: Path) -> None:
    model, taps = graph_of(golden_bundle, "step")
    macs = {matmul.name: matmul.macs for matmul in weight_matmuls(model, taps)}
    rows = 2 * 3 * 17  # P N J
    assert macs["layer1.attention.w_qkv"] == rows * 32 * 96
    assert macs["layer1.adjacency.w1"] == rows * 32 * 64
    assert macs["layer1.conv1"] == rows * 96 * 32
    assert macs["eps.output"] == rows * 32 * 15


def test_all_matmuls_count_in_the_total(golden_bundle: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["mix", "x"], ["mixed"], name="mix"),
        helper.make_node("MatMul", ["mixed", "w"], ["h"], name="project"),
        helper.make_node("Transpose", ["h"], ["t"], name="turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["h", "t"], ["y"], name="scores"),
    ]
    model = model_of(nodes, {"x": (2, 17, 8)}, {"mix": np.ones((17, 17), np.float32), "w": np.ones((8, 5), np.float32)})
    assert matmul_macs(model) == 2 * 17 * 17 * 8 + 2 * 17 * 8 * 5 + 2 * 17 * 5 * 17
    assert [(m.name, m.macs) for m in weight_matmuls(model, ("h", "y"))] == [("h.w", 2 * 17 * 8 * 5)]
    model, taps = graph_of(golden_bundle, "step")
    by_weights = sum(matmul.macs for matmul in weight_matmuls(model, taps))
    heads = 6 * 4 * 17 * 17 * 8 * 2  # scores and their sum: P N, heads, J, J, d_head
    adjacency, convolutions = 17 * 17 * (32 + 64), 2 * 51 * 17 * 32
    mixing = 6 * (51 * 17 * 5 + 2 * (adjacency + convolutions) + 17 * 51 * 5)
    assert matmul_macs(model) == by_weights + 2 * heads + mixing


def test_a_node_belongs_to_the_first_layer_that_it_leads_to() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["shared"], name="shared"),
        helper.make_node("Relu", ["shared"], ["a"], name="a"),
        helper.make_node("Add", ["shared", "a"], ["b"], name="b"),
        helper.make_node("Neg", ["b"], ["y"], name="last"),
    ]
    model = model_of(nodes, {"x": (2, 2)}, {})
    assert groups_of(model, ("a", "b")) == {"shared": "a", "a": "a", "b": "b", "last": TAIL}
    assert groups_of(model, ("b",)) == {"shared": "b", "a": "b", "b": "b", "last": TAIL}


@pytest.mark.parametrize("fixture", BUNDLES)
@pytest.mark.parametrize("role", ["context", "step"])
def test_the_border_holds_whatever_touches_coordinates(fixture: str, role: str, request: pytest.FixtureRequest) -> None:
    model, taps = graph_of(request.getfixturevalue(fixture), role)
    border, groups = border_nodes(model, taps), groups_of(model, taps)
    inputs = {value.name for value in model.graph.input} - {"timestep"}
    for node in model.graph.node:
        if inputs & set(node.input):
            assert node.name in border, f"{node.op_type} takes the input itself"
        if set(node.output) & ({value.name for value in model.graph.output} - {"feature"}) or "eps" in node.output:
            assert node.name in border, f"{node.op_type} gives the output itself"
    weights = {matmul.node: matmul.name for matmul in weight_matmuls(model, taps)}
    found = {weights[name] for name in border if name in weights}
    wanted = {"conv_in.input", "condition.w_feature", "condition.w_start", "spatial0.Spatial_patch_to_embedding"}
    assert found == {name for name in weights.values() if name in wanted or name.split(".")[0] in ("eps", "output")}
    # No layer but the first is drawn in.
    assert not [name for name in border if groups[name].startswith(("layer1", "temporal", "spatial1"))]


def test_the_hash_knows_weights_whatever_the_batch(conditioned_bundle: Path, reshaped_bundle: Path) -> None:
    for role in ("context", "step"):
        (model, taps), (other, _) = graph_of(conditioned_bundle, role), graph_of(reshaped_bundle, role)
        assert model.graph.input[0].type != other.graph.input[0].type
        assert weights_sha256(model, taps) == weights_sha256(other, taps)


@pytest.mark.parametrize("which", [0, 5, -1])
def test_another_weight_gives_another_hash(conditioned_bundle: Path, which: int) -> None:
    model, taps = graph_of(conditioned_bundle, "step")
    before = weights_sha256(model, taps)
    name = weight_matmuls(model, taps)[which].weight
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    changed = numpy_helper.to_array(tensor).copy()
    changed[-1, -1] = np.nextafter(changed[-1, -1], np.float32(9))
    tensor.CopyFrom(numpy_helper.from_array(changed, name))
    assert weights_sha256(model, taps) != before
