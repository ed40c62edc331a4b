"""The rules on Q/DQ are silent on the INT8 graphs that this project writes, and find each fault planted in them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from diffpose_edge.export.lint import TARGETS, Finding, lint

Change = Callable[[onnx.ModelProto], None]
NEWER = [name for name in TARGETS if name != "8.6"]


def pair(name: str, source: str, axis: int | None = None) -> list[onnx.NodeProto]:
    """QuantizeLinear and DequantizeLinear with the constants scale_<name> and zero_<name>."""
    constants = [f"scale_{name}", f"zero_{name}"]
    more = {} if axis is None else {"axis": axis}
    return [
        helper.make_node("QuantizeLinear", [source, *constants], [f"{name}_q"], name=f"q_{name}", **more),
        helper.make_node("DequantizeLinear", [f"{name}_q", *constants], [f"{name}_d"], name=f"d_{name}", **more),
    ]


def int8_model(form: str = "newer") -> onnx.ModelProto:
    """Two layers with a bias, a LayerNorm, an attention product and a residual, quantised as this project does it.

    "newer" is for TensorRT 10 and later: opset 19, float16, int8 weights. "older" is for 8.6: opset 17, float32 throughout.
    """
    kind = np.float16 if form == "newer" else np.float32
    draws = np.random.default_rng(3)
    constants: dict[str, np.ndarray] = {"bias": np.ones(6, kind), "gain": np.ones(6, kind), "far": np.full(6, -100, kind)}
    nodes = []
    for layer, (source, sizes) in enumerate((("x", (8, 6)), ("n", (6, 6)))):
        act, weight = f"a{layer}", f"w{layer}"
        constants |= {f"scale_{act}": np.asarray(0.05, kind), f"zero_{act}": np.asarray(0, np.int8)}
        constants |= {f"scale_{weight}": np.full(sizes[1], 0.01, kind), f"zero_{weight}": np.zeros(sizes[1], np.int8)}
        nodes += pair(act, source)
        if form == "newer":
            constants[f"{weight}_q"] = draws.integers(-127, 128, sizes).astype(np.int8)
            nodes += pair(weight, "", axis=1)[1:]
        else:
            constants[weight] = draws.standard_normal(sizes).astype(np.float32)
            nodes += pair(weight, weight, axis=1)
        nodes.append(helper.make_node("MatMul", [f"{act}_d", f"{weight}_d"], [f"m{layer}"], name=f"product{layer}"))
        if layer == 0:
            nodes.append(helper.make_node("Add", ["m0", "bias"], ["h"], name="plus_bias"))
            nodes.append(helper.make_node("LayerNormalization", ["h", "gain"], ["n"], name="norm"))
    nodes += [
        helper.make_node("Transpose", ["m1"], ["t"], name="turn", perm=[1, 0]),
        helper.make_node("MatMul", ["m1", "t"], ["scores"], name="attention"),
        helper.make_node("Softmax", ["scores"], ["p"], name="soft"),
        helper.make_node("MatMul", ["p", "m1"], ["o"], name="mix"),
        helper.make_node("Add", ["h", "o"], ["y"], name="residual"),
    ]
    element = TensorProto.FLOAT16 if form == "newer" else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "int8",
        [helper.make_tensor_value_info("x", element, [5, 8])],
        [helper.make_tensor_value_info("y", element, [5, 6])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19 if form == "newer" else 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def constant(name: str, value: object, kind: type = np.float16) -> Change:
    """Give the constant ``name`` another value."""

    def change(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, kind), name))

    return change


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def without_zero_point(*names: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for name in names:
            node_of(model, name).input.pop()

    return change


def axis(name: str, value: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        node = node_of(model, name)
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("axis", value))

    return change


def around(source: str, *takers: tuple[str, int]) -> Change:
    """Put a Q/DQ pair, with the first layer's scale, behind a tensor and before some of its takers."""

    def change(model: onnx.ModelProto) -> None:
        made = pair("a0", source)
        made[0].name, made[1].name = "q_new", "d_new"
        made[0].output[0] = made[1].input[0] = "new_q"
        made[1].output[0] = "new_d"
        for name, position in takers:
            node_of(model, name).input[position] = "new_d"
        model.graph.node.extend(made)

    return change


def opset(version: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = version

    return change


def integer_bias(model: onnx.ModelProto) -> None:
    """What ONNX Runtime's quantiser does to biases: int32 behind a DequantizeLinear."""
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(6, np.int32), "bias_q"))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(0.01, np.float16), "scale_bias"))
    node_of(model, "plus_bias").input[1] = "bias_d"
    model.graph.node.append(helper.make_node("DequantizeLinear", ["bias_q", "scale_bias"], ["bias_d"], name="d_bias"))


