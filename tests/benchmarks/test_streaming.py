"""The streaming benchmark: its two sides do the same work, and its table and plot hold what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.benchmarks.bench_variant import Variant
from diffpose_edge.benchmarks.stream_variant import CAUSAL, TORCH_CAUSAL, TORCH_WINDOW, WINDOW, hop_of, load_stream
from diffpose_edge.benchmarks.streaming import Row, accuracy, bundle_of, plot, with_latencies
from diffpose_edge.bundle import load_bundle
from diffpose_edge.clips import held_out_path
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.evaluation import load_evaluation
from diffpose_edge.tolerances import MILLIMETRES, pose_budget_mm


@pytest.mark.parametrize(
    ("pair", "way", "torch_way"), [("conditioned_video_pair", WINDOW, TORCH_WINDOW), ("causal_pair", CAUSAL, TORCH_CAUSAL)]
)
def test_pytorch_gives_the_poses_that_the_runtime_gives(request, tmp_path: Path, pair: str, way: str, torch_way: str) -> None:
    bundle = bundle_of("pair", request.getfixturevalue(pair), tmp_path, calibrate=False)
    ours, theirs = (load_stream(Variant(str(bundle.path), backend, K=2, threads=1)) for backend in (way, torch_way))
    with ours, theirs:
        poses = [(ours.estimate(), theirs.estimate()) for _ in range(8)]
        assert (ours.describe()["backend"], theirs.describe()["backend"]) == ("onnxruntime", "torch")
    # A stream's first window is filled with its first frame, PyTorch's with the frames before: after five they are the same.
    for mine, other in poses if way == CAUSAL else poses[5:]:
        distance = MILLIMETRES * np.linalg.norm(mine.joints - other.joints, axis=-1).max()
        assert distance <= pose_budget_mm(float(np.abs(other.joints).max()))
        assert other.timings.total >= other.timings.context + other.timings.steps.sum() > 0


@pytest.mark.parametrize(("way", "hop"), [(WINDOW, 1), (CAUSAL, 1), ("hop 9", 9)])
def test_a_way_names_its_hop(way: str, hop: int) -> None:
    assert hop_of(way) == hop


@pytest.mark.parametrize("way", ["hop", "hop -1", "PyTorch", ""])
def test_a_way_that_is_none(way: str) -> None:
    with pytest.raises(DiffPoseEdgeError, match="expected a way"):
        hop_of(way)


def test_accuracy_is_that_of_the_poses(conditioned_video_bundle: Path) -> None:
    """A hop changes what the denoiser is told, and so the errors."""
    clips = tuple(clip.first(6) for clip in load_evaluation(held_out_path())[:2])
    every, held = (accuracy(load_bundle(conditioned_video_bundle), way, "fp32", clips) for way in (WINDOW, "hop 3"))
    assert every["frames"] == held["frames"] == 12
    assert every["mpjpe_mm"] != held["mpjpe_mm"]
    assert all(np.isfinite(list(one.values())).all() for one in (every, held))


@pytest.mark.slow
def test_latencies_join_the_rows_they_belong_to(causal_pair, tmp_path: Path) -> None:
    bundle_of("causal", causal_pair, tmp_path, calibrate=False)
    given = [Row("causal", CAUSAL, "fp32", {"mpjpe_mm": 90.0}, {}), Row("causal", CAUSAL, "int8", {"mpjpe_mm": 91.0}, {})]
    rows = {(row.way, row.precision): row for row in with_latencies(given, tmp_path, ("causal",), 3, 1, 1)}
    assert set(rows) == {(CAUSAL, "fp32"), (CAUSAL, "int8"), (TORCH_CAUSAL, "fp32")}
    for way in (CAUSAL, TORCH_CAUSAL):
        row = rows[way, "fp32"]
        assert row.accuracy == {"mpjpe_mm": 90.0}
        assert 0 < row.latency["encoder_mean_ms"] < row.latency["mean_ms"] <= row.latency["max_ms"]
        assert row.latency["rounds"] == 3
    assert rows[CAUSAL, "int8"].latency == {}


def test_a_plot_shows_what_has_both(tmp_path: Path) -> None:
    latency = {"mean_ms": 4.0, "p95_ms": 5.0}
    rows = [
        Row("video", WINDOW, "fp32", {"mpjpe_mm": 90.0}, latency),
        Row("video", TORCH_WINDOW, "fp32", {"mpjpe_mm": 90.0}, {"mean_ms": 20.0, "p95_ms": 19.0}),
        Row("causal", CAUSAL, "int8", {"mpjpe_mm": 92.0}, {}),
    ]
    plot(rows, tmp_path / "plot.png", "made up")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert [row.name for row in rows] == [WINDOW, TORCH_WINDOW, "causal, int8"]
