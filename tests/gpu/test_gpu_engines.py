"""Engines on a real GPU: each precision against its own graph in ONNX Runtime and against PyTorch, replay against eager work."""

from __future__ import annotations

import resource
import threading

import numpy as np
import pytest

from diffpose_edge.bundle import Bundle
from diffpose_edge.clips import street_walk, trained_pair
from diffpose_edge.comparison import added_error
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.cuda import open_cuda
from diffpose_edge.runtime.tensorrt_backend import tensorrt_backend
from diffpose_edge.schedule import trailing_timesteps
from diffpose_edge.tolerances import FP16_POSE_MEAN_MM, FP16_POSE_WORST_MM, FP32_POSE_MM, INT8_POSE_MEAN_MM

pytest.importorskip("onnx")  # engines are made of its graphs
from diffpose_edge.export.bundle_engines import proof_frames, prove_engines

PAIRS = ("frame", "video")
# What a GPU may differ by from the graph as ONNX Runtime computes it, mean of all joints in mm. FP32 without TF32: another
# order of summation. FP16: ONNX Runtime rounds constants alone, a GPU every value (docs/precision.md). INT8: what is not
# quantised is FP16 there and moves values across borders between integers, so that it may differ by as much as INT8 itself errs.
MEAN_MM = {"fp32": FP32_POSE_MM, "fp16": FP16_POSE_MEAN_MM, "int8": INT8_POSE_MEAN_MM}


@pytest.fixture
def engines(request: pytest.FixtureRequest, pair: str) -> Bundle:
    """The engines of one pair: a test of frames alone does not wait for video's."""
    bundle: Bundle = request.getfixturevalue(f"{pair}_engines")
    return bundle


@pytest.mark.parametrize("precision", MEAN_MM)
@pytest.mark.parametrize("pair", PAIRS)
def test_engines_agree_with_their_graphs(engines: Bundle, flavour: str, pair: str, precision: str) -> None:
    record = prove_engines(engines, precision, flavour)
    print(f"{pair} {precision} {flavour}: {record}")
    assert record["mean_mm"] <= MEAN_MM[precision]
    if precision == "fp16":
        assert record["worst_mm"] <= FP16_POSE_WORST_MM
    assert record["replay_equals_eager"]
    assert record["runtime"]["one_launch"], record["runtime"]


@pytest.mark.parametrize("pair", PAIRS)
def test_fp32_engines_agree_with_pytorch_at_every_step(engines: Bundle, flavour: str, pair: str) -> None:
    pytest.importorskip("torch")
    from diffpose_edge.export.bundle_export import load_pair
    from diffpose_edge.export.reference_run import expected_run

    bundle = engines
    manifest, clip = bundle.manifest, proof_frames(bundle)
    steps = trailing_timesteps(manifest.T, 50)
    expected = expected_run(load_pair(*trained_pair(pair)), clip, steps, manifest.shape, 0)
    with PoseRuntime(bundle, tensorrt_backend(bundle, "fp32", flavour=flavour)) as runtime:
        found = list(runtime.estimate_clip(clip, 0, timesteps=steps, trace=True))
    states = np.concatenate([e.trajectory for e in found if e.trajectory is not None], axis=1)
    added = added_error(np.concatenate([e.joints for e in found]), expected.joints, states, expected.trajectory)
    print(f"{pair} fp32 {flavour}, 50 steps: {added}")
    assert added.mean <= FP32_POSE_MM
    assert added.worst <= 10 * FP32_POSE_MM


@pytest.mark.parametrize("precision", MEAN_MM)
def test_a_replayed_frame_equals_eager_work_bit_for_bit(frame_engines: Bundle, flavour: str, precision: str) -> None:
    bundle = frame_engines
    uv = street_walk().keypoints.uv[40:44]
    with (
        PoseRuntime(bundle, tensorrt_backend(bundle, precision, flavour=flavour)) as replayed,
        PoseRuntime(bundle, tensorrt_backend(bundle, precision, flavour=flavour, capture=False)) as eager,
    ):
        for i in range(4):
            for steps in (trailing_timesteps(bundle.manifest.T, 5), trailing_timesteps(bundle.manifest.T, 10)):
                a, b = (runtime.estimate(uv, seed=i, timesteps=steps) for runtime in (replayed, eager))
                np.testing.assert_array_equal(a.samples, b.samples)
        assert replayed.describe()["one_launch"]
        assert not eager.describe()["one_launch"]


