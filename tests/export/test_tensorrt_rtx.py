"""Every graph that is exported builds with TensorRT-RTX, in the kernels that its precision asks for."""

from __future__ import annotations

import platform
import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import diffpose_edge.extras
from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.calibration.calibrate import apply_calibration, calibrated, calibration_of
from diffpose_edge.clips import calibration_keypoints, trained_pair
from diffpose_edge.errors import EngineError, ExportError, MissingPackage
from diffpose_edge.export import export_bundle
from diffpose_edge.export.precision import lowered_graph
from diffpose_edge.export.tensorrt_rtx import BuildReport, built, launches_of

# Where TensorRT-RTX exists a missing package is a failure, not a skip.
pytestmark = [
    pytest.mark.skipif(not (sys.platform == "linux" and platform.machine() == "x86_64"), reason="TensorRT-RTX is for x86-64 alone"),
    # polygraphy sets a timing cache, which TensorRT-RTX has no use for.
    pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning"),
]

# The INT8 form of TensorRT 8, which newer ones need not take, and the graphs for the CPU.
NOT_FOR_RTX = ("int8-trt8", "fp32-cpu", "int8-cpu")
# Below this many numbers to a head the compiler leaves an attention in pieces.
FUSED_HEAD = 16


def graphs_of(bundle: Bundle) -> list[tuple[str, str, bytes]]:
    """Every graph of a bundle that TensorRT-RTX is for, as (file name, precision, content), each content once.

    An encoder that has nothing in INT8 is the same file in "int8" as in "fp16".
    """
    found: dict[bytes, tuple[str, str]] = {}
    for name, entry in bundle.manifest.files.items():
        if entry.role in ("context", "step") and entry.precision not in NOT_FOR_RTX:
            found.setdefault(bundle.read(entry.role, entry.precision), (name, entry.precision))
    return [(name, precision, content) for content, (name, precision) in found.items()]


