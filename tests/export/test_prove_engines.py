"""The proof at the end of a build: real poses, every state, the replay beside eager work, and where its record is written."""

from __future__ import annotations

import ctypes
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffpose_edge.bundle import Bundle, load_bundle, sha256_of
from diffpose_edge.engines import ENGINE_ROLES, EngineRecord, Target, engine_records, load_engine, save_engine
from diffpose_edge.errors import CudaError, EngineError
from diffpose_edge.export import bundle_engines
from diffpose_edge.export.bundle_engines import PROOF_FRAMES, proof_frames, prove_engines
from diffpose_edge.runtime.device_backend import DeviceBackend
from diffpose_edge.runtime.start import LEAST_OBSERVED
from tests.runtime.cuda_double import RecordingCuda
from tests.runtime.device_runtime import KINDS, engines_of
from tests.runtime.engine_double import OnnxRuntimeEngine

VERSION = "10.3.0.30"
HERE = Target("tensorrt", VERSION, 87)


class DescribedEngine(OnnxRuntimeEngine):
    """Calls itself TensorRT, as whoever describes the runtime expects."""

    def describe(self) -> dict[str, str]:
        return {"backend": "tensorrt", "version": VERSION}


class Device:
    """The double's GPU under the engines of a bundle; ``spoil`` alters what the steps compute."""

    def __init__(self) -> None:
        self.cudas: list[RecordingCuda] = []
        self.asked: list[tuple[str, str, int]] = []
        self.spoil: Any = None

    def __call__(self, bundle: Bundle, precision: str, *, flavour: str, device: int) -> DeviceBackend:
        self.asked.append((precision, flavour, device))
        self.cudas.append(RecordingCuda())
        engines = engines_of(bundle, self.cudas[-1])
        for engine in engines.values():
            engine.__class__ = DescribedEngine
        if self.spoil:
            engines["step"]._run = self.spoil(engines["step"])  # type: ignore[method-assign]
        return DeviceBackend(bundle.manifest, self.cudas[-1], engines)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device()
    monkeypatch.setattr(bundle_engines, "tensorrt_backend", made)
    monkeypatch.setattr(bundle_engines, "tensorrt_module", lambda flavour: SimpleNamespace(__version__=VERSION))
    return made


def bundle_with_engines(path: Path, place: Path) -> Bundle:
    """A copy with engines, in name only, for this GPU, another GPU, another version and another flavour."""
    bundle = load_bundle(Path(shutil.copytree(path, place / "bundle")))
    for flavour, version, sm in (("tensorrt", VERSION, 87), ("tensorrt", VERSION, 89), ("tensorrt", "10.4", 87), ("rtx", "1.7", None)):
        for role in ENGINE_ROLES:
            plan = f"{role} {flavour} {version} {sm}".encode()
            source = sha256_of(b"") if role == "start" else bundle.manifest.files[f"{role}.fp32.onnx"].sha256
            record = EngineRecord(role, "fp32", "fp32", flavour, version, sm, source, sha256_of(plan), len(plan), made={"seconds": 1.0})
            save_engine(bundle, record, plan)
    return bundle


def result_of(engine: OnnxRuntimeEngine, bound: dict[str, int]) -> NDArray[np.float32]:
    """What a step has just written, to be altered."""
    shape = engine.shapes["x_next"]
    return np.ctypeslib.as_array((ctypes.c_float * int(np.prod(shape))).from_address(bound["x_next"])).reshape(shape)


