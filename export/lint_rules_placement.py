"""Rules on where QuantizeLinear and DequantizeLinear stand: pairs that TensorRT can fuse, and pairs that only cost."""

from __future__ import annotations

from collections.abc import Iterator

from diffpose_edge.export.lint_graph import Graph, Node
from diffpose_edge.export.lint_qdq import MOVING, WEIGHTED, is_dq, is_normalising, is_q, is_weight, leaves, origin, quantisers, uses_of
from diffpose_edge.export.lint_rules import EXPLICIT, Fault, rule
from diffpose_edge.export.lint_targets import Target

# TensorRT has int8 kernels for these besides the weighted ones: a pair in front of them is fused.
_ALSO_FUSED = frozenset({"AveragePool", "GlobalAveragePool", "MaxPool"})
_DESIGN = "DiffPose Edge design notes, measured on TensorRT-RTX 1.7.1: INT8 around the attention's products loses its fused kernel"


@rule(
    "q-unmatched",
    "QuantizeLinear whose result something else than DequantizeLinear takes",
    "put a DequantizeLinear with the same scale behind it",
    "NVIDIA TensorRT documentation, Explicit Quantization: each Q is followed by a DQ, and both are fused into the operators around",
)
def q_unmatched(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in graph.nodes:
        if not is_q(node):
            continue
        other = next((use.node for use in uses_of(graph, node.outputs[0]) if not is_dq(use.node)), None)
        if other is not None:
            yield Fault("bad", f"{other.op} {other.label!r} takes the integers themselves", node, node.outputs[0])
        elif leaves(graph, node.outputs[0]):
            yield Fault("risk", "the integers leave the graph: the reader must know the scale", node, node.outputs[0])


@rule(
    "dq-unfused",
    "a Q/DQ pair in front of an operator that has no int8 form",
    "take the pair away, or move it to the inputs of the next Conv, Gemm or MatMul",
    f"{EXPLICIT}: quantise the inputs of weighted operations",
)
def dq_unfused(graph: Graph, target: Target) -> Iterator[Fault]:
    for node, use_node, _ in _unfused(graph):
        if not is_normalising(use_node) and use_node.op != "Add":
            yield Fault("bad", f"{use_node.op} {use_node.label!r} computes in floating point: the pair only rounds", node, node.outputs[0])


@rule(
    "qdq-normalisation",
    "a Q/DQ pair in front of a normalisation or a softmax",
    "leave normalisations and softmax in floating point",
    f"{EXPLICIT}: quantise the inputs of weighted operations only",
)
def qdq_normalisation(graph: Graph, target: Target) -> Iterator[Fault]:
    for node, use_node, _ in _unfused(graph):
        if is_normalising(use_node):
            yield Fault("bad", f"{use_node.op} {use_node.label!r} is not run on int8, and needs the precision", node, node.outputs[0])


@rule(
    "qdq-residual",
    "a Q/DQ pair in front of an Add that is no bias",
    "leave residual sums in floating point (only beside a convolution the pair is fused)",
    f"{EXPLICIT}: the residual input is quantised for a convolution's sum; otherwise only weighted operations' inputs",
)
def qdq_residual(graph: Graph, target: Target) -> Iterator[Fault]:
    for node, use_node, other in _unfused(graph):
        if use_node.op == "Add" and other and not graph.is_constant(other):
            beside = origin(graph, other)
            if beside is None or beside.op not in ("Conv", "ConvTranspose", "BatchNormalization"):
                yield Fault(
                    "bad",
                    f"the sum {use_node.label!r} is computed in floating point, and errors stay in the residual",
                    node,
                    node.outputs[0],
                )
        elif use_node.op == "Add":
            yield Fault("bad", f"the sum {use_node.label!r} is computed in floating point: the pair only rounds", node, node.outputs[0])


@rule(
    "qdq-output",
    "a Q/DQ pair behind a MatMul, Gemm or Conv that nothing int8 needs",
    "take the pair away: quantise inputs, not outputs",
    f"{EXPLICIT}: by default do not quantise the outputs of weighted operations",
)
def qdq_output(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in graph.nodes:
        maker = origin(graph, node.inputs[0]) if is_q(node) else None
        if maker is None or maker.op not in WEIGHTED:
            continue
        users = [use.node for q in uses_of(graph, node.outputs[0]) if is_dq(q.node) for use in uses_of(graph, q.node.outputs[0])]
        if not any(_fuses(user) for user in users):
            yield Fault(
                "bad", f"it rounds what {maker.op} {maker.label!r} has computed, and no int8 operator takes it", node, node.inputs[0]
            )


@rule(
    "qdq-bias",
    "a bias behind DequantizeLinear",
    "keep biases in floating point",
    f"{EXPLICIT}: quantise activations and weights; a DQ on a bias is not fused",
)
def qdq_bias(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in quantisers(graph):
        if not is_dq(node) or not is_weight(graph, node):
            continue
        for use in uses_of(graph, node.outputs[0]):
            bias = use.node.op in ("Conv", "ConvTranspose", "Gemm") and use.position == 2
            if bias or (use.node.op == "Add" and _is_product(graph, use.node.inputs[1 - use.position] if use.position < 2 else "")):
                yield Fault("bad", f"it is the bias of {use.node.op} {use.node.label!r}", node, node.outputs[0])


@rule(
    "qdq-attention",
    "a MatMul of two activations with both quantised",
    "leave the attention's two products in floating point",
    _DESIGN,
)
def qdq_attention(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in graph.nodes:
        if node.op != "MatMul" or len(node.inputs) < 2:
            continue
        makers = [origin(graph, name) for name in node.inputs[:2]]
        if all(maker is not None and is_dq(maker) and not is_weight(graph, maker) for maker in makers):
            yield Fault("bad", "both operands are quantised activations: the attention is no longer one kernel", node, node.inputs[0])


@rule(
    "qdq-one-sided",
    "a Conv, Gemm or MatMul of which only one operand is quantised",
    "quantise the other operand too, or neither",
    f"{EXPLICIT}: quantise all inputs of weighted operations",
)
def qdq_one_sided(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in graph.nodes:
        if node.op not in WEIGHTED or len(node.inputs) < 2:
            continue
        quantised = [is_dq(origin(graph, name)) for name in node.inputs[:2]]
        if any(quantised) and not all(quantised):
            which = node.inputs[quantised.index(False)]
            yield Fault("bad", f"{which!r} is not quantised, so {node.op} computes in floating point on rounded values", node, which)


def _fuses(node: Node) -> bool:
    return node.op in WEIGHTED or node.op in _ALSO_FUSED


def _is_product(graph: Graph, name: str) -> bool:
    maker = graph.made_by(name) if name else None
    return maker is not None and maker.op in WEIGHTED


def _unfused(graph: Graph) -> Iterator[tuple[Node, Node, str]]:
    """Yield each activation's DQ with each operator that takes it in floating point, and that operator's other input."""
    for node in quantisers(graph):
        if not is_dq(node) or is_weight(graph, node):
            continue
        for use in uses_of(graph, node.outputs[0]):
            # Q behind DQ is a change of scale; it is judged where it ends.
            if not _fuses(use.node) and not is_q(use.node) and use.node.op not in MOVING and not _inner(use.node):
                other = use.node.inputs[1 - use.position] if len(use.node.inputs) == 2 else ""
                yield node, use.node, other


def _inner(node: Node) -> bool:
    """Tell whether the node holds graphs: what happens in there is not followed."""
    return any(attribute.HasField("g") for attribute in node.proto.attribute)
