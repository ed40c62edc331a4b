"""FP16 baked into a graph: every float value is float16, except where float32 is needed and costs little.

What stays float32, and why (also told node by node in :class:`Fp16Graph`):

- the border of the graph, so that a runtime has one kind of buffer for every precision;
- the update: A_k - 1 is below FP16's resolution, and the state would drift;
- the input and output layers, which cost next to nothing: what comes in are coordinates, whose last digits count (rounding
  them is half of a frame encoder's error), and what goes out are metres, or the noise that the state is corrected by;
- the statistics of decomposed LayerNorms (the sum of squares overflows first), and softmax; TensorRT fuses the casts around
  both into the kernels that it would use anyway (measured: the same number of kernels on TensorRT-RTX 1.7.1);
- whatever came too close to FP16's largest number in the recorded ranges, and constants beyond it;
- Q/DQ and the matmul between them, which run in INT8.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from diffpose_edge.export.layer_groups import border_nodes, groups_of, initialisers_of
from diffpose_edge.export.onnx_models import check_model

FP16_MAX = float(np.finfo(np.float16).max)
# How far a value must stay below FP16's largest number: other people, other poses than the recorded ones.
FP16_MARGIN = 8.0
LAYERNORM_PARTS = ("Mul", "ReduceMean", "Sub")


@dataclass(frozen=True)
class Fp16Graph:
    """The graph, and the reason for each node that stays float32, by the node's name."""

    model: onnx.ModelProto
    fp32_nodes: Mapping[str, str]


def fp16_from_fp32(
    model: onnx.ModelProto,
    taps: Sequence[str],
    ranges: Mapping[str, float] | None = None,
    keep: Collection[str] = (),
) -> Fp16Graph:
    """Return a graph with FP16 arithmetic from one in float32, with Q/DQ in it or not.

    ``taps`` are the graph's layer outputs; ``ranges`` the largest magnitude recorded of each value, by name (none: no
    range is looked at); ``keep`` the layers (taps) and the nodes that stay float32 by choice.
    """
    typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    reasons = _fp32_reasons(typed, taps, ranges or {}, keep)
    converted = ir.from_proto(typed)
    _cast_edges(converted, reasons)
    result = ir.to_proto(converted)
    del result.graph.value_info[:]
    check_model(result)
    return Fp16Graph(result, reasons)


def _fp32_reasons(model: onnx.ModelProto, taps: Sequence[str], ranges: Mapping[str, float], keep: Collection[str]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    groups = groups_of(model, taps)
    producer = {value: node for node in model.graph.node for value in node.output}
    limit = FP16_MAX / FP16_MARGIN
    constants = {name: float(np.abs(array).max(initial=0.0)) for name, array in initialisers_of(model).items() if array.dtype == np.float32}
    border = border_nodes(model, taps)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            reasons[node.name] = "INT8: Q and DQ of opset 17 are between float32 and INT8"
        elif node.op_type == "MatMul" and all(
            producer.get(i) is not None and producer[i].op_type == "DequantizeLinear" for i in node.input
        ):
            reasons[node.name] = "INT8: computed from 8-bit integers"
        elif node.op_type == "Softmax":
            reasons[node.name] = "softmax: exponentials and their sum"
        elif node.name in border:
            reasons[node.name] = border[node.name]
        elif any(constants.get(value, 0.0) > FP16_MAX for value in node.input):
            reasons[node.name] = "range: a constant is beyond FP16's largest number"
        elif any(ranges.get(value, 0.0) > limit for value in (*node.input, *node.output)):
            reasons[node.name] = f"range: a value came above {limit:.0f}"
        elif node.name in keep or groups[node.name] in keep:
            reasons[node.name] = "kept by choice"
        if node.op_type == "Sqrt":
            reasons |= dict.fromkeys(_layernorm_nodes(model, node, producer), "LayerNorm: mean and sum of squares")
    return reasons


def _layernorm_nodes(model: onnx.ModelProto, sqrt: onnx.NodeProto, producer: Mapping[str, onnx.NodeProto]) -> set[str]:
    """Return the names of the nodes from the mean to the division, around a square root."""
    found, waiting = {sqrt.name}, [sqrt]
    while waiting:
        for value in waiting.pop().input:
            node = producer.get(value)
            if node is not None and node.op_type in LAYERNORM_PARTS and node.name not in found:
                found.add(node.name)
                waiting.append(node)
    ahead = {sqrt.output[0]}
    for node in model.graph.node:
        if node.op_type in ("Add", "Div") and ahead & set(node.input) and (node.op_type == "Div" or len(node.input) == 2):
            found.add(node.name)
            if node.op_type == "Div":
                break
            ahead.add(node.output[0])
    return found


def _cast_edges(model: ir.Model, reasons: Mapping[str, str]) -> None:
    """Give every float value the type that its node computes in, and put casts where two types meet."""
    graph = model.graph
    halves: dict[str, ir.Value] = {}  # constants in float16, by name
    casts: dict[tuple[str, ir.DataType], ir.Value] = {}
    floats = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    outputs = {id(value): i for i, value in enumerate(graph.outputs)}
    for node in list(graph):
        if node.op_type == "Cast":
            continue
        wanted = ir.DataType.FLOAT if node.name in reasons else ir.DataType.FLOAT16
        for i, value in enumerate(node.inputs):
            if value is None or value.dtype not in floats or value.dtype == wanted:
                continue
            if value.const_value is not None and value.producer() is None:
                node.replace_input_with(i, _half(graph, value, halves))
            else:
                node.replace_input_with(i, _cast(graph, value, wanted, casts))
        for value in node.outputs:
            if value.dtype in floats and not (wanted == ir.DataType.FLOAT16 and node.op_type in ("QuantizeLinear",)):
                value.dtype = wanted
    for value in list(graph.outputs):
        if value.dtype == ir.DataType.FLOAT16:
            _float_output(graph, value, outputs[id(value)])
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


def _half(graph: ir.Graph, value: ir.Value, halves: dict[str, ir.Value]) -> ir.Value:
    assert value.name is not None
    assert value.const_value is not None
    if value.name not in halves:
        name = f"{value.name}.fp16"
        array = value.const_value.numpy().astype(np.float16)
        tensor = ir.tensor(array, name=name)
        halves[value.name] = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(ir.DataType.FLOAT16), const_value=tensor)
        graph.register_initializer(halves[value.name])
    return halves[value.name]


def _cast(graph: ir.Graph, value: ir.Value, wanted: ir.DataType, casts: dict[tuple[str, ir.DataType], ir.Value]) -> ir.Value:
    assert value.name is not None
    key = value.name, wanted
    if key not in casts:
        suffix = "fp16" if wanted == ir.DataType.FLOAT16 else "fp32"
        node = ir.node("Cast", [value], {"to": wanted}, name=f"cast/{value.name}.{suffix}")
        made = node.outputs[0]
        made.name, made.shape, made.dtype = f"{value.name}.{suffix}", value.shape, wanted
        casts[key] = made
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], node)
        else:
            graph.insert_after(producer, node)
    return casts[key]


def _float_output(graph: ir.Graph, value: ir.Value, index: int) -> None:
    """Give an output computed in float16 its float32 form under the output's own name."""
    name, producer = value.name, value.producer()
    assert name is not None
    assert producer is not None
    value.name = f"{name}.fp16"
    node = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"cast/{name}")
    made = node.outputs[0]
    made.name, made.shape, made.dtype = name, value.shape, ir.DataType.FLOAT
    graph.insert_after(producer, node)
    graph.outputs[index] = made
