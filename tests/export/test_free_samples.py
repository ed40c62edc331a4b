"""Steps that take any number of samples: each sample's result is the same whoever is with it; what cannot be freed is refused."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from diffpose_edge.benchmarks.graph_cost import graph_cost
from diffpose_edge.config import BatchShape
from diffpose_edge.errors import ExportError
from diffpose_edge.export.cpu_graph import cpu_graph
from diffpose_edge.export.free_samples import free_samples
from diffpose_edge.export.graphs import compare_step, run_graph, session_of, step_graph
from diffpose_edge.reference.trained import load_conditioned
from diffpose_edge.tolerances import FP32_CPU_LAYER_REL

SHAPES = [BatchShape(P=1, N=5), BatchShape(P=3, N=4), BatchShape(P=2, N=20)]


@pytest.fixture(scope="module", params=SHAPES, ids=lambda s: f"P={s.P}, N={s.N}")
def step(request, conditioned_pair):
    shape = request.param
    model = load_conditioned(*conditioned_pair)
    traced = step_graph(model, shape)
    free, fixed = (cpu_graph(traced.model, shape.P * shape.N, free=free) for free in (True, False))
    return shape, model, traced, free, fixed


def inputs_of(graph: onnx.ModelProto, P: int, n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    sizes = {
        v.name: tuple(d.dim_value if d.HasField("dim_value") else P * n for d in v.type.tensor_type.shape.dim) for v in graph.graph.input
    }
    inputs = {name: rng.normal(0.0, 0.5, size).astype(np.float32) for name, size in sizes.items()}
    return inputs | {"timestep": np.array([7], np.float32)}


def test_any_number_of_samples_at_every_layer(step):
    shape, model, traced, free, _ = step
    for n in (1, 2, shape.N, shape.N + 3):
        inputs = inputs_of(free, shape.P, n)
        comparisons = compare_step(model, free, traced.taps, inputs["x"], (0, 12), inputs["feature"], inputs["start"])
        assert [str(c) for c in comparisons if not c.passed] == []


def test_at_its_own_number_it_is_the_fixed_graph_to_the_bit(step):
    shape, _, _, free, fixed = step
    inputs = inputs_of(free, shape.P, shape.N)
    one, other = (run_graph(session_of(graph), inputs) for graph in (free, fixed))
    for name in ("x_next", "eps"):
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("step", SHAPES[1:], indirect=True, ids=lambda s: f"P={s.P}, N={s.N}")
def test_an_expand_in_the_wrong_order_is_found(step):
    """Samples of people, not people of samples: planted by telling a person's feature to another."""
    shape, model, traced, free, _ = step
    inputs = inputs_of(free, shape.P, shape.N)
    told = inputs["feature"][::-1].copy()
    comparisons = compare_step(model, free, traced.taps, inputs["x"], (12,), inputs["feature"], inputs["start"])
    wrong = run_graph(session_of(free, traced.taps), inputs | {"feature": told, "timestep": np.array([12], np.float32)})
    right = run_graph(session_of(free, traced.taps), inputs | {"timestep": np.array([12], np.float32)})
    assert all(c.passed for c in comparisons)
    assert np.abs(wrong["eps"] - right["eps"]).max() > 10 * FP32_CPU_LAYER_REL * np.abs(right["eps"]).max()


def test_its_cost_is_that_of_the_number_it_was_laid_out_for(step):
    _, _, _, free, fixed = step
    one, other = graph_cost(free), graph_cost(fixed)
    assert one.matmul_flops == other.matmul_flops
    assert one.border_bytes == other.border_bytes


def test_the_border_names_the_dimension(step):
    _, _, _, free, _ = step
    named = {v.name for v in (*free.graph.input, *free.graph.output) if v.type.tensor_type.shape.dim[0].dim_param == "samples"}
    assert named == {"x", "start", "previous", "x_next", "eps"}
    assert {entry.key: entry.value for entry in free.metadata_props}["samples"] == str(step[0].P * step[0].N)


def model_of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> ir.Model:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 17, 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    initialisers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "step", [x], [y], initialisers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def test_a_step_of_a_single_sample_is_not_freed():
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 17, 5])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "step", [x], [helper.make_empty_tensor_value_info("y")])
    with pytest.raises(ExportError, match="single sample cannot be freed"):
        free_samples(ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])))


def test_shapes_that_are_not_a_steps_are_refused():
    expand = [helper.make_node("Unsqueeze", ["x", "axis"], ["u"]), helper.make_node("Expand", ["u", "shape"], ["y"])]
    model = model_of(expand, {"axis": np.array([1], np.int64), "shape": np.array([4, 2, 17, 5], np.int64)})
    with pytest.raises(ExportError, match="does not give each of 1 people's samples"):
        free_samples(model)
    computed = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Reshape", ["x", "s"], ["y"])]
    with pytest.raises(ExportError, match="computes its shape"):
        free_samples(model_of(computed, {}))
