"""The estimate of launches, held against plans that TensorRT-RTX builds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from diffpose_edge.benchmarks import launches
from diffpose_edge.benchmarks.launches import ESTIMATE_ERROR, Launches, counted_launches, estimated_launches, launches_of, operators_of
from diffpose_edge.bundle import load_bundle


def matmuls_and_functions(matmuls: int, functions: int) -> bytes:
    """A chain of matmuls, then of functions, on (4, 4)."""
    operators = ["MatMul"] * matmuls + ["Erf"] * functions
    names = ["x", *(f"v{index}" for index in range(len(operators) - 1)), "y"]
    nodes = [
        helper.make_node(op, [names[index], "w"] if op == "MatMul" else [names[index]], [names[index + 1]], names[index + 1])
        for index, op in enumerate(operators)
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (4, 4)) for name in "xy"]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def test_the_estimate_is_a_launch_per_matmul_and_a_share_of_the_rest() -> None:
    few, more = estimated_launches(matmuls_and_functions(5, 100)), estimated_launches(matmuls_and_functions(8, 100))
    assert (few.matmuls, more.matmuls) == (5, 8)
    assert few.others == more.others
    assert 30 < few.others < 55
    assert not few.counted
    assert few.bounds == pytest.approx((few.number * (1 - ESTIMATE_ERROR), few.number * (1 + ESTIMATE_ERROR)))


def test_a_count_has_no_error() -> None:
    assert Launches(60, 40, True).bounds == (100, 100)


def test_without_tensorrt_rtx_it_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launches, "is_installed", lambda module: module != "tensorrt_rtx")
    content = matmuls_and_functions(3, 10)
    assert launches_of(content) == estimated_launches(content)


def test_operators_are_counted_behind_onnx_runtimes_own_optimisations() -> None:
    """Two nodes that only name what they take are gone from what is run."""
    content = matmuls_and_functions(2, 3)
    assert operators_of(content) == 5
    model = onnx.load_from_string(content)
    for index in range(2):
        model.graph.node.append(helper.make_node("Identity", ["v0"], [f"same{index}"]))
    model.graph.node.append(helper.make_node("Add", ["same0", "same1"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, (4, 4)))
    assert operators_of(model.SerializeToString()) == 6


@pytest.mark.slow
def test_the_estimate_is_near_what_tensorrt_rtx_counts(calibrated_bundles: dict[str, Path]) -> None:
    """Kernels of the tiny networks' step graphs, in three precisions."""
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("polygraphy")
    for name in ("conditioned", "golden"):
        bundle = load_bundle(calibrated_bundles[name])
        for precision in ("fp32", "fp16", "int8"):
            content = bundle.read("step", precision)
            estimate, count = estimated_launches(content), counted_launches(content)
            assert count.counted
            assert count.plan_bytes is not None
            low, high = estimate.bounds
            assert low <= count.number <= high, f"{name} {precision}: {estimate.number} estimated, {count.number} counted"
