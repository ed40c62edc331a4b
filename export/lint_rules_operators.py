"""Rules on operators: those that a parser does not know, and forms of known ones that it does not take."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import onnx

from diffpose_edge.export.lint_graph import Graph, Node
from diffpose_edge.export.lint_rules import CHANGELOG_MD, MEASURED, OPERATORS_MD, Fault, rule
from diffpose_edge.export.lint_targets import INTEGER_OPERATORS, NEVER, NOT_IN_RTX, OLD_NAMES, SINCE, UNDATED, Target

_OWN = frozenset({"", "ai.onnx"})
_REDUCE = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
# Operators whose output's size depends on the data.
_DATA_DEPENDENT = frozenset({"NonZero", "NonMaxSuppression"})
_CONSTANT_INPUTS = {"Squeeze": 1, "Unsqueeze": 1, "OneHot": 1, "Dropout": 2, **{f"Reduce{kind}": 1 for kind in _REDUCE}}
_RESIZE_WAYS = frozenset({"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"})


@cache
def _known() -> frozenset[str]:
    return frozenset(schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain in _OWN) | OLD_NAMES


def _standard(graph: Graph) -> Iterator[Node]:
    """Yield the nodes of ONNX's own domain."""
    return (node for node in graph.nodes if node.proto.domain in _OWN)


def _is_call(graph: Graph, node: Node) -> bool:
    return any(f.name == node.op and f.domain == node.proto.domain for f in graph.model.functions)


def _is_plugin(node: Node) -> bool:
    return node.op.startswith("TRT_") or node.op.endswith("_TRT") or node.proto.domain.startswith("trt")


