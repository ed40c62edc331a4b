"""A bundle's graphs for ONNX Runtime's CPU provider: the same function as the portable ones, in the operators and layout fastest there.

TensorRT wants plain operators that it fuses itself; a CPU wants few, large ones. So these graphs are made from the portable ones, by
passes, and stand beside them in the bundle.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir

from diffpose_edge.export.cpu_fusions import fuse_attention, fuse_biases, fuse_layer_norms
from diffpose_edge.export.eigenbasis import chebyshev_in_eigenbasis
from diffpose_edge.export.free_samples import free_samples
from diffpose_edge.export.int8 import MatMulScales
from diffpose_edge.export.int8_cpu import int8_matmuls
from diffpose_edge.export.onnx_models import check_model
from diffpose_edge.export.row_form import to_row_form
from diffpose_edge.manifest import SAMPLES

# From this many samples in a batch the eigenbasis pays: its matmuls, one for each joint, are as high as there are samples. Measured
# at 5, 20 and 60 samples on a busy AVX-512 machine, it took 1.4, 1.0 and 0.94 times as long as the other form.
EIGENBASIS_FROM = 32
# From this many on a step with attention behind three matmuls, one each for q, k and v, took 0.97 to 0.98 times as long as with ONNX
# Runtime's Attention, which multiplies head by head; one sample took 1.01 to 1.12 times as long (two processors, docs/bench.md).
APART_FROM = 8
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

    LayerNorms and attention become one operator each, features matrices, biases part of their matmul; from EIGENBASIS_FROM samples on,
    joints come first and Chebyshev convolutions are made in the Laplacian's eigenbasis. Layers' outputs keep their names and become
    matrices, whose order is in the model's metadata under ROWS (:func:`rows_of`). Without ``fused_norms`` the LayerNorms stay as they
    are: exact where deviations are so small that the place of the epsilon shows. ``free``: a step that takes any number of samples, though
    it is laid out for ``samples``. ``int8``: scales by the name of the weight, of the matmuls that run in INT8
    (:func:`diffpose_edge.export.int8_cpu.int8_matmuls`); then samples come first always.
    """
    model = ir.from_proto(onnx.shape_inference.infer_shapes(portable, data_prop=True))
    order = "joints" if samples >= EIGENBASIS_FROM and not int8 else "samples"
    if fused_norms:
        fuse_layer_norms(model)
    fuse_attention(model, apart=bool(int8) or samples >= APART_FROM)
    if order == "joints":
        chebyshev_in_eigenbasis(model)
    to_row_form(model, order)
    fuse_biases(model)
    if int8:
        int8_matmuls(model, int8)
    if free:
        free_samples(model)
    model.metadata_props[ROWS] = order
    proto = ir.to_proto(model)
    check_model(proto, free=SAMPLES if free else None)
    return proto


def rows_of(model: onnx.ModelProto) -> str | None:
    """Return the order of the rows of a graph's features, or None for a graph whose features are (B, 17, C)."""
    return {entry.key: entry.value for entry in model.metadata_props}.get(ROWS)
