"""The linter finds no fault with the graphs that are made here, for the targets that each is made for."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from diffpose_edge.export.lint import TARGETS, lint

BUNDLES = ("golden", "golden_video", "conditioned", "conditioned_video", "causal")
MADE_FOR = {
    "fp32": tuple(TARGETS),
    "fp16": tuple(name for name in TARGETS if name != "8.6"),
    "int8": tuple(name for name in TARGETS if name != "8.6"),
    "int8-trt8": ("8.6",),
}


def faults(model: Path | onnx.ModelProto, target: str) -> list[tuple[str, str]]:
    """What is wrong; notes say what is worth knowing, such as the typing to build with."""
    return [(finding.rule, finding.node) for finding in lint(model, target) if finding.severity != "note"]


def test_every_target_has_a_precision() -> None:
    assert set(TARGETS) == {"8.6", "10.3", "10.13", "10.16", "11.4", "rtx"}


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("role", ["context", "step"])
@pytest.mark.parametrize("precision", MADE_FOR)
def test_nothing_is_wrong_with_a_graph(calibrated_bundles: dict[str, Path], name: str, role: str, precision: str) -> None:
    file = calibrated_bundles[name] / f"{role}.{precision}.onnx"
    assert {target: faults(file, target) for target in MADE_FOR[precision]} == {target: [] for target in MADE_FOR[precision]}


def test_the_newer_int8_form_is_refused_for_tensorrt_8(calibrated_bundles: dict[str, Path]) -> None:
    found = faults(calibrated_bundles["conditioned"] / "step.int8.onnx", "8.6")
    assert len(found) == 12
    assert {rule for rule, _ in found} == {"weight-int8-direct"}


@pytest.mark.parametrize("target", ["10.3", "rtx"])
def test_a_spoilt_graph_is_not_clean(calibrated_bundles: dict[str, Path], target: str) -> None:
    model = onnx.load(calibrated_bundles["conditioned"] / "step.int8.onnx")
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == "layer0.conv1/zero")
    zero.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(zero) + numpy_helper.to_array(zero).dtype.type(1), zero.name))
    assert {node for _, node in faults(model, target)} >= {"layer0.conv1/quantize"}
