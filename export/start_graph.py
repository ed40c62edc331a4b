"""The start graph of a bundle: see :mod:`diffpose_edge.runtime.start_graph` for what it computes. It has no weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from diffpose_edge.export.onnx_models import check_model
from diffpose_edge.manifest import Manifest
from diffpose_edge.runtime.start_graph import XYZ, start_io
from diffpose_edge.skeleton import ROOT


def start_graph(manifest: Manifest) -> onnx.ModelProto:
    """Return the graph base + place(scale * (xyz - xyz of the hip)), each person's pose repeated for their N samples."""
    inputs, outputs = start_io(manifest)
    ((out, shape),) = outputs.items()
    P, N = manifest.shape.P, manifest.shape.N

    def constant(name: str, values: object) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    nodes = [
        helper.make_node("Slice", ["xyz", "hip_first", "hip_last", "joints"], ["hip"], "hip"),
        helper.make_node("Sub", ["xyz", "hip"], ["relative"], "relative"),
        helper.make_node("Mul", ["relative", "scale"], ["scaled"], "scaled"),
        helper.make_node("Unsqueeze", ["scaled", "samples_axis"], ["one_sample"], "one_sample"),
        helper.make_node("Expand", ["one_sample", "with_samples"], ["each_sample"], "each_sample"),
        helper.make_node("Reshape", ["each_sample", "rows"], ["poses"], "poses"),
        helper.make_node("Pad", ["poses", "places"], ["placed"], "placed"),
        helper.make_node("Add", ["base", "placed"], [out], out),
    ]
    constants = [
        constant("hip_first", [ROOT]),
        constant("hip_last", [ROOT + 1]),
        constant("joints", [1]),
        constant("samples_axis", [1]),
        constant("with_samples", [P, N, shape[1], 3]),
        constant("rows", [P * N, shape[1], 3]),
        constant("places", [0, 0, XYZ.start, 0, 0, shape[2] - XYZ.stop]),
    ]

    def value(name: str, dims: tuple[int, ...]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims))

    graph = helper.make_graph(nodes, "start", [value(*i) for i in inputs.items()], [value(*o) for o in outputs.items()], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="diffpose-edge")
    check_model(model)
    return model
