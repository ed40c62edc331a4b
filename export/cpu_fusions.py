"""Groups of nodes that ONNX Runtime's CPU provider has one operator for; each pass changes the model in place.

The operators of the domain com.microsoft are ONNX Runtime's own: TensorRT does not read them, so these passes make a graph for the
CPU alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.rewriter.pattern import RewriteRule

from diffpose_edge.export.row_form import MICROSOFT, constant

# LayerNormalization adds its epsilon to the variance, the released LayerNorm to the deviation. Nothing fixed is the same as that for
# every row; the smallest useful one is nearest: with deviations around 1 the released 1e-6 itself moves the result by 1e-6.
LAYER_NORM_EPSILON = 1e-12


def _number(value: ir.Value | None) -> NDArray[Any] | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _released_norm(op: Any, x: Any, unbias: Any, eps: Any, a_2: Any, b_2: Any) -> Any:
    """(x - mean) / (sqrt(var * unbias) + eps) * a_2 + b_2, over the last axis."""
    centred = op.Sub(x, op.ReduceMean(x, axes=[-1], keepdims=1))
    std = op.Sqrt(op.Mul(op.ReduceMean(op.Mul(centred, centred), axes=[-1], keepdims=1), unbias))
    return op.Add(op.Mul(op.Div(centred, op.Add(std, eps)), a_2), b_2)


def _its_parts_are_constants(_: Any, unbias: ir.Value, eps: ir.Value, a_2: ir.Value, b_2: ir.Value, **__: Any) -> bool:
    return all(_number(value) is not None for value in (unbias, eps, a_2, b_2))


def _folded_attention(op: Any, x: Any, w_qkv: Any, b_q: Any, by_head: Any, by_row: Any) -> Any:
    """Self-attention with q, k, v from one matmul, 1/sqrt(d) already in W_q: what ``FoldedAttention`` exports."""
    q, k, v = op.Split(op.MatMul(x, w_qkv), _outputs=3)
    q = op.Transpose(op.Reshape(op.Add(q, b_q), by_head, _allow_other_attributes=True), perm=[0, 2, 1, 3])
    k = op.Transpose(op.Reshape(k, by_head, _allow_other_attributes=True), perm=[0, 2, 3, 1])
    v = op.Transpose(op.Reshape(v, by_head, _allow_other_attributes=True), perm=[0, 2, 1, 3])
    h = op.MatMul(op.Softmax(op.MatMul(q, k), axis=-1), v)
    return op.Reshape(op.Transpose(h, perm=[0, 2, 1, 3]), by_row, _allow_other_attributes=True)


def _splits_evenly(_: Any, w_qkv: ir.Value, b_q: ir.Value, by_head: ir.Value, **__: Any) -> bool:
    shape, weight, bias = _number(by_head), _number(w_qkv), _number(b_q)
    if shape is None or weight is None or bias is None or len(shape) != 4:
        return False
    return bool(weight.shape[1] == 3 * bias.size == 3 * int(shape[2] * shape[3]))


def _like(x: ir.Value, value: ir.Value) -> ir.Value:
    value.shape, value.type = x.shape, x.type
    return value


def _biased_matmul(op: Any, x: Any, weight: Any, bias: Any) -> Any:
    return op.Add(op.MatMul(x, weight), bias)


def _of_matrices_and_a_row(_: Any, x: ir.Value, weight: ir.Value, bias: ir.Value, **__: Any) -> bool:
    return _number(weight) is not None and _rank(x) == _rank(weight) == 2 and _is_row(bias)


def _gemm(op: Any, x: ir.Value, weight: ir.Value, bias: ir.Value, **_: Any) -> Any:
    return op.Gemm(x, weight, bias)


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _is_row(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) in (1, 2) and (len(value.shape) == 1 or value.shape[0] == 1)


def fuse_layer_norms(model: ir.Model) -> int:
    """Put one LayerNormalization in the place of each released LayerNorm, decomposed as it is exported; return how many.

    The scale a_2 / sqrt(C / (C - 1)) makes up for the unbiased deviation. Not exact: see LAYER_NORM_EPSILON.
    """

    def layer_normalization(op: Any, x: ir.Value, unbias: ir.Value, a_2: ir.Value, b_2: ir.Value, **_: Any) -> Any:
        a, u = (np.asarray(_number(value), np.float64) for value in (a_2, unbias))
        scale = constant(model.graph, f"{a_2.name}.biased", (a / np.sqrt(u)).astype(np.float32))
        return op.LayerNormalization(x, scale, b_2, axis=-1, epsilon=LAYER_NORM_EPSILON)

    return int(RewriteRule(_released_norm, layer_normalization, _its_parts_are_constants).apply_to_model(model))


def fuse_attention(model: ir.Model) -> int:
    """Put one com.microsoft MultiHeadAttention in the place of each folded self-attention, without its output matmul; return how many.

    Before it stands a matmul for each of q, k and v, whose weights are named w_qkv.q and so on.
    """

    def attention(op: Any, x: ir.Value, w_qkv: ir.Value, b_q: ir.Value, by_head: ir.Value, **_: Any) -> Any:
        shape, weight = _number(by_head), _number(w_qkv)
        assert shape is not None
        assert weight is not None
        matrices = (constant(model.graph, f"{w_qkv.name}.{to}", part) for to, part in zip("qkv", np.split(weight, 3, axis=1), strict=True))
        q, k, v = (_like(x, op.MatMul(x, matrix)) for matrix in matrices)
        return op.MultiHeadAttention(_like(x, op.Add(q, b_q)), k, v, num_heads=int(shape[2]), scale=1.0, _domain=MICROSOFT, _version=1)

    return int(RewriteRule(_folded_attention, attention, _splits_evenly).apply_to_model(model))


def fuse_biases(model: ir.Model) -> int:
    """Put one Gemm in the place of each matmul of a matrix by a constant one and the addition of a row; return how many."""
    return int(RewriteRule(_biased_matmul, _gemm, _of_matrices_and_a_row).apply_to_model(model))