@rule(
    "op-domain",
    "an operator of another domain, such as com.microsoft",
    "export with ONNX's own operators (for ONNX Runtime: switch its optimiser off when saving)",
    f"{MEASURED}: 'Plugin not found'; it ignores the domain when ONNX has an operator of that name",
)
def op_domain(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in graph.nodes:
        domain = node.proto.domain
        if domain in _OWN or _is_call(graph, node) or _is_plugin(node) or _integer(node):
            continue
        if _parsed(node.op, target):
            yield Fault("risk", f"it is of {domain!r}, and is read as ONNX's {node.op}, whatever it means there", node)
        else:
            yield Fault("refused", f"TensorRT has no operators of {domain!r}, and would look for a plugin called {node.op}", node)


@rule(
    "op-plugin",
    "an operator that is a TensorRT plugin or one of its custom operators",
    "make sure that the plugin is registered when the engine is built, and of a version that this TensorRT has",
    "onnx-tensorrt, docs/TRT_custom_ops.md; NVIDIA TensorRT documentation, Adding Custom Layers Using the ONNX Parser",
)
def op_plugin(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in graph.nodes:
        if _is_plugin(node) and not _is_call(graph, node):
            yield Fault("risk", f"{node.op} is read only where a plugin or custom operator of that name exists", node)


@rule(
    "op-unsupported",
    "an ONNX operator that this parser does not read",
    "express it by other operators, fold it into a constant, or move it out of the graph",
    f"{OPERATORS_MD}; {CHANGELOG_MD}; {MEASURED}: its parser was asked for each operator",
)
def op_unsupported(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in _standard(graph):
        if node.op in INTEGER_OPERATORS or node.op not in _known() or _is_call(graph, node):
            continue
        if not _parsed(node.op, target):
            since = SINCE.get(node.op)
            known = f"TensorRT {since[0]}.{since[1]} is the first that reads {node.op}" if since else f"no parser reads {node.op}"
            yield Fault("refused", "its plugin does not ship with TensorRT-RTX" if target.rtx and node.op in NOT_IN_RTX else known, node)
        elif node.op in UNDATED and target.version < UNDATED[node.op][1]:
            yield Fault("risk", f"{node.op} was added at some time between TensorRT 9.2 and 10.6", node)


@rule(
    "op-unknown",
    "an operator that ONNX does not have",
    "export again; if it is a custom operator, give it a domain and register a plugin",
    f"ONNX operator schemas; {MEASURED}: 'Plugin not found'",
)
def op_unknown(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in _standard(graph):
        if node.op not in _known() and not _is_call(graph, node) and not _is_plugin(node):
            yield Fault("refused", f"ONNX has no operator {node.op!r}, and TensorRT would look for a plugin of that name", node)


@rule(
    "op-integer",
    "an operator that computes on integers itself (QLinear..., MatMulInteger, DynamicQuantizeLinear)",
    "quantise to the QDQ form: QuantizeLinear and DequantizeLinear around ordinary operators",
    f"{OPERATORS_MD}: they are marked as unsupported; {MEASURED}",
)
def op_integer(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in graph.nodes:
        if _integer(node) and not _is_call(graph, node):
            yield Fault("refused", f"TensorRT takes quantised graphs in QDQ form only, and does not read {node.op}", node)


@rule(
    "op-form",
    "a form of a known operator that the parsers do not take",
    "leave the extra output, the attribute or the mode out, or express it by other operators",
    f"{OPERATORS_MD}, Restrictions; {MEASURED}",
)
def op_form(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in _standard(graph):
        if reason := _bad_form(node, target):
            yield Fault("refused", reason, node)


@rule(
    "op-constant-input",
    "an input that must be a constant is computed",
    "fold constants before export (for example with Polygraphy's surgeon sanitize)",
    f"{OPERATORS_MD}, Restrictions: axes must be an initialiser or resolvable to a constant; {MEASURED}",
)
def op_constant_input(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in _standard(graph):
        position = _CONSTANT_INPUTS.get(node.op, 99)
        if position < len(node.inputs) and (name := node.inputs[position]) and not graph.is_constant(name):
            # TensorRT folds what is made from constants, and shapes of fixed sizes; only what hangs on an input is certain.
            certain = graph.is_main and name in graph.inputs
            yield Fault("refused" if certain else "risk", f"{node.op} needs this input as a constant", node, name)


@rule(
    "op-data-dependent",
    "an operator whose output's size depends on the data",
    "keep it outside the graph if latency must be bounded",
    "NVIDIA TensorRT documentation, Dynamically Shaped Output: such outputs need an allocator, and synchronise",
    ("8.6", "10.3", "10.13", "10.16", "11.4"),
)
def op_data_dependent(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in _standard(graph):
        if node.op in _DATA_DEPENDENT:
            yield Fault("note", "the size of its output is known only when it has run", node)


@rule(
    "if-branch-names",
    "both branches of an If give their outputs the same names",
    "rename the outputs of one branch",
    f"{OPERATORS_MD}, If: the outputs of the branches must have different names",
    ("8.6", "10.3", "10.13", "10.16", "11.4"),
)
def if_branch_names(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in _standard(graph):
        branches = [a.g for name in ("then_branch", "else_branch") if node.op == "If" and (a := node.attribute(name))]
        if len(branches) == 2 and (both := {o.name for o in branches[0].output} & {o.name for o in branches[1].output}):
            yield Fault("risk", "its branches share the name of an output", node, sorted(both)[0])


def _integer(node: Node) -> bool:
    return node.op in INTEGER_OPERATORS or node.op.startswith(("QLinear", "MatMulInteger", "DynamicQuantize", "QGemm", "QAttention"))


def _parsed(op: str, target: Target) -> bool:
    if op not in _known() or op in NEVER or (target.rtx and op in NOT_IN_RTX):
        return False
    if op in UNDATED:
        return target.version > UNDATED[op][0]
    return target.rtx or target.version >= SINCE.get(op, (0, 0))


def _bad_form(node: Node, target: Target) -> str:
    """Return why a node's form is not taken, "" when nothing is known against it."""
    extra = [name for name in node.outputs[1:] if name]
    match node.op:
        case "LayerNormalization" | "MaxPool" | "Attention" if extra:
            return f"only the first output of {node.op} is supported, and {extra[0]!r} is asked for"
        case "Resize" if node.integer("antialias", 0):
            return "antialiasing is not supported"
        case "Resize" if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
            return "only the aspect ratio policy 'stretch' is supported"
        case "Resize" if (way := node.text("coordinate_transformation_mode", "half_pixel")) not in _RESIZE_WAYS:
            return f"the coordinate transformation {way!r} is not supported"
        case "ScatterND" if node.text("reduction", "none") != "none":
            return "ScatterND with a reduction is not supported"
        case "Attention" if (found := node.attribute("softcap")) is not None and found.f != 0:
            return "softcap is not supported"
        case "BatchNormalization" if node.integer("training_mode", 0):
            return "training mode is not supported"
        case "Loop" if target.version >= (10, 0) and not (node.inputs or [""])[0] and len(node.outputs) > len(node.inputs) - 2:
            return "without a trip count the length of what it collects is not known"
        case "TopK" if not node.integer("sorted", 1):
            return "TopK must be sorted"
        case "AveragePool" | "MaxPool" | "LpPool" if any(d != 1 for d in node.integers("dilations")) and target.version >= (10, 0):
            return "dilated pooling is not supported"
    return ""
