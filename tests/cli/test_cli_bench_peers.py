"""``bench peers``: what it measures, prints, writes and refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from diffpose_edge.benchmarks.bench_report import load_report
from diffpose_edge.benchmarks.graph_cost import graph_cost
from diffpose_edge.benchmarks.peers.comparison import add_network_floors, add_ratios, import_seconds, network_matmul_flops
from diffpose_edge.config import BatchShape, GraphNetworkConfig
from diffpose_edge.export.cpu_graph import cpu_graph
from diffpose_edge.export.graphs import step_graph
from diffpose_edge.reference import load_released

from .conftest import Mistake, Run


@pytest.mark.slow
def test_the_runtime_and_its_peers_are_rows_and_refusals_have_reasons(cli: Run, golden: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "peers.json"
    chosen = ["--peer", "folded-torch", "--peer", "torch-cuda-graph"]
    options = ["--samples", 1, "--samples", 2, "--steps", 2, "--rounds", 12, "--precision", "int8"]
    result = cli("bench", "peers", *options, *chosen, "--denoiser", golden.denoiser, "--context", golden.context, "--out", out)
    report = load_report(out)
    rows = [(row["bundle"], row["N"], row["backend"], row["precision"], row["K"], row["threads"]) for row in report["rows"]]
    whats = ("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("folded-torch", "fp32")
    assert rows == [(f"n{N}", N, *what, 2, 1) for N in (1, 2) for what in whats]
    assert [row["ratio"] for row in report["rows"] if row["backend"] == "onnxruntime" and row["precision"] == "fp32"] == [1.0, 1.0]
    for row in report["rows"]:
        steps = np.array(row["samples_ms"]["steps"])
        assert steps.shape == (12, 2)
        assert (steps > 0).all()
        assert row["ratio"] > 0
        assert row["described"]
        assert (row["floor"] is None) == (row["backend"] == "folded-torch"), "what runs a graph has a floor of its own"
        network = row["network_floor"]
        assert network["ms"] == pytest.approx(network["flops"] / report["floors"]["1"]["sgemm_gflops"] / 1e6, abs=1e-5)
        assert network["ratio"] == pytest.approx(row["ms"]["step"]["p50"] / network["ms"], rel=0.01)
    assert len({row["network_floor"]["flops"] / row["N"] for row in report["rows"]}) == 1, "of each sample it is the same"
    assert report["weights"] == [golden.denoiser.name, golden.context.name]
    refused = {(one["bundle"], one["backend"]): one["reason"] for one in report["refused"]}
    assert set(refused) == {("n1", "torch-cuda-graph"), ("n2", "torch-cuda-graph")}
    assert "a CUDA graph needs an NVIDIA GPU" in refused["n1", "torch-cuda-graph"]
    assert "times the runtime" in result.out
    assert result.out.count("refused: ") == 1  # said once, for every N
    assert "importing the runtime" in result.out


def test_a_ratio_is_within_a_round() -> None:
    """A machine that becomes ten times slower on the way does not move it."""
    slower = np.array([1.0, 1.0, 10.0])[:, None]
    rows = [{"samples_ms": {"steps": (slower * np.array([[0.5 * ms, 1.5 * ms]])).tolist()}} for ms in (2.0, 5.0, 1.0)]
    add_ratios(rows)
    assert [row["ratio"] for row in rows] == pytest.approx([1.0, 2.5, 0.5])


def test_the_network_multiplies_what_its_graph_without_the_eigenbasis_does(random_pair: tuple[Path, Path]) -> None:
    pair = load_released(*random_pair)
    assert network_matmul_flops(pair.denoiser_config, 1) / 1e6 == pytest.approx(24.27, abs=0.005)
    portable = step_graph(pair, BatchShape(P=1, N=4)).model
    assert network_matmul_flops(pair.denoiser_config, 4) == graph_cost(cpu_graph(portable, 4)).matmul_flops


def test_without_measured_peaks_there_is_no_floor() -> None:
    rows = [{"threads": 1, "P": 1, "N": 5, "ms": {"step": {"p50": 1.5}}}]
    add_network_floors(rows, None, GraphNetworkConfig(96, 5, 4))
    assert rows[0]["network_floor"] is None


def test_importing_takes_some_time() -> None:
    assert 0 < import_seconds(repeats=1) < 60


def test_mistakes_are_refused_before_anything_is_measured(cli: Run, mistake: Mistake, golden: SimpleNamespace, tmp_path: Path) -> None:
    assert "expected a peer out of eager-released" in mistake("bench", "peers", "--peer", "tvm")
    assert "expected 1 <= K <= T steps, got K=52 and T=51" in mistake("bench", "peers", "--steps", 52)
    assert "expected --denoiser and --context, or neither" in mistake("bench", "peers", "--denoiser", golden.denoiser)
    assert "cannot write" in mistake("bench", "peers", "--out", tmp_path / "no folder" / "p.json")
    assert "no checkpoint at" in mistake("bench", "peers", "--denoiser", tmp_path / "none", "--context", golden.context)
    assert "is a video encoder" in mistake("bench", "peers", "--denoiser", golden.denoiser, "--context", golden.mixste)
    cli("bench", "peers", "--rounds", 3, status=2)