@pytest.mark.parametrize("kind", KINDS)
def test_engines_that_compute_the_same_err_by_nothing(request: pytest.FixtureRequest, kind: str, tmp_path: Path, device: Device) -> None:
    bundle = bundle_with_engines(request.getfixturevalue(kind), tmp_path)
    record = prove_engines(bundle, "fp32", "tensorrt", device=1)
    assert device.asked == [("fp32", "tensorrt", 1)]
    assert record["replay_equals_eager"] is True
    # The runtime beside it may use several threads: the last bit is its own.
    assert record["worst_mm"] < 1e-2
    assert record["frames"] == (PROOF_FRAMES if bundle.manifest.shape.F == 1 else bundle.manifest.shape.F)
    assert "launch" in device.cudas[0].names, "nothing was replayed"
    assert device.cudas[0].alive == {}
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_the_record_is_written_into_the_engines_that_ran_and_no_others(golden_bundle: Path, tmp_path: Path, device: Device) -> None:
    bundle = bundle_with_engines(golden_bundle, tmp_path)
    before = {path: path.read_bytes() for path, _ in engine_records(bundle)}
    record = prove_engines(bundle, "fp32", "tensorrt")
    proved = {engine.name for _, engine in engine_records(bundle) if engine.made.get("verification") == record}
    assert proved == {f"engines/tensorrt-{VERSION}-sm87/{role}.fp32.engine" for role in ENGINE_ROLES}
    assert not any("verification" in engine.made for _, engine in engine_records(bundle) if engine.name not in proved)
    # The engines are what they were, and so is the rest of their records.
    assert {path: path.read_bytes() for path in before} == before
    assert all(engine.made["seconds"] == 1.0 for _, engine in engine_records(bundle))
    assert all(load_engine(bundle, role, "fp32", HERE) for role in ENGINE_ROLES)


def test_a_wrong_step_is_seen_in_the_record(golden_bundle: Path, tmp_path: Path, device: Device) -> None:
    def slightly(engine: OnnxRuntimeEngine) -> Any:
        real = engine._run

        def run(bound: dict[str, int]) -> None:
            real(bound)
            result_of(engine, bound)[:, 3, 4] += 0.010

        return run

    device.spoil = slightly
    record = prove_engines(bundle_with_engines(golden_bundle, tmp_path), "fp32", "tensorrt")
    assert record["worst_mm"] > 9.0


def test_a_replay_that_differs_is_seen_in_the_record(golden_bundle: Path, tmp_path: Path, device: Device) -> None:
    def differently(engine: OnnxRuntimeEngine) -> Any:
        real, runs = engine._run, []

        def run(bound: dict[str, int]) -> None:
            real(bound)
            runs.append(1)
            result_of(engine, bound)[0, 1, 2] += 1e-3 * len(runs)

        return run

    device.spoil = differently
    assert prove_engines(bundle_with_engines(golden_bundle, tmp_path), "fp32", "tensorrt")["replay_equals_eager"] is False


def test_poses_that_are_not_finite_are_an_error_and_no_record(golden_bundle: Path, tmp_path: Path, device: Device) -> None:
    def without_sense(engine: OnnxRuntimeEngine) -> Any:
        real = engine._run

        def run(bound: dict[str, int]) -> None:
            real(bound)
            result_of(engine, bound)[0, 1, 2] = np.nan

        return run

    device.spoil = without_sense
    bundle = bundle_with_engines(golden_bundle, tmp_path)
    with pytest.raises(EngineError, match="the engines in fp32 give poses that are not finite"):
        prove_engines(bundle, "fp32", "tensorrt")
    assert not any("verification" in engine.made for _, engine in engine_records(bundle))
    assert device.cudas[0].alive == {}


def test_a_device_that_fails_leaves_records_as_they_were(golden_bundle: Path, tmp_path: Path, device: Device) -> None:
    def failing(engine: OnnxRuntimeEngine) -> Any:
        def run(bound: dict[str, int]) -> None:
            raise CudaError("an illegal memory access was encountered")

        return run

    device.spoil = failing
    bundle = bundle_with_engines(golden_bundle, tmp_path)
    with pytest.raises(CudaError, match="illegal memory access"):
        prove_engines(bundle, "fp32", "tensorrt")
    assert not any("verification" in engine.made for _, engine in engine_records(bundle))


@pytest.mark.parametrize("kind", ["golden_bundle", "conditioned_video_bundle"])
def test_the_poses_of_the_proof_are_real_and_usable(request: pytest.FixtureRequest, kind: str) -> None:
    bundle = load_bundle(request.getfixturevalue(kind))
    clip, F = proof_frames(bundle), bundle.manifest.shape.F
    assert len(clip) == (F if F > 1 else PROOF_FRAMES)
    assert len(np.unique(clip.uv, axis=0)) == len(clip)
    if F == 1:
        assert ((clip.confidence > 0).sum(axis=-1) >= LEAST_OBSERVED).all()
    of_p1 = replace(bundle.manifest, shape=replace(bundle.manifest.shape, P=1))
    np.testing.assert_array_equal(proof_frames(Bundle(bundle.path, of_p1)).uv, clip.uv)
