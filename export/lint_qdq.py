"""What the rules on quantisation share: which nodes quantise what, and who computes with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from diffpose_edge.export.lint_graph import Array, Graph, Node

# Operators that TensorRT runs on int8 inputs: in them the DequantizeLinear before disappears.
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Operators that move or select values without computing: Q and DQ commute with them.
_MOVING = "Concat DepthToSpace Expand Flatten Gather Identity MaxPool Pad Reshape Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze"
MOVING = frozenset(_MOVING.split())
_NORMALISING = (
    "GroupNormalization InstanceNormalization LayerNormalization LogSoftmax LpNormalization MeanVarianceNormalization "
    "RMSNormalization ReduceL2 ReduceMean ReduceSumSquare Softmax"
)
NORMALISING = frozenset(_NORMALISING.split())


def is_q(node: Node | None) -> bool:
    """Tell whether the node quantises."""
    return node is not None and node.op == "QuantizeLinear" and len(node.inputs) > 1


def is_dq(node: Node | None) -> bool:
    """Tell whether the node dequantises."""
    return node is not None and node.op == "DequantizeLinear" and len(node.inputs) > 1


def is_normalising(node: Node) -> bool:
    """Tell whether the node is a normalisation, a softmax, or one of the sums of which a normalisation is made."""
    return node.op in NORMALISING


def quantisers(graph: Graph) -> Iterator[Node]:
    """Yield every QuantizeLinear and DequantizeLinear, of whatever domain: the parsers do not look at it."""
    return (node for node in graph.nodes if is_q(node) or is_dq(node))


def scale_of(graph: Graph, node: Node) -> Array | None:
    """Return the scale of a Q or DQ as float64, None when it is not a constant."""
    value = graph.constant(node.inputs[1])
    try:
        return None if value is None else value.astype("float64")
    except (TypeError, ValueError):
        return None


def zero_point_name(node: Node) -> str:
    """Return the name of the zero point, "" when it is left out."""
    return node.inputs[2] if len(node.inputs) > 2 else ""


def quantised_from(graph: Graph, node: Node) -> str:
    """Return what a DQ stands for: the tensor that its Q took, or else its own input."""
    maker = graph.made_by(node.inputs[0]) if is_dq(node) else node
    return maker.inputs[0] if is_q(maker) and maker is not None else node.inputs[0]


def is_weight(graph: Graph, node: Node) -> bool:
    """Tell whether a Q or DQ works on values fixed in the file."""
    return graph.is_constant(quantised_from(graph, node))


def count(shape: tuple[int | None, ...]) -> int:
    """Return how many elements a shape has; an open size counts as none."""
    return math.prod(size or 0 for size in shape)


@dataclass(frozen=True)
class Use:
    """A node that computes with a tensor, at which input, behind which nodes that only move values."""

    node: Node
    position: int
    through: tuple[Node, ...]


def uses_of(graph: Graph, name: str) -> list[Use]:
    """Return who computes with a tensor, looking through operators that only move values."""
    found: list[Use] = []
    waiting: list[tuple[str, tuple[Node, ...]]] = [(name, ())]
    seen = {name}
    while waiting:
        tensor, through = waiting.pop()
        for node, position in graph.takers.get(tensor, ()):
            if node.op in MOVING and (position == 0 or node.op == "Concat"):
                for output in node.outputs:
                    if output and output not in seen:
                        seen.add(output)
                        waiting.append((output, (*through, node)))
            else:
                found.append(Use(node, position, through))
    return found


def leaves(graph: Graph, name: str) -> bool:
    """Tell whether a tensor, or what is only moved from it, is an output of the graph or taken by a graph inside."""
    waiting, seen = [name], {name}
    while waiting:
        tensor = waiting.pop()
        if tensor in graph.outputs or tensor in graph.captured:
            return True
        for node, position in graph.takers.get(tensor, ()):
            if node.op in MOVING and position == 0:
                fresh = [output for output in node.outputs if output and output not in seen]
                seen.update(fresh)
                waiting += fresh
    return False


def origin(graph: Graph, name: str) -> Node | None:
    """Return the node that computed a tensor, looking back through operators that only move values."""
    for _ in range(1000):
        node = graph.made_by(name)
        if node is None or node.op not in MOVING or not node.inputs:
            return node
        name = node.inputs[0]
    return None
