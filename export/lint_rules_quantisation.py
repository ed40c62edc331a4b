"""Rules on the numbers of QuantizeLinear and DequantizeLinear: zero points, scales and types."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto as T

from diffpose_edge.export.lint_graph import Array, Graph
from diffpose_edge.export.lint_qdq import count, is_dq, is_q, quantised_from, quantisers, scale_of, zero_point_name
from diffpose_edge.export.lint_rules import CHANGELOG_MD, IMPORTER, MEASURED, Fault, rule, type_name
from diffpose_edge.export.lint_targets import Target

_HALF = frozenset({T.FLOAT16, T.BFLOAT16})
# Below this a float16 scale has fewer than six significant bits: it errs by more than a percent.
_COARSE_SCALE = 2.0**-18


@rule(
    "zero-point-asymmetric",
    "a zero point that is not zero",
    "quantise symmetrically (signed, zero point 0)",
    f"{IMPORTER}: the zero point must be all zeros; {MEASURED}",
)
def zero_point_asymmetric(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in quantisers(graph):
        value = graph.constant(name) if (name := zero_point_name(node)) else None
        if value is not None and np.any(value.astype(np.float64) != 0):
            yield Fault("refused", f"TensorRT quantises symmetrically, and this zero point is {_shown(value)}", node, zero_point_name(node))


@rule(
    "zero-point-missing",
    "Q or DQ without a zero point",
    "give the zero point, an int8 zero, as the third input",
    f"{IMPORTER}: 8.x requires three inputs, later ones take INT8 where ONNX means UINT8; {MEASURED}",
)
def zero_point_missing(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in quantisers(graph):
        if zero_point_name(node):
            continue
        if target.needs_zero_point:
            yield Fault("refused", f"{target.title} requires three inputs", node, node.inputs[0])
        elif is_q(node) and not node.integer("output_dtype", 0):
            yield Fault(
                "bad", "without a zero point ONNX means uint8, 0 to 255, and TensorRT takes int8, -128 to 127", node, node.inputs[0]
            )


@rule(
    "zero-point-uint8",
    "a uint8 zero point, or uint8 data",
    "quantise to int8",
    f"{IMPORTER}: refused by 8.x and 9.x; {CHANGELOG_MD}, 10.10; {MEASURED}: 'Defaulting to INT8 instead'",
)
def zero_point_uint8(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in quantisers(graph):
        for name in (zero_point_name(node), node.inputs[0] if is_dq(node) else ""):
            if name and graph.type_of(name) == T.UINT8:
                if target.uint8 == "refused":
                    yield Fault("refused", "uint8 quantisation is not supported", node, name)
                else:
                    yield Fault("bad", "uint8 is taken for int8: values above 127 become negative, or are cut off", node, name)
                break


@rule(
    "quantised-type",
    "a quantised type that TensorRT has not, such as the int32 of a quantised bias",
    "quantise to int8; leave biases in floating point",
    f"{IMPORTER}; {CHANGELOG_MD}; {MEASURED}: int32 'must have type FP8, FP4, Int4, Int8', int16 constants are refused",
)
def quantised_type(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in quantisers(graph):
        name = node.inputs[0] if is_dq(node) else node.outputs[0]
        kind = graph.type_of(name)
        if kind and kind != T.UINT8 and kind not in target.quantised_types:
            yield Fault("refused", f"{target.title} does not quantise to {type_name(kind)}", node, name)


@rule(
    "scale-not-constant",
    "a scale that is computed",
    "calibrate, and write the scale into the file as a constant",
    f"NvInfer.h, IQuantizeLayer and IDequantizeLayer: the scale must be a build-time constant; {MEASURED}: it builds such a graph",
)
def scale_not_constant(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in quantisers(graph):
        if not graph.is_constant(node.inputs[1]):
            yield Fault(
                "risk",
                "the scale is no constant of the file; unless TensorRT can fold it, it is refused or not fused",
                node,
                node.inputs[1],
            )


@rule(
    "scale-invalid",
    "a scale that is zero, negative, infinite or not a number",
    "calibrate again on data that exercises this tensor; give a tensor that is always zero any positive scale",
    f"{IMPORTER}: 'scale coefficients must all be positive'; {MEASURED}: an infinite one is built into the engine",
)
def scale_invalid(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in quantisers(graph):
        scale = scale_of(graph, node)
        if scale is None:
            continue
        if not np.all(scale > 0):
            yield Fault("refused", f"{np.count_nonzero(~(scale > 0))} of {scale.size} scales are not positive", node, node.inputs[1])
        elif not np.all(np.isfinite(scale)):
            yield Fault("bad", f"{np.count_nonzero(~np.isfinite(scale))} of {scale.size} scales are infinite", node, node.inputs[1])


@rule(
    "scale-coarse",
    "a float16 scale so small that float16 holds it coarsely",
    "scale the tensor up, or keep the scale in float32",
    "IEEE 754 binary16: below 2**-14 the spacing is 2**-24 throughout",
)
def scale_coarse(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in quantisers(graph):
        scale = scale_of(graph, node)
        if scale is not None and graph.type_of(node.inputs[1]) == T.FLOAT16 and np.any(small := (scale > 0) & (scale < _COARSE_SCALE)):
            reason = (
                f"{np.count_nonzero(small)} of {scale.size} scales are below {_COARSE_SCALE:.1e}, the smallest {scale[small].min():.1e}"
            )
            yield Fault("bad", f"{reason}: rounded by up to a percent and more", node, node.inputs[1])


@rule(
    "scale-type",
    "a scale of a type that this opset or this TensorRT does not have",
    "use opset 19 for float16 scales on TensorRT 10 and newer, float32 scales and opset 17 on 8.6",
    f"ONNX operator schemas, QuantizeLinear 13, 19 and 23; {IMPORTER}: 8.x reads every scale as float32; {MEASURED}: it takes both",
)
def scale_type(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in quantisers(graph):
        kind, name = graph.type_of(node.inputs[1]), node.inputs[1]
        data = graph.type_of(node.inputs[0]) if is_q(node) else 0
        if kind in _HALF and not target.float16_scales:
            yield Fault("bad", f"{target.title} reads the bytes of a {type_name(kind)} scale as float32", node, name)
        elif kind in _HALF and graph.opset < 19:
            yield Fault("risk", f"a {type_name(kind)} scale is ONNX from opset 19 on, this is {graph.opset}", node, name)
        elif kind and data and kind != data and data != T.INT32 and 19 <= graph.opset < 23:
            yield Fault(
                "risk", f"the scale is {type_name(kind)}, the data {type_name(data)}; from opset 19 to 22 they must agree", node, name
            )


@rule(
    "scale-count",
    "the number of scales fits neither the tensor nor the zero point",
    "one scale, or as many as the tensor has channels, and as many zero points",
    f"{IMPORTER}: 'the number of scales is not equal to the number of output channels'",
)
def scalecount(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in quantisers(graph):
        scales = graph.shape_of(node.inputs[1])
        if scales is None or None in scales:
            continue
        zeros = graph.shape_of(name) if (name := zero_point_name(node)) else None
        if zeros is not None and None not in zeros and count(zeros) != count(scales):
            yield Fault("refused", f"{count(scales)} scales, but {count(zeros)} zero points", node, name)
        data = graph.shape_of(node.inputs[0]) or graph.shape_of(quantised_from(graph, node))
        if len(scales) == 1 and scales[0] != 1 and data:
            axis = node.integer("axis", 1)
            size = data[axis] if -len(data) <= axis < len(data) else -1
            if size is not None and size != scales[0]:
                yield Fault("refused", f"{scales[0]} scales for axis {axis} of a tensor of shape {list(data)}", node, node.inputs[1])


def _shown(value: Array) -> str:
    flat = value.reshape(-1)
    return str(flat[0]) if flat.size == 1 else f"{np.count_nonzero(flat)} times not zero"
