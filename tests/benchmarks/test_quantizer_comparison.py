"""The comparison of quantisers: its table is made, and a wrong scale shows in it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from diffpose_edge.benchmarks import quantizer_comparison as comparison
from diffpose_edge.benchmarks.quantizer_comparison import Candidate, Judge, by_modelopt, by_onnxruntime, facts_of, row_of
from diffpose_edge.bundle import load_bundle
from diffpose_edge.calibration.observed import frames_to_use
from diffpose_edge.clips import street_walk
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.manifest import GRAPHS

FRAMES = 3
# A scale sixteen times too small clips most of an activation.
FACTOR = 1.0 / 16.0


@pytest.fixture(scope="module")
def tried(conditioned_bundle: Path) -> SimpleNamespace:
    """A small bundle, the inputs of its graphs, a judge, and graphs by ONNX Runtime with our choice of matmuls."""
    bundle = load_bundle(conditioned_bundle)
    clip = frames_to_use(street_walk().keypoints, 1, FRAMES)
    truth = np.random.default_rng(0).normal(0.0, 0.3, (FRAMES, 17, 3))
    inputs = comparison.recorded_inputs(bundle, clip, frames=FRAMES)
    graphs = {
        role: by_onnxruntime(
            bundle.read(role),
            inputs[role],
            prepare=False,
            **comparison.MATMULS_ALONE,
            nodes_to_quantize=comparison.our_matmuls(bundle, role),
        )
        for role in GRAPHS
    }
    judge = Judge(bundle, clip.uv, clip.confidence, truth, steps=(2,))
    return SimpleNamespace(bundle=bundle, clip=clip, inputs=inputs, judge=judge, graphs=graphs)


def with_wrong_scale(content: bytes) -> bytes:
    """Return the graph with the first activation's scale wrong by FACTOR, in Q and DQ alike."""
    model = onnx.load_model_from_string(content)
    quantise = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == quantise.input[1])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(FACTOR), scale.name))
    return model.SerializeToString()


def test_the_inputs_are_those_of_whole_trajectories(tried: SimpleNamespace) -> None:
    step, context = tried.inputs["step"], tried.inputs["context"]
    runs = len(step["timestep"])
    shape = tried.bundle.manifest.shape
    assert step["x"].shape == (runs * shape.P * shape.N, 17, 5)
    assert len(np.unique(step["timestep"])) == tried.bundle.manifest.T
    assert len(context["observation"]) % shape.P == 0
    assert np.isfinite(step["x"]).all()


def test_a_wrong_scale_shows_up_as_a_larger_error(tried: SimpleNamespace) -> None:
    honest = tried.judge.judged({"step": tried.graphs["step"]})["2"]
    planted = tried.judge.judged({"step": with_wrong_scale(tried.graphs["step"])})["2"]
    assert honest["mean_mm"] > 0.0
    assert planted["mean_mm"] > 1.5 * honest["mean_mm"]
    exact = tried.judge.judged({})["2"]
    assert exact == {"mean_mm": 0.0, "p99_mm": 0.0, "worst_mm": 0.0, "mpjpe_change_percent": 0.0}


def test_quantised_matmuls_are_counted(tried: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "tensorrt_rtx_facts", lambda content: None)
    fp32 = tried.bundle.read("step")
    chosen = len(comparison.our_matmuls(tried.bundle, "step"))
    facts = facts_of(tried.graphs["step"], fp32)
    assert facts["quantised"] == chosen > 0
    assert facts["qdq_nodes"] == 3 * chosen  # Q and DQ of the activation, DQ of the weight
    assert 0.0 < facts["int8_mac_share"] < 1.0
    assert facts_of(fp32, fp32)["quantised"] == facts_of(fp32, fp32)["qdq_nodes"] == 0


def test_the_table_is_made(tried: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "tensorrt_rtx_facts", lambda content: None)
    defaults = {role: by_onnxruntime(tried.bundle.read(role), tried.inputs[role], prepare=True) for role in GRAPHS}
    candidates = [
        *comparison.own_candidates(tried.bundle, tried.clip, frames=FRAMES),
        Candidate("onnxruntime, defaults", "default", defaults),
        Candidate("onnxruntime, our choice of matmuls", "helped", tried.graphs),
    ]
    rows = [row_of(candidate, tried.judge) for candidate in candidates]
    result = {
        "frames": tried.judge.frames,
        "calibration_runs": {"context": 1, "step": 1},
        "rows": rows,
        "claims": comparison.claims_of(rows),
    }
    text = comparison.markdown_of(comparison.record_of({"frame": result}, {}))
    assert all(text.count(f"| **{c.name}** |" if c.kind == "ours" else f"| {c.name}") == 2 for c in candidates)
    assert "left out: no --modelopt-python" in text
    assert set(result["claims"]) == {f"{which}, K=2" for which in (comparison.BOTH, comparison.STEP)}
    # The update is quantised by default, and nothing else hurts a pose as much.
    added = {row["name"]: row["error"][comparison.STEP]["2"]["mean_mm"] for row in rows}
    assert added["onnxruntime, defaults"] > added["onnxruntime, our choice of matmuls"] > added["this project, FP16"]


def test_no_name_is_the_beginning_of_another_once_told_apart(tried: SimpleNamespace) -> None:
    content, names = comparison.told_apart(tried.bundle.read("step"))
    made = [node.name for node in onnx.load_model_from_string(content).graph.node]
    assert made == list(names.values())
    assert not [1 for a in made for b in made if a != b and b.startswith(a)]


def test_an_environment_without_modelopt_is_told(tried: SimpleNamespace) -> None:
    with pytest.raises(DiffPoseEdgeError, match="nvidia-modelopt did not quantise"):
        by_modelopt(Path(sys.executable), tried.bundle.read("context"), tried.inputs["context"])
