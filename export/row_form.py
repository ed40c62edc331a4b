"""Keeps features as matrices, a row for each joint of each sample, instead of (B, 17, C): a pass over a traced graph.

ONNX Runtime fuses a matmul, its bias and its ReLU only on matrices, and every operator between linear layers works on rows. Row B j + b
is joint j of sample b: joints come first, so that a mixing of the joints is one matmul over all samples, and so that a head of a sample is
a matrix with a stride, which FusedMatMul reads where it lies. The graph's border, and what else must see (B, 17, C), turn back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from diffpose_edge.errors import ExportError

# Each row of the result depends on the same row of the operands alone, and on constants that are equal for all rows.
ROW_WISE = ("Add", "Sub", "Mul", "Div", "Relu", "LayerNormalization")
SWAP = [1, 0, 2]
# The domain of ONNX Runtime's own operators.
MICROSOFT = "com.microsoft"


def to_row_form(model: ir.Model) -> int:
    """Rewrite ``model`` in place so that its features are matrices of rows, joints first; return how many nodes work on rows.

    Values keep their names, so a layer's output is a matrix afterwards: :func:`by_sample` turns one back. Inputs and outputs of the
    graph stay as they are. Raises ExportError where a mixing by stacked matrices is read otherwise than side by side, (B, 17, k C).
    """
    form = _RowForm(model)
    converted = sum(form.convert(node) for node in list(model.graph))
    form.restore_outputs()
    RemoveUnusedNodesPass()(model)
    merge_reshapes(model)
    return converted


def by_sample(rows: np.ndarray, shape: Sequence[int], order: str = "joints") -> np.ndarray:
    """Return a layer's output, as :func:`to_row_form` left it, in the shape (B, 17, C) that it had; or with "samples" first, as some
    graphs of earlier exports have it.
    """
    if rows.shape == tuple(shape):
        return rows
    B, joints, C = shape
    return rows.reshape(shape) if order == "samples" else rows.reshape(joints, B, C).transpose(1, 0, 2)


def merge_reshapes(model: ir.Model) -> int:
    """Let each Reshape read what came before the Reshapes in front of it, and drop those that change nothing; return how many went."""
    for node in list(model.graph):
        if node.op_type != "Reshape":
            continue
        source = operand(node, 0)
        while (producer := source.producer()) is not None and producer.op_type == "Reshape":
            source = operand(producer, 0)
        node.replace_input_with(0, source)
        if shape_of(source) == shape_of(node.outputs[0]) and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(source)
    before = len(model.graph)
    RemoveUnusedNodesPass()(model)
    return before - len(model.graph)


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """Return the shape of a value in a graph whose shapes are all known. Raises ExportError."""
    dims = None if value.shape is None else value.shape.dims
    if dims is None or not all(isinstance(d, int) for d in dims):
        raise ExportError(f"the shape of {value.name} is not known: infer shapes before this pass")
    return tuple(int(d) for d in dims)


def operand(node: ir.Node, index: int) -> ir.Value:
    """Return an input of a node that must be there. Raises ExportError."""
    value = node.inputs[index]
    if value is None:
        raise ExportError(f"{node.op_type} {node.name} lacks its input {index}")
    return value


def is_constant(value: ir.Value, rank: int | None = None) -> bool:
    """Tell whether a value is a constant, of a rank."""
    return value.const_value is not None and rank in (None, len(shape_of(value)))


def constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Return the initialiser of ``graph`` with this name, a new one where there is none yet.

    A pass names what it makes of a weight after that, and an exporter gives equal weights one name: what is made of it once more is
    the same.
    """
    if name not in graph.initializers:
        tensor = ir.tensor(np.ascontiguousarray(array).reshape(np.shape(array)), name=name)
        graph.register_initializer(ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor))
    return graph.initializers[name]


def whole_numbers(graph: ir.Graph, numbers: Sequence[int]) -> ir.Value:
    """Return the initialiser of ``graph`` that holds these numbers, a shape."""
    return constant(graph, f"shape.{'x'.join('any' if n == -1 else str(n) for n in numbers)}", np.array(numbers, np.int64))


