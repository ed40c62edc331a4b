"""The graphs of a bundle in every precision: FP32 as exported, FP16 and INT8 made from it and from a calibration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import onnx

from diffpose_edge.errors import CalibrationError
from diffpose_edge.export.cpu_graph import cpu_graph
from diffpose_edge.export.fp16 import fp16_from_fp32
from diffpose_edge.export.int8 import MatMulScales, int8_from_fp32
from diffpose_edge.export.layer_groups import groups_of, matmul_macs, taps_of, weight_matmuls
from diffpose_edge.manifest import FOR_CPU, GRAPHS, SAMPLES, Manifest

# "int8-trt8" is INT8 for TensorRT 8.6: float32 around it, because that version casts by builder flags, and weights as pairs.
LOWER_PRECISIONS = ("fp16", "int8", "int8-trt8")
# INT8 in the operators that are fastest on the CPU, float32 around it: of the graphs that have a form for the CPU.
INT8_CPU = "int8" + FOR_CPU


@dataclass(frozen=True)
class PrecisionPlan:
    """What is lowered, by role: ``int8`` the scales of the matmuls that run in INT8, ``fp32`` the layers and nodes that stay
    float32 by choice, ``ranges`` the largest magnitude recorded of each value.
    """

    int8: Mapping[str, Mapping[str, MatMulScales]] = field(default_factory=dict)
    fp32: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ranges: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class LoweredGraph:
    """A graph, how many of its nodes stay float32 for which reason, and the share of its matmul work that is INT8."""

    content: bytes
    fp32_nodes: Mapping[str, int]
    int8_share: float


def lowered_graph(model: onnx.ModelProto, manifest: Manifest, role: str, precision: str, plan: PrecisionPlan) -> LoweredGraph:
    """Return the graph of ``role`` in one of LOWER_PRECISIONS. Raises CalibrationError when the plan is for another network."""
    taps, kept = taps_of(manifest, role), plan.fp32.get(role, ())
    layers = groups_of(model, taps)
    if unknown := sorted(set(kept) - set(layers.values()) - set(layers)):
        raise CalibrationError(
            f"the calibration keeps {', '.join(unknown[:3])} in float32, which the {role} graph does not have; it has the layers "
            f"{', '.join(dict.fromkeys(layers.values()))}"
        )
    scales = plan.int8.get(role, {}) if precision != "fp16" else {}
    quantised = int8_from_fp32(model, taps, scales, weights_as_pairs=precision == "int8-trt8") if scales else model
    reasons: Mapping[str, int] = {}
    if precision != "int8-trt8":
        lowered = fp16_from_fp32(quantised, taps, plan.ranges.get(role), kept)
        quantised, reasons = lowered.model, Counter(lowered.fp32_nodes.values())
    macs = sum(matmul.macs for matmul in weight_matmuls(model, taps) if matmul.name in scales)
    return LoweredGraph(quantised.SerializeToString(deterministic=True), dict(reasons), macs / matmul_macs(model))


def int8_for_cpu(model: onnx.ModelProto, fp32: onnx.ModelProto, manifest: Manifest, role: str, plan: PrecisionPlan) -> LoweredGraph:
    """Return the graph of ``role`` in INT8 for the CPU, from the portable ``model``; ``fp32``: its FP32 form for the CPU, which it follows
    in its LayerNorms and in whether the samples are free. Raises CalibrationError when the plan is for another network.
    """
    matmuls, scales = weight_matmuls(model, taps_of(manifest, role)), plan.int8.get(role, {})
    if missing := sorted(set(scales) - {matmul.name for matmul in matmuls}):
        raise CalibrationError(
            f"the calibration names {', '.join(missing[:3])}, which the graph does not have: it was made for another network"
        )
    if not scales:
        return LoweredGraph(fp32.SerializeToString(deterministic=True), {}, 0.0)
    lowered = cpu_graph(
        model,
        manifest.shape.P * (manifest.shape.N if role == "step" else 1),
        fused_norms=any(node.op_type == "LayerNormalization" for node in fp32.graph.node),
        free=any(entry.key == SAMPLES for entry in fp32.metadata_props),
        int8={matmul.weight: scales[matmul.name] for matmul in matmuls if matmul.name in scales},
    )
    macs = sum(matmul.macs for matmul in matmuls if matmul.name in scales)
    return LoweredGraph(lowered.SerializeToString(deterministic=True), {}, macs / matmul_macs(model))


def lowered_graphs(
    graphs: Mapping[str, bytes],
    manifest: Manifest,
    plan: PrecisionPlan,
    progress: Callable[[int], None] = lambda done: None,
    for_cpu: Mapping[str, bytes] = MappingProxyType({}),
) -> dict[tuple[str, str], LoweredGraph]:
    """Return every graph in every lower precision, by (role, precision). ``progress`` hears of each; ``for_cpu``: the FP32 graphs for the
    CPU, by role, of which there is INT8_CPU then.
    """
    lowered = {}
    for role in GRAPHS:
        model = onnx.load_model_from_string(graphs[role])
        for precision in LOWER_PRECISIONS:
            lowered[role, precision] = lowered_graph(model, manifest, role, precision, plan)
            progress(1)
        if role in for_cpu:
            lowered[role, INT8_CPU] = int8_for_cpu(model, onnx.load_model_from_string(for_cpu[role]), manifest, role, plan)
    return lowered
