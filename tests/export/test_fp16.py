"""FP16 in the graph: which values are float16, which stay float32 and why, and that it is needed where it is said to be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from diffpose_edge.bundle import load_bundle
from diffpose_edge.comparison import compare_relative
from diffpose_edge.export import fp16
from diffpose_edge.export.fp16 import FP16_MARGIN, FP16_MAX, Fp16Graph, fp16_from_fp32
from diffpose_edge.export.layer_groups import groups_of, taps_of
from diffpose_edge.tolerances import FP16_LAYER_REL

BUNDLES = ("golden", "golden_video", "conditioned", "conditioned_video")
EVERY = [(name, role) for name in BUNDLES for role in ("context", "step")]
HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
Types = Mapping[str, int]


def types_of(model: onnx.ModelProto) -> Types:
    """The element type of every value, as inferred from the operators."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    return types | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def signature(model: onnx.ModelProto) -> list[tuple[str, str]]:
    return [(value.name, str(value.type)) for value in (*model.graph.input, *model.graph.output)]


def graph_of(path: Path, role: str, precision: str = "fp32") -> tuple[onnx.ModelProto, tuple[str, ...]]:
    bundle = load_bundle(path)
    return onnx.load_model_from_string(bundle.read(role, precision)), taps_of(bundle.manifest, role)


def producer_of(model: onnx.ModelProto, value: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if value in node.output)


