"""INT8 for the CPU: the numbers of the explicit Q/DQ in integer matmuls, in every kind of bundle, and what the runtime makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from diffpose_edge.bundle import load_bundle
from diffpose_edge.calibration.calibrate import apply_calibration, calibrated, calibration_of
from diffpose_edge.clips import calibration_keypoints
from diffpose_edge.errors import CalibrationError
from diffpose_edge.export import export_bundle
from diffpose_edge.export.cpu_graph import as_traced, cpu_graph
from diffpose_edge.export.int8 import MatMulScales, quantised_weight
from diffpose_edge.export.int8_cpu import ZERO, int8_matmuls
from diffpose_edge.export.layer_groups import initialisers_of, taps_of, weight_matmuls
from diffpose_edge.export.onnx_models import with_taps_as_outputs
from diffpose_edge.manifest import SAMPLES
from diffpose_edge.reference.checkpoints import save_released
from diffpose_edge.reference.graph_networks import Denoiser, FrameEncoder
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.integer_kernels import exact_integers
from diffpose_edge.tolerances import FP32_CPU_LAYER_REL

Array = NDArray[Any]
KINDS = ("golden", "golden_video", "conditioned", "conditioned_video", "causal")


@pytest.fixture(params=KINDS)
def path(request: pytest.FixtureRequest, calibrated_bundles: dict[str, Path]) -> Path:
    return calibrated_bundles[request.param]


def graph_of(path: Path, role: str, precision: str) -> onnx.ModelProto:
    return onnx.load_model_from_string(load_bundle(path).read(role, precision))


def scales_by_weight(path: Path, role: str = "step") -> dict[str, tuple[str, MatMulScales]]:
    bundle = load_bundle(path)
    how = calibration_of(bundle).plan.int8[role]
    matmuls = weight_matmuls(graph_of(path, role, "fp32"), taps_of(bundle.manifest, role))
    return {matmul.weight: (matmul.name, how[matmul.name]) for matmul in matmuls if matmul.name in how}


def test_weights_and_scales_are_those_of_the_explicit_q_dq(path: Path) -> None:
    graph, portable = graph_of(path, "step", "int8-cpu"), initialisers_of(graph_of(path, "step", "int8"))
    constants, found = initialisers_of(graph), dict[str, Array]()
    producer = {value: node for node in graph.graph.node for value in node.output}
    scales = scales_by_weight(path)
    for node in graph.graph.node:
        if node.op_type != "MatMulIntegerToFloat":
            continue
        name = node.input[1].removesuffix("/int8")
        quantize = producer[node.input[0]]
        while quantize.op_type in ("Reshape", "Transpose"):  # what is stacked is moved in 8 bits
            quantize = producer[quantize.input[0]]
        assert (quantize.op_type, constants[quantize.input[2]].dtype, constants[quantize.input[2]]) == ("QuantizeLinear", np.uint8, ZERO)
        assert node.input[2] == quantize.input[1]
        assert (constants[node.input[4]], constants[node.input[5]]) == (ZERO, 0)
        known, how = scales[name if name in scales else name.rpartition(".")[0]]
        assert constants[quantize.input[1]] == portable[f"{known}/scale"]
        smoothed = producer.get(quantize.input[0])
        smooths = smoothed is not None and smoothed.op_type == "Mul" and smoothed.input[1].endswith("/smoothing")
        assert smooths == any(how.smoothing)
        if smooths:
            assert smoothed is not None
            np.testing.assert_array_equal(constants[smoothed.input[1]], 2.0 ** -np.array(how.smoothing))
        found[name] = np.concatenate([constants[node.input[1]], constants[node.input[3]][None]])
    for weight, (known, _) in scales.items():
        parts = [found.pop(f"{weight}.{letter}") for letter in "qkv"] if f"{weight}.q" in found else [found.pop(weight)]
        together = np.concatenate(parts, axis=1)
        np.testing.assert_array_equal(together[:-1], portable[f"{known}/weight_int8"])
        np.testing.assert_array_equal(together[-1], portable[f"{known}/weight_scale"])
    assert not found


def test_what_is_not_in_int8_is_as_it_was(path: Path) -> None:
    """Nothing of the context encoder is by default; a video encoder has no graph for the CPU at all."""
    kinds = {(entry.role, entry.precision) for entry in load_bundle(path).manifest.files.values()}
    assert ("step", "int8-cpu") in kinds
    assert (("context", "int8-cpu") in kinds) == (("context", "fp32-cpu") in kinds)
    if ("context", "int8-cpu") in kinds:
        assert load_bundle(path).read("context", "int8-cpu") == load_bundle(path).read("context", "fp32-cpu")
    exact, lowered = (graph_of(path, "step", precision) for precision in ("fp32-cpu", "int8-cpu"))
    assert {e.key: e.value for e in exact.metadata_props}.get(SAMPLES) == {e.key: e.value for e in lowered.metadata_props}.get(SAMPLES)
    count = [node.op_type for node in lowered.graph.node].count
    softmaxes = [node.op_type for node in exact.graph.node].count("Softmax")
    assert (count("MultiHeadAttention"), count("Softmax")) == (0, softmaxes)
    assert count("DequantizeLinear") == 0
    # What is stacked is put side by side in 8 bits.
    quantised = {name for node in lowered.graph.node if node.op_type == "QuantizeLinear" for name in node.output}
    views = {node.output[0] for node in lowered.graph.node if node.op_type == "Reshape" and node.input[0] in quantised}
    assert sum(node.op_type == "Transpose" and node.input[0] in quantised | views for node in lowered.graph.node) > 0
    assert count("QuantizeLinear") <= len(scales_by_weight(path)) < count("MatMulIntegerToFloat")


def run(model: onnx.ModelProto, feed: Mapping[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    exact_integers(options)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, dict(feed))


@pytest.mark.parametrize("kind", ["golden", "conditioned"])
def test_it_rounds_as_the_q_dq_do(calibrated_bundles: dict[str, Path], kind: str) -> None:
    """Up to the few values that lie so near between two integers that the order of a float sum decides."""
    path = calibrated_bundles[kind]
    bundle = load_bundle(path)
    rng, (inputs, _) = np.random.default_rng(0), bundle.manifest.step_io
    feed = {name: rng.normal(0.0, 0.5, shape).astype(np.float32) for name, shape in inputs.items()}
    feed |= {"timestep": np.array([12.0], np.float32), "coefficients": np.array([0.3, 0.5, 0.1], np.float32)}
    taps = [tap for tap in taps_of(bundle.manifest, "step") if tap != "eps"]
    graphs = [graph_of(path, "step", precision) for precision in ("fp32", "int8-trt8", "int8-cpu")]
    exact, q_dq, integers = (run(with_taps_as_outputs(graph, taps), feed) for graph in graphs)
    for tap, e, q, i in zip(["x_next", "eps", *taps], exact, q_dq, integers, strict=True):
        off = np.abs(as_traced(graphs[-1], i, q.shape) - q)
        # The same rounding: nearly everywhere nearer to the Q/DQ than these are to FP32 by far.
        assert np.median(off) <= 0.05 * np.median(np.abs(q - e)) + FP32_CPU_LAYER_REL * np.abs(e).max(), tap
    assert not np.array_equal(q_dq[0], exact[0])


def test_a_batch_of_others_changes_no_pose(calibrated_bundles: dict[str, Path]) -> None:
    """Scales are fixed, not found in each run: what a sample gets does not depend on who is beside it."""
    model = graph_of(calibrated_bundles["golden"], "step", "int8-cpu")
    rng = np.random.default_rng(1)
    x = rng.normal(0.0, 0.5, (4, 17, 5)).astype(np.float32)
    told = {"timestep": np.array([12.0], np.float32), "coefficients": np.array([0.3, 0.5, 0.0], np.float32)}
    alone = run(model, {"x": x[:1], "previous": x[:1], **told})[0]
    loud = np.concatenate([x[:1], 50 * x[1:]])
    beside = run(model, {"x": loud, "previous": loud, **told})[0]
    np.testing.assert_allclose(beside[:1], alone, rtol=0, atol=1e-5)


def test_the_runtime_takes_it_on_the_cpu_and_the_q_dq_where_it_is_told_to(calibrated_bundle: Path) -> None:
    keypoints = np.random.default_rng(2).uniform(-0.5, 0.5, (2, 17, 2))
    found: dict[str, Array] = {}
    for name, options in {"fp32": {}, "int8": {"precision": "int8"}, "q_dq": {"precision": "int8", "portable": True}}.items():
        with PoseRuntime.load(calibrated_bundle, threads=1, **options) as runtime:  # type: ignore[arg-type]
            found[name] = runtime.estimate(keypoints, seed=4, steps=2).joints
    assert not np.array_equal(found["int8"], found["q_dq"])
    assert not np.array_equal(found["int8"], found["fp32"])


def test_scales_of_another_network_are_refused(calibrated_bundle: Path) -> None:
    portable = graph_of(calibrated_bundle, "step", "fp32")
    weight, (_, how) = next(iter(scales_by_weight(calibrated_bundle).items()))
    with pytest.raises(CalibrationError, match=r"has no matmul by layers\.9"):
        cpu_graph(portable, 6, int8={weight: how, "layers.9.conv1.weight": how})
    with pytest.raises(CalibrationError, match="is for 3 channels, the graph has"):
        cpu_graph(portable, 6, int8={weight: MatMulScales(0.1, (0, 0, 0))})


def test_one_matmul_by_hand() -> None:
    """x W + b with smoothing, where everything is exact; a zero point of 127 is another result."""
    W, b = np.array([[1.0, -2.0], [0.5, 1.0]], np.float32), np.array([0.25, -1.0], np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="node"), onnx.helper.make_node("Identity", ["h"], ["y"])], "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (3, 2))],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (3, 2))],
        [numpy_helper.from_array(W, "w"), numpy_helper.from_array(b, "b")],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = ir.from_proto(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8))
    how = MatMulScales(0.5, (1, 0))
    assert int8_matmuls(model, {"w": how}) == 1
    x = np.array([[2.0, 1.0], [-4.0, 0.5], [400.0, -400.0]], np.float32)
    integers, steps = quantised_weight(W, how.smoothing)
    rounded = np.clip(np.rint(x / np.array([2.0, 1.0]) / 0.5), -128, 127)
    expected = rounded * 0.5 @ (integers * steps.astype(np.float64)) + b
    made = ir.to_proto(model)
    np.testing.assert_allclose(run(made, {"x": x})[0], expected, rtol=1e-6)
    (zero,) = (tensor for tensor in made.graph.initializer if tensor.name == "zero.uint8")
    zero.CopyFrom(numpy_helper.from_array(np.array(127, np.uint8), zero.name))
    assert not np.allclose(run(made, {"x": x})[0], expected, rtol=1e-3)


def test_equal_weights_are_loaded_by_processors_without_vnni(tmp_path: Path) -> None:
    """Their kernels want a matrix for each matmul, and PyTorch's exporter gives equal weights one name."""
    torch.manual_seed(0)
    encoder, denoiser = (network(hidden=16, layers=2, heads=2) for network in (FrameEncoder, Denoiser))
    for layers in (denoiser.atten_layers, denoiser.gconv_layers):
        layers[1].load_state_dict(layers[0].state_dict())
    pair = tmp_path / "denoiser.pth", tmp_path / "context.pth"
    for network, path in zip((denoiser, encoder), pair, strict=True):
        save_released(network, path)
    bundle = export_bundle(*pair, tmp_path / "bundle", samples=3, heads=2).bundle
    bundle = apply_calibration(bundle, calibrated(bundle, calibration_keypoints(), schedules=(bundle.manifest.timesteps,), frames=4))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(bundle.read("step", "int8-cpu"), options, providers=["CPUExecutionProvider"])
    assert {value.name for value in session.get_outputs()} == {"x_next", "eps"}
