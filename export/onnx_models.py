"""What every maker of graphs needs of an ONNX model, without PyTorch: proof that it is well-formed, and its layers' outputs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from diffpose_edge.errors import ExportError


def check_model(model: onnx.ModelProto, free: str | None = None) -> None:
    """Run onnx.checker with full shape inference, and require static shapes and no float64 or int64 at the border.

    Where a dimension named ``free`` is allowed at the border, shapes inside may be unknown.
    """
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    border = (*inferred.graph.input, *inferred.graph.output)
    for value in (*border, *inferred.graph.value_info):
        tensor = value.type.tensor_type
        dynamic = [dim.dim_param for dim in tensor.shape.dim if not dim.HasField("dim_value")]
        if dynamic and (free is None or (value in border and dynamic != [free])):
            raise ExportError(f"value {value.name} has a dynamic shape; every shape must be fixed at export")
        if tensor.elem_type == onnx.TensorProto.DOUBLE:
            raise ExportError(f"value {value.name} is float64; a constant was not rounded to float32")
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise ExportError(f"{value.name} is not float32: TensorRT versions differ in how they take other types")


def with_taps_as_outputs(model: onnx.ModelProto, taps: Sequence[str]) -> onnx.ModelProto:
    """Return a copy of ``model`` that also outputs the named values inside it, for comparison layer by layer."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    known = {value.name: value for value in inferred.graph.value_info}
    for tap in taps:
        if tap not in known:
            raise ExportError(f"the graph has no value named {tap}; it was not exported by this version")
        copy.graph.output.append(known[tap])
    return copy
