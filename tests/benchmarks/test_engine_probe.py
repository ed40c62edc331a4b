"""The probe for engines: a refusal keeps its words, a crash is one too, and where nothing could be asked it says so.

The GPU is a double: what a real one refuses, only it can say.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from diffpose_edge.benchmarks import engine_probe
from diffpose_edge.benchmarks.engine_probe import LEAST, REFUSED, main, refusals, try_engine
from diffpose_edge.errors import CudaError, EngineError
from diffpose_edge.runtime.start_graph import start_io
from tests.runtime.cuda_double import RecordingCuda

# polygraphy sets a timing cache, which TensorRT-RTX has no use for.
pytestmark = pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")


class Engine:
    """Takes every plan, or refuses where ``refusing`` says so; ``bound`` is what it was given."""

    refusing = ""

    def __init__(self, trt: Any, plan: bytes, name: str, io: Any):
        assert len(plan) > 1000
        assert io == start_io(LEAST)
        self._refuse("load")
        self.bound: dict[str, int] = {}

    def _refuse(self, where: str) -> None:
        if self.refusing == where:
            raise EngineError(f"SM 9.0 is not\n  supported ({where})")

    def bind(self, addresses: dict[str, int]) -> None:
        self.bound = addresses

    def enqueue(self, stream: int) -> None:
        inputs, outputs = start_io(LEAST)
        assert set(self.bound) == {*inputs, *outputs}
        self._refuse("run")

    def close(self) -> None:
        pass


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> RecordingCuda:
    cuda = RecordingCuda()
    monkeypatch.setattr(engine_probe, "open_cuda", lambda: cuda)
    monkeypatch.setattr(engine_probe, "TensorRTEngine", Engine)
    return cuda


def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Let a script answer in place of the probe's own process."""
    program = tmp_path / "answer"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(engine_probe, "FLAVOURS", {"rtx": ("tensorrt_rtx", "TensorRT-RTX")})


def test_the_least_engine_is_built_bound_and_run(gpu: RecordingCuda) -> None:
    try_engine("rtx")
    assert not gpu.alive
    assert "synchronize" in gpu.names


@pytest.mark.parametrize("where", ["load", "run"])
def test_a_refusal_leaves_nothing_behind_and_keeps_its_words(
    gpu: RecordingCuda, monkeypatch: pytest.MonkeyPatch, capsys: Any, where: str
) -> None:
    monkeypatch.setattr(Engine, "refusing", where)
    assert main(["rtx"]) == REFUSED
    assert "SM 9.0 is not\n  supported" in capsys.readouterr().out
    assert not gpu.alive


def test_a_refusal_is_told_in_one_line_and_fails(gpu: RecordingCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    asked(monkeypatch, tmp_path, f"echo 'SM 9.0 is not'; echo '  supported'; exit {REFUSED}")
    assert refusals() == {"rtx": "SM 9.0 is not supported"}
    assert main([]) == REFUSED
    told = capsys.readouterr().out.splitlines()
    assert told == ["rtx: refused: SM 9.0 is not supported", "engines: NOT TESTED: TensorRT-RTX refuses this GPU: SM 9.0 is not supported"]


def test_a_crash_is_a_refusal(gpu: RecordingCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked(monkeypatch, tmp_path, "echo 'unknown device' >&2; kill -SEGV $$")
    assert refusals() == {"rtx": "its process ended with -11, having said: unknown device"}


def test_an_engine_that_runs_is_told(gpu: RecordingCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    asked(monkeypatch, tmp_path, 'test "$*" = "-m diffpose_edge.benchmarks.engine_probe rtx"')
    assert main([]) == 0
    assert capsys.readouterr().out == "rtx: takes engines\n"


def test_without_a_gpu_nothing_was_asked(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def none() -> None:
        raise CudaError("no NVIDIA driver found")

    monkeypatch.setattr(engine_probe, "open_cuda", none)
    assert main([]) == 1
    assert capsys.readouterr().out == "engines: NOT TESTED: no NVIDIA driver found\n"


def test_without_tensorrt_nothing_was_asked(gpu: RecordingCuda, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(engine_probe, "FLAVOURS", {})
    assert main([]) == 1
    assert capsys.readouterr().out == "engines: NOT TESTED: neither TensorRT nor TensorRT-RTX is installed\n"
