"""INT8 baked into a graph: explicit, symmetric Q/DQ around the matmuls with constant weights.

For each of them x W becomes DQ(Q(x / 2^e)) DQ(W'), with W' = 2^e W in 8 bits: one scale for the activation, one for each
output channel of the weight, zero points 0 and present, nothing on biases, outputs, attention's own matmuls, LayerNorm,
softmax or residuals. e is the smoothing (SmoothQuant, arXiv 2211.10438, with powers of two, so that it rounds nothing): it
takes from the activation's loud channels and gives to the weight's rows.

The graph keeps opset 17, whose Q and DQ know float32 only. DQ, matmul, and a cast to FP16 after it: TensorRT-RTX 1.7.1 makes
an INT8 kernel of every one. Of opset 19's FP16 scales, or of casts between DQ and matmul, it makes the same kernels in the
denoiser, and loses six of a video encoder's to FP16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from diffpose_edge.errors import CalibrationError
from diffpose_edge.export.layer_groups import initialisers_of, weight_matmuls
from diffpose_edge.export.onnx_models import check_model

Array = NDArray[Any]
# Symmetric: -128 is not used, so that negation is exact and every TensorRT agrees.
INT8_MAX = 127
# The smallest normal number of FP16: scales are kept on FP16's grid, so that every form of the graph has the same ones.
LEAST_SCALE = 2.0**-14


@dataclass(frozen=True)
class MatMulScales:
    """How one matmul is quantised: the activation's ``scale``, after its channels are divided by 2 to the ``smoothing`` (c_in,)."""

    scale: float
    smoothing: tuple[int, ...]


def on_fp16_grid(scale: float | Array) -> Array:
    """Return scales rounded to FP16, at least its smallest normal number, as float32."""
    return np.maximum(np.asarray(scale, np.float64), LEAST_SCALE).astype(np.float16).astype(np.float32)


def quantised_weight(weight: Array, smoothing: Sequence[int]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return 2^e W in 8 bits (c_in, c_out), and the scale of each output channel (c_out,)."""
    smoothed = np.asarray(weight, np.float64) * 2.0 ** np.asarray(smoothing, np.float64)[:, None]
    scale = on_fp16_grid(np.abs(smoothed).max(axis=0) / INT8_MAX)
    return np.clip(np.rint(smoothed / scale), -INT8_MAX, INT8_MAX).astype(np.int8), scale


def int8_from_fp32(
    model: onnx.ModelProto, taps: Sequence[str], scales: Mapping[str, MatMulScales], *, weights_as_pairs: bool = False
) -> onnx.ModelProto:
    """Return the graph with Q/DQ around the matmuls named in ``scales`` (:func:`weight_matmuls` names them); float32 around.

    ``weights_as_pairs``: write weights as float32 constants followed by Q and DQ, which TensorRT 8.6 wants, instead of
    8-bit constants followed by DQ. Raises CalibrationError for a name that the graph does not have, or smoothing of another width.
    """
    known = {matmul.name: matmul for matmul in weight_matmuls(model, taps)}
    if missing := sorted(set(scales) - set(known)):
        raise CalibrationError(
            f"the calibration names {', '.join(missing[:3])}{' and others' if len(missing) > 3 else ''}, which the graph does not have: "
            f"it was made for another network. Calibrate this bundle: diffpose-edge calibrate"
        )
    constants = initialisers_of(model)
    chosen = {known[name].node: (known[name], how) for name, how in scales.items()}
    quantised = ir.from_proto(onnx.shape_inference.infer_shapes(model, data_prop=True))
    graph = quantised.graph
    for node in list(graph):
        if node.name not in chosen:
            continue
        matmul, how = chosen[node.name]
        weight = constants[matmul.weight]
        if len(how.smoothing) != len(weight):
            raise CalibrationError(
                f"the calibration of {matmul.name} is for {len(how.smoothing)} channels, the graph has {len(weight)}: "
                f"it was made for another network. Calibrate this bundle: diffpose-edge calibrate"
            )
        activation = _activation(graph, node, matmul.name, how)
        integers, steps = quantised_weight(weight, how.smoothing)
        node.replace_input_with(0, activation)
        node.replace_input_with(1, _weight(graph, node, matmul.name, integers, steps, weights_as_pairs))
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
    result = ir.to_proto(quantised)
    del result.graph.value_info[:]
    check_model(result)
    return result


def _activation(graph: ir.Graph, node: ir.Node, name: str, how: MatMulScales) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    if any(how.smoothing):
        factor = _constant(graph, f"{name}/smoothing", 2.0 ** -np.asarray(how.smoothing, np.float32))
        value = _before(graph, node, "Mul", [value, factor], f"{name}/smooth", value.shape, ir.DataType.FLOAT)
    scale = _constant(graph, f"{name}/scale", on_fp16_grid(how.scale))
    zero = _constant(graph, f"{name}/zero", np.array(0, np.int8))
    integers = _before(graph, node, "QuantizeLinear", [value, scale, zero], f"{name}/quantize", value.shape, ir.DataType.INT8)
    return _before(graph, node, "DequantizeLinear", [integers, scale, zero], f"{name}/dequantize", value.shape, ir.DataType.FLOAT)


def _weight(graph: ir.Graph, node: ir.Node, name: str, integers: Array, steps: Array, as_pair: bool) -> ir.Value:
    shape = ir.Shape(integers.shape)
    scale = _constant(graph, f"{name}/weight_scale", steps)
    zero = _constant(graph, f"{name}/weight_zero", np.zeros(len(steps), np.int8))
    if as_pair:
        # Already on the grid of 8 bits: quantising once more changes nothing.
        value = _constant(graph, f"{name}/weight", integers.astype(np.float32) * steps)
        value = _before(graph, node, "QuantizeLinear", [value, scale, zero], f"{name}/quantize_weight", shape, ir.DataType.INT8, axis=1)
    else:
        value = _constant(graph, f"{name}/weight_int8", integers)
    return _before(graph, node, "DequantizeLinear", [value, scale, zero], f"{name}/dequantize_weight", shape, ir.DataType.FLOAT, axis=1)


def _constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _before(
    graph: ir.Graph,
    node: ir.Node,
    op: str,
    inputs: list[ir.Value],
    name: str,
    shape: ir.Shape | None,
    dtype: ir.DataType,
    **attributes: int,
) -> ir.Value:
    """Put an operator before ``node`` and return its output, which bears the operator's name."""
    made = ir.node(op, inputs, attributes, name=name)
    value = made.outputs[0]
    value.name, value.shape, value.dtype = f"{name}.out", shape, dtype
    graph.insert_before(node, made)
    return value