def matmuls_asked_for(content: bytes) -> Counter[str]:
    """How many matmuls a graph has in each precision; int8: both operands are dequantised, with or without a Cast after it."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(content), data_prop=True).graph
    half = {v.name for v in graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    dequantised: set[str] = set()
    counts: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type == "DequantizeLinear" or (node.op_type == "Cast" and node.input[0] in dequantised):
            dequantised.add(node.output[0])
        elif node.op_type == "MatMul":
            counts["int8" if set(node.input) <= dequantised else "fp16" if node.output[0] in half else "fp32"] += 1
    return counts


def check(bundle: Bundle, wide: Collection[str] = ()) -> dict[str, BuildReport]:
    """Build every graph of a bundle and hold each to its precision; returns what was built, by file.

    ``wide`` are the files whose matmuls all stay float32, whatever their precision is called.
    """
    reports = {}
    for name, precision, content in graphs_of(bundle):
        report = reports[name] = built(content, name)
        assert report.messages == (), name
        assert report.plan_bytes > 1000, name
        assert len(report.launches) > 10, name
        asked = matmuls_asked_for(content)
        assert report.matmuls.get("int8", 0) == asked["int8"], f"{name}: {report.matmuls} of {asked}"
        # Some matmuls of the wider types end inside other kernels, such as attentions; none may become wider.
        assert report.matmuls.get("fp32", 0) <= asked["fp32"], f"{name}: {report.matmuls} of {asked}"
        assert (asked[precision] > 0) == (name not in wide), f"{name}: {asked}"
    return reports


@pytest.mark.parametrize("name", ["golden", "golden_video", "conditioned", "conditioned_video", "causal"])
def test_every_graph_of_a_bundle_builds_without_a_warning(calibrated_bundles: dict[str, Path], name: str) -> None:
    bundle = load_bundle(calibrated_bundles[name])
    reports = check(bundle)
    assert set(reports) == {f"{role}.{p}.onnx" for role in ("context", "step") for p in ("fp32", "fp16")} | {"step.int8.onnx"}
    assert bundle.read("context", "int8") == bundle.read("context", "fp16")


@pytest.mark.parametrize("name", ["golden_video", "conditioned", "causal"])
def test_an_encoder_in_int8_builds_as_well(calibrated_bundles: dict[str, Path], name: str) -> None:
    """Not by default, but for whoever asks for it: every matmul of the encoder that has a scale."""
    bundle = load_bundle(calibrated_bundles[name])
    calibration = calibration_of(bundle)
    plan = replace(calibration.plan, int8=calibration.scales, fp32={})
    graph = lowered_graph(onnx.load_model_from_string(bundle.read("context")), bundle.manifest, "context", "int8", plan)
    asked = matmuls_asked_for(graph.content)
    assert asked["int8"] == len(calibration.scales["context"]) > 10
    report = built(graph.content, "context.int8.onnx")
    assert report.messages == ()
    assert report.matmuls["int8"] == asked["int8"]


@pytest.mark.slow
def test_the_shipped_frame_pair_builds_at_full_size(tmp_path: Path) -> None:
    exported = export_bundle(*trained_pair("frame"), tmp_path / "bundle").bundle
    scales = calibrated(exported, calibration_keypoints(), schedules=(exported.manifest.timesteps,), frames=4)
    bundle = apply_calibration(exported, scales)
    # The encoder is next to nothing of K = 5 steps, and stays float32.
    reports = check(bundle, wide=("context.fp16.onnx",))
    assert {"step.fp16.onnx", "step.int8.onnx"} <= set(reports)
    denoiser = bundle.manifest.denoiser
    assert denoiser.hidden // denoiser.heads >= FUSED_HEAD
    for name, report in reports.items():
        if name.startswith("step"):
            assert report.fused_attentions == (0 if "fp32" in name else denoiser.layers), name


# --- graphs made for one question each ---


def model_of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: tuple[int, ...] = (32, 64)) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


WEIGHT = np.random.default_rng(0).integers(-127, 128, (64, 64)).astype(np.int8)
QUANTISED = [
    helper.make_node("QuantizeLinear", ["x", "s", "zero"], ["q"], name="quantise"),
    helper.make_node("DequantizeLinear", ["q", "s", "zero"], ["x_dq"], name="dequantise"),
]
SCALES = {"s": np.array(0.05, np.float32), "zero": np.array(0, np.int8)}


def test_int8_activations_and_weights_make_an_int8_matmul() -> None:
    dequantise = helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["w_dq"], axis=1)
    nodes = [*QUANTISED, dequantise, helper.make_node("MatMul", ["x_dq", "w_dq"], ["y"], name="product")]
    constants = {**SCALES, "w": WEIGHT, "ws": np.full(64, 0.01, np.float32), "wz": np.zeros(64, np.int8)}
    report = built(model_of(nodes, constants))
    assert report.matmuls == {"int8": 1}
    assert [launch.nodes[0] for launch in report.launches if launch.is_matmul] == ["product"]


def test_int8_activations_that_meet_float_weights_do_not() -> None:
    nodes = [*QUANTISED, helper.make_node("MatMul", ["x_dq", "w"], ["y"])]
    report = built(model_of(nodes, {**SCALES, "w": WEIGHT.astype(np.float32)}))
    assert report.matmuls == {"fp32": 1}


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_an_attention_in_half_precision_is_one_launch(dtype: type) -> None:
    half = TensorProto.FLOAT16 if dtype is np.float16 else TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=half),
        *(helper.make_node("Mul", ["a", name], [f"a_{name}"]) for name in "qkv"),
        helper.make_node("Transpose", ["a_k"], ["k_t"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["a_q", "k_t"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "a_v"], ["h"]),
        helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
    ]
    constants = {name: np.linspace(0.1, i, 16).astype(dtype) for i, name in enumerate("qkv", 1)}
    report = built(model_of(nodes, constants, (2, 4, 17, 16)))
    assert report.fused_attentions == (1 if dtype is np.float16 else 0)
    assert report.matmuls == ({} if dtype is np.float16 else {"fp32": 2})


# --- what is refused ---


def test_an_operator_of_another_runtime_is_refused_with_its_node() -> None:
    node = helper.make_node("FastGelu", ["x"], ["y"], name="layer3.gelu", domain="com.microsoft")
    with pytest.raises(ExportError, match=r"does not build step\.onnx: .*layer3\.gelu and operator: FastGelu"):
        built(model_of([node], {}), "step.onnx")


def test_mixed_types_are_refused_because_nothing_is_converted_unasked() -> None:
    nodes = [helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), helper.make_node("Add", ["x", "h"], ["y"], name="mixed")]
    with pytest.raises(ExportError, match=r"mixed.*same input types"):
        built(model_of(nodes, {}))


def test_a_zero_point_that_is_not_zero_is_refused() -> None:
    nodes = [*QUANTISED[:1], helper.make_node("DequantizeLinear", ["q", "s", "zero"], ["y"])]
    with pytest.raises(ExportError, match=r"quantise.*zero point"):
        built(model_of(nodes, {**SCALES, "zero": np.array(3, np.int8)}))


@pytest.mark.parametrize("content", [b"", b"no ONNX file", model_of([], {})[:40]])
def test_what_is_no_graph_is_refused(content: bytes) -> None:
    with pytest.raises(ExportError, match=r"does not build the graph: \S"):
        built(content)


# --- its own surroundings ---


@pytest.mark.parametrize("listing", ["", "Layers:\n", "Layers:\nName: a, Kind: gemm", "Layers:\n\nI/O Tensors:\n Name: x"])
def test_a_list_of_launches_in_another_form_is_not_taken_for_none(listing: str) -> None:
    with pytest.raises(ExportError, match="this version of TensorRT-RTX"):
        launches_of(listing)


def test_missing_packages_are_named_with_the_command_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffpose_edge.extras, "is_installed", lambda module: module != "tensorrt_rtx")
    with pytest.raises(MissingPackage, match=r"pip install tensorrt_rtx_cu13 "):
        built(b"")


def test_polygraphy_at_work_for_tensorrt_is_not_turned_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExportError, match="does not build"):
        built(b"")  # so that polygraphy's part for TensorRT is imported
    import polygraphy.config

    monkeypatch.setattr(polygraphy.config, "USE_TENSORRT_RTX", False)
    with pytest.raises(EngineError, match="build with TensorRT-RTX in another process"):
        built(b"")
