"""What a graph computes and moves, against counts made by hand and the closed formula of the released step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from diffpose_edge.benchmarks.graph_cost import GraphCost, OperatorCost, graph_cost
from diffpose_edge.bundle import load_bundle
from diffpose_edge.config import BatchShape
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.manifest import FOR_CPU

F32, F16, I64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


def model_of(nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, ...]], output: str, **constants: np.ndarray) -> onnx.ModelProto:
    """A graph of float32 inputs and an output whose shape is left to be inferred."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, F32, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output, F32, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def node(op: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    domain = str(attributes.pop("domain", ""))
    return helper.make_node(op, inputs.split(), [output], output, domain=domain, **attributes)


def single(op: str, shapes: tuple[tuple[int, ...], ...], **attributes: object) -> GraphCost:
    """The cost of one node on inputs of these shapes."""
    inputs = {f"i{index}": shape for index, shape in enumerate(shapes)}
    return graph_cost(model_of([node(op, " ".join(inputs), "y", **attributes)], inputs, "y"))


def zeros(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def small_graph() -> onnx.ModelProto:
    """A row of a table, a matmul, its bias, a view, a softmax."""
    nodes = [
        node("Gather", "table index", "row"),
        node("MatMul", "x w", "product"),
        node("Add", "product row", "sum"),
        node("Reshape", "sum flat", "view"),
        node("Softmax", "view", "y", axis=-1),
    ]
    constants = {"table": zeros(51, 6), "index": zeros(1, dtype=np.int64), "w": zeros(4, 6), "flat": np.array([6, 3], np.int64)}
    # With the index in an input, the row is chosen when the graph runs.
    model = model_of(nodes, {"x": (3, 4)}, "y", **{name: value for name, value in constants.items() if name != "index"})
    model.graph.input.append(helper.make_tensor_value_info("index", I64, [1]))
    return model


def test_a_small_graph_counted_by_hand() -> None:
    cost = graph_cost(small_graph())
    assert cost.matmul_flops == 2 * 3 * 4 * 6
    assert cost.other_flops == 3 * 6 + 5 * 3 * 6
    assert cost.flops == cost.matmul_flops + cost.other_flops
    # One row of the table of 51; the shape that a view is given is not read.
    assert cost.weight_bytes == 4 * (6 + 4 * 6)
    gather, matmul, add, softmax = 8 + 4 * 6, 4 * (12 + 18), 4 * (18 + 6 + 18), 4 * (18 + 18)
    assert cost.activation_bytes == gather + matmul + add + softmax
    assert cost.border_bytes == 4 * 12 + 8 + 4 * 18
    assert (cost.nodes, cost.running) == (5, 4)
    assert cost.by_operator["MatMul"] == OperatorCost(1, 144, matmul + 4 * 24)
    assert cost.by_operator["Reshape"] == OperatorCost(1, 0, 0)
    assert sum(each.bytes for each in cost.by_operator.values()) == cost.bytes
    assert cost.matmul_flops_of == {"float32": 144}


@pytest.mark.parametrize(
    ("op", "shapes", "attributes", "matmul", "other"),
    [
        ("MatMul", ((2, 3, 4), (2, 4, 5)), {}, 2 * 2 * 3 * 4 * 5, 0),
        ("MatMul", ((3, 4), (7, 4, 5)), {}, 2 * 7 * 3 * 4 * 5, 0),
        ("MatMul", ((4,), (4, 5)), {}, 2 * 4 * 5, 0),
        ("Gemm", ((3, 4), (4, 5)), {}, 2 * 3 * 4 * 5, 0),
        ("Gemm", ((4, 3), (5, 4), (5,)), {"transA": 1, "transB": 1}, 2 * 3 * 4 * 5, 15),
        ("Conv", ((1, 6, 8, 8), (4, 3, 3, 3)), {"group": 2}, 2 * (4 * 6 * 6) * 27, 0),
        ("Conv", ((1, 3, 8), (4, 3, 3), (4,)), {"pads": [1, 1], "strides": [2]}, 2 * (4 * 4) * 9, 16),
        ("Relu", ((3, 4),), {}, 0, 12),
        ("Add", ((3, 4), (4,)), {}, 0, 12),
        ("ReduceMean", ((3, 4),), {"axes": [1]}, 0, 12),
        ("Sum", ((3, 4), (3, 4), (3, 4)), {}, 0, 24),
        ("LayerNormalization", ((3, 4), (4,), (4,)), {}, 0, 7 * 12),
        ("Softmax", ((3, 4),), {}, 0, 5 * 12),
        ("Transpose", ((3, 4),), {}, 0, 0),
    ],
)
def test_operations_of_one_node(
    op: str, shapes: tuple[tuple[int, ...], ...], attributes: dict[str, object], matmul: int, other: int
) -> None:
    cost = single(op, shapes, **attributes)
    assert (cost.matmul_flops, cost.other_flops) == (matmul, other)


def test_operators_of_onnx_runtime_and_newer_opsets() -> None:
    """The shape of what another domain's operator gives is taken from the file where it has no rule."""
    model = model_of([node("QuickGelu", "a", "y", domain="com.microsoft")], {"a": (4, 3)}, "y")
    with pytest.raises(DiffPoseEdgeError, match=r"shape of value 'y' is not known"):
        graph_cost(model)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", F32, (4, 3)))
    assert graph_cost(model).other_flops == 3 * 4 * 3
    model = model_of([node("FusedMatMul", "a b", "y", transA=1, domain="com.microsoft")], {"a": (4, 3), "b": (4, 5)}, "y")
    assert graph_cost(model).matmul_flops == 2 * 3 * 4 * 5

    # Joints, P N heads, width of a head: scores of each head, and what they mix.
    by_head = {"a": (17, 8, 24), "b": (17, 8, 24)}
    scores = node("FusedMatMul", "a b", "s", transB=1, transBatchA=1, transBatchB=1, domain="com.microsoft")
    mixed = node("FusedMatMul", "s b", "y", transBatchB=1, domain="com.microsoft")
    both = graph_cost(model_of([scores, mixed], by_head, "y"))
    assert both.matmul_flops == 2 * 2 * 8 * 17 * 17 * 24
    assert both.activation_bytes == 4 * (3 * 17 * 8 * 24 + 2 * 8 * 17 * 17 + 8 * 17 * 24)
    # The rows of the first are summed over, 17 of each of 8.
    turned = model_of([node("FusedMatMul", "a b", "y", transA=1, transBatchA=1, transBatchB=1, domain="com.microsoft")], by_head, "y")
    assert graph_cost(turned).matmul_flops == 2 * 8 * 24 * 17 * 24

    # P N, heads, joints, width of a head.
    q = (2, 4, 17, 24)
    attention = model_of([node("Attention", "q k v", "y")], dict.fromkeys("qkv", q), "y")
    attention.opset_import[0].version, attention.ir_version = 23, 11
    scores = 2 * 4 * 17 * 17
    assert graph_cost(attention).matmul_flops == 2 * (2 * scores * 24)
    assert graph_cost(attention).other_flops == 6 * scores
    rows = model_of([node("Attention", "q k v", "y", q_num_heads=4, kv_num_heads=4)], dict.fromkeys("qkv", (2, 17, 96)), "y")
    rows.opset_import[0].version, rows.ir_version = 23, 11
    assert graph_cost(rows).flops == graph_cost(attention).flops


def test_what_moves_reads_no_more_than_it_writes() -> None:
    slices = {"starts": np.array([1]), "ends": np.array([3])}
    cost = graph_cost(model_of([node("Slice", "x starts ends", "y")], {"x": (100, 4)}, "y", **slices))
    assert cost.activation_bytes == 2 * 4 * (2 * 4)
    cost = graph_cost(model_of([node("Expand", "x shape", "y")], {"x": (1, 4)}, "y", shape=np.array([100, 4])))
    assert cost.activation_bytes == 4 * (4 + 400)


def test_what_depends_on_constants_alone_is_not_run_and_shared_constants_count_once() -> None:
    nodes = [
        node("Transpose", "w", "turned"),
        node("MatMul", "x turned", "a"),
        node("Reshape", "turned same", "again"),
        node("MatMul", "a again", "b"),
        node("Mul", "b b", "y"),
    ]
    cost = graph_cost(model_of(nodes, {"x": (2, 4)}, "y", w=zeros(4, 4), same=np.array([4, 4])))
    assert (cost.nodes, cost.running) == (5, 3)
    assert cost.weight_bytes == 4 * 16
    # b is read once, though twice an input.
    assert cost.by_operator["Mul"].bytes == 4 * (8 + 8)


def test_quantised_operands_are_narrow_and_their_matmul_is_int8() -> None:
    nodes = [
        node("QuantizeLinear", "x scale zero", "x8"),
        node("DequantizeLinear", "x8 scale zero", "xq"),
        node("DequantizeLinear", "w8 scale zero", "wq"),
        node("MatMul", "xq wq", "y"),
    ]
    constants = {"scale": np.array(0.1, np.float32), "zero": np.array(0, np.int8), "w8": zeros(4, 6, dtype=np.int8)}
    model = model_of(nodes, {"x": (3, 4)}, "y", **constants)
    cost = graph_cost(model)
    assert cost.matmul_flops_of == {"int8": 2 * 3 * 4 * 6}
    assert cost.by_operator["MatMul"].bytes == 12 + 24 + 4 * 18
    assert cost.by_operator["QuantizeLinear"] == OperatorCost(1, 2 * 12, 4 * 12 + 12 + 5)
    assert cost.by_operator["DequantizeLinear"] == OperatorCost(2, 0, 0)
    # The fault that matters most: one operand left in float32 is no INT8 matmul.
    model.graph.node[3].input[0] = "x"
    assert graph_cost(model).matmul_flops_of == {"float32": 2 * 3 * 4 * 6}


def test_half_precision_is_told_by_type() -> None:
    nodes = [node("Cast", "x", "half", to=F16), node("MatMul", "half w", "y")]
    model = model_of(nodes, {"x": (3, 4)}, "y", w=zeros(4, 6, dtype=np.float16))
    model.graph.output[0].type.tensor_type.elem_type = F16
    cost = graph_cost(model)
    assert cost.matmul_flops_of == {"float16": 144}
    assert cost.weight_bytes == 2 * 24
    assert cost.activation_bytes == (4 + 2) * 12 + 2 * (12 + 18)


def step_matmul_flops(C: int, L: int, samples: int) -> int:
    """Matmul operations of a folded, unconditioned step by the formulas of the network; C features, L layers."""
    J = 17
    attention = 2 * J * C * 3 * C + 2 * (2 * J * J * C) + 2 * J * C * C
    adjacency = 2 * J * J * C + 2 * J * C * 2 * C + 2 * J * J * 2 * C + 2 * J * 2 * C * C
    chebyshev = 2 * 3 * J * J * C + 2 * J * 3 * C * C
    ends = 2 * (2 * 3 * J * J * 5 + 2 * J * 3 * 5 * C)
    return samples * (L * (attention + adjacency + 2 * chebyshev) + ends)


def test_the_released_step_has_the_operations_of_its_formula(random_pair: tuple[Path, Path]) -> None:
    from diffpose_edge.export.cpu_graph import EIGENBASIS_FROM, cpu_graph
    from diffpose_edge.export.graphs import step_graph
    from diffpose_edge.reference import load_released

    pair = load_released(*random_pair)
    # What graphs for the CPU do without: a multiplication by T_0 = I in each convolution that mixes after its matmuls; and half of the
    # mixing behind the adjacency's second matmul, where features are C instead of 2 C. In the eigenbasis a convolution mixes twice, too,
    # but multiplies by one matrix instead of by three.
    identity, narrower = 5 * 2 * (2 * 17 * 17 * 96), 5 * (2 * 17 * 17 * 96)
    less = {1: narrower, 4: identity + narrower, EIGENBASIS_FROM: identity + narrower + 5 * 2 * (2 * 17 * 2 * 96 * 96)}
    for samples in less:
        portable = step_graph(pair, BatchShape(P=1, N=samples)).model
        cost = graph_cost(portable)
        assert cost.matmul_flops == step_matmul_flops(96, 5, samples)
        assert graph_cost(cpu_graph(portable, samples)).matmul_flops == cost.matmul_flops - samples * less[samples]
        # All of 1,025,674 parameters but the step embedding, of which one row of the table per layer is read.
        assert 2.4e6 < cost.weight_bytes < 4 * 1_025_674
        assert cost.other_flops < 0.02 * cost.matmul_flops
    # The prototype's 24.27 MFLOP.
    assert (step_matmul_flops(96, 5, 1) - identity - narrower) / 1e6 == pytest.approx(24.27, abs=0.005)


def test_every_graph_of_every_kind_of_bundle_is_understood(calibrated_bundles: dict[str, Path]) -> None:
    for name, path in calibrated_bundles.items():
        bundle = load_bundle(path)
        for entry in bundle.manifest.files.values():
            if entry.role not in ("context", "step"):
                continue
            precision = entry.precision
            cost = graph_cost(onnx.load_from_string(bundle.read(entry.role, precision)))
            plain = graph_cost(onnx.load_from_string(bundle.read(entry.role)))
            what = f"{name} {entry.role} {precision}"
            # A precision changes what is multiplied and moved, never how much is computed in matmuls; some graphs for the CPU leave out
            # what the others multiply by 1 (test_the_released_step_has_the_operations_of_its_formula).
            if precision.endswith(FOR_CPU):
                assert 0.85 * plain.matmul_flops < cost.matmul_flops <= plain.matmul_flops, what
            else:
                assert cost.matmul_flops == plain.matmul_flops, what
            assert cost.border_bytes == plain.border_bytes, what
            assert sum(cost.matmul_flops_of.values()) == cost.matmul_flops, what
            # A graph for the CPU mixes by the Laplacian besides, and repeats a row of each layer for each sample.
            assert cost.weight_bytes <= plain.weight_bytes * (1.05 if precision.endswith(FOR_CPU) else 1), what
            if entry.role == "step":
                assert {"fp32": "float32", "fp32-cpu": "float32", "fp16": "float16"}.get(precision, "int8") in cost.matmul_flops_of, what


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(DiffPoseEdgeError, match=r"shape of value '.*' is not known: expected a graph whose shapes are all fixed"):
        graph_cost(_dynamic())
    with pytest.raises(DiffPoseEdgeError, match=r"operator Det is not known \(node 'y'\)"):
        single("Det", ((3, 3),))
    model = model_of([node("Relu", "x", "y", domain="strange")], {"x": (3, 3)}, "y")
    with pytest.raises(DiffPoseEdgeError, match=r"no shapes could be inferred.*strange"):
        graph_cost(model)
    model.opset_import.append(helper.make_opsetid("strange", 1))
    with pytest.raises(DiffPoseEdgeError, match=r"operator strange\.Relu is not known"):
        graph_cost(model)


def _dynamic() -> onnx.ModelProto:
    model = model_of([node("Relu", "x", "y")], {"x": (3, 4)}, "y")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def test_a_graph_within_a_node_is_refused() -> None:
    inner = helper.make_graph([node("Relu", "x", "z")], "inner", [], [helper.make_tensor_value_info("z", F32, (2,))])
    choice = helper.make_node("If", ["c"], ["y"], "choice", then_branch=inner, else_branch=inner)
    model = model_of([choice], {"x": (2,)}, "y")
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    with pytest.raises(DiffPoseEdgeError, match=r"'choice' \(If\) holds a graph"):
        graph_cost(model)
