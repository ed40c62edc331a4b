"""INT8 in the graph: where Q/DQ stand and where not, what they hold, and that smoothing alone changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from diffpose_edge.bundle import load_bundle
from diffpose_edge.calibration.calibrate import calibration_of
from diffpose_edge.errors import CalibrationError
from diffpose_edge.export.int8 import LEAST_SCALE, MatMulScales, int8_from_fp32, on_fp16_grid, quantised_weight
from diffpose_edge.export.layer_groups import initialisers_of, matmul_macs, taps_of, weight_matmuls

BUNDLES = ("golden", "golden_video", "conditioned", "conditioned_video")
Array = NDArray[Any]


def forms(path: Path) -> list[tuple[str, bool, onnx.ModelProto, onnx.ModelProto, Mapping[str, MatMulScales]]]:
    """Graphs with Q/DQ of a bundle: those in it, and both forms with every scale that was chosen, the encoder's too.

    As (label, weights as pairs, FP32 graph, graph, its scales).
    """
    bundle = load_bundle(path)
    calibration = calibration_of(bundle)
    found = []
    for role in ("context", "step"):
        exact, taps = onnx.load_model_from_string(bundle.read(role)), taps_of(bundle.manifest, role)
        for pairs in (False, True):
            every = calibration.scales[role]
            found.append((f"{role}, all scales", pairs, exact, int8_from_fp32(exact, taps, every, weights_as_pairs=pairs), every))
            content = bundle.read(role, "int8-trt8" if pairs else "int8")
            found.append((role, pairs, exact, onnx.load_model_from_string(content), calibration.plan.int8[role]))
    return found


def outputs_of(model: onnx.ModelProto, feed: Mapping[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, dict(feed))


# --- where Q/DQ stand ---


def check_placement(model: onnx.ModelProto, wanted: set[str], pairs: bool) -> None:
    """Hold a graph to the rules; ``wanted`` are the names of the nodes that are to run in INT8."""
    constants = initialisers_of(model)
    producer = {value: node for node in model.graph.node for value in node.output}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for value in node.input:
            users.setdefault(value, []).append(node)
    outputs = {value.name for value in model.graph.output}
    lowered = set()
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            _, scale, zero = node.input  # all three present
            assert constants[zero].dtype == np.int8
            assert not constants[zero].any()
            assert constants[zero].shape == constants[scale].shape
            assert constants[scale].dtype == np.float32
            assert (constants[scale] >= LEAST_SCALE).all()
            assert np.array_equal(constants[scale].astype(np.float16).astype(np.float32), constants[scale])
            assert node.output[0] not in outputs
        if node.op_type == "QuantizeLinear":
            assert [user.op_type for user in users[node.output[0]]] == ["DequantizeLinear"]
        if node.op_type == "DequantizeLinear":
            assert [user.op_type for user in users[node.output[0]]] == ["MatMul"]
        if node.op_type != "MatMul":
            assert not [v for v in node.input if v in producer and producer[v].op_type == "DequantizeLinear"], node.op_type
            continue
        dequantise = [producer.get(value) for value in node.input]
        if not any(d is not None and d.op_type == "DequantizeLinear" for d in dequantise):
            continue
        lowered.add(node.name)
        left, right = dequantise
        assert left is not None
        assert right is not None
        assert left.op_type == right.op_type == "DequantizeLinear"
        assert producer[left.input[0]].op_type == "QuantizeLinear"
        assert list(producer[left.input[0]].input[1:]) == list(left.input[1:])
        assert constants[left.input[1]].shape == ()
        assert [a.i for a in right.attribute if a.name == "axis"] == [1]
        if pairs:
            quantise = producer[right.input[0]]
            assert quantise.op_type == "QuantizeLinear"
            assert list(quantise.input[1:]) == list(right.input[1:])
            assert [a.i for a in quantise.attribute if a.name == "axis"] == [1]
            weight = constants[quantise.input[0]]
            assert weight.dtype == np.float32
        else:
            weight = constants[right.input[0]]
            assert weight.dtype == np.int8
            assert weight.min() >= -127
        assert weight.ndim == 2  # so neither a bias nor an attention's own operand
        assert constants[right.input[1]].shape == (weight.shape[1],)
    assert lowered == wanted


@pytest.mark.parametrize("name", BUNDLES)
def test_pairs_stand_around_the_chosen_matmuls_and_nowhere_else(calibrated_bundles: dict[str, Path], name: str) -> None:
    manifest = load_bundle(calibrated_bundles[name]).manifest
    for label, pairs, exact, model, scales in forms(calibrated_bundles[name]):
        nodes = {matmul.name: matmul.node for matmul in weight_matmuls(exact, taps_of(manifest, label.split(",")[0]))}
        check_placement(model, {nodes[matmul] for matmul in scales}, pairs)
        assert bool(scales) == (label != "context"), "the encoder stays FP16 unless asked for, the step does not"


def test_the_inspection_finds_what_breaks_the_rules(calibrated_bundles: dict[str, Path]) -> None:
    path = calibrated_bundles["golden"]
    taps = taps_of(load_bundle(path).manifest, "step")
    _, _, exact, good, scales = next(form for form in forms(path) if form[0] == "step, all scales" and not form[1])
    wanted = {matmul.node for matmul in weight_matmuls(exact, taps) if matmul.name in scales}
    check_placement(good, wanted, pairs=False)

    def zero_point(graph: onnx.GraphProto) -> None:
        tensor = next(t for t in graph.initializer if t.name.endswith("/zero"))
        tensor.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), tensor.name))

    def off_grid(graph: onnx.GraphProto) -> None:
        tensor = next(t for t in graph.initializer if t.name.endswith("/weight_scale"))
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.0001), tensor.name))

    def wrong_axis(graph: onnx.GraphProto) -> None:
        next(a for n in graph.node for a in n.attribute if n.name.endswith("/dequantize_weight")).i = 0

    def residual(graph: onnx.GraphProto) -> None:
        add = next(n for n in graph.node if n.op_type == "Add" and n.output[0] == "layer0.out")
        add.input[0] = next(n for n in graph.node if n.name == "layer0.conv1/dequantize").output[0]

    for plant in (zero_point, off_grid, wrong_axis, residual):
        model = onnx.ModelProto()
        model.CopyFrom(good)
        plant(model.graph)
        with pytest.raises(AssertionError):
            check_placement(model, wanted, pairs=False)
    with pytest.raises(AssertionError):
        check_placement(good, wanted - {min(wanted)}, pairs=False)


def test_without_scales_the_encoder_is_the_fp16_graph(calibrated_bundles: dict[str, Path]) -> None:
    bundle = load_bundle(calibrated_bundles["conditioned"])
    assert bundle.read("context", "int8") == bundle.read("context", "fp16")
    assert bundle.read("step", "int8") != bundle.read("step", "fp16")
    shares = bundle.manifest.provenance["precision"]["int8"]
    assert shares["context"]["int8_share"] == 0
    in_8_bits = 2 * 6 * 17 * (3 * 16 * 16 + 16 * 16 + 2 * 16 * 32 + 2 * 48 * 16)  # two layers, P N J rows, 16 wide
    total = matmul_macs(onnx.load_model_from_string(bundle.read("step")))
    assert shares["step"]["int8_share"] == pytest.approx(in_8_bits / total, abs=1e-4)


@pytest.mark.parametrize("name", BUNDLES)
def test_both_forms_give_the_same_bits(calibrated_bundles: dict[str, Path], name: str) -> None:
    rng = np.random.default_rng(4)
    made = [form for form in forms(calibrated_bundles[name]) if "all" in form[0]]
    for (label, _, exact, integers, _), (_, as_pairs, _, pairs, _) in zip(made[::2], made[1::2], strict=True):
        assert as_pairs
        shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in exact.graph.input}
        feed = {key: rng.normal(0, 0.5, shape).astype(np.float32) for key, shape in shapes.items()}
        if "timestep" in feed:
            feed["timestep"] = np.array([7], np.float32)
        for one, other, plain in zip(*(outputs_of(model, feed) for model in (integers, pairs, exact)), strict=True):
            assert one.tobytes() == other.tobytes(), label
            assert np.isfinite(one).all()
            assert one.tobytes() != plain.tobytes(), f"{label}: nothing was rounded"


# --- what they hold ---


def test_a_weight_in_8_bits_is_as_a_plain_computation_has_it() -> None:
    rng = np.random.default_rng(1)
    weight, smoothing = rng.normal(0, 0.1, (6, 4)).astype(np.float32), (0, 1, -2, 0, 3, 0)
    weight[:, 3] = 0
    integers, scale = quantised_weight(weight, smoothing)
    for j in range(4):
        column = [float(weight[i, j]) * 2.0 ** smoothing[i] for i in range(6)]
        step = max(float(np.float16(max(abs(w) for w in column) / 127)), 2.0**-14)
        assert float(scale[j]) == step
        assert [int(q) for q in integers[:, j]] == [max(-127, min(127, round(w / step))) for w in column]
    assert not integers[:, 3].any()


weights = arrays.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-100, 100, width=32))


@given(weights, st.integers(-4, 4))
@settings(deadline=None, max_examples=80)
def test_rounding_moves_no_weight_by_more_than_half_a_step(weight: Array, exponent: int) -> None:
    integers, scale = quantised_weight(weight, (exponent,) * len(weight))
    smoothed = weight.astype(np.float64) * 2.0**exponent
    assert (np.abs(smoothed - integers * scale.astype(np.float64)) <= 0.5 * scale.astype(np.float64)).all()
    assert (on_fp16_grid(scale) == scale).all()


def exact_case() -> tuple[onnx.ModelProto, Array, dict[str, int]]:
    """x W in numbers that 8 bits hold exactly once channels are smoothed by 2^e, and by no means without."""
    rng = np.random.default_rng(6)
    exponents = np.array([3, 0, -2, 5, 0, -4, 1, 0])
    x = rng.integers(-127, 128, (2, 17, 8)) * 0.25 * 2.0**exponents
    integers = rng.integers(-126, 127, (8, 5))
    integers[0] = 127  # so that the scale is a power of two as well
    weight = integers * 2.0**-6 * 2.0 ** -exponents[:, None]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "exact",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 17, 5))],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, x.astype(np.float32), dict(enumerate(exponents.tolist()))


@pytest.mark.parametrize("pairs", [False, True])
def test_smoothing_itself_changes_nothing(pairs: bool) -> None:
    model, x, exponents = exact_case()
    smoothing = tuple(exponents.values())

    def error(how: MatMulScales) -> float:
        lowered = int8_from_fp32(model, ("y",), {"y.w": how}, weights_as_pairs=pairs)
        return float(np.abs(outputs_of(lowered, {"x": x})[0] - outputs_of(model, {"x": x})[0]).max())

    assert error(MatMulScales(0.25, smoothing)) == 0
    # The same scale without smoothing clips, a scale that does not rounds; and the wrong way round is worst.
    assert error(MatMulScales(0.25, (0,) * 8)) > 0.1
    assert error(MatMulScales(8.0, (0,) * 8)) > 0.1
    assert error(MatMulScales(0.25, tuple(-e for e in smoothing))) > 1


@pytest.mark.parametrize(
    ("scales", "said"),
    [
        ({"y.w": MatMulScales(0.1, (0,) * 7)}, "for 7 channels, the graph has 8"),
        ({"y.w": MatMulScales(0.1, ())}, "for 0 channels"),
        ({"other": MatMulScales(0.1, (0,) * 8)}, "names other, which the graph does not have"),
        ({name: MatMulScales(0.1, (0,) * 8) for name in "abcde"}, "a, b, c and others"),
    ],
)
def test_a_calibration_of_another_network_is_refused(scales: dict[str, MatMulScales], said: str) -> None:
    with pytest.raises(CalibrationError, match=said):
        int8_from_fp32(exact_case()[0], ("y",), scales)
