"""The start graph: what ONNX Runtime makes of it is numpy's sum to the bit, every TensorRT takes it, and it is one launch."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from diffpose_edge.bundle import load_bundle
from diffpose_edge.config import BatchShape
from diffpose_edge.export.lint import TARGETS, lint
from diffpose_edge.export.start_graph import start_graph
from diffpose_edge.export.tensorrt_rtx import built
from diffpose_edge.manifest import Manifest
from diffpose_edge.runtime.start import noise_start, released_start
from diffpose_edge.runtime.start_graph import start_io
from diffpose_edge.skeleton import ROOT, J

Array = NDArray[np.float32]
BUNDLES = ("golden_bundle", "conditioned_bundle", "golden_video_bundle")
SIZES = [(P, N) for P in (1, 2, 3) for N in (1, 2, 3)]

every_kind = pytest.mark.parametrize("manifest", BUNDLES, indirect=True)


@pytest.fixture
def manifest(request: pytest.FixtureRequest) -> Manifest:
    path: Path = request.getfixturevalue(request.param)
    return load_bundle(path).manifest


def of_size(manifest: Manifest, P: int, N: int) -> Manifest:
    return replace(manifest, shape=BatchShape(P, N, manifest.shape.F))


def inputs_of(manifest: Manifest, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    inputs = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in start_io(manifest)[0].items()}
    inputs["base"][..., 2:5] *= 1e-3
    return inputs


def run(graph: onnx.ModelProto, inputs: dict[str, Array]) -> Array:
    [result] = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)
    return np.asarray(result)


@every_kind
@pytest.mark.parametrize(("P", "N"), SIZES)
def test_it_adds_each_persons_pose_to_all_of_their_samples(manifest: Manifest, P: int, N: int) -> None:
    manifest = of_size(manifest, P, N)
    graph, inputs = start_graph(manifest), inputs_of(manifest)
    expected = inputs["base"].copy()
    relative = inputs["xyz"] - inputs["xyz"][:, ROOT : ROOT + 1]
    expected.reshape(P, N, J, -1)[..., 2:5] += (inputs["scale"] * relative)[:, None]
    np.testing.assert_array_equal(run(graph, inputs), expected)


@pytest.mark.parametrize("manifest", ["golden_bundle"], indirect=True)
@pytest.mark.parametrize(("P", "N"), SIZES)
@pytest.mark.parametrize("a_t", [None, 0.37])
def test_it_is_the_released_start_rounded_in_the_same_places(manifest: Manifest, P: int, N: int, a_t: float | None) -> None:
    """Released, and with the noise of a first timestep: what the CPU writes into the state."""
    manifest, rng = of_size(manifest, P, N), np.random.default_rng(1)
    uv, xyz = rng.standard_normal((P, J, 2)).astype(np.float32), rng.standard_normal((P, J, 3)).astype(np.float32)
    e = rng.standard_normal(manifest.shape.state).astype(np.float32)
    expected = np.empty(manifest.shape.state, np.float32)
    released_start(uv, xyz, expected)
    base, scale = np.zeros(manifest.shape.state, np.float32), np.ones(1, np.float32)
    base.reshape(P, N, J, 5)[..., :2] = uv[:, None]
    if a_t is not None:
        noise_start(expected, e, a_t)
        noise_start(base, e, a_t)
        scale[0] = np.sqrt(a_t)
    np.testing.assert_array_equal(run(start_graph(manifest), {"xyz": xyz, "base": base, "scale": scale}), expected)


@every_kind
def test_its_inputs_and_outputs_are_what_the_runtime_binds(manifest: Manifest) -> None:
    graph = start_graph(manifest).graph
    for values, shapes in zip((graph.input, graph.output), start_io(manifest), strict=True):
        assert {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values} == shapes
        assert {v.type.tensor_type.elem_type for v in values} == {onnx.TensorProto.FLOAT}
    [(name, shape)] = start_io(manifest)[1].items()
    conditioned = manifest.process.kind == "distribution"
    assert (name, shape[-1]) == (("start", 10) if conditioned else ("x", 5))
    # What it gives is bound where a step reads it.
    assert manifest.step_io[0][name] == shape


@every_kind
def test_it_is_the_same_file_every_time(manifest: Manifest) -> None:
    first, second = (start_graph(manifest).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


@every_kind
@pytest.mark.parametrize("target", TARGETS)
def test_the_linter_finds_no_fault_for_any_target(manifest: Manifest, target: str) -> None:
    assert [f for f in lint(start_graph(manifest), target) if f.severity != "note"] == []


@pytest.mark.skipif(not (sys.platform == "linux" and platform.machine() == "x86_64"), reason="TensorRT-RTX is for x86-64 alone")
@pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")
@every_kind
def test_it_is_one_launch(manifest: Manifest) -> None:
    report = built(start_graph(manifest).SerializeToString(), "start")
    assert report.messages == ()
    assert len(report.launches) == 1
    assert report.matmuls == {}