@pytest.fixture(scope="module")
def step(calibrated_bundles: dict[str, Path]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    return graph_of(calibrated_bundles["golden"], "step")


# --- what is float16 and what is not, by inspection ---


@pytest.mark.parametrize(("name", "role"), EVERY)
@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-trt8"])
def test_borders_taps_and_opset_are_those_of_the_fp32_graph(
    calibrated_bundles: dict[str, Path], name: str, role: str, precision: str
) -> None:
    (exact, taps), (lowered, _) = (graph_of(calibrated_bundles[name], role, p) for p in ("fp32", precision))
    assert signature(lowered) == signature(exact)
    assert [(o.domain, o.version) for o in lowered.opset_import] == [("", 17)]
    assert lowered.ir_version == exact.ir_version
    assert set(taps) <= {value for node in lowered.graph.node for value in node.output}


@pytest.mark.parametrize(("name", "role"), EVERY)
def test_float32_is_kept_where_it_is_needed_and_nowhere_else(calibrated_bundles: dict[str, Path], name: str, role: str) -> None:
    model, taps = graph_of(calibrated_bundles[name], role)
    lowered = fp16_from_fp32(model, taps).model
    types, groups = types_of(lowered), groups_of(model, taps)
    wide = {node.name for node in lowered.graph.node if node.op_type != "Cast" and FLOAT in [types[value] for value in node.output]}
    statistics = {n.name for n in model.graph.node if n.op_type in ("ReduceMean", "Sqrt", "Sub", "Softmax")}
    assert statistics
    assert statistics <= wide
    for node in model.graph.node:
        if node.op_type == "Sqrt":  # (x - mean) / (std + eps), and the squares before it
            add = next(n for n in model.graph.node if node.output[0] in n.input)
            division = next(n for n in model.graph.node if add.output[0] in n.input)
            scaled = producer_of(model, node.input[0])
            squares = producer_of(model, producer_of(model, scaled.input[0]).input[0])
            assert division.op_type == "Div"
            assert {add.name, division.name, scaled.name, squares.name} <= wide
    # The first layer's matmul, the last layer, and the DDIM update of the step.
    inner = {n.name for n in model.graph.node if n.op_type == "MatMul" and groups[n.name] not in ("output", "eps")}
    first = "spatial0" if "video" in name and role == "context" else "conv_in"
    wide_matmuls = {groups[node.name] for node in lowered.graph.node if node.name in inner & wide}
    assert wide_matmuls == {first} | ({"layer0.norm1"} if name.startswith("conditioned") and role == "step" else set())
    if first == "spatial0":
        assert sum(groups[n] == first for n in inner & wide) == 1
    last = {n.name for n in model.graph.node if n.op_type == "MatMul"} - inner
    assert last
    assert last <= wide
    # What is left multiplies float16 by float16.
    narrow = [node for node in lowered.graph.node if node.name in inner - wide]
    assert len(narrow) == len(inner - wide) > 4
    assert all(types[value] == HALF for node in narrow for value in (*node.input, *node.output))


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_state_never_leaves_float32(calibrated_bundles: dict[str, Path], name: str, precision: str) -> None:
    model, _ = graph_of(calibrated_bundles[name], "step", precision)
    types = types_of(model)
    update = producer_of(model, "x_next")
    first, last = (producer_of(model, value) for value in update.input)
    products = [*(producer_of(model, value) for value in first.input), last]
    coefficients = next(node for node in model.graph.node if "coefficients" in node.input)
    assert (update.op_type, first.op_type, coefficients.op_type) == ("Add", "Add", "Split")
    assert [p.op_type for p in products] == ["Mul", "Mul", "Mul"]
    for product, factor in zip(products, ("x", "eps", "previous"), strict=True):
        assert factor in product.input
    for node in (update, first, *products, coefficients, producer_of(model, "eps")):
        assert {types[value] for value in (*node.input, *node.output) if value} <= {FLOAT, TensorProto.INT64}, node.name


@pytest.mark.parametrize(("name", "role"), EVERY)
def test_every_float32_node_has_a_reason_and_every_reason_a_node(calibrated_bundles: dict[str, Path], name: str, role: str) -> None:
    model, taps = graph_of(calibrated_bundles[name], role)
    made = fp16_from_fp32(model, taps)
    types = types_of(made.model)
    computed = {node.name: [types[value] for value in node.output] for node in made.model.graph.node if node.op_type != "Cast"}
    assert {node for node, kinds in computed.items() if FLOAT in kinds} == set(made.fp32_nodes)
    assert all(made.fp32_nodes.values())


# --- what is asked for ---


def reasons(made: Fp16Graph, start: str) -> set[str]:
    return {name for name, reason in made.fp32_nodes.items() if reason.startswith(start)}


def test_what_came_near_the_largest_number_stays_float32(step: tuple[onnx.ModelProto, tuple[str, ...]]) -> None:
    model, taps = step
    touching = {n.name for n in model.graph.node if "layer0.conv1" in (*n.input, *n.output)}
    made = fp16_from_fp32(model, taps, {"layer0.conv1": 1e5})
    assert reasons(made, "range") == touching
    assert len(touching) == 2
    assert types_of(made.model)["layer0.conv1"] == FLOAT
    limit = FP16_MAX / FP16_MARGIN
    assert not reasons(fp16_from_fp32(model, taps, {"layer0.conv1": limit}), "range")
    assert reasons(fp16_from_fp32(model, taps, {"layer0.conv1": limit * 1.001}), "range")


def test_a_constant_that_float16_cannot_hold_stays_float32(step: tuple[onnx.ModelProto, tuple[str, ...]]) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(step[0])
    bias = next(t for t in model.graph.initializer if t.name == "trunk.layers.1.conv1.bias")
    bias.CopyFrom(numpy_helper.from_array(np.where(np.arange(32) == 3, -1e5, numpy_helper.to_array(bias)).astype(np.float32), bias.name))
    made = fp16_from_fp32(model, step[1])
    assert reasons(made, "range") == {n.name for n in model.graph.node if bias.name in n.input}
    halves = [numpy_helper.to_array(t) for t in made.model.graph.initializer if t.data_type == HALF]
    assert all(np.isfinite(half).all() for half in halves)


def test_layers_and_nodes_are_kept_by_name(step: tuple[onnx.ModelProto, tuple[str, ...]]) -> None:
    model, taps = step
    groups = groups_of(model, taps)
    usual = set(fp16_from_fp32(model, taps).fp32_nodes)
    layer = fp16_from_fp32(model, taps, keep=["layer1.adjacency"])
    assert set(layer.fp32_nodes) - usual == {name for name, group in groups.items() if group == "layer1.adjacency"} != set()
    node = producer_of(model, "layer0.adjacency").name
    assert reasons(fp16_from_fp32(model, taps, keep=(node,)), "kept") == {node}


def test_the_same_graph_gives_the_same_bytes(step: tuple[onnx.ModelProto, tuple[str, ...]]) -> None:
    before = step[0].SerializeToString(deterministic=True)
    first, second = (fp16_from_fp32(*step).model.SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert step[0].SerializeToString(deterministic=True) == before


# --- what it computes ---


def loud_layernorm() -> onnx.ModelProto:
    """An input layer, the released LayerNorm as it is exported, and an output layer; x is 1000 times too loud for squares."""
    make = helper.make_node
    nodes = [
        make("MatMul", ["x", "w_in"], ["m"], name="in"),
        make("Add", ["m", "b_in"], ["conv_in"], name="in_bias"),
        make("ReduceMean", ["conv_in"], ["mean"], name="mean", axes=[-1], keepdims=1),
        make("Sub", ["conv_in", "mean"], ["sub"], name="sub"),
        make("Mul", ["sub", "sub"], ["squares"], name="squares"),
        make("ReduceMean", ["squares"], ["var"], name="var", axes=[-1], keepdims=1),
        make("Mul", ["var", "unbias"], ["unbiased"], name="unbiased"),
        make("Sqrt", ["unbiased"], ["std"], name="sqrt"),
        make("Add", ["std", "eps"], ["divisor"], name="divisor"),
        make("Div", ["sub", "divisor"], ["normed"], name="div"),
        make("Mul", ["normed", "a"], ["norm"], name="scale"),
        make("MatMul", ["norm", "w_out"], ["xyz"], name="out"),
    ]
    rng = np.random.default_rng(0)
    constants = {"w_in": rng.normal(0, 1000, (2, 32)), "b_in": np.zeros(32), "unbias": 32 / 31, "eps": 1e-6, "a": rng.normal(1, 0.1, 32)}
    constants["w_out"] = rng.normal(0, 0.2, (32, 3))
    graph = helper.make_graph(
        nodes,
        "loud",
        [helper.make_tensor_value_info("x", FLOAT, (1, 17, 2))],
        [helper.make_tensor_value_info("xyz", FLOAT, (1, 17, 3))],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_layernorm_overflows_without_its_float32_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    model, taps = loud_layernorm(), ("conv_in", "norm")
    x = {"x": np.random.default_rng(1).normal(0, 0.5, (1, 17, 2)).astype(np.float32)}

    def ran(graph: onnx.ModelProto) -> NDArray[np.float32]:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return ReferenceEvaluator(graph).run(None, x)[0]  # numpy: float16 is rounded after every operator

    exact = ran(model)
    made = fp16_from_fp32(model, taps)
    assert reasons(made, "LayerNorm") == {"mean", "sub", "squares", "var", "unbiased", "sqrt", "divisor", "div"}
    assert types_of(made.model)["norm"] == HALF
    assert compare_relative("xyz", ran(made.model), exact, FP16_LAYER_REL).passed
    monkeypatch.setattr(fp16, "_fp32_reasons", lambda *args: {})
    everything = fp16_from_fp32(model, taps).model
    assert types_of(everything)["squares"] == HALF
    assert not compare_relative("xyz", ran(everything), exact, FP16_LAYER_REL).passed
    everything.graph.output.append(helper.make_tensor_value_info("squares", HALF, (1, 17, 32)))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        assert np.isinf(ReferenceEvaluator(everything).run(["squares"], x)[0]).any()


@pytest.mark.parametrize("role", ["context", "step"])
def test_real_inputs_give_nearly_the_same_and_not_the_very_same(calibrated_bundles: dict[str, Path], golden: object, role: str) -> None:
    uv = np.asarray(golden.expected["input_2d"], np.float32)  # type: ignore[attr-defined]
    model, taps = graph_of(calibrated_bundles["golden"], role)
    if role == "context":
        feed = {"uv": np.resize(uv, (2, 17, 2))}
    else:
        x = np.random.default_rng(2).normal(0, 0.4, (6, 17, 5)).astype(np.float32)
        x[..., :2] = np.resize(uv, (6, 17, 2))
        feed = {"x": x, "timestep": np.array([24], np.float32), "coefficients": np.array([1.001, -0.05, 0.0], np.float32), "previous": x}
    exact, lowered = (ReferenceEvaluator(graph).run(None, feed)[0] for graph in (model, fp16_from_fp32(model, taps).model))
    comparison = compare_relative(role, lowered, exact, FP16_LAYER_REL)
    assert comparison.passed, str(comparison)
    assert comparison.relative > 1e-6  # float32 would come closer
