"""Chebyshev convolutions that mix after the matmuls instead of before, for batches whose joints come first: a pass over a traced graph.

    x W_0 + L x W_1 + (2 L^2 - 1) x W_2 = x (W_0 - W_2) + L (x W_1 + L (x 2 W_2))

Where joints come first L mixes all samples in one matmul, and both sums are part of one (:mod:`diffpose_edge.export.wide_mixing`). T_0,
which mixes nothing, is not multiplied by; stacked, it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.rewriter.pattern import RewriteRule

from diffpose_edge.export.eigenbasis import of_the_skeleton, shaped, stacked_convolution
from diffpose_edge.export.row_form import constant, shape_of
from diffpose_edge.skeleton import chebyshev_stack


def _biased_convolution(op: Any, x: Any, mix: Any, by_row: Any, weight: Any, bias: Any) -> Any:
    return op.Add(stacked_convolution(op, x, mix, by_row, weight), bias)


def chebyshev_after_projection(model: ir.Model, least_width: int = 16) -> int:
    """Rewrite each biased Chebyshev convolution of at least ``least_width`` channels in place; return how many.

    Equal in real arithmetic; the weights are computed in float64, rounded to float32.
    """
    L = constant(model.graph, "laplacian", chebyshev_stack()[1].astype(np.float32))

    def projected_convolution(op: Any, x: ir.Value, weight: ir.Value, bias: ir.Value, **__: Any) -> Any:
        assert weight.const_value is not None
        W = np.split(weight.const_value.numpy().astype(np.float64), 3)
        width = W[0].shape[1]
        B, joints, *_ = shape_of(x)

        def projected(name: str, matrix: Any) -> ir.Value:
            made = constant(model.graph, f"{weight.name}.{name}", matrix.astype(np.float32))
            return shaped(op.MatMul(x, made), B, joints, width)

        def mixed(value: ir.Value) -> ir.Value:
            return shaped(op.MatMul(L, value), B, joints, width)

        still = shaped(op.Add(projected("still", W[0] - W[2]), bias), B, joints, width)
        once, twice = projected("once", W[1]), projected("twice", 2 * W[2])
        return op.Add(mixed(shaped(op.Add(mixed(twice), once), B, joints, width)), still)

    rewritten = int(RewriteRule(_biased_convolution, projected_convolution, of_the_skeleton(least_width)).apply_to_model(model))
    RemoveUnusedNodesPass()(model)
    return rewritten
