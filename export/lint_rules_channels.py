"""Rules on which values share a scale: weights by output channel, activations as a whole."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import TensorProto as T

from diffpose_edge.export.lint_graph import Graph, Node
from diffpose_edge.export.lint_qdq import WEIGHTED, Use, count, is_dq, is_weight, quantised_from, quantisers, uses_of
from diffpose_edge.export.lint_rules import CHANGELOG_MD, EXPLICIT, IMPORTER, Fault, rule
from diffpose_edge.export.lint_targets import Target


@rule(
    "weight-int8-direct",
    "an int8 weight that goes straight into DequantizeLinear",
    "write the weight in float32, with QuantizeLinear and DequantizeLinear behind it",
    "NVIDIA TensorRT 8.6 Developer Guide, Quantized Weights: given in FP32; onnxruntime issue 11535: 'invalid weights type of Int8'",
    ("8.6",),
)
def weight_int8_direct(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in quantisers(graph):
        if is_dq(node) and graph.is_constant(node.inputs[0]) and not target.int8_weights:
            yield Fault("refused", f"{target.title} takes float32 weights only, and quantises them itself", node, node.inputs[0])


@rule(
    "weight-per-tensor",
    "a weight with one scale for all its channels",
    "quantise weights per output channel",
    f"{EXPLICIT}: per-channel quantisation for weights",
)
def weight_per_tensor(graph: Graph, target: Target) -> Iterator[Fault]:
    for node, use in _weights(graph):
        scales, data = graph.shape_of(node.inputs[1]), graph.shape_of(quantised_from(graph, node))
        # A vector has no output channels, and a weight of a single output channel has one scale anyway.
        axis = None if data is None else _channel_axis(use, len(data), 1)
        if scales is not None and count(scales) == 1 and data and axis is not None and (data[axis] or 0) > 1:
            yield Fault(
                "bad", f"one scale for {data[axis]} output channels of {use.node.op}: the smaller ones lose precision", node, node.inputs[1]
            )


@rule(
    "weight-axis",
    "a weight quantised along another axis than its output channels",
    "set axis to the output channel of the operator that takes the weight (MatMul: the last)",
    f"{IMPORTER}: per-channel scales are those of the output channels; NVIDIA TensorRT documentation, Explicit Quantization",
)
def weight_axis(graph: Graph, target: Target) -> Iterator[Fault]:
    for node, use in _weights(graph):
        scales, data = graph.shape_of(node.inputs[1]), graph.shape_of(quantised_from(graph, node))
        if scales is None or len(scales) != 1 or scales[0] == 1 or not data:
            continue
        axis = node.integer("axis", 1) % len(data)
        expected = _channel_axis(use, len(data), axis)
        if expected is not None and axis != expected:
            yield Fault(
                "bad",
                f"its scales lie along axis {axis}; the output channels that {use.node.op} makes of it, along {expected}",
                node,
                node.inputs[1],
            )


@rule(
    "activation-per-channel",
    "an activation with a scale for each channel",
    "quantise activations per tensor",
    f"{EXPLICIT}: per-tensor quantisation for activations; {IMPORTER}: activations have no per-axis quantisation",
)
def activation_per_channel(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in quantisers(graph):
        scales = graph.shape_of(node.inputs[1])
        if scales is not None and len(scales) == 1 and (scales[0] or 0) > 1 and not is_weight(graph, node):
            yield Fault("bad", f"{scales[0]} scales; TensorRT fuses activations only with a single one", node, node.inputs[1])


@rule(
    "block-quantised",
    "scales for blocks of a tensor",
    "one scale for each output channel",
    f"{CHANGELOG_MD}, 10.0 and 10.8; NVIDIA TensorRT documentation, Explicit Quantization: blocks are for 4-bit weights and FP8",
)
def block_quantised(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in quantisers(graph):
        scales = graph.shape_of(node.inputs[1])
        if node.integer("block_size", 0) or (scales is not None and len(scales) > 1 and count(scales) != 1):
            kind = graph.type_of(node.inputs[0] if is_dq(node) else node.outputs[0])
            if target.version < (10, 0):
                yield Fault("refused", f"{target.title} knows no blocks", node, node.inputs[1])
            elif kind == T.INT8:
                yield Fault("risk", "blocks are documented for 4-bit weights and FP8, not for int8", node, node.inputs[1])


def _weights(graph: Graph) -> Iterator[tuple[Node, Use]]:
    """Yield every DQ of a weight with each weighted operator that takes it."""
    for node in quantisers(graph):
        if is_dq(node) and is_weight(graph, node):
            for use in uses_of(graph, node.outputs[0]):
                if use.node.op in WEIGHTED and use.position < 2:
                    yield node, use


def _channel_axis(use: Use, rank: int, axis: int) -> int | None:
    """Return the axis of the stored weight that holds the output channels, None when it cannot be told.

    ``axis`` is that of the scales; it decides only where several axes are output channels of a grouped ConvTranspose.
    """
    match use.node.op:
        case "Conv":
            wanted = 0
        case "ConvTranspose":
            wanted = 1 if use.node.integer("group", 1) == 1 else axis
        case "Gemm":
            first, transposed = use.position == 0, use.node.integer("transA" if use.position == 0 else "transB", 0) == 1
            wanted = 0 if first != transposed else 1
        case _:
            wanted = rank - 1 if use.position == 1 else rank - 2
    if wanted < 0 or wanted >= rank or rank < 2:
        return None
    # From the operator back to the stored weight; what changes the shape otherwise is not followed.
    for node in reversed(use.through):
        if node.op == "Transpose":
            order = node.integers("perm") or list(reversed(range(rank)))
            if len(order) != rank:
                return None
            wanted = order[wanted]
        elif node.op != "Identity":
            return None
    return wanted
