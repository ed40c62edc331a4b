"""INT8 for ONNX Runtime's CPU provider: matmuls of a graph in row form become integer ones; each pass changes the model in place.

x W + b becomes MatMulIntegerToFloat(Q(x / 2^e), W', b): the activation in unsigned 8 bits around 128, the weight and the scales those of
the explicit Q/DQ (:mod:`diffpose_edge.export.int8`), so that both forms of the graph round the same numbers the same way. Integers are
added exactly, so every processor has the same sums; one without VNNI has them only if ONNX Runtime is told to be precise
(``session.x64quantprecision``), because its fastest kernel saturates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from diffpose_edge.errors import CalibrationError
from diffpose_edge.export.int8 import MatMulScales, on_fp16_grid, quantised_weight
from diffpose_edge.export.row_form import MICROSOFT, constant, operand, shape_of

# What stands for 0 in unsigned 8 bits: -128..127 become 0..255.
ZERO = 128


def int8_matmuls(model: ir.Model, scales: Mapping[str, MatMulScales]) -> int:
    """Run the matmuls by the named weights in INT8; "name" stands for name.q, name.k and name.v, too. Return how many.

    Raises CalibrationError for a weight that no matmul has, or smoothing of another width.
    """
    found: set[str] = set()
    made: Counter[str] = Counter()
    activations: dict[tuple[ir.Value, MatMulScales], ir.Value] = {}
    for node in [node for node in model.graph if node.op_type in ("Gemm", "MatMul")]:
        weight = operand(node, 1)
        assert weight.name is not None
        name = weight.name if weight.name in scales else weight.name.rpartition(".")[0]
        if name not in scales or weight.const_value is None:
            continue
        found.add(name)
        how, matrix = scales[name], weight.const_value.numpy()
        if len(how.smoothing) != len(matrix):
            raise CalibrationError(
                f"the calibration of {name} is for {len(how.smoothing)} channels, the graph has {len(matrix)}: it was made for another "
                f"network. Calibrate this bundle: diffpose-edge calibrate"
            )
        x = operand(node, 0)
        if (x, how) not in activations:
            activations[x, how] = _quantised(model.graph, node, x, how, f"{name}/{len(activations)}")
        made[weight.name] += 1
        # Equal weights have one name, but each of their matmuls has a matrix of its own (see _exchange).
        label = weight.name if made[weight.name] == 1 else f"{weight.name}/{made[weight.name]}"
        _exchange(model.graph, node, activations[x, how], label, matrix, how)
    if missing := sorted(set(scales) - found):
        raise CalibrationError(f"the graph for the CPU has no matmul by {', '.join(missing[:3])}: it was made for another network")
    RemoveUnusedNodesPass()(model)
    return len(found)


def _quantised(graph: ir.Graph, node: ir.Node, x: ir.Value, how: MatMulScales, name: str) -> ir.Value:
    if any(how.smoothing):
        factor = constant(graph, f"{name}/smoothing", 2.0 ** -np.asarray(how.smoothing, np.float32))
        x = _before(graph, node, ir.Node("", "Mul", [x, factor]), x.shape, ir.DataType.FLOAT)
    scale, zero = constant(graph, f"{name}/scale", on_fp16_grid(how.scale)), _zero(graph)
    # What is only moved on the way to the matmul is moved in 8 bits.
    moves: list[ir.Node] = []
    while (move := x.producer()) is not None and move.op_type in ("Reshape", "Transpose") and len(x.uses()) == 1:
        moves.append(move)
        x = operand(move, 0)
    value = _before(graph, node, ir.Node("", "QuantizeLinear", [x, scale, zero]), x.shape, ir.DataType.UINT8)
    for move in reversed(moves):
        moved = ir.Node("", move.op_type, [value, *move.inputs[1:]], tuple(move.attributes.values()))
        value = _before(graph, node, moved, move.outputs[0].shape, ir.DataType.UINT8)
    return value


def _exchange(graph: ir.Graph, node: ir.Node, activation: ir.Value, name: str, matrix: NDArray[Any], how: MatMulScales) -> None:
    quantize = activation.producer()
    while quantize is not None and quantize.op_type != "QuantizeLinear":
        quantize = operand(quantize, 0).producer()
    assert quantize is not None
    integers, steps = quantised_weight(matrix, how.smoothing)
    weight, step = constant(graph, f"{name}/int8", integers), constant(graph, f"{name}/steps", steps)
    # The weight's zero point is said, though it is 0, and it and the weight are each matmul's own: without one ONNX Runtime's precise mode
    # passes the matmul over, and of one that is shared it fails to load the second (1.31.1).
    zero = constant(graph, f"{name}/zero", np.array(0, np.int8))
    inputs = [activation, weight, operand(quantize, 1), step, _zero(graph), zero]
    if node.op_type == "Gemm":
        bias = operand(node, 2)
        if len(shape_of(bias)) == 2:
            row = constant(graph, "shape.row", np.array([-1], np.int64))
            bias = _before(graph, node, ir.Node("", "Reshape", [bias, row]), ir.Shape(shape_of(bias)[1:]), ir.DataType.FLOAT)
        inputs.append(bias)
    made = ir.Node(MICROSOFT, "MatMulIntegerToFloat", inputs, name=node.name)
    graph.insert_before(node, made)
    old, new = node.outputs[0], made.outputs[0]
    new.shape, new.type = old.shape, old.type
    old.replace_all_uses_with(new)
    new.name, old.name = old.name, None
    graph.remove(node, safe=True)


def _zero(graph: ir.Graph) -> ir.Value:
    return constant(graph, "zero.uint8", np.array(ZERO, np.uint8))


def _before(graph: ir.Graph, node: ir.Node, made: ir.Node, shape: ir.Shape | None, dtype: ir.DataType) -> ir.Value:
    graph.insert_before(node, made)
    made.outputs[0].shape, made.outputs[0].type = shape, ir.TensorType(dtype)
    return made.outputs[0]
