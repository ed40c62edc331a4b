"""A bundle's graphs for ONNX Runtime's CPU provider: the same function as the portable ones, in the operators and layout fastest there.

TensorRT wants plain operators that it fuses itself; a CPU wants few, large ones. So these graphs are made from the portable ones, by
passes, and stand beside them in the bundle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from diffpose_edge.export.cpu_fusions import fuse_attention, fuse_biases, fuse_layer_norms
from diffpose_edge.export.eigenbasis import chebyshev_in_eigenbasis
from diffpose_edge.export.free_samples import free_samples
from diffpose_edge.export.int8 import MatMulScales
from diffpose_edge.export.int8_cpu import int8_matmuls
from diffpose_edge.export.onnx_models import check_model
from diffpose_edge.export.projected_chebyshev import chebyshev_after_projection
from diffpose_edge.export.row_form import by_sample, to_row_form
from diffpose_edge.export.wide_mixing import fuse_sums_into_mixings, mix_where_narrower, relu_within_mixings, split_stacked_matmuls
from diffpose_edge.manifest import SAMPLES

# From this many samples in a batch the eigenbasis pays. Each of its matmuls is as high as there are samples, and its weights, five times
# those of the other form, have to come from the last cache in each step (docs/bench.md).
EIGENBASIS_FROM = 16
# The key under which a graph says in which order its rows are.
ROWS = "rows"


def cpu_graph(
    portable: onnx.ModelProto,
    samples: int,
    *,
    fused_norms: bool = True,
    free: bool = False,
    int8: Mapping[str, MatMulScales] | None = None,
) -> onnx.ModelProto:
    """Return the graph for the CPU of a frame encoder or a denoiser step that has features of ``samples`` samples (B, 17, C).

    LayerNorms become one operator each, attention few, features matrices whose joints come first, biases and sums part of their matmul;
    Chebyshev convolutions mix after their matmuls, from EIGENBASIS_FROM samples on in the Laplacian's eigenbasis. Layers' outputs keep
    their names and become matrices, whose order is in the model's metadata under ROWS (:func:`rows_of`). Without ``fused_norms`` the
    LayerNorms stay as they are: exact where deviations are so small that the place of the epsilon shows. ``free``: a step that takes any
    number of samples, though it is laid out for ``samples``. ``int8``: scales by the name of the weight, of the matmuls that run in INT8
    (:func:`diffpose_edge.export.int8_cpu.int8_matmuls`); then what is mixed before a matmul stays so, as it was calibrated.
    """
    model = ir.from_proto(onnx.shape_inference.infer_shapes(portable, data_prop=True))
    if fused_norms:
        fuse_layer_norms(model)
    fuse_attention(model)
    # Of one sample the stacked joints are a matrix as they are.
    if samples > 1 and not int8:
        (chebyshev_in_eigenbasis if samples >= EIGENBASIS_FROM else chebyshev_after_projection)(model)
    to_row_form(model)
    split_stacked_matmuls(model)
    fuse_biases(model)
    if not int8:
        mix_where_narrower(model)
    if samples > 1:
        fuse_sums_into_mixings(model)
        relu_within_mixings(model)
    if int8:
        int8_matmuls(model, int8)
    if free:
        free_samples(model)
    model.metadata_props[ROWS] = "joints"
    proto = ir.to_proto(model)
    check_model(proto, free=SAMPLES if free else None)
    return proto


def rows_of(model: onnx.ModelProto) -> str | None:
    """Return the order of the rows of a graph's features, or None for a graph whose features are (B, 17, C)."""
    return {entry.key: entry.value for entry in model.metadata_props}.get(ROWS)


def as_traced(model: onnx.ModelProto, value: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return a layer's output of a graph in the ``shape`` that it was traced in: graphs for the CPU keep features as matrices."""
    order = rows_of(model)
    return value if order is None else by_sample(value, shape, order)
