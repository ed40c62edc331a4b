"""ONNX Runtime's CUDA provider against its CPU provider, on a real GPU."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_edge.bundle import Bundle
from diffpose_edge.clips import street_walk
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.tolerances import FP32_POSE_MM, MILLIMETRES

pytest.importorskip("onnx")  # frames to try are chosen where engines are made
pytest.importorskip("onnxruntime")
import onnxruntime as ort

from diffpose_edge.export.bundle_engines import proof_frames
from diffpose_edge.runtime.onnxruntime_cuda_backend import PROVIDER


@pytest.fixture(autouse=True)
def with_cuda(gpu: str) -> None:
    if PROVIDER not in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA provider: install onnxruntime-gpu")


@pytest.mark.parametrize("pair", ["frame", "video"])
def test_poses_are_those_of_the_cpu(pair: str, request: pytest.FixtureRequest) -> None:
    bundle = request.getfixturevalue(f"{pair}_bundle")
    clip = proof_frames(bundle)
    with PoseRuntime.load(bundle, "onnxruntime-cuda") as gpu, PoseRuntime.load(bundle) as cpu:
        for _ in range(3):  # ONNX Runtime captures in the first runs, and replays later
            a, b = (np.concatenate([e.joints for e in runtime.estimate_clip(clip, 0)]) for runtime in (gpu, cpu))
            worst = MILLIMETRES * np.abs(a - b).max()
            print(f"{pair}: {worst:.5f} mm at most from the CPU's")
            assert worst <= 10 * FP32_POSE_MM


def test_schedules_do_not_take_each_others_graphs(frame_bundle: Bundle) -> None:
    uv = street_walk().keypoints.uv[40]
    schedules = [frame_bundle.manifest.timesteps, frame_bundle.manifest.timesteps[:2], frame_bundle.manifest.timesteps[1:]]
    with PoseRuntime.load(frame_bundle, "onnxruntime-cuda") as gpu, PoseRuntime.load(frame_bundle) as cpu:
        for _ in range(3):
            for steps in schedules:
                a, b = (runtime.estimate(uv, seed=0, timesteps=steps).joints for runtime in (gpu, cpu))
                assert MILLIMETRES * np.abs(a - b).max() <= 10 * FP32_POSE_MM
