"""ONNX Runtime's GPU backend, with its values on the CPU: the arrangement is the same, the provider is not (that is in tests/gpu)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from diffpose_edge.bundle import load_bundle
from diffpose_edge.errors import BundleError, CudaError, RuntimeClosed
from diffpose_edge.manifest import GRAPHS
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.backend import KEPT_SCHEDULES
from diffpose_edge.runtime.onnxruntime_cuda_backend import PROVIDER, OnnxRuntimeCudaBackend

from .device_runtime import KINDS, KINDS_AND_MODES, assert_same, clip_of, people_of

SCHEDULES = ((49, 39, 29, 19, 9), (40, 12), (30,))


def on_cpu(path: Path) -> tuple[PoseRuntime, OnnxRuntimeCudaBackend]:
    bundle = load_bundle(path)
    backend = OnnxRuntimeCudaBackend(bundle.manifest, {role: bundle.read(role) for role in GRAPHS}, on_cpu=True)
    return PoseRuntime(bundle, backend), backend


@pytest.fixture
def both(request: pytest.FixtureRequest) -> Iterator[tuple[PoseRuntime, PoseRuntime]]:
    path = request.getfixturevalue(request.param)
    with PoseRuntime.load(path) as cpu, on_cpu(path)[0] as gpu:
        yield cpu, gpu


@pytest.mark.parametrize(("both", "mode"), KINDS_AND_MODES, indirect=["both"])
@pytest.mark.parametrize("B", [1, 2, 5], ids=["one person", "P people", "more than P"])
def test_poses_are_those_of_the_cpu_backend(both: tuple[PoseRuntime, PoseRuntime], mode: str, B: int) -> None:
    cpu, gpu = both
    for seed in range(2):
        for steps in SCHEDULES:
            for trace in (False, True):
                people = people_of(cpu, B, seed)
                one, other = (r.estimate(*people, seed, timesteps=steps, mode=mode, trace=trace) for r in (gpu, cpu))
                assert_same(one, other)


@pytest.mark.parametrize("both", KINDS, indirect=True)
def test_a_clip_is_the_cpu_backends(both: tuple[PoseRuntime, PoseRuntime]) -> None:
    cpu, gpu = both
    clip = clip_of(cpu, 11)
    for one, other in zip(gpu.estimate_clip(clip, 0), cpu.estimate_clip(clip, 0), strict=True):
        assert_same(one, other)


def test_what_an_estimate_holds_stays_when_the_buffers_are_used_again(conditioned_bundle: Path) -> None:
    with on_cpu(conditioned_bundle)[0] as runtime:
        first = runtime.estimate(*people_of(runtime, 2), 0, trace=True)
        kept = {name: getattr(first, name).copy() for name in ("joints", "samples", "context", "trajectory")}
        runtime.estimate(*people_of(runtime, 2, seed=9), 1, trace=True)
        for name, value in kept.items():
            np.testing.assert_array_equal(getattr(first, name), value, err_msg=name)


def test_no_more_schedules_are_kept_than_are_used_by_turns(conditioned_bundle: Path) -> None:
    runtime, backend = on_cpu(conditioned_bundle)
    with runtime, PoseRuntime.load(conditioned_bundle) as cpu:
        people = people_of(runtime, 1)
        for first in range(2 * KEPT_SCHEDULES):
            steps = (49 - first, 3)
            assert_same(runtime.estimate(*people, 0, timesteps=steps), cpu.estimate(*people, 0, timesteps=steps))
        assert len(backend._schedules) == KEPT_SCHEDULES
        assert_same(runtime.estimate(*people, 0, timesteps=(49, 3)), cpu.estimate(*people, 0, timesteps=(49, 3)))


def test_every_binding_has_a_graph_number_of_its_own(conditioned_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that is used for other addresses would replay the old ones."""
    runtime, backend = on_cpu(conditioned_bundle)
    given: list[str] = []
    real = ort.RunOptions

    class Options:
        def __init__(self) -> None:
            self.options = real()

        def add_run_config_entry(self, name: str, value: str) -> None:
            assert name == "gpu_graph_id"
            given.append(value)

    with runtime:
        backend._graphs = True
        monkeypatch.setattr(ort, "RunOptions", Options)
        for steps in (*SCHEDULES, *SCHEDULES):
            backend.begin(steps, np.zeros((len(steps), 2), np.float32))
    assert len(given) == len(set(given)) == sum(map(len, SCHEDULES))


def test_without_the_provider_the_command_that_brings_it_is_told(conditioned_bundle: Path) -> None:
    if PROVIDER in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has the provider")
    with pytest.raises(CudaError, match="pip install onnxruntime-gpu"):
        PoseRuntime.load(conditioned_bundle, "onnxruntime-cuda")


def test_a_provider_that_did_not_start_is_not_taken_for_the_gpu(conditioned_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime warns and goes on with the CPU. Its answer is put in its mouth here: this one has no CUDA provider."""
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: [PROVIDER, "CPUExecutionProvider"])
    monkeypatch.setattr(
        ort, "InferenceSession", lambda content, options, providers: real(content, options, providers=["CPUExecutionProvider"])
    )
    with pytest.raises(CudaError, match="did not start"):
        PoseRuntime.load(conditioned_bundle, "onnxruntime-cuda")


def test_a_graph_that_cannot_be_loaded_is_named(conditioned_bundle: Path) -> None:
    bundle = load_bundle(conditioned_bundle)
    with pytest.raises(BundleError, match="context graph"):
        OnnxRuntimeCudaBackend(bundle.manifest, {"context": b"no graph", "step": bundle.read("step")}, on_cpu=True)


def test_it_is_described_and_closed_twice(conditioned_bundle: Path) -> None:
    runtime, backend = on_cpu(conditioned_bundle)
    assert runtime.describe()["backend"] == "onnxruntime-cuda"
    runtime.close()
    runtime.close()
    backend.close()
    with pytest.raises(RuntimeClosed):
        runtime.estimate(np.zeros((1, 17, 2), np.float32))
