"""The element types of what nodes make, where the file does not state them, and the values that Constant nodes hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto as T

if TYPE_CHECKING:
    from diffpose_edge.export.lint_graph import Node

_BOOL = frozenset({"And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor"})
_INT64 = frozenset({"ArgMax", "ArgMin", "NonZero", "NonMaxSuppression", "Shape", "Size"})
_DTYPE = {"EyeLike": 0, "RandomNormal": T.FLOAT, "RandomUniform": T.FLOAT, "RandomNormalLike": 0, "RandomUniformLike": 0}
_CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})


def output_types(node: Node, inputs: list[int]) -> Iterator[int]:
    """Yield the element types of a node's outputs from those of its inputs; 0 stands for one that is not known."""
    types = inputs or [0]
    if node.op in _CONTROL:
        return
    if node.op in ("Cast", "QuantizeLinear", "DequantizeLinear", *_DTYPE):
        yield _stated_type(node, types)
    elif node.op == "Constant":
        tensor = constant_tensor(node)
        yield tensor.data_type if tensor else 0
    elif node.op == "ConstantOfShape":
        value = node.attribute("value")
        yield value.t.data_type if value is not None and value.t.data_type else T.FLOAT
    elif node.op in _BOOL:
        yield T.BOOL
    elif node.op in _INT64:
        yield T.INT64
    elif node.op in ("Where", "CastLike"):
        yield types[1] if len(types) > 1 else 0
    elif node.op == "OneHot":
        yield types[2] if len(types) > 2 else 0
    elif node.op == "TopK":
        yield types[0]
        yield T.INT64
    elif node.proto.domain in ("", "ai.onnx"):
        # Most operators give what they take.
        yield from [types[0]] * len(node.outputs)


def _stated_type(node: Node, types: list[int]) -> int:
    """Return the output type of an operator with an attribute for it, or else with an input that decides."""
    if node.op == "Cast":
        return node.integer("to", 0)
    if node.op == "QuantizeLinear":
        return node.integer("output_dtype", 0) or (types[2] if len(types) > 2 and types[2] else T.UINT8)
    if node.op == "DequantizeLinear":
        return node.integer("output_dtype", 0) or (types[1] if len(types) > 1 else 0)
    return node.integer("dtype", 0) or _DTYPE[node.op] or types[0]


def constant_tensor(node: Node) -> onnx.TensorProto | None:
    """Return the tensor that a Constant node holds, None for strings and sparse ones."""
    for attribute in node.proto.attribute:
        match attribute.name:
            case "value":
                return attribute.t
            case "value_float":
                return onnx.helper.make_tensor("", T.FLOAT, (), [attribute.f])
            case "value_int":
                return onnx.helper.make_tensor("", T.INT64, (), [attribute.i])
            case "value_floats":
                return onnx.helper.make_tensor("", T.FLOAT, (len(attribute.floats),), attribute.floats)
            case "value_ints":
                return onnx.helper.make_tensor("", T.INT64, (len(attribute.ints),), attribute.ints)
    return None
