"""Chebyshev convolutions in the eigenbasis of the Laplacian: a third of their multiplications, for batches large enough to pay.

With L = U diag(l) U^-1 the convolution T_0 x W_0 + T_1 x W_1 + T_2 x W_2 becomes, for each eigenvector i,

    y = U [ (U^-1 x)_i (W_0 + l_i W_1 + (2 l_i^2 - 1) W_2) ]_i

one matmul by C x C' instead of by 3 C x C', but a weight of its own for each eigenvalue. There are 14: what is on the left in a leg moves
against what is on the right as it does in an arm, so three eigenvalues are double.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.rewriter.pattern import RewriteRule

from diffpose_edge.export.row_form import constant, shape_of
from diffpose_edge.skeleton import J, adjacency, chebyshev_stack

Array = NDArray[np.float64]


def laplacian_eigenbasis() -> tuple[Array, Array, Array]:
    """Return U (17, 17), the eigenvalues l (17,), rising from 0, and U^-1, so that L = U diag(l) U^-1.

    L = I - D^-1 S with the bones and the identity S, and D its row sums, is similar to the symmetric I - D^-1/2 S D^-1/2, whose
    eigenvectors are orthogonal: U is D^-1/2 times them, and nothing needs inverting. Eigenvectors are scaled so that the first, which
    is constant because the rows of L sum to zero, is 1; eigenvalues that are equal but for rounding are equal.
    """
    root = np.sqrt((adjacency() > 0).sum(axis=1, dtype=np.float64))
    symmetric = np.eye(J) - (adjacency() > 0) / np.outer(root, root)
    values, vectors = np.linalg.eigh(symmetric)
    for i in range(1, J):
        if np.isclose(values[i], values[i - 1], rtol=0, atol=1e-12):
            values[i] = values[i - 1]
    U, U_inverse = vectors / root[:, None], vectors.T * root[None, :]
    one = U[:, 0].mean()
    U[:, 0], U_inverse[0] = 1.0, U_inverse[0] * one
    return U, values, U_inverse


def stacked_convolution(op: Any, x: Any, mix: Any, by_row: Any, weight: Any) -> Any:
    """Joints mixed by the stacked polynomials, then one matmul: what ``MixThenProject`` exports, on features (B, 17, C)."""
    return op.MatMul(op.Reshape(op.MatMul(mix, x), by_row, _allow_other_attributes=True), weight)


def of_the_skeleton(least_width: int) -> Callable[..., bool]:
    """Return what tells whether the parts of a :func:`stacked_convolution` are those of the skeleton, ``least_width`` channels or more."""
    stacked = chebyshev_stack().transpose(1, 0, 2).reshape(3 * J, J).astype(np.float32)

    def is_wide_and_of_the_skeleton(_: Any, x: ir.Value, mix: ir.Value, weight: ir.Value, **__: Any) -> bool:
        if mix.const_value is None or weight.const_value is None or tuple(mix.const_value.shape) != stacked.shape:
            return False
        wide = shape_of(weight)[0] >= 3 * least_width
        return bool(wide and len(shape_of(x)) == 3 and np.array_equal(mix.const_value.numpy(), stacked))

    return is_wide_and_of_the_skeleton


def _spectral_weight(weight: ir.Value) -> Array:
    """Return W_0 + l_i W_1 + (2 l_i^2 - 1) W_2 for each eigenvalue, (17, C, C'), of the stacked weight, whose row k C + c is c of W_k."""
    assert weight.const_value is not None
    W = weight.const_value.numpy().astype(np.float64)
    _, values, _ = laplacian_eigenbasis()
    T = np.stack([np.ones(J), values, 2 * values**2 - 1])
    spectral: Array = np.einsum("ki,kcd->icd", T, W.reshape(3, len(W) // 3, -1))
    return spectral


def shaped(value: ir.Value, *dims: int) -> ir.Value:
    value.shape, value.type = ir.Shape(dims), ir.TensorType(ir.DataType.FLOAT)
    return value


def chebyshev_in_eigenbasis(model: ir.Model, least_width: int = 16) -> int:
    """Rewrite each Chebyshev convolution of at least ``least_width`` channels in place; return how many.

    The two exchanges of samples and joints around the inner matmul vanish in :func:`diffpose_edge.export.row_form.to_row_form`.
    Equal in real arithmetic; computed in float64, rounded to float32.
    """
    U, _, U_inverse = laplacian_eigenbasis()
    u, u_inverse = (
        constant(model.graph, name, array.astype(np.float32)) for name, array in (("eigenvectors", U), ("eigenvectors.inverse", U_inverse))
    )

    def spectral_convolution(op: Any, x: ir.Value, weight: ir.Value, **_: Any) -> Any:
        spectral = _spectral_weight(weight)
        weights = constant(model.graph, f"{weight.name}.spectral", spectral.astype(np.float32))
        (B, joints, C), width = shape_of(x), spectral.shape[-1]
        y = shaped(op.MatMul(u_inverse, x), B, joints, C)
        y = shaped(op.Transpose(y, perm=[1, 0, 2]), joints, B, C)
        y = shaped(op.MatMul(y, weights), joints, B, width)
        y = shaped(op.Transpose(y, perm=[1, 0, 2]), B, joints, width)
        return shaped(op.MatMul(u, y), B, joints, width)

    rule = RewriteRule(stacked_convolution, spectral_convolution, of_the_skeleton(least_width))
    rewritten = int(rule.apply_to_model(model))
    RemoveUnusedNodesPass()(model)
    return rewritten
