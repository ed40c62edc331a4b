"""Loading a bundle with backend "tensorrt" or "auto" where something is missing: no driver, no package, no engine, no plan that is one."""

from __future__ import annotations

import logging
import platform
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diffpose_edge.bundle import Bundle, load_bundle, sha256_of
from diffpose_edge.engines import ENGINE_ROLES, EngineRecord, save_engine
from diffpose_edge.errors import CudaError, DiffPoseEdgeError, EngineError, EngineMismatch, MissingPackage
from diffpose_edge.export.engine_build import built_plan
from diffpose_edge.export.start_graph import start_graph
from diffpose_edge.runtime import PoseRuntime, tensorrt_backend
from diffpose_edge.runtime.cuda import driver_found
from diffpose_edge.runtime.tensorrt_backend import engine_io
from diffpose_edge.runtime.tensorrt_engine import tensorrt_module

from .cuda_double import RecordingCuda
from .device_runtime import assert_same, engines_of, people_of
from .engine_double import OnnxRuntimeEngine

# polygraphy sets a timing cache, which TensorRT-RTX has no use for.
pytestmark = pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")
needs_rtx = pytest.mark.skipif(not (sys.platform == "linux" and platform.machine() == "x86_64"), reason="TensorRT-RTX is for x86-64 alone")


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffpose_edge.runtime.cuda.driver_found", lambda: False)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> RecordingCuda:
    """The double in place of the GPU that is asked for."""
    double = RecordingCuda()
    monkeypatch.setattr(tensorrt_backend, "open_cuda", lambda provider, device: double)
    return double


@pytest.fixture
def bundle(golden_bundle: Path, tmp_path: Path) -> Bundle:
    return load_bundle(Path(shutil.copytree(golden_bundle, tmp_path / "bundle")))


@pytest.fixture(scope="module")
def plan(golden_bundle: Path) -> bytes:
    """A real plan of TensorRT-RTX."""
    return built_plan(start_graph(load_bundle(golden_bundle).manifest).SerializeToString(), "the start", "rtx", "fp32").plan


def save_all(bundle: Bundle, plan: bytes, **changes: Any) -> None:
    """Put the plan into the bundle as every engine of the TensorRT-RTX that is installed."""
    for role in ENGINE_ROLES:
        source = sha256_of(b"") if role == "start" else bundle.manifest.files[f"{role}.fp32.onnx"].sha256
        version = tensorrt_module("rtx").__version__
        record = EngineRecord(role, "fp32", "fp32", "rtx", version, None, source, sha256_of(plan), len(plan))
        save_engine(bundle, replace(record, **changes), plan)


# --- no GPU ---


@pytest.mark.usefixtures("no_driver")
def test_without_a_driver_tensorrt_is_an_error_that_names_the_way_out(golden_bundle: Path) -> None:
    with pytest.raises(CudaError, match=r"no NVIDIA driver found \(libcuda\.so\.1\).*use backend 'onnxruntime'"):
        PoseRuntime.load(golden_bundle, "tensorrt")


@pytest.mark.usefixtures("no_driver")
def test_auto_runs_on_the_cpu_then_and_says_why(golden_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "diffpose_edge")
    with PoseRuntime.load(golden_bundle, "auto", threads=1) as runtime, PoseRuntime.load(golden_bundle, threads=1) as cpu:
        assert runtime.describe()["backend"] == "onnxruntime"
        assert_same(runtime.estimate(*people_of(cpu, 2)), cpu.estimate(*people_of(cpu, 2)))
    [line] = [r.getMessage() for r in caplog.records if getattr(r, "event", "") == "fallback"]
    assert line.startswith("running on the CPU: no NVIDIA driver found")


