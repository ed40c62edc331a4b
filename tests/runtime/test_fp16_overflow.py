"""A network whose FP16 overflows: finite in float32, and found out where it is computed in half of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from diffpose_edge.bundle import load_bundle
from diffpose_edge.errors import NumericalError
from diffpose_edge.export.fp16 import FP16_MAX, fp16_from_fp32
from diffpose_edge.export.layer_groups import taps_of
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend

from .device_runtime import people_of

# Weights of about 0.1 then still are float16 numbers; sums of a row's products are not.
LARGER = 3e5


def with_larger_weights(content: bytes) -> onnx.ModelProto:
    """Return the graph with the weights of its first plain matmul LARGER times as large, none beyond FP16's largest number."""
    model = onnx.load_model_from_string(content)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    node = next(n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in weights)
    tensor = weights[node.input[1]]
    larger = np.clip(numpy_helper.to_array(tensor) * np.float32(LARGER), -0.9 * FP16_MAX, 0.9 * FP16_MAX)
    tensor.CopyFrom(numpy_helper.from_array(larger.astype(np.float32), tensor.name))
    return model


@pytest.mark.parametrize("role", ["context", "step"])
def test_it_is_found_in_fp16_and_is_not_there_in_fp32(role: str, conditioned_bundle: Path) -> None:
    bundle = load_bundle(conditioned_bundle)
    model = with_larger_weights(bundle.read(role))
    half = fp16_from_fp32(model, taps_of(bundle.manifest, role)).model.SerializeToString()
    graphs = bundle.graphs() | {role: model.SerializeToString()}
    with PoseRuntime(bundle, OnnxRuntimeBackend(bundle.manifest, graphs, 1)) as runtime:
        uv, confidence = people_of(runtime, 2)
        assert np.isfinite(runtime.estimate(uv, confidence, seed=0).samples).all()
    told = (
        "context encoder's answer for person 0" if role == "context" else r"step 1 of 5 \(timestep 49\).*person 0.*Run the bundle in fp32"
    )
    with (
        PoseRuntime(bundle, OnnxRuntimeBackend(bundle.manifest, graphs | {role: half}, 1)) as runtime,
        pytest.raises(NumericalError, match=told),
    ):
        runtime.estimate(uv, confidence, seed=0)
    with PoseRuntime(bundle, OnnxRuntimeBackend(bundle.manifest, graphs | {role: half}, 1), non_finite="last") as runtime:
        found = runtime.estimate(uv, confidence, seed=0)
        assert found.non_finite.all()
        assert (found.walked == 0).all()
        assert found.valid.all() == (role == "step")