def integers_taken(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Cast", ["a0_q"], ["z"], name="cast", to=TensorProto.FLOAT))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [5, 8]))


def computed_scale(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("given", TensorProto.FLOAT16, []))
    for name in ("q_a0", "d_a0"):
        node_of(model, name).input[1] = "given"


def plain_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ones((8, 6), np.float16), "plain"))
    node_of(model, "product0").input[1] = "plain"


def relu_behind(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["a0_d"], ["z"], name="relu"))


def blocks(model: onnx.ModelProto) -> None:
    constant("scale_w0", np.full((2, 6), 0.01))(model)
    constant("zero_w0", np.zeros((2, 6)), np.int8)(model)
    node_of(model, "d_w0").attribute.append(helper.make_attribute("block_size", 4))
    axis_of = node_of(model, "d_w0").attribute[0]
    axis_of.i = 0
    opset(21)(model)


SEEDS: list[tuple[str, str, str, str, str, Change]] = [
    ("zero-point-asymmetric", "refused", "10.3", "q_a0", "newer", constant("zero_a0", 3, np.int8)),
    ("zero-point-asymmetric", "refused", "8.6", "d_w1", "older", constant("zero_w1", [0, 0, 0, 0, 0, 1], np.int8)),
    ("zero-point-missing", "refused", "8.6", "d_w0", "older", without_zero_point("d_w0")),
    ("zero-point-missing", "bad", "rtx", "q_a1", "newer", without_zero_point("q_a1")),
    ("zero-point-uint8", "refused", "10.3", "q_a0", "newer", constant("zero_a0", 0, np.uint8)),
    ("zero-point-uint8", "bad", "10.13", "q_a0", "newer", constant("zero_a0", 0, np.uint8)),
    ("quantised-type", "refused", "rtx", "d_bias", "newer", integer_bias),
    ("scale-not-constant", "risk", "10.3", "q_a0", "newer", computed_scale),
    ("scale-invalid", "refused", "10.16", "q_a0", "newer", constant("scale_a0", 0)),
    ("scale-invalid", "refused", "8.6", "q_a0", "older", constant("scale_a0", np.nan, np.float32)),
    ("scale-invalid", "bad", "rtx", "d_w0", "newer", constant("scale_w0", [0.01, 0.01, np.inf, 0.01, 0.01, 0.01])),
    ("scale-coarse", "bad", "11.4", "d_w0", "newer", constant("scale_w0", [1e-6, 0.01, 0.01, 0.01, 0.01, 0.01])),
    ("scale-type", "bad", "8.6", "q_a0", "newer", lambda model: None),
    ("scale-type", "risk", "10.3", "q_a0", "newer", opset(17)),
    ("scale-type", "risk", "10.3", "q_a0", "newer", constant("scale_a0", 0.05, np.float32)),
    ("scale-count", "refused", "10.3", "d_w0", "newer", constant("zero_w0", 0, np.int8)),
    ("scale-count", "refused", "10.3", "d_w0", "newer", axis("d_w0", 0)),
    ("weight-int8-direct", "refused", "8.6", "d_w0", "newer", lambda model: None),
    ("weight-per-tensor", "bad", "8.6", "d_w0", "older", constant("scale_w0", 0.01, np.float32)),
    ("weight-axis", "bad", "10.3", "d_w1", "newer", axis("d_w1", 0)),
    ("activation-per-channel", "bad", "10.3", "q_a0", "newer", constant("scale_a0", np.full(8, 0.05))),
    ("block-quantised", "risk", "10.13", "d_w0", "newer", blocks),
    ("block-quantised", "refused", "8.6", "d_w0", "newer", blocks),
    ("q-unmatched", "bad", "10.3", "q_a0", "newer", integers_taken),
    ("dq-unfused", "bad", "10.3", "d_a0", "newer", relu_behind),
    ("qdq-normalisation", "bad", "10.3", "d_new", "newer", around("h", ("norm", 0))),
    ("qdq-normalisation", "bad", "8.6", "d_new", "older", around("scores", ("soft", 0))),
    ("qdq-residual", "bad", "rtx", "d_new", "newer", around("h", ("residual", 0))),
    ("qdq-output", "bad", "10.3", "q_new", "newer", around("o", ("residual", 1))),
    ("qdq-bias", "bad", "10.3", "d_bias", "newer", integer_bias),
    ("qdq-attention", "bad", "rtx", "attention", "newer", around("m1", ("attention", 0), ("turn", 0))),
    ("qdq-one-sided", "bad", "10.3", "product0", "newer", plain_weight),
]


