"""Rules on float16: sums that overflow, constants that it cannot hold, and conversions for nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto as T

from diffpose_edge.export.lint_graph import Array, Graph, Node
from diffpose_edge.export.lint_qdq import MOVING, uses_of
from diffpose_edge.export.lint_rules import Fault, rule
from diffpose_edge.export.lint_targets import Target

_BINARY16 = "IEEE 754 binary16: largest 65504, smallest normal 2**-14, smallest at all 2**-24"
_LARGEST, _SMALLEST_NORMAL, _SMALLEST = 65504.0, 2.0**-14, 2.0**-24
# A score of this size added to a mask would leave the range: half a step above the largest number is infinite.
_MASK = 60000.0
_SUMS = frozenset({"ReduceMean", "ReduceSum"})
_SQUARED_SUMS = frozenset({"ReduceL2", "ReduceSumSquare"})
_ROOTS = frozenset({"Reciprocal", "Sqrt", "Log"})


@rule(
    "half-variance",
    "a mean of squares in float16, as in a LayerNorm that was taken apart",
    "cast to float32 before the square and back behind the root, or use the LayerNormalization operator",
    f"{_BINARY16}: the square of 256 is infinite",
)
def half_variance(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in graph.nodes:
        if not node.inputs or graph.type_of(node.inputs[0]) != T.FLOAT16:
            continue
        if node.op in _SQUARED_SUMS or (node.op in _SUMS and _is_square(graph, graph.made_by(node.inputs[0]))):
            yield Fault("risk", "values from 256 on, and sums of squares above 65504, become infinite", node, node.inputs[0])


@rule(
    "half-epsilon",
    "an epsilon that float16 cannot hold",
    "keep the denominator in float32, or take an epsilon of at least 6.2e-5",
    _BINARY16,
)
def half_epsilon(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in graph.nodes:
        if node.op == "Add" and len(node.inputs) == 2 and graph.type_of(node.outputs[0]) == T.FLOAT16 and _divides(graph, node.outputs[0]):
            for name in node.inputs:
                value = _scalar(graph, name)
                stated = value if value is not None else _scalar_before_cast(graph, name)
                if stated is not None and abs(stated) < _SMALLEST_NORMAL:
                    held = float(np.float16(stated))
                    yield Fault("risk", f"it is {held:.2g} in float16: it does not keep the denominator from zero", node, name)
        elif node.op == "LayerNormalization" and node.inputs and graph.type_of(node.inputs[0]) == T.FLOAT16:
            found = node.attribute("epsilon")
            if found is not None and 0 <= found.f < _SMALLEST and node.integer("stash_type", 1) == T.FLOAT16:
                yield Fault("risk", f"epsilon {found.f:.1e} is 0 in float16", node, node.inputs[0])


@rule(
    "half-constant",
    "a constant that is infinite or not a number in float16",
    "clip it to what float16 holds, or keep the computation in float32",
    _BINARY16,
)
def half_constant(graph: Graph, target: Target) -> Iterator[Fault]:
    for name, node in _constants(graph):
        kind = graph.type_of(name)
        if kind == T.FLOAT16 and (value := graph.constant(name)) is not None and not np.all(np.isfinite(value)):
            yield Fault("bad", f"{np.count_nonzero(~np.isfinite(value))} of {value.size} values are infinite or not a number", node, name)
        elif kind in (T.FLOAT, T.DOUBLE):
            for taker, _ in graph.takers.get(name, ()):
                if taker.op == "Cast" and taker.integer("to", 0) == T.FLOAT16:
                    yield from _overflowing(graph.constant(name), taker, name)


@rule(
    "half-mask",
    "a mask near the end of float16's range, added before a softmax",
    "use a mask of about -1e4",
    f"{_BINARY16}: -65504 - 16 is minus infinity, and a row of such values has no softmax",
)
def half_mask(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in graph.nodes:
        if node.op not in ("Add", "Sub", "Where") or not node.outputs or graph.type_of(node.outputs[0]) != T.FLOAT16:
            continue
        if not any(use.node.op in ("Softmax", "LogSoftmax") for use in uses_of(graph, node.outputs[0])):
            continue
        for name in node.inputs:
            value = graph.constant(name) if graph.type_of(name) == T.FLOAT16 else None
            if value is not None and value.size and node.op != "Where" and np.any(np.abs(_finite(value)) >= _MASK):
                yield Fault("risk", f"the mask reaches {_finite(value)[np.argmax(np.abs(_finite(value)))]:.0f}", node, name)


@rule(
    "half-subnormal",
    "a float16 number too small to be held precisely",
    "compute with it in float32",
    _BINARY16,
)
def half_subnormal(graph: Graph, target: Target) -> Iterator[Fault]:
    # Single numbers only: a few tiny entries of a weight do no harm.
    for name, node in _constants(graph):
        value = _scalar(graph, name)
        if value is not None and 0 < abs(value) < _SMALLEST_NORMAL and not _is_scale(graph, name):
            yield Fault("risk", f"{value:.2e} is below 6.1e-05: it has lost bits, or is flushed to zero", node, name)


@rule(
    "cast-roundtrip",
    "float32 cast to float16 and straight back",
    "take both casts away",
    f"{_BINARY16}: 11 bits of 24 remain",
)
def cast_roundtrip(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in graph.nodes:
        if (
            node.op != "Cast"
            or not node.inputs
            or graph.type_of(node.inputs[0]) != T.FLOAT
            or node.integer("to", 0) not in (T.FLOAT16, T.BFLOAT16)
        ):
            continue
        takers = [use.node for use in uses_of(graph, node.outputs[0])]
        gone = node.outputs[0] in graph.captured or node.outputs[0] in graph.outputs
        if takers and not gone and all(taker.op == "Cast" and taker.integer("to", 0) in (T.FLOAT, T.DOUBLE) for taker in takers):
            yield Fault("bad", f"{takers[0].label!r} casts it back: it is only rounded", node, node.outputs[0])


def _constants(graph: Graph) -> Iterator[tuple[str, Node | None]]:
    """Yield the name of every constant of this graph, with its Constant node if it has one."""
    for name in graph.initialisers:
        yield name, None
    for node in graph.nodes:
        if node.op == "Constant" and node.outputs:
            yield node.outputs[0], node


def _finite(value: Array) -> Array:
    return np.nan_to_num(value.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _overflowing(value: Array | None, cast: Node, name: str) -> Iterator[Fault]:
    if value is not None and np.any(large := np.abs(value) > _LARGEST):
        yield Fault(
            "bad",
            f"{np.count_nonzero(large)} of {value.size} values become infinite in float16, such as {value[large].flat[0]:g}",
            cast,
            name,
        )


def _scalar(graph: Graph, name: str) -> float | None:
    """Return a float16 constant of one element."""
    value = graph.constant(name) if graph.type_of(name) == T.FLOAT16 else None
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def _scalar_before_cast(graph: Graph, name: str) -> float | None:
    """Return a constant of one element that is cast to float16 in the graph."""
    cast = graph.made_by(name)
    if cast is None or cast.op != "Cast" or not cast.inputs or cast.integer("to", 0) != T.FLOAT16:
        return None
    value = graph.constant(cast.inputs[0])
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def _is_scale(graph: Graph, name: str) -> bool:
    """Tell whether the constant is a quantisation's scale, which has rules of its own."""
    return any(node.op in ("QuantizeLinear", "DequantizeLinear") and position == 1 for node, position in graph.takers.get(name, ()))


def _is_square(graph: Graph, node: Node | None) -> bool:
    if node is None or len(node.inputs) < 2:
        return False
    if node.op == "Mul":
        return node.inputs[0] == node.inputs[1]
    exponent = graph.constant(node.inputs[1]) if node.op == "Pow" else None
    return exponent is not None and exponent.size == 1 and float(exponent.reshape(-1)[0]) == 2.0


def _divides(graph: Graph, name: str) -> bool:
    """Tell whether a tensor is the denominator of a Div, or under a root whose result is one."""
    waiting, seen = [name], {name}
    while waiting:
        for node, position in graph.takers.get(waiting.pop(), ()):
            if (node.op == "Div" and position == 1) or node.op == "Reciprocal":
                return True
            if node.op in _ROOTS or node.op in MOVING or (node.op == "Pow" and position == 0):
                fresh = [output for output in node.outputs if output not in seen]
                seen.update(fresh)
                waiting += fresh
    return False
