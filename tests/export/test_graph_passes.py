"""Each transformation of a graph on a graph made for it."""

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from diffpose_edge.errors import ExportError
from diffpose_edge.export.graph_passes import drop_provenance, hide_outputs, lower_to_opset17
from diffpose_edge.export.onnx_models import check_model, with_taps_as_outputs


def graph_of(nodes, initialisers=(), outputs=("y",), opset=18, dtype=TensorProto.FLOAT, shape=(2, 6)) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(initialisers).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    ir = onnx_ir.from_proto(model)
    lower_to_opset17(ir)
    return onnx_ir.to_proto(ir)


def run(model: onnx.ModelProto, x):
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})


X = np.arange(12, dtype=np.float32).reshape(2, 6) ** 1.5


def test_reduce_mean_axes_become_an_attribute():
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1, noop_with_empty_axes=0)
    model = graph_of([node], {"axes": np.array([-1])})
    old = lowered(model)
    assert old.opset_import[0].version == 17
    assert list(old.graph.node[0].input) == ["x"]
    assert not old.graph.initializer, "the axes are not left behind as an unused tensor"
    onnx.checker.check_model(old, full_check=True)
    np.testing.assert_array_equal(run(old, X)[0], run(model, X)[0])


def test_even_split_loses_its_count():
    node = helper.make_node("Split", ["x"], ["a", "b", "c"], axis=1, num_outputs=3)
    model = graph_of([node], outputs=("a", "b", "c"))
    old = lowered(model)
    onnx.checker.check_model(old, full_check=True)
    for was, now in zip(run(model, X), run(old, X), strict=True):
        np.testing.assert_array_equal(was, now)


def test_an_operator_that_changed_and_is_not_known_is_refused():
    node = helper.make_node("ReduceSum", ["x"], ["y"])
    assert lowered(graph_of([node])).opset_import[0].version == 17  # unchanged since 13
    with pytest.raises(ExportError, match="ReduceMax"):
        lowered(graph_of([helper.make_node("ReduceMax", ["x"], ["y"])]))


def test_axes_that_are_computed_are_refused():
    nodes = [helper.make_node("Cast", ["a"], ["axes"], to=TensorProto.INT64), helper.make_node("ReduceMean", ["x", "axes"], ["y"])]
    with pytest.raises(ExportError, match="not a constant"):
        lowered(graph_of(nodes, {"a": np.array([1.0], np.float32)}))


def test_another_opset_is_refused():
    with pytest.raises(ExportError, match="got opset 20"):
        lowered(graph_of([helper.make_node("Relu", ["x"], ["y"])], opset=20))


def test_hidden_outputs_stay_inside_and_can_be_brought_back():
    nodes = [helper.make_node("Relu", ["x"], ["inner"]), helper.make_node("Neg", ["inner"], ["y"])]
    ir = onnx_ir.from_proto(graph_of(nodes, outputs=("y", "inner"), opset=17))
    hide_outputs(ir, keep=1)
    model = onnx_ir.to_proto(ir)
    assert [o.name for o in model.graph.output] == ["y"]
    tapped = with_taps_as_outputs(model, ["inner"])
    y, inner = run(tapped, -X)
    np.testing.assert_array_equal(inner, np.maximum(-X, 0))
    np.testing.assert_array_equal(y, -inner)
    assert len(model.graph.output) == 1, "the original is not touched"
    with pytest.raises(ExportError, match="no value named other"):
        with_taps_as_outputs(model, ["other"])


def test_provenance_is_dropped_everywhere():
    model = graph_of([helper.make_node("Relu", ["x"], ["y"], doc_string="made at /home/somebody/net.py")], opset=17)
    for owner in (model, model.graph, model.graph.node[0], model.graph.input[0]):
        entry = owner.metadata_props.add()
        entry.key, entry.value = "stack_trace", "/home/somebody/net.py"
    ir = onnx_ir.from_proto(model)
    drop_provenance(ir)
    assert b"somebody" not in onnx_ir.to_proto(ir).SerializeToString()


def test_checker_refuses_dynamic_shapes_and_other_types_at_the_border():
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    check_model(graph_of(relu, opset=17))
    with pytest.raises(ExportError, match="dynamic shape"):
        check_model(graph_of(relu, opset=17, shape=("n", 6)))
    with pytest.raises(ExportError, match="float64"):
        check_model(graph_of(relu, opset=17, dtype=TensorProto.DOUBLE))
    with pytest.raises(ExportError, match="not float32"):
        check_model(graph_of([helper.make_node("Neg", ["x"], ["y"])], opset=17, dtype=TensorProto.INT64))
