"""Every public entry that takes a user's values, with arguments that it accepts: in one place, so that none is forgotten.

What counts as one: a public function, class or method whose docstring says which DiffPoseEdgeError it raises, in the modules that the
documentation tells users to import. :data:`ENTRIES` are called with one or two of their arguments exchanged for what nobody means;
:data:`ELSEWHERE` says who tries the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffpose_edge.body import BodyEstimate
from diffpose_edge.body_scale import Scale, scale_of_bones, scale_of_stature, stature_of
from diffpose_edge.bones import bone_lengths
from diffpose_edge.camera import Camera
from diffpose_edge.camera_files import camera_of_info
from diffpose_edge.config import BatchShape
from diffpose_edge.distribution import spread_from_record
from diffpose_edge.evaluation import EvaluationClip
from diffpose_edge.facing import facing
from diffpose_edge.fitted import FittedSchedule, fitted_from_records
from diffpose_edge.formats import PoseSequence
from diffpose_edge.heatmaps import render_heatmaps
from diffpose_edge.keypoints import Keypoints, checked_keypoints, denormalise, normalise_pixels
from diffpose_edge.layouts import COCO17, h36m17_from, h36m17_from_mediapipe33
from diffpose_edge.manifest import checked_file_name
from diffpose_edge.metrics import checked_poses, joint_errors, mpjpe, p_mpjpe
from diffpose_edge.mixtures import checked_mixture, mixture_from_heatmaps, mixture_from_keypoints, mixture_from_parameters
from diffpose_edge.placing import in_world, placed
from diffpose_edge.root import root_positions
from diffpose_edge.runtime import OneEuro, Tracking
from diffpose_edge.samplers import ab2_rows, ddim_rows, even_timesteps, sampler_rows
from diffpose_edge.schedule import (
    checked_timesteps,
    ddim_coefficients,
    released_alpha_bar,
    scaled_coefficients,
    scales_of,
    step_coefficients,
    trailing_timesteps,
    uniform_timesteps,
)
from diffpose_edge.skeleton import J
from diffpose_edge.uncertainty import checked_covariance, chi2_3_quantile

Check = Callable[[Any], bool]


@dataclass(frozen=True)
class Entry:
    """A callable, arguments that it accepts, what its result is like, and what it says it raises besides DiffPoseEdgeError.

    ``fixed``: arguments that are declared as arrays of a type, or as tables of this project's own, and are not a user's to get wrong.
    """

    call: Callable[..., Any]
    arguments: Mapping[str, Any]
    well_formed: Check = lambda result: result is not None
    also: tuple[type[Exception], ...] = ()
    fixed: tuple[str, ...] = ()


RNG = np.random.default_rng(0)
ALPHA_BAR = released_alpha_bar()
UV = RNG.uniform(-0.8, 0.8, (2, J, 2))
PIXELS = RNG.uniform(100.0, 400.0, (2, J, 2))
STANDING = RNG.uniform(-0.6, 0.6, (2, J, 3)) * np.array([0.3, 1.0, 0.3])
STANDING[:, 0] = 0.0
CAMERA = Camera.from_fov(640, 480, 70.0)
COVARIANCE = np.tile(np.eye(2) * 1e-3, (2, J, 1, 1))
BODY = BodyEstimate(
    1, "camera", 0, STANDING[0].astype(np.float32), np.tile(np.eye(3, dtype=np.float32) * 1e-3, (J, 1, 1)),
    np.ones(J, bool), np.zeros((3, J, 3), np.float32), keypoints=np.concatenate([UV[0], np.ones((J, 1))], axis=1).astype(np.float32),
)  # fmt: skip
INFO = {"width": 640, "height": 480, "k": [500.0, 0, 320, 0, 500, 240, 0, 0, 1], "d": [0.0] * 5, "distortion_model": "plumb_bob"}
SPREAD = {"confidence": [0.0, 1.0], "uv": [[0.1] * J] * 2, "xyz": [[[0.1] * 3] * J] * 2, "residual": [[[0.1] * 3] * J] * 2}
RECORDS = {"2": {"timesteps": [12, 0], "coefficients": [[1.0, 0.5, 0.0], [0.9, 0.2, 0.1]], "accuracy": {}}}


def _finite(result: Any) -> bool:
    return bool(np.isfinite(np.asarray(result, np.float64)).all())


def _keypoints(result: Keypoints) -> bool:
    seen = result.confidence > 0
    return result.uv.shape[-2:] == (J, 2) and _finite(result.uv[seen]) and bool(((result.confidence >= 0) & (result.confidence <= 1)).all())


def _decreasing(result: Any) -> bool:
    return len(result) > 0 and all(a > b >= 0 for a, b in itertools.pairwise(result))


def _mixture(result: Any) -> bool:
    return _finite(result.weight) and bool((result.weight >= 0).all()) and result.mean.shape == (*result.weight.shape, 2)


# What the documentation says raises ValueError, where numpy finds no numbers too.
NO_NUMBERS = (ValueError, TypeError, OverflowError)
STEPS = {"alpha_bar": ALPHA_BAR, "timesteps": (12, 0), "prediction": "eps"}
ENTRIES: dict[str, Entry] = {
    "keypoints.checked_keypoints": Entry(checked_keypoints, {"keypoints": UV, "confidence": np.ones((2, J)), "window": False}, _keypoints),
    "keypoints.normalise_pixels": Entry(normalise_pixels, {"xy": PIXELS, "image_size": (640, 480)}),
    "keypoints.denormalise": Entry(denormalise, {"uv": UV, "image_size": (640, 480)}),
    "mixtures.checked_mixture": Entry(
        checked_mixture,
        {"weight": np.ones((2, J, 1)), "mean": UV[:, :, None], "covariance": COVARIANCE[:, :, None], "confidence": None},
        _mixture,
    ),
    "mixtures.mixture_from_keypoints": Entry(mixture_from_keypoints, {"uv": UV, "covariance": COVARIANCE, "confidence": None}, _mixture),
    "mixtures.mixture_from_parameters": Entry(
        mixture_from_parameters,
        {"weight": np.ones((2, J, 1)), "mean": UV[:, :, None], "scale": np.full((2, J, 1, 2), 0.1), "confidence": None},
        _mixture,
    ),
    "mixtures.mixture_from_heatmaps": Entry(
        mixture_from_heatmaps,
        {"heatmaps": np.ones((1, J, 4, 4)), "affine": np.array([[40.0, 0, 0], [0, 40, 0]]), "image_size": (160, 160), "components": 2},
        _mixture,
    ),
    "heatmaps.render_heatmaps": Entry(
        render_heatmaps, {"centres": np.full((1, 1, 2), 3.0), "weights": np.ones((1, 1)), "sigma": 1.0, "size": (8, 8)}
    ),
    "layouts.h36m17_from": Entry(
        h36m17_from,
        {"layout": COCO17, "points": np.concatenate([PIXELS, np.ones((2, J, 1))], axis=2), "image_size": (640, 480)},
        _keypoints,
    ),
    "layouts.h36m17_from_mediapipe33": Entry(
        h36m17_from_mediapipe33, {"landmarks": RNG.uniform(0.1, 0.9, (1, 33, 3)) * (640, 480, 1), "image_size": (640, 480)}, _keypoints
    ),
    "schedule.checked_timesteps": Entry(checked_timesteps, {"timesteps": (12, 0), "T": 51}, _decreasing),
    "schedule.uniform_timesteps": Entry(uniform_timesteps, {"T": 50, "K": 5}, _decreasing),
    "schedule.trailing_timesteps": Entry(trailing_timesteps, {"T": 50, "K": 5}, _decreasing),
    "schedule.ddim_coefficients": Entry(ddim_coefficients, {"alpha_bar": ALPHA_BAR, "timesteps": (12, 0)}, fixed=("alpha_bar",)),
    "schedule.step_coefficients": Entry(step_coefficients, STEPS, also=(ValueError,), fixed=("alpha_bar",)),
    "schedule.scaled_coefficients": Entry(scaled_coefficients, STEPS, also=(ValueError,), fixed=("alpha_bar",)),
    "schedule.scales_of": Entry(scales_of, {"alpha_bar": ALPHA_BAR, "timesteps": (12, 0)}, fixed=("alpha_bar",)),
    "samplers.ddim_rows": Entry(ddim_rows, STEPS, also=(ValueError,), fixed=("alpha_bar",)),
    "samplers.ab2_rows": Entry(ab2_rows, STEPS, also=(ValueError,), fixed=("alpha_bar",)),
    "samplers.sampler_rows": Entry(sampler_rows, {"sampler": "ab2", **STEPS, "scaled": False}, also=(ValueError,), fixed=("alpha_bar",)),
    "samplers.even_timesteps": Entry(even_timesteps, {"T": 50, "K": 5, "first": 12}, _decreasing),
    "distribution.spread_from_record": Entry(spread_from_record, {"record": SPREAD}),
    "camera.Camera": Entry(
        Camera,
        {"width": 640, "height": 480, "fx": 500.0, "fy": 500.0, "cx": 320.0, "cy": 240.0, "distortion": "none", "coefficients": ()},
        lambda camera: _finite([camera.fx, camera.fy, camera.cx, camera.cy]),
    ),
    "camera.Camera.from_fov": Entry(Camera.from_fov, {"width": 640, "height": 480, "horizontal_degrees": 70.0}),
    "camera.Camera.project": Entry(CAMERA.project, {"points": STANDING + (0, 0, 3)}),
    "camera.Camera.rays": Entry(CAMERA.rays, {"pixels": PIXELS}),
    "camera.Camera.undistorted": Entry(CAMERA.undistorted, {"pixels": PIXELS}),
    "camera_files.camera_of_info": Entry(camera_of_info, {"info": INFO, "rectified": False}),
    "placing.placed": Entry(
        placed, {"body": BODY, "camera": CAMERA, "scale": Scale(1.0, 0.05), "pixel_sigma": None, "hip_sigma": 0.02}
    ),
    "placing.in_world": Entry(in_world, {"body": BODY, "pose": np.eye(4), "translation": None, "frame_id": "world"}),
    "body_scale.Scale": Entry(Scale, {"mean": 1.0, "sigma": 0.05}),
    "body_scale.scale_of_bones": Entry(
        scale_of_bones, {"poses": STANDING, "lengths": np.full(16, 0.3), "sigma": 0.01, "pose_spread": 0.03}
    ),
    "body_scale.scale_of_stature": Entry(
        scale_of_stature, {"poses": STANDING, "stature": 1.7, "sigma": 0.05, "pose_spread": 0.03}
    ),
    "body_scale.stature_of": Entry(stature_of, {"poses": STANDING}),
    "root.root_positions": Entry(
        root_positions,
        {
            "joints": STANDING, "covariance": None, "pixels": PIXELS, "camera": CAMERA, "confidence": np.ones((2, J)),
            "scale": Scale(1.0, 0.05), "pixel_sigma": None, "hip_sigma": 0.02,
        },
    ),
    "facing.facing": Entry(facing, {"camera": CAMERA, "keypoints": checked_keypoints(UV), "together": False}),
    "evaluation.EvaluationClip": Entry(
        EvaluationClip,
        {"name": "a", "action": "Walking", "fps": 50.0, "uv": UV, "confidence": np.ones((2, J)), "truth": STANDING},
    ),
    "fitted.FittedSchedule": Entry(
        FittedSchedule,
        {"timesteps": (12, 0), "rows": ((1.0, 0.5, 0.0), (0.9, 0.2, 0.1)), "accuracy": {}},
        fixed=("timesteps", "rows"),
    ),
    "fitted.fitted_from_records": Entry(fitted_from_records, {"records": RECORDS, "T": 51}),
    "config.BatchShape": Entry(BatchShape, {"P": 2, "N": 3, "F": 1}),
    "manifest.checked_file_name": Entry(checked_file_name, {"name": "graphs/step.fp32.onnx"}),
    "formats.PoseSequence": Entry(
        PoseSequence, {"joints": STANDING.astype(np.float32), "fps": 30.0, "frames": np.arange(2), "root": None, "person": "7"},
        fixed=("joints", "frames", "root"),
    ),
    "runtime.OneEuro": Entry(OneEuro, {"min_cutoff": 1.0, "beta": 0.1}),
    "runtime.Tracking": Entry(Tracking, {"likeness": "oks", "least": 0.1, "hits": 1}),
    # What the documentation says raises ValueError.
    "metrics.checked_poses": Entry(checked_poses, {"prediction": STANDING, "truth": STANDING}, also=NO_NUMBERS),
    "metrics.joint_errors": Entry(joint_errors, {"prediction": STANDING, "truth": STANDING}, also=NO_NUMBERS),
    "metrics.mpjpe": Entry(mpjpe, {"prediction": STANDING, "truth": STANDING, "valid": None}, also=NO_NUMBERS),
    "metrics.p_mpjpe": Entry(p_mpjpe, {"prediction": STANDING, "truth": STANDING, "valid": None}, also=NO_NUMBERS),
    "bones.bone_lengths": Entry(bone_lengths, {"poses": STANDING}, also=NO_NUMBERS),
    "uncertainty.checked_covariance": Entry(
        checked_covariance, {"covariance": np.tile(np.eye(3), (2, J, 1, 1)), "poses": STANDING}, also=NO_NUMBERS, fixed=("poses",)
    ),
    "uncertainty.chi2_3_quantile": Entry(chi2_3_quantile, {"level": 0.5}, also=NO_NUMBERS),
}  # fmt: skip

_FILE, _ARGUMENTS = "reads or writes a file: tests/fuzz", "takes what another entry has checked"
ELSEWHERE = {
    **dict.fromkeys((
            "keypoints.arrays_of", "keypoints.image_size_of", "keypoints.load_keypoints", "camera_files.load_camera",
            "evaluation.load_evaluation", "evaluation.save_evaluation", "fitted.schedules_of_checkpoints", "bundle.load_bundle",
            "bundle.bundle_of", "bundle.read_manifest",
            "manifest.manifest_from_json", "timings.all_timings", "timings.timings_of", "timings.timings_here", "engines.engine_records",
            "engines.load_engine", "formats.detect_format", "formats.open_clip", "formats.read_detections", "formats.read_poses",
        ), _FILE),
    **dict.fromkeys((
            "mixtures.draw", "body.bodies_of", "bundle.Bundle.read", "bundle.Bundle.graphs", "bundle.unaltered",
            "bundle_writing.record_fitted", "bundle_writing.record_verification", "bundle_writing.save_bundle",
            "bundle_writing.exchange_contents", "timings.save_timings", "engines.engine_folder", "engines.save_engine",
            "formats.write_detections", "formats.write_poses",
        ), _ARGUMENTS),
    **dict.fromkeys((
            "runtime.PoseRuntime.load", "runtime.PoseRuntime.estimate", "runtime.PoseRuntime.stream", "runtime.PoseStream",
            "runtime.PoseStream.push",
        ), "tests/properties/test_runtime_entries.py"),
    "runtime.PoseRuntime.measure": "takes time: tests/runtime/test_budget.py",
    "runtime.PoseRuntime.range_report": "takes keypoints: tests/runtime/test_out_of_range.py",
    "runtime.PoseRuntime.describe": "takes nothing",
    "runtime.PoseStream.get": "takes a time to wait: tests/runtime/test_pose_stream.py",
    "runtime.VideoStream.push": "tests/runtime/test_video_stream.py",
    "runtime.VideoStream.reset": "tests/runtime/test_video_stream.py",
}  # fmt: skip
