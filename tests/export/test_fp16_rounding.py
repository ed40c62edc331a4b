"""What a graph computes in FP16, held against numpy's float16: ONNX Runtime alone leaves most of it in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from diffpose_edge.bundle import load_bundle
from diffpose_edge.export.fp16_rounding import AXIS, MOVES, with_fp16_rounding

HALF = TensorProto.FLOAT16


def _run(content: bytes, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def _chain(weights: dict[str, np.ndarray]) -> bytes:
    """Return a graph: x (8, 16) to FP16, an operator with each constant in turn, and back to float32."""
    nodes, current = [helper.make_node("Cast", ["x"], ["x16"], to=HALF)], "x16"
    for op in weights:
        nodes.append(helper.make_node(op, [current, f"w.{op}"], [f"y.{op}"]))
        current = f"y.{op}"
    nodes.append(helper.make_node("Cast", [current], ["y"], to=TensorProto.FLOAT))
    border = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [8, 16]) for name in "xy"]
    constants = [onnx.numpy_helper.from_array(w, f"w.{op}") for op, w in weights.items()]
    graph = helper.make_graph(nodes, "chain", border[:1], border[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_every_operator_rounds_as_numpy_does() -> None:
    rng = np.random.default_rng(0)
    weights = {op: rng.normal(size=(16, 16) if op == "MatMul" else 16).astype(np.float16) for op in ("MatMul", "Add", "Mul", "Sub")}
    x = rng.normal(size=(8, 16)).astype(np.float32)
    expected = x.astype(np.float16)
    for op, apply in {"MatMul": np.matmul, "Add": np.add, "Mul": np.multiply, "Sub": np.subtract}.items():
        expected = apply(expected.astype(np.float32), weights[op].astype(np.float32)).astype(np.float16)
    found = _run(with_fp16_rounding(_chain(weights)), x)
    assert np.array_equal(found.astype(np.float16).astype(np.float32), found)
    # Sums in another order may round one way or the other: one unit in the last place, and seldom.
    assert np.mean(found == expected) > 0.95
    np.testing.assert_allclose(found, expected, rtol=0, atol=2 * np.spacing(np.abs(expected).max()))


def test_a_single_operator_rounds_too() -> None:
    x = np.linspace(1, 2, 128, dtype=np.float32).reshape(8, 16)
    bias = np.full(16, 1 / 3, np.float16)
    found = _run(with_fp16_rounding(_chain({"Add": bias})), x)
    assert np.array_equal(found, (x.astype(np.float16) + bias).astype(np.float32))


def test_what_is_too_large_overflows_and_what_is_too_small_vanishes() -> None:
    x = np.zeros((8, 16), np.float32)
    x[:, 0], x[:, 1] = 300.0, 1e-6
    found = _run(with_fp16_rounding(_chain({"Mul": np.array([300.0] + [0.01] * 15, np.float16)})), x)
    assert np.isinf(found[:, 0]).all()
    assert not found[:, 1].any()


def test_bundles_round_at_every_operator_and_the_rest_is_as_it_was(calibrated_bundle: Path) -> None:
    bundle = load_bundle(calibrated_bundle)
    for precision in ("fp16", "int8"):
        content = bundle.read("step", precision)
        rounding = with_fp16_rounding(content)
        assert with_fp16_rounding(rounding) == rounding
        before, after = onnx.load_model_from_string(content), onnx.load_model_from_string(rounding)
        onnx.checker.check_model(after, full_check=True)
        typed = onnx.shape_inference.infer_shapes(after, strict_mode=True, data_prop=True)
        halves = {value.name for value in typed.graph.value_info if value.type.tensor_type.elem_type == HALF}
        read_by: dict[str, set[str]] = {}
        for node in after.graph.node:
            for value in node.input:
                read_by.setdefault(value, set()).add(node.op_type)
        computed = [value for node in after.graph.node if node.op_type not in MOVES for value in node.output if value in halves]
        assert computed
        assert all(read_by[value] == {"Unsqueeze"} for value in computed)
        added = [node for node in after.graph.node if node.name.startswith("fp16_rounding/")]
        assert len(after.graph.node) == len(before.graph.node) + len(added)
        assert [t for t in after.graph.initializer if t.name != AXIS] == list(before.graph.initializer)
    for precision in ("fp32", "int8-trt8"):
        assert with_fp16_rounding(bundle.read("step", precision)) == bundle.read("step", precision)