# --- what cannot be meant ---


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backend": "cuda"}, "expected a backend out of onnxruntime, tensorrt, .*auto, got 'cuda'"),
        ({"precision": "int4"}, "expected a precision out of fp32, fp16, int8, got 'int4'"),
        ({"precision": "int8-trt8"}, "expected a precision out of fp32, fp16, int8, got 'int8-trt8'"),
        ({"flavour": "tensorrt_rtx"}, "expected a flavour out of tensorrt, rtx, got 'tensorrt_rtx'"),
        ({"flavour": "rtx", "provider": "cuda-python"}, "expected a CUDA provider out of cuda-bindings, pycuda, got 'cuda-python'"),
        ({"flavour": "rtx", "device": -1}, "expected the number of a GPU, 0 or more, got -1"),
        ({"flavour": "rtx", "device": "0"}, "expected the number of a GPU, 0 or more, got '0'"),
    ],
)
@pytest.mark.parametrize("backend", ["tensorrt", "auto"])
@pytest.mark.usefixtures("no_driver")
def test_a_mistake_is_told_whatever_the_machine_has(golden_bundle: Path, backend: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(DiffPoseEdgeError, match=said):
        PoseRuntime.load(golden_bundle, **{"backend": backend, **options})


# --- no package ---


@pytest.mark.parametrize("installed", ["", "tensorrt_rtx"])
def test_without_any_tensorrt_the_packages_are_named(
    golden_bundle: Path, cuda: RecordingCuda, monkeypatch: pytest.MonkeyPatch, installed: str
) -> None:
    monkeypatch.setattr(tensorrt_backend, "is_installed", lambda module: module == installed)
    with pytest.raises(EngineMismatch) as caught:
        PoseRuntime.load(golden_bundle, "tensorrt")
    wanted = "no engine of the context graph" if installed else "neither TensorRT nor TensorRT-RTX is installed. pip install tensorrt"
    assert wanted in str(caught.value)
    assert cuda.alive == {}


def test_a_flavour_that_is_asked_for_and_not_installed_is_named(
    golden_bundle: Path, cuda: RecordingCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffpose_edge.extras.is_installed", lambda module: module != "tensorrt")
    with pytest.raises(MissingPackage, match="needs the package 'tensorrt'"):
        PoseRuntime.load(golden_bundle, "tensorrt", flavour="tensorrt")
    assert (cuda.alive, cuda.closed) == ({}, 1)


# --- no engine ---


@needs_rtx
def test_without_engines_the_command_is_given_that_builds_them(golden_bundle: Path, cuda: RecordingCuda) -> None:
    with pytest.raises(EngineMismatch) as caught:
        PoseRuntime.load(golden_bundle, "tensorrt", flavour="rtx")
    version = tensorrt_module("rtx").__version__
    assert str(caught.value) == (
        f"no engine of the context graph in fp32 fits this machine (TensorRT-RTX {version}, SM 8.7): there is none yet. "
        f"Build it with: diffpose-edge build {golden_bundle} --precision fp32 --flavour rtx"
    )
    assert (cuda.alive, cuda.closed) == ({}, 1)


@needs_rtx
def test_auto_takes_the_cpu_where_no_engine_fits(
    bundle: Bundle, cuda: RecordingCuda, plan: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    save_all(bundle, plan, version="1.6.0")
    caplog.set_level(logging.INFO, "diffpose_edge")
    with PoseRuntime.load(bundle, "auto", flavour="rtx", threads=1) as runtime:
        assert runtime.describe()["backend"] == "onnxruntime"
    [line] = [r.getMessage() for r in caplog.records if getattr(r, "event", "") == "fallback"]
    assert "it was built with TensorRT-RTX 1.6.0" in line
    assert "Build it with: diffpose-edge build" in line
    assert cuda.closed == 1


# --- engines that are none ---


def spoilt(plan: bytes, how: str) -> bytes:
    return {"truncated": plan[: len(plan) // 2], "foreign": b"no plan" * 100, "empty": b"", "whole": plan}[how]


@needs_rtx
@pytest.mark.parametrize("how", ["truncated", "foreign", "empty"])
def test_a_plan_that_is_none_is_refused_with_tensorrts_own_words(bundle: Bundle, cuda: RecordingCuda, plan: bytes, how: str) -> None:
    save_all(bundle, spoilt(plan, how))
    refused = r"tensorrt_rtx 1\.\S+: the context engine is not an engine that this TensorRT takes: \S"
    with pytest.raises(EngineError, match=refused) as caught:
        PoseRuntime.load(bundle, "tensorrt", flavour="rtx")
    assert not isinstance(caught.value, EngineMismatch), "it fits, but it is none: building again is not what helps"
    assert (cuda.alive, cuda.closed) == ({}, 1)


@needs_rtx
def test_a_real_plan_without_a_gpu_is_an_error_that_tells_of_the_driver(bundle: Bundle, cuda: RecordingCuda, plan: bytes) -> None:
    """The double stands in for CUDA here, and TensorRT-RTX looks for a GPU of its own."""
    if driver_found():
        pytest.skip("there is a GPU: the plan would be taken")
    save_all(bundle, plan)
    with pytest.raises(EngineError, match=r"tensorrt_rtx 1\.\S+: the context engine .*[Cc]uda"):
        PoseRuntime.load(bundle, "tensorrt", flavour="rtx")
    assert (cuda.alive, cuda.closed) == ({}, 1)


@needs_rtx
def test_an_engine_that_was_cut_short_on_disk_is_not_even_tried(bundle: Bundle, cuda: RecordingCuda, plan: bytes) -> None:
    save_all(bundle, plan)
    [path] = bundle.path.glob("engines/*/step.fp32.engine")
    path.write_bytes(plan[:1000])
    with pytest.raises(EngineMismatch, match=r"step\.fp32\.engine has 1000 bytes, its record says \d+\. Build it with: diffpose-edge"):
        PoseRuntime.load(bundle, "tensorrt", flavour="rtx")
    assert cuda.closed == 1


# --- engines that are ---


@pytest.fixture
def doubled_engines(monkeypatch: pytest.MonkeyPatch, cuda: RecordingCuda, bundle: Bundle) -> list[OnnxRuntimeEngine]:
    """The double's engines in place of TensorRT's, of both flavours; those that were made."""
    made: list[OnnxRuntimeEngine] = []
    of_bundle = engines_of(bundle, cuda)

    def engine(trt: Any, plan: bytes, role: str, io: Any, kernels: Path) -> OnnxRuntimeEngine:
        assert cuda.is_current, "an engine is made where the device's context is current"
        assert plan == f"{trt.__name__} {role}".encode()
        assert io == engine_io(bundle.manifest)[role]
        assert kernels.name == f"{role}.fp32.sm87.kernels"
        assert list(kernels.parent.glob(f"{role}.fp32.engine")), "kernels lie beside their engine"
        made.append(of_bundle[role])
        return of_bundle[role]

    monkeypatch.setattr(tensorrt_backend, "TensorRTEngine", engine)
    monkeypatch.setattr(tensorrt_backend, "is_installed", lambda module: True)
    monkeypatch.setattr(tensorrt_backend, "tensorrt_module", lambda flavour: SimpleNamespace(__version__="1.2", __name__=flavour))
    return made


def save_for(bundle: Bundle, flavour: str) -> None:
    for role in ENGINE_ROLES:
        plan = f"{flavour} {role}".encode()
        source = sha256_of(b"") if role == "start" else bundle.manifest.files[f"{role}.fp32.onnx"].sha256
        save_engine(bundle, EngineRecord(role, "fp32", "fp32", flavour, "1.2", 87, source, sha256_of(plan), len(plan)), plan)


@pytest.mark.parametrize("backend", ["tensorrt", "auto"])
@pytest.mark.parametrize("there", [["tensorrt"], ["rtx"], ["rtx", "tensorrt"]], ids=" and ".join)
def test_the_first_flavour_with_engines_that_fit_is_taken(
    bundle: Bundle, cuda: RecordingCuda, doubled_engines: list[OnnxRuntimeEngine], there: list[str], backend: str
) -> None:
    for flavour in there:
        save_for(bundle, flavour)
    with PoseRuntime.load(bundle, backend, timed=True) as runtime, PoseRuntime.load(bundle, threads=1, portable=True) as cpu:
        assert [engine.name for engine in doubled_engines] == list(ENGINE_ROLES)
        assert_same(runtime.estimate(*people_of(cpu, 3)), cpu.estimate(*people_of(cpu, 3)))
        assert "create_event" in cuda.names, "timed was asked for"
    assert (cuda.alive, cuda.closed) == ({}, 1)
    assert [engine.closed for engine in doubled_engines] == [1, 1, 1]


def test_engines_of_one_flavour_do_for_none_other(bundle: Bundle, doubled_engines: list[OnnxRuntimeEngine]) -> None:
    save_for(bundle, "rtx")
    with pytest.raises(EngineMismatch, match="it is an engine of TensorRT-RTX"):
        PoseRuntime.load(bundle, "tensorrt", flavour="tensorrt")
    assert doubled_engines == []


def test_one_engine_too_few_is_as_good_as_none(bundle: Bundle, cuda: RecordingCuda, doubled_engines: list[OnnxRuntimeEngine]) -> None:
    save_for(bundle, "tensorrt")
    next(bundle.path.glob("engines/*/start.fp32.json")).unlink()
    with pytest.raises(EngineMismatch, match="no engine of the start graph in fp32 fits this machine"):
        PoseRuntime.load(bundle, "tensorrt")
    assert doubled_engines == []
    assert cuda.closed == 1


@pytest.mark.parametrize("call", range(1, 12))
def test_what_fails_while_it_is_loaded_gives_everything_back(
    bundle: Bundle, cuda: RecordingCuda, doubled_engines: list[OnnxRuntimeEngine], call: int
) -> None:
    save_for(bundle, "tensorrt")
    cuda.fail_at = call
    with pytest.raises(CudaError, match=f"call {call}, .* fails in this test"):
        PoseRuntime.load(bundle, "tensorrt")
    assert (cuda.alive, cuda.closed) == ({}, 1)
    assert [engine.closed for engine in doubled_engines] == [1, 1, 1]


@pytest.mark.parametrize("role", ENGINE_ROLES)
def test_an_engine_that_is_refused_gives_those_before_it_back(
    bundle: Bundle, cuda: RecordingCuda, doubled_engines: list[OnnxRuntimeEngine], monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    save_for(bundle, "tensorrt")
    real = tensorrt_backend.TensorRTEngine

    def refusing(trt: Any, plan: bytes, name: str, io: Any, kernels: Path) -> Any:
        if name == role:
            raise EngineError(f"the {role} engine is not an engine that this TensorRT takes")
        return real(trt, plan, name, io, kernels)

    monkeypatch.setattr(tensorrt_backend, "TensorRTEngine", refusing)
    with pytest.raises(EngineError, match=f"the {role} engine is not"):
        PoseRuntime.load(bundle, "tensorrt")
    assert len(doubled_engines) == ENGINE_ROLES.index(role)
    assert all(engine.closed == 1 for engine in doubled_engines)
    assert (cuda.alive, cuda.closed) == ({}, 1)


def test_loading_runs_frames_until_they_are_replayed_and_kernels_are_kept(
    bundle: Bundle, cuda: RecordingCuda, doubled_engines: list[OnnxRuntimeEngine]
) -> None:
    save_for(bundle, "tensorrt")
    with PoseRuntime.load(bundle, "tensorrt") as runtime, PoseRuntime.load(bundle, threads=1, portable=True) as cpu:
        assert cuda.names.count("launch") == 1
        assert [engine.kept for engine in doubled_engines] == [1, 1, 1]
        before = len(cuda.log)
        assert_same(runtime.estimate(*people_of(cpu, 2)), cpu.estimate(*people_of(cpu, 2)))
        assert cuda.names[before:].count("launch") == 1, "the first frame is a replay"
        assert "step" not in cuda.names[before:]


@pytest.mark.parametrize("role", ENGINE_ROLES)
def test_what_fails_in_the_first_frame_gives_everything_back(
    bundle: Bundle, cuda: RecordingCuda, doubled_engines: list[OnnxRuntimeEngine], monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    save_for(bundle, "tensorrt")
    real = OnnxRuntimeEngine.enqueue

    def refuse(engine: OnnxRuntimeEngine, stream: int) -> None:
        if engine.name == role:
            raise EngineError(f"the {role} engine did not run")
        real(engine, stream)

    monkeypatch.setattr(OnnxRuntimeEngine, "enqueue", refuse)
    with pytest.raises(EngineError, match=f"the {role} engine did not run"):
        PoseRuntime.load(bundle, "tensorrt")
    assert (cuda.alive, cuda.closed) == ({}, 1)
    assert [engine.closed for engine in doubled_engines] == [1, 1, 1]


def test_auto_takes_the_cpu_where_an_engine_is_refused_and_warns(
    bundle: Bundle,
    cuda: RecordingCuda,
    doubled_engines: list[OnnxRuntimeEngine],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_for(bundle, "rtx")

    def refusing(*_: Any) -> Any:
        raise EngineError("the engine cannot run on this GPU")

    monkeypatch.setattr(tensorrt_backend, "TensorRTEngine", refusing)
    with PoseRuntime.load(bundle, "auto") as runtime:
        assert runtime.describe()["backend"] == "onnxruntime"
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage() == "running on the CPU: the engine cannot run on this GPU"
