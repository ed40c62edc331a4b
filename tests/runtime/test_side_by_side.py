"""Samples dealt out to the cores: the same poses, the same trace, whole timings; and what goes wrong in one part is told."""

import threading

import numpy as np
import pytest

from diffpose_edge.bundle import load_bundle
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend, available_cores
from diffpose_edge.runtime.onnxruntime_steps import OnnxRuntimeSteps
from diffpose_edge.runtime.samples_side_by_side import SamplesSideBySide, dealt_samples
from diffpose_edge.tolerances import FP32_POSE_REL, FP32_STATE_REL

KINDS = ["golden_bundle", "conditioned_bundle", "conditioned_video_bundle", "causal_bundle"]


def people_of(runtime: PoseRuntime, B: int) -> np.ndarray:
    F = runtime.bundle.manifest.shape.F
    size = (B, 17, 2) if F == 1 else (B, F, 17, 2)
    return np.random.default_rng(0).uniform(-0.5, 0.5, size).astype(np.float32)


@pytest.mark.parametrize(
    ("N", "parts", "dealt"), [(20, 2, [10, 10]), (5, 2, [3, 2]), (20, 6, [4, 4, 3, 3, 3, 3]), (2, 4, [1, 1]), (1, 8, [1])]
)
def test_samples_are_dealt_out_evenly_and_none_is_left(N, parts, dealt):
    assert dealt_samples(N, parts) == dealt


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [2, 3])
def test_poses_are_those_of_one_session(kind, threads, request):
    path = request.getfixturevalue(kind)
    with PoseRuntime.load(path, threads=1) as one, PoseRuntime.load(path, threads=threads) as several:
        N = one.bundle.manifest.shape.N
        assert several.describe()["sessions"] == min(threads, N)
        mode = "noised" if kind == "golden_bundle" else None
        for B in (1, one.bundle.manifest.shape.P, 3):
            wanted, found = (runtime.estimate(people_of(runtime, B), seed=B, mode=mode, trace=True) for runtime in (one, several))
            for name, budget in (("samples", FP32_POSE_REL), ("joints", FP32_POSE_REL), ("trajectory", FP32_STATE_REL)):
                expected, actual = getattr(wanted, name), getattr(found, name)
                assert np.isfinite(expected).all()
                assert np.abs(actual - expected).max() <= budget * np.abs(expected).max(), name


def test_the_same_call_gives_the_same_bits(conditioned_bundle):
    with PoseRuntime.load(conditioned_bundle, threads=3) as runtime:
        people = people_of(runtime, 2)
        first = runtime.estimate(people, seed=3).samples
        runtime.estimate(people[::-1], seed=4)
        np.testing.assert_array_equal(runtime.estimate(people, seed=3).samples, first)


def test_steps_take_as_long_as_the_slowest_part_and_add_up(conditioned_bundle):
    bundle = load_bundle(conditioned_bundle)
    backend = OnnxRuntimeBackend(bundle.manifest, bundle.graphs(for_cpu=True), threads=2)
    steps = backend._steps
    assert isinstance(steps, SamplesSideBySide)
    slow, last = steps._parts[1], threading.Event()
    original = slow.step

    def slower(k):
        original(k)
        last.wait(0.05)  # nobody sets it: a sleep

    slow.step = slower
    backend.begin((30, 10), np.zeros((2, 3), np.float32))
    step_ns = np.zeros(2)
    backend.walk(step_ns, None)
    assert (step_ns >= 0.045e9).all()
    backend.close()


def test_what_goes_wrong_in_a_part_is_told_when_all_have_stopped(conditioned_bundle):
    bundle = load_bundle(conditioned_bundle)
    backend = OnnxRuntimeBackend(bundle.manifest, bundle.graphs(for_cpu=True), threads=2)
    steps = backend._steps
    assert isinstance(steps, SamplesSideBySide)
    for part in range(2):
        original = steps._parts[part].step

        def failing(k):
            raise RuntimeError("no more")

        steps._parts[part].step = failing
        backend.begin((30,), np.zeros((1, 3), np.float32))
        with pytest.raises(RuntimeError, match="no more"):
            backend.walk(np.zeros(1), None)
        steps._parts[part].step = original
        assert np.isfinite(backend.walk(np.zeros(1), None)).all()
    backend.close()
    backend.close()


def test_threads_go_with_the_runtime(conditioned_bundle):
    before = threading.active_count()
    with PoseRuntime.load(conditioned_bundle, threads=2) as runtime:
        runtime.estimate(people_of(runtime, 1), seed=0)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_single_steps_are_for_one_session(conditioned_bundle):
    bundle = load_bundle(conditioned_bundle)
    graphs = bundle.graphs(for_cpu=True)
    with pytest.raises(RuntimeError, match="side_by_side=False"):
        _ = OnnxRuntimeBackend(bundle.manifest, graphs, threads=2).steps
    for fixed in (
        OnnxRuntimeBackend(bundle.manifest, graphs, threads=2, side_by_side=False),
        OnnxRuntimeBackend(bundle.manifest, bundle.graphs(), threads=2),
    ):
        assert isinstance(fixed.steps, OnnxRuntimeSteps)
        assert fixed.describe()["sessions"] == 1
        fixed.close()


def test_all_cores_are_used_unless_told(conditioned_bundle):
    with PoseRuntime.load(conditioned_bundle) as runtime:
        assert runtime.describe()["threads"] == available_cores()
