"""Operators around a mixing of the joints in row form with joints first, where it is one matmul of a 17 x 17 by a wide matrix.

Each pass changes the model in place. ONNX Runtime multiplies, adds and takes the positive part in one go where the sum is the third operand
of a Gemm and the Relu stands right behind it; it packs a constant matrix once, but a stack of them in each run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from diffpose_edge.export.row_form import constant, is_constant, merge_reshapes, operand, shape_of, whole_numbers
from diffpose_edge.skeleton import J


def split_stacked_matmuls(model: ir.Model) -> int:
    """Multiply by each matrix of a constant stack in a matmul of its own, by equal neighbours in one; return how many stacks there were.

    A row added to all joints behind the mixing that follows is added to the first matrix's product instead, where the first column of
    the mixing is 1: that is a sum of B rows, not of 17 B.
    """
    stacks = [n for n in model.graph if n.op_type == "MatMul" and is_constant(operand(n, 1), rank=3)]
    for node in stacks:
        _split(model.graph, node)
    RemoveUnusedNodesPass()(model)
    model.graph.sort()
    return len(stacks)


def mix_where_narrower(model: ir.Model) -> int:
    """Mix the joints behind a matmul that has fewer columns than rows instead of before it; return how many times.

    Both orders are the same: one acts on joints, the other on channels. The matmul's row of biases is added by the mixing then.
    """
    moved = 0
    for node in [n for n in model.graph if n.op_type == "Gemm"]:
        rows, matrix = operand(node, 0), operand(node, 1)
        if not is_constant(matrix, rank=2) or shape_of(matrix)[0] <= shape_of(matrix)[1] or len(node.inputs) < 3:
            continue
        mixing = _mixing_behind(rows) or _mixing_of_one(rows)
        if mixing is None or len(mixing.inputs) > 2:
            continue
        source = operand(mixing, 1)
        if shape_of(source) != shape_of(rows):
            reshape = source.producer()
            if reshape is None or reshape.op_type != "Reshape" or shape_of(operand(reshape, 0)) != shape_of(rows):
                continue
            source = operand(reshape, 0)
        B, C = shape_of(rows)[0] // J, shape_of(matrix)[1]
        product = _emit(model.graph, node, "MatMul", [source, matrix], (J * B, C))
        row = operand(node, 2)
        if B > 1:
            product = _reshaped(model.graph, node, product, (J, B * C), inferred=1)
            row = _reshaped(model.graph, node, _of_each_sample(model.graph, node, row, B), (1, B * C), inferred=1)
        mixed = _emit(model.graph, node, "Gemm", [operand(mixing, 0), product, row], (J, B * C))
        _stand_in(model.graph, node, mixed if B == 1 else _reshaped(model.graph, node, mixed, (J * B, C)))
        moved += 1
    RemoveUnusedNodesPass()(model)
    return moved


def fuse_sums_into_mixings(model: ir.Model) -> int:
    """Add rows to a mixing of others within its Gemm; return how many sums went."""
    fused = 0
    for node in [n for n in model.graph if n.op_type == "Add"]:
        for index in (0, 1):
            mixing, other = _mixing_behind(operand(node, index)), operand(node, 1 - index)
            if mixing is None or len(mixing.inputs) > 2 or shape_of(other) != shape_of(operand(node, index)):
                continue
            wide = shape_of(mixing.outputs[0])
            addend = _reshaped(model.graph, node, other, wide, inferred=1)
            total = _emit(model.graph, node, "Gemm", [operand(mixing, 0), operand(mixing, 1), addend], wide)
            _stand_in(model.graph, node, _reshaped(model.graph, node, total, shape_of(other)))
            fused += 1
            break
    RemoveUnusedNodesPass()(model)
    merge_reshapes(model)
    return fused


def relu_within_mixings(model: ir.Model) -> int:
    """Take the positive part of a mixing before it is seen as rows: ONNX Runtime then does both in one. Return how many moved."""
    moved = 0
    for node in [n for n in model.graph if n.op_type == "Relu"]:
        mixing = _mixing_behind(operand(node, 0))
        if mixing is None:
            continue
        wide = shape_of(mixing.outputs[0])
        relu = _emit(model.graph, node, "Relu", [mixing.outputs[0]], wide)
        _stand_in(model.graph, node, _reshaped(model.graph, node, relu, shape_of(node.outputs[0])))
        moved += 1
    RemoveUnusedNodesPass()(model)
    return moved


def _mixing_behind(rows: ir.Value) -> ir.Node | None:
    """Return the mixing that nobody but a Reshape to these rows reads, and they nobody but one node; None where there is none."""
    reshape = rows.producer()
    if reshape is None or reshape.op_type != "Reshape" or len(rows.uses()) != 1 or rows.is_graph_output():
        return None
    mixed = operand(reshape, 0)
    mixing = mixed.producer()
    if mixing is None or len(mixed.uses()) != 1 or mixed.is_graph_output():
        return None
    return mixing if _is_plain_mixing(mixing) else None


def _mixing_of_one(rows: ir.Value) -> ir.Node | None:
    """Return the mixing of the joints of one sample, whose rows they are, if nobody but one node reads them."""
    mixing = rows.producer()
    if mixing is None or len(rows.uses()) != 1 or rows.is_graph_output():
        return None
    return mixing if _is_plain_mixing(mixing) else None


def _is_plain_mixing(node: ir.Node) -> bool:
    """Whether a node is a Gemm by a constant 17 x 17 matrix, neither scaled nor transposed."""
    if node.op_type != "Gemm" or node.attributes or not is_constant(operand(node, 0), rank=2):
        return False
    return shape_of(operand(node, 0)) == (J, J) and not is_constant(operand(node, 1))


def _of_each_sample(graph: ir.Graph, before: ir.Node, row: ir.Value, B: int) -> ir.Value:
    """Return the row of channels repeated for each of B samples (1, B, C)."""
    C = shape_of(row)[-1]
    return _emit(graph, before, "Expand", [_reshaped(graph, before, row, (1, 1, C)), whole_numbers(graph, [1, B, 1])], (1, B, C))


def _split(graph: ir.Graph, node: ir.Node) -> None:
    stack = operand(node, 1)
    assert stack.const_value is not None
    matrices = stack.const_value.numpy()
    first = [i for i in range(len(matrices)) if i == 0 or not np.array_equal(matrices[i], matrices[i - 1])]
    sizes = np.diff([*first, len(matrices)]).tolist()
    _, B, C = shape_of(operand(node, 0))
    width = matrices.shape[-1]
    row = _take_row_added_to_all(node.outputs[0])
    split = ir.Node("", "Split", [operand(node, 0), whole_numbers(graph, sizes)], [ir.AttrInt64("axis", 0)], num_outputs=len(sizes))
    graph.insert_before(node, split)
    products = []
    for part, size, index in zip(split.outputs, sizes, first, strict=True):
        part.shape, part.type = ir.Shape((size, B, C)), ir.TensorType(ir.DataType.FLOAT)
        matrix = constant(graph, f"{stack.name}.{index}", matrices[index])
        if row is None or index:
            products.append(_emit(graph, node, "MatMul", [part, matrix], (size, B, width)))
        else:
            biased = _emit(graph, node, "Gemm", [_reshaped(graph, node, part, (size * B, C)), matrix, row], (size * B, width))
            products.append(_reshaped(graph, node, biased, (size, B, width), inferred=1))
    _stand_in(graph, node, _emit(graph, node, "Concat", products, (len(matrices), B, width), [ir.AttrInt64("axis", 0)]))


def _take_row_added_to_all(product: ir.Value) -> ir.Value | None:
    """Remove the addition of a row to all rows of a mixing of ``product``, by a matrix whose first column is 1; return the row."""
    mixing, add = _only_reader(product, "Reshape", "Gemm"), _only_reader(product, "Reshape", "Gemm", "Reshape", "Add")
    if mixing is None or add is None or add.outputs[0].is_graph_output() or not _is_plain_mixing(mixing) or len(mixing.inputs) > 2:
        return None
    matrix = operand(mixing, 0).const_value
    if matrix is None or not (matrix.numpy()[:, 0] == 1.0).all():
        return None
    rows, row = operand(add, 0), operand(add, 1)
    if len(shape_of(row)) > 2 or (len(shape_of(row)) == 2 and shape_of(row)[0] != 1):
        return None
    add.outputs[0].replace_all_uses_with(rows)
    return row


def _only_reader(value: ir.Value, *kinds: str) -> ir.Node | None:
    """Return the last of a chain of nodes of these kinds, each the only reader of what is before it; None where there is none."""
    node = None
    for kind in kinds:
        if len(value.uses()) != 1 or value.is_graph_output():
            return None
        ((node, _),) = value.uses()
        if node.op_type != kind:
            return None
        value = node.outputs[0]
    return node


def _reshaped(graph: ir.Graph, before: ir.Node, value: ir.Value, dims: tuple[int, ...], inferred: int = 0) -> ir.Value:
    """Emit a Reshape to ``dims``; the one ``inferred``, which depends on the number of samples, is left to ONNX Runtime."""
    said = [-1 if index == inferred else size for index, size in enumerate(dims)]
    return _emit(graph, before, "Reshape", [value, whole_numbers(graph, said)], dims)


def _emit(
    graph: ir.Graph, before: ir.Node, op_type: str, inputs: Sequence[ir.Value], dims: tuple[int, ...], attributes: Sequence[ir.Attr] = ()
) -> ir.Value:
    """Insert a node before another and return its output."""
    made = ir.Node("", op_type, inputs, attributes)
    made.outputs[0].shape, made.outputs[0].type = ir.Shape(dims), ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(before, made)
    return made.outputs[0]


def _stand_in(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Let a value stand for a node's output, under its name, and remove the node."""
    old = node.outputs[0]
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    value.name, old.name = old.name, None
    graph.remove(node, safe=True)
