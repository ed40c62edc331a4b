"""What a step remembers: the samplers' memory in every backend, and that nothing of one frame gets into the next."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from diffpose_edge.bundle import load_bundle
from diffpose_edge.manifest import GRAPHS
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend
from diffpose_edge.runtime.onnxruntime_cuda_backend import OnnxRuntimeCudaBackend
from diffpose_edge.runtime.plan import plan_of

from .device_runtime import KINDS, KINDS_AND_MODES, assert_same, clip_of, on_device, people_of

STEPS = (44, 30, 21, 9)


def _graphs(path: Path) -> dict[str, bytes]:
    return {role: load_bundle(path).read(role) for role in GRAPHS}


# A runtime of each backend over the same bundle, and the backend.
def _cpu(path: Path) -> tuple[PoseRuntime, Any]:
    bundle = load_bundle(path)
    backend = OnnxRuntimeBackend(bundle.manifest, _graphs(path), threads=1)
    return PoseRuntime(bundle, backend), backend


def _cuda_on_cpu(path: Path) -> tuple[PoseRuntime, Any]:
    bundle = load_bundle(path)
    backend = OnnxRuntimeCudaBackend(bundle.manifest, _graphs(path), on_cpu=True)
    return PoseRuntime(bundle, backend), backend


def _device(path: Path) -> tuple[PoseRuntime, Any]:
    device = on_device(path)
    return device.runtime, device.backend


Making = Callable[[Path], tuple[PoseRuntime, Any]]
every_backend = pytest.mark.parametrize("make", [_cpu, _cuda_on_cpu, _device])


@every_backend
@pytest.mark.parametrize("kind", ["golden_bundle", "conditioned_bundle"])
def test_a_walk_is_the_formula_step_by_step(make: Making, kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    runtime, backend = make(path)
    step = ort.InferenceSession(_graphs(path)["step"], providers=["CPUExecutionProvider"])
    with runtime:
        plan = plan_of(runtime.bundle.manifest, "ab2", STEPS)
        assert plan.coefficients[1:, 2].all(), "a sampler that remembers nothing proves nothing"
        rng = np.random.default_rng(3)
        told = {}
        for name in ("feature", "start"):
            if (array := getattr(backend, name)) is not None:
                array[...] = told[name] = rng.standard_normal(array.shape).astype(np.float32)
        backend.x[...] = x = rng.standard_normal(backend.x.shape).astype(np.float32)
        backend.begin(plan.timesteps, plan.coefficients)
        trajectory = np.empty((len(STEPS) + 1, *x.shape), np.float32)
        backend.walk(np.zeros(len(STEPS)), trajectory)
        before = np.zeros_like(x)
        for k, (t, row) in enumerate(zip(plan.timesteps, plan.coefficients, strict=True)):
            feed = {"x": x, "timestep": np.array([t], np.float32), "coefficients": np.array([0, 1, 0], np.float32), "previous": before}
            eps = step.run(["eps"], feed | told)[0]
            x = row[0] * x + row[1] * eps + row[2] * before
            np.testing.assert_allclose(trajectory[k + 1], x, rtol=1e-5, atol=1e-5 * np.abs(x).max())
            before = eps


@every_backend
@pytest.mark.parametrize("kind", ["golden_bundle", "conditioned_bundle"])
def test_nothing_that_is_not_finite_outlives_its_frame(make: Making, kind: str, request: pytest.FixtureRequest) -> None:
    """0 times infinity is not 0: the first step must not read what the frame before left, whatever its coefficient."""
    runtime, _ = make(request.getfixturevalue(kind))
    with runtime:
        people = people_of(runtime, 2)
        for sampler in ("ddim", "ab2"):
            expected = runtime.estimate(*people, 1, timesteps=STEPS, sampler=sampler)
            backend = runtime._open()
            for K in (1, 2, 3, 4):
                plan = plan_of(runtime.bundle.manifest, sampler, STEPS[:K])
                backend.begin(plan.timesteps, plan.coefficients)
                backend.x[...] = np.inf
                assert not np.isfinite(backend.walk(np.zeros(K), None)).any()
                found = runtime.estimate(*people, 1, timesteps=STEPS, sampler=sampler)
                np.testing.assert_array_equal(found.samples, expected.samples)


@pytest.mark.parametrize(("kind", "mode"), KINDS_AND_MODES)
def test_poses_of_a_sampler_with_memory_are_the_cpus_to_the_bit(kind: str, mode: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    device, (cuda, _) = on_device(path), _cuda_on_cpu(path)
    with PoseRuntime.load(path, threads=1, portable=True) as cpu, device.runtime as other, cuda:
        for seed in (0, 1, 2):
            people, options = people_of(cpu, 3, seed), {"timesteps": STEPS, "sampler": "ab2", "mode": mode, "trace": seed == 1}
            expected = cpu.estimate(*people, seed, **options)
            assert_same(other.estimate(*people, seed, **options), expected)
            np.testing.assert_allclose(cuda.estimate(*people, seed, **options).samples, expected.samples, rtol=0, atol=1e-5)
            # DDIM over the same timesteps is another schedule, and the one after it again the first.
            ddim = options | {"sampler": "ddim"}
            plain = cpu.estimate(*people, seed, **ddim)
            assert_same(other.estimate(*people, seed, **ddim), plain)
            assert not np.array_equal(plain.samples, expected.samples)
        clip = clip_of(cpu, 7)
        pairs = zip(other.estimate_clip(clip, 0, steps=4, sampler="ab2"), cpu.estimate_clip(clip, 0, steps=4, sampler="ab2"), strict=True)
        for found, wanted in pairs:
            assert_same(found, wanted)
    assert "launch" in device.cuda.names


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_said_takes_turns_and_the_first_step_reads_silence(kind: str, request: pytest.FixtureRequest) -> None:
    device = on_device(request.getfixturevalue(kind))
    with device.runtime as runtime:
        runtime.estimate(*people_of(runtime, 2), timesteps=STEPS, sampler="ab2")
        steps = [entry[1] for entry in device.cuda.log if entry[0] == "step"][: len(STEPS)]
        for one, following in pairwise(steps):
            assert following["previous"] == one["eps"]
        assert len({step["eps"] for step in steps}) == 2
        assert steps[0]["previous"] not in {step["eps"] for step in steps}
