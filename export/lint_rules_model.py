"""Rules on the model as a whole: versions, inputs and outputs, names, and whether it hangs together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from onnx import TensorProto as T

from diffpose_edge.export.lint_graph import Graph
from diffpose_edge.export.lint_rules import CHANGELOG_MD, MEASURED, OPERATORS_MD, Fault, rule, type_name
from diffpose_edge.export.lint_targets import Target

_BROADCASTING = frozenset(
    {"Add", "And", "Div", "Equal", "Gemm", "Greater", "Less", "Max", "Min", "Mul", "Or", "PRelu", "Pow", "Sub", "Xor"}
)
_LOW = frozenset({T.FLOAT16, T.BFLOAT16})


@rule(
    "opset-newer",
    "the opset is newer than the release's list of operators speaks of",
    "export with an older opset; 17 is read by every target",
    f"{OPERATORS_MD}; NVIDIA TensorRT documentation, ONNX Opset Guide; {MEASURED}: the parser looks at no upper limit",
)
def opset_newer(graph: Graph, target: Target) -> Iterator[Fault]:
    if graph.opset > target.max_opset:
        reason = (
            f"opset {graph.opset}; {target.title} is documented up to {target.max_opset}, and reads newer definitions by its older rules"
        )
        yield Fault("risk", _in(graph, reason))


@rule(
    "opset-older",
    "the opset is older than the parser is made for",
    "export with a newer opset, or convert with onnx.version_converter",
    f"{OPERATORS_MD}; {MEASURED}: 'pre-opset 7 broadcasting is unsupported'",
)
def opset_older(graph: Graph, target: Target) -> Iterator[Fault]:
    # No opset of ONNX's own at all is a model of another domain's operators; those are reported one by one.
    if 0 < graph.opset < target.min_opset:
        yield Fault("risk", _in(graph, f"opset {graph.opset}; {target.title} is made for {target.min_opset} and newer"))
        for node in graph.nodes:
            if graph.opset < 7 and node.op in _BROADCASTING:
                yield Fault("refused", f"{node.op} combined shapes in another way before opset 7", node)


@rule(
    "ir-newer",
    "the file format (IR) is newer than the ONNX release that the parser was built with",
    "nothing, unless it does not parse; then set model.ir_version to an older one",
    f"{CHANGELOG_MD}: the ONNX release of each; {MEASURED}: it reads every IR without a word",
)
def ir_newer(graph: Graph, target: Target) -> Iterator[Fault]:
    if graph.is_main and graph.model.ir_version > target.max_ir:
        reason = f"IR {graph.model.ir_version}; the parser knows up to {target.max_ir}: it may warn, and does not see what is new"
        yield Fault("note", reason)


@rule(
    "io-int64",
    "an int64 input or output, which TensorRT binds differently before and from 9.0",
    "use int32 or float32, or bind int32 on 8.6 and int64 elsewhere",
    f"{CHANGELOG_MD}, 9.0 EA: int64 inputs and outputs need int64 bindings, before that int32",
)
def io_int64(graph: Graph, target: Target) -> Iterator[Fault]:
    for name in _ends(graph):
        if graph.type_of(name) == T.INT64:
            if target.int64_bindings:
                yield Fault("note", "it is bound as int64 here, as int32 before TensorRT 9.0", tensor=name)
            else:
                yield Fault("risk", "it is bound as int32 here, as int64 from TensorRT 9.0 on; larger values are clamped", tensor=name)


@rule(
    "io-double",
    "a float64 input or output",
    "use float32, or cast inside the graph and bind float32",
    f"{OPERATORS_MD}: double is cast down to float and clamped",
)
def io_double(graph: Graph, target: Target) -> Iterator[Fault]:
    for name in _ends(graph):
        if graph.type_of(name) == T.DOUBLE:
            yield Fault("bad", "float64 is computed in float32", tensor=name)


@rule(
    "io-type",
    "an input or output of a type that TensorRT has not",
    "use float32, float16, int32 or bool, and convert outside the graph",
    f"{OPERATORS_MD}; {MEASURED}: int16, uint32, string are refused as inputs",
)
def io_type(graph: Graph, target: Target) -> Iterator[Fault]:
    if not graph.is_main:
        return
    for value in (*graph.model.graph.input, *graph.model.graph.output):
        kind = value.type.WhichOneof("value")
        if kind not in (None, "tensor_type"):
            yield Fault("refused", f"it is a {kind.removesuffix('_type')}, not a tensor", tensor=value.name)
        elif (element := graph.type_of(value.name)) and element not in target.tensor_types | target.quantised_types:
            yield Fault("refused", f"{target.title} has no {type_name(element)}", tensor=value.name)


@rule(
    "io-uint8",
    "a uint8 input that something else than Cast takes",
    "cast it to float32 or float16 first",
    f"{OPERATORS_MD}: uint8 is supported for inputs and outputs only; {MEASURED}: sums, products and most comparisons of it are refused",
)
def io_uint8(graph: Graph, target: Target) -> Iterator[Fault]:
    for name in graph.inputs if graph.is_main else ():
        for node, _ in graph.takers.get(name, ()) if graph.type_of(name) == T.UINT8 else ():
            # In a quantised form it is judged there.
            if node.op not in ("Cast", "CastLike", "Identity", "QuantizeLinear", "DequantizeLinear"):
                yield Fault("risk", f"{node.op} takes uint8", node, name)


@rule(
    "input-dynamic",
    "an input whose sizes are not all numbers",
    "export with fixed sizes, or build with an optimisation profile for this input",
    f"{MEASURED}: the build is refused without a profile",
)
def input_dynamic(graph: Graph, target: Target) -> Iterator[Fault]:
    for name in graph.inputs if graph.is_main else ():
        shape = graph.shape_of(name)
        if shape is None:
            yield Fault("risk", "its rank and sizes are not stated", tensor=name)
        elif any(size is None for size in shape):
            shown = ", ".join("?" if size is None else str(size) for size in shape)
            yield Fault("risk", f"its shape is ({shown}); TensorRT needs an optimisation profile for it", tensor=name)


@rule(
    "constant-type",
    "an initialiser or constant of a type that TensorRT has not",
    "convert it to int32, int64, float32 or float16",
    f"{OPERATORS_MD}; {MEASURED}: int16, uint32 and uint64 initialisers are refused",
)
def constant_type(graph: Graph, target: Target) -> Iterator[Fault]:
    readable = target.tensor_types | target.quantised_types
    for name, tensor in graph.initialisers.items():
        if tensor.data_type not in readable:
            yield Fault("refused", f"{target.title} reads no {type_name(tensor.data_type)} constants", tensor=name)
    for node in graph.nodes:
        if node.op == "Constant" and node.outputs:
            tensor_or_none = graph.tensor_of(node.outputs[0])
            kind = T.STRING if tensor_or_none is None else tensor_or_none.data_type
            if kind not in readable:
                yield Fault("refused", f"{target.title} reads no {type_name(kind)} or sparse constants", node, node.outputs[0])


@rule(
    "tensor-unmade",
    "a tensor is used that nothing makes, or a node waits for itself",
    "export the model again: the file is cut off or was edited wrongly",
    "ONNX IR specification, Graphs: names are unique, and nodes form a graph without cycles",
)
def tensor_unmade(graph: Graph, target: Target) -> Iterator[Fault]:
    for name, takers in graph.takers.items():
        if not _reachable(graph, name):
            yield Fault("refused", "nothing makes this tensor", takers[0][0], name)
    for name in graph.outputs:
        if not _reachable(graph, name):
            yield Fault("refused", "nothing makes this output", tensor=name)
    yield from _cycles(graph)


@rule(
    "node-malformed",
    "a node that lacks an input or an output which its operator must have",
    "export the model again: the file was edited wrongly",
    "ONNX operator schemas",
)
def node_malformed(graph: Graph, target: Target) -> Iterator[Fault]:
    for node in graph.malformed:
        inputs, outputs = (sum(map(bool, names)) for names in (node.inputs, node.outputs))
        yield Fault("refused", f"{node.op} with {inputs} inputs and {outputs} outputs", node)


@rule(
    "name-duplicate",
    "nodes share a name",
    "give each node a name of its own",
    f"{MEASURED}: 'a node named ... already exists, the output tensors of this new instance will not be queryable'",
)
def name_duplicate(graph: Graph, target: Target) -> Iterator[Fault]:
    counts = Counter(node.proto.name for node in graph.nodes if node.proto.name)
    for node in graph.nodes:
        if (times := counts.pop(node.proto.name, 0)) > 1:
            yield Fault(
                "risk", f"{times} nodes are called {node.proto.name!r}: reports and precision settings cannot tell them apart", node
            )


@rule(
    "name-missing",
    "nodes without a name",
    "name the nodes before an engine's layers are to be found again",
    f"{MEASURED}: it makes up a name from the node's output",
)
def name_missing(graph: Graph, target: Target) -> Iterator[Fault]:
    nameless = [node for node in graph.nodes if not node.proto.name and node.op != "Constant"]
    if nameless:
        yield Fault("note", _in(graph, f"{len(nameless)} of {len(graph.nodes)} nodes have no name; this is the first"), nameless[0])


@rule(
    "typing-float32",
    "a graph of float32 alone where only the graph decides the precision",
    "export FP16 or INT8 if speed matters; for an FP32 engine nothing",
    "NVIDIA TensorRT 11 documentation, Strongly Typed Networks: the flags for reduced precision are gone; the same holds for TensorRT-RTX",
    ("11.4", "rtx"),
)
def typing_float32(graph: Graph, target: Target) -> Iterator[Fault]:
    if graph.is_main and T.FLOAT in graph.types.values() and not _has_low(graph) and not _has_qdq(graph):
        yield Fault("note", "it runs in float32 (TF32 where allowed): no builder flag lowers the precision here")


@rule(
    "typing-hints",
    "a graph with types of its own where the builder may choose others",
    "build it strongly typed (10.x); on 8.6 set the FP16 flag, and OBEY_PRECISION_CONSTRAINTS with the layers' precisions",
    "NVIDIA TensorRT documentation, Strongly Typed Networks: in a weakly typed one the optimiser chooses the precisions",
    ("8.6", "10.3", "10.13", "10.16"),
)
def typing_hints(graph: Graph, target: Target) -> Iterator[Fault]:
    if graph.is_main and _has_low(graph):
        way = "unless it is built strongly typed" if target.version >= (10, 0) else "and there is no strong typing yet"
        yield Fault("note", f"TensorRT may run layers in another precision than the graph states, {way}")


def _has_low(graph: Graph) -> bool:
    return not _LOW.isdisjoint(graph.types.values())


def _has_qdq(graph: Graph) -> bool:
    return any(node.op in ("QuantizeLinear", "DequantizeLinear") for node in graph.nodes)


def _in(graph: Graph, reason: str) -> str:
    return reason if graph.is_main else f"in {graph.place}: {reason}"


def _ends(graph: Graph) -> list[str]:
    return [*graph.inputs, *graph.outputs] if graph.is_main else []


def _reachable(graph: Graph, name: str) -> bool:
    around: Graph | None = graph
    while around is not None:
        if around.knows(name):
            return True
        around = around.parent
    return False


def _cycles(graph: Graph) -> Iterator[Fault]:
    """Report one node of what is left when nodes are taken away whose inputs are there (Kahn's order)."""
    waits = {node: {n for name in node.inputs if (n := graph.maker.get(name)) is not None} for node in graph.nodes}
    ready = [node for node, before in waits.items() if not before]
    while ready:
        done = ready.pop()
        del waits[done]
        for name in done.outputs:
            for node, _ in graph.takers.get(name, ()):
                if node in waits and done in waits[node]:
                    waits[node].remove(done)
                    if not waits[node]:
                        ready.append(node)
    if waits:
        yield Fault("refused", f"{len(waits)} nodes wait for one another; this is one of them", next(iter(waits)))
