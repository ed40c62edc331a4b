"""FP16 that ONNX Runtime's CPU provider cannot optimise away: every FP16 value is rounded, and overflows.

The CPU provider has no FP16 kernels for arithmetic. It computes such nodes in float32 between casts of its own, and then
removes pairs of casts that meet, those that round included, at every level of optimisation (measured on 1.31.1;
microsoft/onnxruntime issue 8787, pull request 8018): of an FP16 graph only the constants are ever rounded. So, to see on a
CPU what FP16 does, each value is put through Unsqueeze and Squeeze, which have FP16 kernels and keep the casts apart. Two
of them, because a single one between float32 nodes would be made float32 as well.

What comes out is one rounding for each operator, sums within it in float32: GPUs that fuse operators round less often.
"""

from __future__ import annotations

import numpy as np
import onnx

AXIS = "fp16_rounding/axis"
# Operators that only move values: what they give was rounded where it was computed.
MOVES = ("Reshape", "Transpose", "Split", "Gather", "Concat", "Slice", "Expand", "Identity", "Unsqueeze", "Squeeze", "Flatten")


def with_fp16_rounding(content: bytes) -> bytes:
    """Return a graph that rounds like ``content`` says, in ONNX Runtime on the CPU too; for trials, not for shipping.

    A graph without FP16 comes back as it is, and so does one that has been through here.
    """
    model = onnx.load_model_from_string(content)
    graph = model.graph
    if any(tensor.name == AXIS for tensor in graph.initializer):
        return content
    half = onnx.TensorProto.FLOAT16
    typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    halves = {value.name for value in (*typed.graph.value_info, *typed.graph.output) if value.type.tensor_type.elem_type == half}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        rounds = [] if node.op_type in MOVES else [i for i, value in enumerate(node.output) if value in halves]
        nodes.append(node)
        for i in rounds:
            name = node.output[i]
            # The rounded value takes the name, so that nothing else has to change.
            node.output[i] = f"{name}/exact"
            nodes.append(onnx.helper.make_node("Unsqueeze", [f"{name}/exact", AXIS], [f"{name}/wide"], name=f"fp16_rounding/{name}/wide"))
            nodes.append(onnx.helper.make_node("Squeeze", [f"{name}/wide", AXIS], [name], name=f"fp16_rounding/{name}"))
    if len(nodes) == len(graph.node):
        return content
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([0], np.int64), AXIS))
    del graph.node[:]
    graph.node.extend(nodes)
    return model.SerializeToString()