class _RowForm:
    """The rewriting of one graph. ``rows``: the matrix that stands for a value (B, 17, C); ``whole``: that turned back; ``stacked``: the
    matrix (17 B, k C) that stands for k mixings of each joint, (B, 17 k, C).
    """

    def __init__(self, model: ir.Model):
        self.graph = model.graph
        self.rows: dict[ir.Value, ir.Value] = {}
        self.whole: dict[ir.Value, ir.Value] = {}
        self.stacked: dict[ir.Value, ir.Value] = {}

    def convert(self, node: ir.Node) -> bool:
        """Make ``node`` work on rows if it can, else give it its operands as they were. Tell which."""
        if self._linear(node):
            x, weight = operand(node, 0), operand(node, 1)
            rows, (_, C) = self._rows_of(node, x), shape_of(weight)
            self._stand_for(node.outputs[0], self._emit(node, "MatMul", [rows, weight], (shape_of(rows)[0], C)))
        elif self._row_wise(node):
            inputs = [v if self._same_for_all_rows(v) else self._rows_of(node, v) for v in self._operands(node)]
            B, joints, C = shape_of(node.outputs[0])
            self._stand_for(node.outputs[0], self._emit(node, node.op_type, inputs, (B * joints, C), tuple(node.attributes.values())))
        elif self._mixes(node):
            self._mix(node)
        elif self._attends(node):
            self._attend(node)
        elif self._reshapes_one_sample(node):
            self._stand_for(node.outputs[0], self._reshaped(node, self.rows[operand(node, 0)], shape_of(node.outputs[0])[1:]))
        elif self._puts_side_by_side(node):
            self._stand_for(node.outputs[0], self.stacked[operand(node, 0)])
        elif self._brings_joints_first(node):
            whole = self._reshaped(node, self.rows[operand(node, 0)], shape_of(node.outputs[0]), inferred=1)
            node.outputs[0].replace_all_uses_with(whole)
        else:
            for index, value in enumerate(node.inputs):
                if value in self.stacked:
                    raise ExportError(f"{node.op_type} {node.name} reads {value.name} otherwise than side by side: that has no rows")
                if value in self.rows:
                    node.replace_input_with(index, self._whole_of(node, value))
            return False
        return True

    def restore_outputs(self) -> None:
        """Turn those outputs of the graph back that have become rows, under their names."""
        for index, output in enumerate(self.graph.outputs):
            if output in self.rows:
                rows = self.rows[output]
                name, rows.name = rows.name, f"{rows.name}.rows"
                whole = self._whole_of(None, output)
                whole.name = name
                self.graph.outputs[index] = whole

    # What a node is.

    def _linear(self, node: ir.Node) -> bool:
        return node.op_type == "MatMul" and len(shape_of(operand(node, 0))) == 3 and is_constant(operand(node, 1), rank=2)

    def _row_wise(self, node: ir.Node) -> bool:
        if node.op_type not in ROW_WISE or len(shape_of(node.outputs[0])) != 3:
            return False
        features = [value for value in self._operands(node) if not self._same_for_all_rows(value)]
        if any(shape_of(value)[:2] != shape_of(node.outputs[0])[:2] for value in features):
            return False
        # Of what is not in rows yet only what a Reshape made is worth it: that costs nothing.
        return any(v in self.rows for v in features) and all(v in self.rows or _made_by(v, "Reshape") for v in features)

    def _mixes(self, node: ir.Node) -> bool:
        if node.op_type != "MatMul" or not is_constant(operand(node, 0), rank=2):
            return False
        value, (mixed, joints) = operand(node, 1), shape_of(operand(node, 0))
        # What has just been exchanged into (B, 17, C) has its joints first already.
        known = value in self.rows or ((producer := value.producer()) is not None and _swaps(producer))
        return known and (mixed % joints == 0 or shape_of(value)[0] == 1)

    def _attends(self, node: ir.Node) -> bool:
        if node.op_type != "MultiHeadAttention" or len(node.inputs) != 3:
            return False
        return all(value in self.rows for value in self._operands(node))

    def _reshapes_one_sample(self, node: ir.Node) -> bool:
        if node.op_type != "Reshape" or operand(node, 0) not in self.rows:
            return False
        dims = shape_of(node.outputs[0])
        return len(dims) == 3 and dims[0] == shape_of(operand(node, 0))[0] == 1

    def _puts_side_by_side(self, node: ir.Node) -> bool:
        if node.op_type != "Reshape" or operand(node, 0) not in self.stacked:
            return False
        (B, mixed, C), (rows, width) = shape_of(operand(node, 0)), shape_of(self.stacked[operand(node, 0)])
        return shape_of(node.outputs[0]) == (B, rows // B, width) and mixed * C == rows // B * width

    def _brings_joints_first(self, node: ir.Node) -> bool:
        return _swaps(node) and operand(node, 0) in self.rows

    def _operands(self, node: ir.Node) -> list[ir.Value]:
        return [operand(node, index) for index in range(len(node.inputs))]

    def _same_for_all_rows(self, value: ir.Value) -> bool:
        dims = shape_of(value)
        return len(dims) < 2 or (len(dims) == 2 and dims[0] == 1)

    # What comes in its place.

    def _mix(self, node: ir.Node) -> None:
        matrix, value = operand(node, 0), operand(node, 1)
        (B, joints, C), (mixed, _) = shape_of(value), shape_of(matrix)
        wide = self._reshaped(node, self._rows_of(node, value), (joints, B * C), inferred=1)
        out = self._emit(node, "Gemm", [matrix, wide], (mixed, B * C))
        if mixed != joints and B > 1:
            # Row k of joint j of each sample: they go side by side.
            k = mixed // joints
            apart = self._reshaped(node, out, (joints, k, B, C), inferred=2)
            beside = self._emit(node, "Transpose", [apart], (joints, B, k, C), (ir.AttrInt64s("perm", [0, 2, 1, 3]),))
            self.stacked[node.outputs[0]] = self._reshaped(node, beside, (joints * B, k * C))
            return
        self._stand_for(node.outputs[0], out if B == 1 else self._reshaped(node, out, (mixed * B, C)))

    def _attend(self, node: ir.Node) -> None:
        """Put softmax(scale q k^T) v in a MultiHeadAttention's place; for its matmuls head h of sample b is the matrix heads b + h."""
        heads, scale = node.attributes["num_heads"].as_int(), node.attributes["scale"].as_float()
        B, joints, C = shape_of(node.outputs[0])
        q, k, v = (self._reshaped(node, self.rows[x], (joints, B * heads, C // heads), inferred=1) for x in self._operands(node))
        by_head = ir.AttrInt64("transBatchA", 1), ir.AttrInt64("transBatchB", 1)
        keys = (*by_head, ir.AttrInt64("transB", 1), ir.AttrFloat32("alpha", scale))
        scores = self._emit(node, "FusedMatMul", [q, k], (B * heads, joints, joints), keys, MICROSOFT)
        weights = self._emit(node, "Softmax", [scores], (B * heads, joints, joints), (ir.AttrInt64("axis", -1),))
        mixed = self._emit(node, "FusedMatMul", [weights, v], (B * heads, joints, C // heads), by_head[1:], MICROSOFT)
        rows = self._emit(node, "Transpose", [mixed], (joints, B * heads, C // heads), (ir.AttrInt64s("perm", SWAP),))
        self._stand_for(node.outputs[0], self._reshaped(node, rows, (joints * B, C)))

    def _rows_of(self, node: ir.Node, value: ir.Value) -> ir.Value:
        if value not in self.rows:
            B, joints, C = shape_of(value)
            source, producer = value, value.producer()
            if producer is not None and _swaps(producer):
                source = operand(producer, 0)
            elif B > 1:
                source = self._emit(node, "Transpose", [value], (joints, B, C), (ir.AttrInt64s("perm", SWAP),))
            self.rows[value] = self._reshaped(node, source, (B * joints, C))
        return self.rows[value]

    def _whole_of(self, before: ir.Node | None, value: ir.Value) -> ir.Value:
        if value not in self.whole:
            B, joints, C = shape_of(value)
            if B > 1:
                shaped = self._reshaped(before, self.rows[value], (joints, B, C), inferred=1)
                self.whole[value] = self._emit(before, "Transpose", [shaped], (B, joints, C), (ir.AttrInt64s("perm", SWAP),))
            else:
                self.whole[value] = self._reshaped(before, self.rows[value], (B, joints, C))
        return self.whole[value]

    def _stand_for(self, value: ir.Value, rows: ir.Value) -> None:
        """Let a matrix stand for a value from now on, under its name."""
        rows.name, value.name = value.name, None
        self.rows[value] = rows

    def _reshaped(self, before: ir.Node | None, value: ir.Value, dims: tuple[int, ...], inferred: int | None = None) -> ir.Value:
        """Emit a Reshape to ``dims``; the one ``inferred``, which depends on the number of samples, is left to ONNX Runtime."""
        said = tuple(-1 if index == inferred else size for index, size in enumerate(dims))
        return self._emit(before, "Reshape", [value, whole_numbers(self.graph, said)], dims)

    def _emit(
        self,
        before: ir.Node | None,
        op_type: str,
        inputs: Sequence[ir.Value],
        dims: tuple[int, ...],
        attributes: Sequence[ir.Attr] = (),
        domain: str = "",
    ) -> ir.Value:
        """Insert a node before another, or at the end, and return its output."""
        made = ir.Node(domain, op_type, inputs, attributes)
        made.outputs[0].shape, made.outputs[0].type = ir.Shape(dims), ir.TensorType(ir.DataType.FLOAT)
        if before is None:
            self.graph.append(made)
        else:
            self.graph.insert_before(before, made)
        return made.outputs[0]


def _made_by(value: ir.Value, op_type: str) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == op_type


def _swaps(node: ir.Node) -> bool:
    """Whether a node exchanges samples and joints of (B, 17, C)."""
    return node.op_type == "Transpose" and list(node.attributes["perm"].as_ints()) == SWAP