def test_steps_are_timed_on_the_device(frame_engines: Bundle, flavour: str) -> None:
    bundle = frame_engines
    uv = street_walk().keypoints.uv[40]
    with PoseRuntime(bundle, tensorrt_backend(bundle, "fp16", flavour=flavour, timed=True)) as runtime:
        for _ in range(20):
            timings = runtime.estimate(uv, seed=0).timings
    assert (timings.steps > 1e-6).all()
    assert timings.context > 1e-6
    assert 0 <= timings.copies < 0.01
    assert timings.steps.sum() + timings.context + timings.copies < timings.total


def test_ten_thousand_frames_leave_memory_as_it_was(frame_engines: Bundle, flavour: str) -> None:
    bundle = frame_engines
    clip = street_walk().keypoints
    uv = clip.uv[(clip.confidence > 0).all(axis=-1)]
    cuda = open_cuda()
    with PoseRuntime(bundle, tensorrt_backend(bundle, "fp16", flavour=flavour)) as runtime, cuda.current():
        for i in range(200):
            runtime.estimate(uv[i % len(uv)], seed=i)
        free, resident = cuda.memory()[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for i in range(10_000):
            estimate = runtime.estimate(uv[i % len(uv)], seed=i)
        assert np.isfinite(estimate.joints).all()
        taken, grown = free - cuda.memory()[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident
        print(f"10,000 frames took {taken} bytes of the device and {grown} KiB of the host")
        # Where the GPU shares the host's memory, what is free is so to the whole system: others take and give meanwhile.
        assert taken <= (64 if cuda.device.integrated else 1) * 2**20
        assert grown <= 16 * 1024
    cuda.close()


def test_two_runtimes_in_two_threads_do_not_disturb_each_other(frame_engines: Bundle, flavour: str) -> None:
    uv = street_walk().keypoints.uv[40:44]
    bundle = frame_engines
    with PoseRuntime(bundle, tensorrt_backend(bundle, "fp16", flavour=flavour)) as alone:
        expected = [alone.estimate(uv, seed=i).samples for i in range(50)]
    failures: list[str] = []

    def work() -> None:
        with PoseRuntime(bundle, tensorrt_backend(bundle, "fp16", flavour=flavour)) as runtime:
            for i, samples in enumerate(expected):
                if not np.array_equal(runtime.estimate(uv, seed=i).samples, samples):
                    failures.append(f"frame {i}")

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_torch_at_work_in_the_same_process_changes_nothing(frame_engines: Bundle, flavour: str) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    uv = street_walk().keypoints.uv[40:44]
    bundle = frame_engines
    stop = threading.Event()

    def busy() -> None:
        a = torch.randn(512, 512, device="cuda")
        while not stop.is_set():
            a = torch.tanh(a @ a)
            torch.empty(2**22, device="cuda")  # it allocates, which a capture of another mode would not survive
        torch.cuda.synchronize()

    with PoseRuntime(bundle, tensorrt_backend(bundle, "fp16", flavour=flavour)) as runtime:
        expected = runtime.estimate(uv, seed=0).samples
    worker = threading.Thread(target=busy)
    worker.start()
    try:
        with PoseRuntime(bundle, tensorrt_backend(bundle, "fp16", flavour=flavour)) as runtime:
            for _ in range(20):
                np.testing.assert_array_equal(runtime.estimate(uv, seed=0).samples, expected)
            assert runtime.describe()["one_launch"], runtime.describe()
    finally:
        stop.set()
        worker.join()
