"""The latency benchmark on a machine without a GPU: what fails is told and the rest goes on, and what was measured is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from diffpose_edge.benchmarks import gpu_latency
from diffpose_edge.benchmarks.gpu_latency import BASE, CONFIGURATIONS, WARM_UP, main, measured, summary, taking_turns
from diffpose_edge.bundle import load_bundle
from diffpose_edge.errors import CudaError, DiffPoseEdgeError
from diffpose_edge.runtime import PoseRuntime

ROUNDS = 5


class Candidate:
    """Takes ``seconds`` by its own account, and fails in its ``failing``-th run."""

    def __init__(self, seconds: float, failing: int = 0, error: BaseException | None = None):
        self.seconds, self.failing, self.error, self.runs = seconds, failing, error, 0

    def __call__(self) -> float:
        self.runs += 1
        if self.runs == self.failing and self.error is not None:
            raise self.error
        return self.seconds


def test_a_candidate_that_fails_is_left_out_with_its_text_and_the_others_go_on() -> None:
    candidates = {
        "good": Candidate(0.002),
        "fails at once": Candidate(0.001, 1, RuntimeError("no kernel image is available")),
        "fails later": Candidate(0.001, WARM_UP + 3, CudaError("illegal access")),
    }
    refused: dict[str, str] = {}
    times = taking_turns(candidates, ROUNDS, refused)
    assert times == {"good": [2.0] * ROUNDS}
    # An error that is not ours says of what kind it is.
    assert refused == {"fails at once": "RuntimeError: no kernel image is available", "fails later": "illegal access"}
    assert [candidate.runs for candidate in candidates.values()] == [WARM_UP + ROUNDS, 1, WARM_UP + 3]


def test_an_interrupt_is_no_refusal() -> None:
    with pytest.raises(KeyboardInterrupt):
        taking_turns({"interrupted": Candidate(0.001, 2, KeyboardInterrupt())}, ROUNDS, {})


def test_ratios_are_to_the_cpu_and_left_out_where_it_did_not_run() -> None:
    told = summary({BASE: [4.0, 6.0], "other": [1.0, 2.0]}, K=2)
    assert told["times_faster_than_onnxruntime_cpu"] == {BASE: 1.0, "other": 3.5}
    assert told["ms_per_step"] == {BASE: 2.5, "other": 0.75}
    assert "times_faster_than_onnxruntime_cpu" not in summary({"other": [1.0]}, K=2)


def test_all_k_of_an_n_share_a_bundle_and_what_was_loaded(
    monkeypatch: pytest.MonkeyPatch, conditioned_bundle: Path, tmp_path: Path
) -> None:
    """On the CPU every candidate but one is refused; ONNX Runtime's own errors are among the reasons."""
    made: list[tuple[str, int, Path]] = []
    monkeypatch.setattr(gpu_latency, "shipped_bundle", lambda *asked: made.append(asked) or load_bundle(conditioned_bundle))
    real, loads = PoseRuntime.load, []

    def load(bundle: Any, backend: str = "onnxruntime", **given: Any) -> PoseRuntime:
        loads.append(backend)
        if backend == "onnxruntime-cuda":
            raise ValueError("a provider's own error")
        return real(bundle, backend, **given)

    monkeypatch.setattr(gpu_latency.PoseRuntime, "load", load)
    untaken = {"rtx": "SM 9.0 is not supported"}
    results = list(measured("frame", 3, (4, 2), ROUNDS, tmp_path, untaken))
    assert made == [("frame", 3, tmp_path)]
    assert loads == ["onnxruntime", "onnxruntime-cuda"]
    assert [(r["N"], r["K"], list(r["ms"])) for r in results] == [(3, 4, [BASE]), (3, 2, [BASE])]
    for result in results:
        assert result["refused"]["onnxruntime-cuda fp32"] == "ValueError: a provider's own error"
        assert result["refused"]["rtx"] == untaken["rtx"]
        assert "sees no GPU" in result["refused"]["pytorch"]


def test_a_bundle_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unmade(*_: Any) -> None:
        raise DiffPoseEdgeError("no PyTorch here")

    monkeypatch.setattr(gpu_latency, "shipped_bundle", unmade)
    [result] = measured("frame", 1, (5,), ROUNDS, tmp_path, {})
    assert result == {"pair": "frame", "N": 1, "K": [5], "ms": {}, "refused": {"bundle": "no PyTorch here"}}


def test_an_interrupted_run_leaves_what_it_has_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def two_then_interrupted(pair: str, N: int, all_K: tuple[int, ...], *_: Any) -> Any:
        if next(iter(CONFIGURATIONS)) != N:
            raise KeyboardInterrupt
        for K in all_K:
            yield {"pair": pair, "N": N, "K": K, **summary({BASE: [1.0]}, K), "refused": {"other": "[not] here"}}

    monkeypatch.setattr(gpu_latency, "gpu_missing", lambda: None)
    monkeypatch.setattr(gpu_latency, "untaken_flavours", dict)
    monkeypatch.setattr(gpu_latency, "measured", two_then_interrupted)
    out = tmp_path / "result.json"
    with pytest.raises(KeyboardInterrupt):
        main(out, ROUNDS, ["frame"], tmp_path)
    written = json.loads(out.read_text())
    assert [(r["N"], r["K"]) for r in written["results"]] == [(5, 50), (5, 5)]
    assert written["complete"] is False
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_without_a_gpu_there_is_nothing_to_measure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    def none() -> None:
        raise CudaError("no NVIDIA driver found")

    monkeypatch.setattr(gpu_latency, "open_cuda", none)
    with pytest.raises(typer.Exit) as ended:
        main(tmp_path / "result.json", ROUNDS, ["frame"], None)
    assert ended.value.exit_code == 1
    assert "no NVIDIA driver found" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
