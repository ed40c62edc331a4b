"""What one run of an ONNX graph computes and moves, counted from its shapes: nothing is run.

The rules, all per output element unless said otherwise:

- a multiply-add of a matmul is two operations: MatMul, Gemm, Conv, their fused and quantised forms, and both matmuls of an
  Attention; they are told by the type that is multiplied (INT8 where both operands come out of a DequantizeLinear);
- an elementwise operator is one operation, a transcendental function too; a reduction is one per element that it reads;
  Softmax is five (maximum, difference, exponential, sum, quotient), LayerNormalization seven (mean, difference, square, mean,
  quotient, gain, bias), QuantizeLinear two (quotient, rounding); a bias within a matmul operator is one;
- what moves values alone (Transpose, Split, Gather, Cast, ...) is none, and reads no more than it writes;
- a view (Reshape, Squeeze, Unsqueeze, Flatten, Identity) is nothing at all; so is a DequantizeLinear, whose result stays as
  narrow as it was: a kernel dequantises as it reads;
- what depends on constants alone is computed when the graph is loaded: its result counts as a constant;
- a node reads each of its inputs once, whole, and writes its outputs; constants count where they are read first.

These are counts of what the graph says, not of what a compiler leaves of it: fused nodes no longer write what lies between them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper, inliner

from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.manifest import SAMPLES

_VIEWS = "DequantizeLinear Dropout Flatten Identity Reshape Squeeze Unsqueeze"
_MOVES = "Cast Concat Expand Gather GatherElements GatherND Pad ScatterND Slice Split Tile Transpose Trilu"
_ONE_OPERATION = (
    "Abs Add And Ceil Clip Cos Div Equal Erf Exp Floor Greater GreaterOrEqual HardSigmoid LeakyRelu Less LessOrEqual Log Max Min Mod "
    "Mul Neg Not Or Pow PRelu Reciprocal Relu Round Sigmoid Sign Sin Sqrt Sub Tanh Where Xor"
)
_REDUCTIONS = "ArgMax ArgMin CumSum ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
_MATMULS = "DynamicQuantizeMatMul FusedGemm FusedMatMul Gemm MatMul MatMulInteger MatMulIntegerToFloat"

VIEWS, MOVES, REDUCTIONS = (frozenset(names.split()) for names in (_VIEWS, _MOVES, _REDUCTIONS))
# Operations per output element.
ELEMENTWISE: Mapping[str, int] = {
    **dict.fromkeys(_ONE_OPERATION.split(), 1),
    **{"Softmax": 5, "LogSoftmax": 5, "LayerNormalization": 7, "SimplifiedLayerNormalization": 4, "RMSNormalization": 4},
    **{"SkipLayerNormalization": 8, "HardSwish": 3, "Swish": 2, "QuickGelu": 3, "Gelu": 5, "BiasGelu": 6, "FastGelu": 8},
    **{"QuantizeLinear": 2, "DynamicQuantizeLinear": 4},
}
# Where the operands stand: scales and zero points may stand between them.
MATMULS: Mapping[str, tuple[int, int]] = {**dict.fromkeys(_MATMULS.split(), (0, 1)), "QLinearMatMul": (0, 3), "QGemm": (0, 3)}
CONVOLUTIONS: Mapping[str, tuple[int, int]] = {"Conv": (0, 1), "FusedConv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3)}
ATTENTIONS = frozenset(("Attention", "MultiHeadAttention"))
# Graph files of ONNX Runtime name some operators of its own; the rest belong to ONNX.
DOMAINS = ("", "ai.onnx", "com.microsoft", "com.microsoft.nchwc")


@dataclass(frozen=True)
class OperatorCost:
    """What all nodes of one operator amount to: how many there are, operations, bytes read and written."""

    count: int = 0
    flops: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class NodeWork:
    """What one running node computes and moves. ``kind``: what a matmul multiplies in, else empty; ``results``: how many numbers
    it gives.
    """

    operator: str
    matmul_flops: int
    other_flops: int
    weight_bytes: int
    activation_bytes: int
    kind: str = ""
    results: int = 0


@dataclass(frozen=True)
class GraphCost:
    """What one run of a graph amounts to; the module says how it is counted.

    ``matmul_flops`` and ``other_flops``: operations; ``matmul_flops_of`` splits the first by what is multiplied (float32,
    float16, int8). ``weight_bytes``: constants that are read, of a Gather's table only the rows. ``activation_bytes``: read and
    written between the nodes, ``border_bytes``: inputs and outputs of the graph (they are part of the former as well).
    ``nodes``: those that the graph has, ``running`` those that are more than a view or a constant, ``work`` what each of these
    does. ``by_operator``: sums over the nodes of an operator; their bytes add up to ``weight_bytes + activation_bytes``.
    """

    matmul_flops: int
    other_flops: int
    weight_bytes: int
    activation_bytes: int
    border_bytes: int
    nodes: int
    running: int
    matmul_flops_of: Mapping[str, int] = field(default_factory=dict)
    by_operator: Mapping[str, OperatorCost] = field(default_factory=dict)
    work: tuple[NodeWork, ...] = ()

    @property
    def flops(self) -> int:
        """All operations."""
        return self.matmul_flops + self.other_flops

    @property
    def bytes(self) -> int:
        """All bytes that are read and written."""
        return self.weight_bytes + self.activation_bytes


def graph_cost(model: onnx.ModelProto) -> GraphCost:
    """Count what one run of ``model`` computes and moves.

    Every shape must follow from the graph (ONNX's shape inference, or what the file itself says about a value). A step that takes
    any number of samples is counted for the number that it was laid out for. Raises
    DiffPoseEdgeError naming the value whose shape is not known, or the operator whose cost is not.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    try:
        graph = _Values(_with_shapes(_with_samples(model)).graph)
    except onnx.shape_inference.InferenceError as err:
        raise DiffPoseEdgeError(f"no shapes could be inferred: expected a graph that onnx.checker accepts, but: {err}") from None
    work: list[NodeWork] = []
    count: Counter[str] = Counter()
    for node in model.graph.node:
        if node.domain not in DOMAINS:
            raise DiffPoseEdgeError(f"the cost of operator {node.domain}.{node.op_type} is not known (node {node.name!r})")
        if any(attribute.HasField("g") for attribute in node.attribute):
            raise DiffPoseEdgeError(f"node {node.name!r} ({node.op_type}) holds a graph: what it runs cannot be counted from shapes")
        count[node.op_type] += 1
        found = _work_of(node, graph)
        if found is not None:
            work.append(found)
    of: Counter[str] = Counter()
    operators: dict[str, OperatorCost] = {}
    for each in work:
        if each.kind:
            of[each.kind] += each.matmul_flops
        before = operators.get(each.operator, OperatorCost())
        operators[each.operator] = OperatorCost(
            count[each.operator],
            before.flops + each.matmul_flops + each.other_flops,
            before.bytes + each.weight_bytes + each.activation_bytes,
        )
    constants = graph.initialisers
    border = [*(value.name for value in model.graph.input if value.name not in constants), *(value.name for value in model.graph.output)]
    return GraphCost(
        matmul_flops=sum(each.matmul_flops for each in work),
        other_flops=sum(each.other_flops for each in work),
        weight_bytes=sum(each.weight_bytes for each in work),
        activation_bytes=sum(each.activation_bytes for each in work),
        border_bytes=sum(graph.bytes(name) for name in border),
        nodes=sum(count.values()),
        running=len(work),
        matmul_flops_of=dict(of),
        by_operator={name: operators.get(name, OperatorCost(number)) for name, number in sorted(count.items())},
        work=tuple(work),
    )


def _with_samples(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with as many samples as it says that it was laid out for, if it takes any number of them."""
    said = {entry.key: entry.value for entry in model.metadata_props}.get(SAMPLES)
    if said is None:
        return model
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    for value in (*sized.graph.input, *sized.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == SAMPLES:
                dim.dim_value = int(said)
    return sized


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with the shapes that follow, behind ONNX Runtime's own operators too, which ONNX's inference does not know."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    told: set[str] = set()
    while True:
        graph = _Values(inferred.graph)
        unknown = [node for node in model.graph.node if node.domain == "com.microsoft" and node.output[0] not in graph.sized() | told]
        # What lies behind the first of them may follow from it.
        name, shape = next(((node.output[0], shape) for node in unknown if (shape := _own_shape(node, graph)) is not None), ("", None))
        if shape is None:
            return inferred
        told.add(name)
        others = [value for value in inferred.graph.value_info if value.name != name]
        del inferred.graph.value_info[:]
        inferred.graph.value_info.extend([*others, helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)])
        inferred = onnx.shape_inference.infer_shapes(inferred, data_prop=True)


def _own_shape(node: onnx.NodeProto, graph: _Values) -> tuple[int, ...] | None:
    """Return the shape that an operator of ONNX Runtime's own gives, None where it does not follow."""
    first, second = (graph.types.get(name, (0, None))[1] for name in (*node.input[:2], "")[:2])
    if first is None or second is None:
        return None
    if node.op_type == "FusedMatMul":
        return _fused_matmul_shape(node, first, second)
    width = {"Attention": second[-1] // 3, "MultiHeadAttention": first[-1], "MatMulIntegerToFloat": second[-1]}.get(node.op_type)
    return None if width is None else (*first[:-1], width)


def _fused_matmul_shape(node: onnx.NodeProto, first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...] | None:
    """With ``transBatch`` the first axis is that of the rows and those between are the batch. None where batches are not as they stand."""

    def matrix(shape: tuple[int, ...], side: str) -> tuple[int, ...]:
        by_batch = (*shape[1:-1], shape[0], shape[-1]) if _attribute(node, f"transBatch{side}") else shape
        return (*by_batch[:-2], by_batch[-1], by_batch[-2]) if _attribute(node, f"trans{side}") else by_batch

    if not 2 <= len(first) == len(second):
        return None
    a, b = matrix(first, "A"), matrix(second, "B")
    return (*a[:-1], b[-1]) if a[:-2] == b[:-2] else None


class _Values:
    """The values of a graph: shape, type, whether a constant, and what they are views of."""

    def __init__(self, graph: onnx.GraphProto):
        self.types: dict[str, tuple[int, tuple[int, ...] | None]] = {}
        for value in (*graph.input, *graph.output, *graph.value_info):
            tensor = value.type.tensor_type
            dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
            self.types[value.name] = tensor.elem_type, None if not tensor.HasField("shape") or -1 in dims else dims
        self.initialisers = {tensor.name for tensor in graph.initializer}
        for tensor in graph.initializer:
            self.types[tensor.name] = tensor.data_type, tuple(tensor.dims)
        self.constants = set(self.initialisers)
        self.read: set[str] = set()
        # Of a view, the value that it shows; of what a DequantizeLinear gives, the type that it keeps.
        self.shown: dict[str, str] = {}
        self.narrow: dict[str, int] = {}

    def sized(self) -> set[str]:
        """Return the names of the values whose shape is known."""
        return {name for name, (_, shape) in self.types.items() if shape is not None}

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self.types.get(name, (0, None))[1]
        if shape is None:
            raise DiffPoseEdgeError(
                f"the shape of value {name!r} is not known: expected a graph whose shapes are all fixed. Export it with fixed sizes; "
                f"for a graph with operators of ONNX Runtime's own, save it with its shapes (onnxruntime.tools.symbolic_shape_infer)"
            )
        return shape

    def size(self, name: str) -> int:
        return math.prod(self.shape(name))

    def type_of(self, name: str) -> int:
        return self.narrow.get(name) or self.types.get(name, (0, None))[0]

    def bytes(self, name: str) -> int:
        # Two 4-bit numbers share a byte.
        bits = 4 if self.type_of(name) in (TensorProto.INT4, TensorProto.UINT4) else 8 * _item_bytes(self.type_of(name), name)
        return -(-self.size(name) * bits // 8)

    def first_reading(self, name: str) -> bool:
        """Tell whether a constant, or another view of it, has not been read before; from now on it has."""
        source = self.shown.get(name, name)
        first = source not in self.read
        self.read.add(source)
        return first


def _item_bytes(kind: int, name: str) -> int:
    if kind == TensorProto.UNDEFINED:
        raise DiffPoseEdgeError(f"the type of value {name!r} is not known: the graph says neither it nor what it follows from")
    return int(helper.tensor_dtype_to_np_dtype(kind).itemsize)


def _work_of(node: onnx.NodeProto, graph: _Values) -> NodeWork | None:
    """Return what a node computes and moves, None for one that is not run; note what its outputs are."""
    op, inputs, outputs = node.op_type, [name for name in node.input if name], [name for name in node.output if name]
    if op == "DequantizeLinear":
        graph.narrow[outputs[0]] = graph.type_of(inputs[0])
    if op in VIEWS:
        graph.shown[outputs[0]] = graph.shown.get(inputs[0], inputs[0])
        if inputs[0] in graph.narrow:
            graph.narrow[outputs[0]] = graph.narrow[inputs[0]]
        if inputs[0] in graph.constants:
            graph.constants.add(outputs[0])
        return None
    # With fixed shapes a Shape is a constant as well.
    if op in ("Constant", "ConstantOfShape", "Shape", "Size") or (inputs and all(name in graph.constants for name in inputs)):
        graph.constants.update(outputs)
        return None
    matmul, other, kind = _operations(node, graph)
    weights = activations = 0
    written = sum(graph.bytes(name) for name in outputs)
    moved = sum(graph.size(name) for name in outputs)
    for position, name in enumerate(dict.fromkeys(inputs)):
        amount = graph.bytes(name)
        if op in MOVES and position == 0 and graph.size(name) > moved:
            amount = amount * moved // graph.size(name)
        if name not in graph.constants:
            activations += amount
        elif (op == "Gather" and position == 0) or graph.first_reading(name):
            weights += amount
    return NodeWork(op, matmul, other, weights, activations + written, kind, moved)


def _operations(node: onnx.NodeProto, graph: _Values) -> tuple[int, int, str]:
    """Return the operations of a node within matmuls, those outside, and what is multiplied."""
    op, out = node.op_type, node.output[0]
    if op in MOVES:
        return 0, 0, ""
    if op in REDUCTIONS:
        return 0, graph.size(node.input[0]), ""
    if op in ELEMENTWISE:
        return 0, ELEMENTWISE[op] * graph.size(out), ""
    if op == "Sum":
        return 0, (len(node.input) - 1) * graph.size(out), ""
    if op in MATMULS:
        first, second = (node.input[index] for index in MATMULS[op])
        shape = graph.shape(first)
        # A vector on the left has its only axis to be summed over, transposed or not.
        rows = 0 if _attribute(node, "transBatchA") else -2
        summed = shape[rows] if _attribute(node, "transA") and len(shape) > 1 else shape[-1]
        place = {"Gemm": 2, "FusedGemm": 2, "MatMulIntegerToFloat": 6}.get(op, len(node.input))
        biased = len(node.input) > place and bool(node.input[place])
        return 2 * summed * graph.size(out), graph.size(out) * biased, _multiplied(graph, first, second)
    if op in CONVOLUTIONS:
        first, second = (node.input[index] for index in CONVOLUTIONS[op])
        biased = op in ("Conv", "FusedConv") and len(node.input) > 2 and bool(node.input[2])
        # A filter already has its channels divided by the groups.
        per_output = math.prod(graph.shape(second)[1:])
        return 2 * per_output * graph.size(out), graph.size(out) * biased, _multiplied(graph, first, second)
    if op in ATTENTIONS:
        return _attention(node, graph)
    raise DiffPoseEdgeError(f"the cost of operator {op} is not known (node {node.name!r}): give it a rule in benchmarks/graph_cost.py")


def _attention(node: onnx.NodeProto, graph: _Values) -> tuple[int, int, str]:
    """Both matmuls and the softmax of a whole attention: q, k and v (B, H, S, d), or (B, S, H d) with the heads told."""
    if node.op_type == "Attention" and node.domain == "com.microsoft":
        return _attention_of_features(node, graph)
    if len(node.input) < 3 or not all(node.input[:3]):
        raise DiffPoseEdgeError(f"node {node.name!r}: expected an attention that takes q, k and v; another form has no rule yet")
    q, k, v = (graph.shape(name) for name in node.input[:3])
    heads = q[1] if len(q) == 4 else _attribute(node, "q_num_heads") or _attribute(node, "num_heads")
    if len({len(q), len(k), len(v)}) != 1 or len(q) not in (3, 4) or not heads:
        raise DiffPoseEdgeError(f"node {node.name!r}: expected q, k, v of 3 or 4 axes, and heads; got {q}, {k}, {v}, {heads} heads")
    widths = (q[-1], v[-1]) if len(q) == 4 else (q[-1] // heads, v[-1] // (_attribute(node, "kv_num_heads") or heads))
    scores = q[0] * heads * q[-2] * k[-2]
    # The scale and a mask are one operation each.
    masked = len(node.input) > 3 and bool(node.input[3])
    return 2 * scores * sum(widths), (ELEMENTWISE["Softmax"] + 1 + masked) * scores, _multiplied(graph, node.input[0], node.input[1])


def _attention_of_features(node: onnx.NodeProto, graph: _Values) -> tuple[int, int, str]:
    """ONNX Runtime's own: features (B, S, C), the weight of q, k and v (C, 3 C'), their bias; no mask and nothing from before."""
    if any(node.input[3:]) or len(graph.shape(node.input[0])) != 3:
        raise DiffPoseEdgeError(f"node {node.name!r}: expected an attention of features, a weight and a bias; another form has no rule yet")
    (B, S, C), (_, width) = (graph.shape(name) for name in node.input[:2])
    scores = B * _attribute(node, "num_heads") * S * S
    projected, attended = 2 * B * S * C * width, 2 * B * S * S * 2 * width // 3
    biased = B * S * width if len(node.input) > 2 and node.input[2] else 0
    return projected + attended, (ELEMENTWISE["Softmax"] + 1) * scores + biased, _multiplied(graph, node.input[0], node.input[1])


def _attribute(node: onnx.NodeProto, name: str) -> int:
    """Return a whole number among a node's attributes, 0 where it does not stand there."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def _multiplied(graph: _Values, first: str, second: str) -> str:
    kinds = [graph.type_of(name) for name in (first, second)]
    if all(kind in (TensorProto.INT8, TensorProto.UINT8) for kind in kinds):
        return "int8"
    # An operand that is dequantised for a matmul in another precision is multiplied in that.
    wide = [kind for name, kind in zip((first, second), kinds, strict=True) if name not in graph.narrow]
    kind = wide[0] if wide else graph.types[first][0]
    return helper.tensor_dtype_to_np_dtype(kind).name