def faults(model: onnx.ModelProto, target: str) -> list[Finding]:
    return [finding for finding in lint(model, target) if finding.severity != "note"]


@pytest.mark.parametrize("target", NEWER)
def test_the_newer_form_is_silent_on_newer_targets(target: str) -> None:
    assert faults(int8_model("newer"), target) == []


def test_the_older_form_is_silent_everywhere() -> None:
    for target in TARGETS:
        assert faults(int8_model("older"), target) == []


def test_the_newer_form_is_refused_by_the_older_target() -> None:
    found = {(finding.rule, finding.severity) for finding in faults(int8_model("newer"), "8.6")}
    assert found == {("opset-newer", "risk"), ("weight-int8-direct", "refused"), ("scale-type", "bad")}


@pytest.mark.parametrize(("rule", "severity", "target", "node", "form", "change"), SEEDS, ids=[f"{s[0]}-{s[1]}-{s[2]}" for s in SEEDS])
def test_a_planted_fault_is_found(rule: str, severity: str, target: str, node: str, form: str, change: Change) -> None:
    model = int8_model(form)
    change(model)
    found = [(finding.severity, finding.node) for finding in lint(model, target) if finding.rule == rule]
    assert (severity, node) in found


def weight_model(
    op: str, shape: tuple[int, ...], channels: int, dq_axis: int, perm: list[int] | None = None, **attributes: int
) -> onnx.ModelProto:
    """An operator whose second input is an int8 weight with ``channels`` scales along ``dq_axis``, transposed by ``perm``."""
    constants = {
        "w": np.ones(shape, np.int8),
        "s": np.full(channels, 0.01, np.float32),
        "z": np.zeros(channels, np.int8),
        "sx": np.float32(1),
        "zx": np.int8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"], name="qx"),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"], name="dx"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], name="dw", axis=dq_axis),
        *([helper.make_node("Transpose", ["d"], ["t"], name="turn", perm=perm)] if perm else []),
        helper.make_node(op, ["xd", "t" if perm else "d"], ["y"], name="op", **attributes),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    return helper.make_model(helper.make_graph(nodes, "w", ends[:1], ends[1:], tensors), opset_imports=[helper.make_opsetid("", 17)])


# The output channels of each operator's weight, of two, three and four axes.
@pytest.mark.parametrize(
    ("op", "shape", "right", "wrong", "perm", "attributes"),
    [
        ("MatMul", (5, 7), 1, 0, None, {}),
        ("MatMul", (2, 5, 7), 2, 1, None, {}),
        ("MatMul", (7, 5), 0, 1, [1, 0], {}),
        ("MatMul", (2, 7, 5), 1, 2, [0, 2, 1], {}),
        ("Gemm", (5, 7), 1, 0, None, {}),
        ("Gemm", (7, 5), 0, 1, None, {"transB": 1}),
        ("Conv", (7, 5, 3), 0, 1, None, {}),
        ("Conv", (7, 5, 3, 3), 0, 1, None, {}),
        ("ConvTranspose", (5, 7, 3), 1, 0, None, {}),
    ],
)
def test_the_scales_lie_along_the_output_channels(op, shape, right, wrong, perm, attributes) -> None:
    def found(axis: int) -> list[str]:
        model = weight_model(op, shape, shape[axis], axis, perm, **attributes)
        return [finding.node for finding in lint(model, "10.3") if finding.rule == "weight-axis"]

    assert found(right) == []
    assert found(right - len(shape)) == []
    assert found(wrong) == ["dw"]


def test_quantised_layers_in_a_row_are_no_fault() -> None:
    """A MatMul's output may be quantised when it is the next one's input."""
    model = int8_model()
    around("o", ("residual", 1))(model)  # planted, and then taken by a product as well
    model.graph.node.append(helper.make_node("MatMul", ["new_d", "w1_d"], ["z"], name="next"))
    assert "qdq-output" not in {finding.rule for finding in lint(model, "10.3")}


def test_a_bundle_of_changes_is_reported_at_each_place() -> None:
    model = int8_model()
    constant("scale_a0", 0)(model)
    constant("scale_w1", np.zeros(6))(model)
    found = {finding.node for finding in lint(model, "rtx") if finding.rule == "scale-invalid"}
    assert found == {"q_a0", "d_a0", "d_w1"}
