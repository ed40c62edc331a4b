"""Results to show: seeded poses of a person that moves, with everything that a result can have."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffpose_edge.keypoints import Keypoints
from diffpose_edge.viewer import ClipResult
from diffpose_edge.viewer.clip_result import times_of

# A person who stands before the camera: x right, y down, z forward, metres from the hip.
STANDING = np.array(
    [
        (0, 0, 0), (-0.13, 0, 0), (-0.16, 0.45, 0.02), (-0.18, 0.88, 0.08), (0.13, 0, 0), (0.16, 0.45, -0.02), (0.18, 0.88, 0.04),
        (0, -0.25, 0.01), (0, -0.5, 0.02), (0, -0.6, -0.02), (0, -0.72, 0), (0.17, -0.47, 0.02), (0.3, -0.2, 0.1), (0.42, 0.02, 0.02),
        (-0.17, -0.47, 0.02), (-0.36, -0.25, -0.1), (-0.45, -0.45, -0.2),
    ]
)  # fmt: skip
BLANK = 4  # the frame in which nobody is found
UNSEEN = 13  # the joint that is not seen in frame 2
IMAGE = (1280.0, 720.0)


def arrays(frames: int = 12, N: int = 3, K: int = 2) -> dict[str, Any]:
    """Return the arrays that 'run' writes, and a root."""
    rng = np.random.default_rng(7)
    swing = 0.1 * np.sin(np.arange(frames) / 3)[:, None, None] * rng.normal(size=(17, 3))
    swing[:, 0] = 0
    truth = STANDING + swing
    samples = truth[:, None] + 0.03 * rng.normal(size=(frames, N, 17, 3)) * (np.arange(17) > 0)[:, None]
    if frames > BLANK:
        samples[BLANK] = np.nan
    joints = samples.mean(axis=1)
    factor = rng.normal(size=(frames, 17, 3, 3)) * np.array([0.03, 0.03, 0.06])[:, None]
    covariance = factor @ np.swapaxes(factor, -1, -2) / 3
    covariance[:, 0] = 0
    covariance[np.isnan(joints).any(axis=(1, 2))] = np.nan
    observed = np.ones((frames, 17), bool)
    observed[BLANK : BLANK + 1] = False
    observed[2:3, UNSEEN] = False
    made = {"joints": joints, "samples": samples, "covariance": covariance, "context": joints + 0.05, "observed": observed}
    return {
        **{name: array if name == "observed" else array.astype(np.float32) for name, array in made.items()},
        "root": (np.array([0.0, 0.1, 4.0]) + 0.05 * np.arange(frames)[:, None] * [1, 0, -0.5]).astype(np.float32),
        "step_ms": 3 + rng.random((frames, K)),
        "call_ms": 9 + rng.random(frames),
        "call_frames": np.ones(frames, np.int32),
    }


def keypoints_of(result: dict[str, Any]) -> Keypoints:
    """Return what a camera 4 m away sees, with confidences; NaN where a joint was not seen."""
    at = STANDING + 0.05 * np.sin(np.arange(len(result["joints"])) / 3)[:, None, None]
    uv = (1.5 * at[..., :2] / (4 + at[..., 2:])).astype(np.float32)
    confidence = np.random.default_rng(3).uniform(0.05, 1, uv.shape[:2]).astype(np.float32)
    uv[~result["observed"]], confidence[~result["observed"]] = np.nan, 0
    return Keypoints(uv, confidence)


def full(frames: int = 12, **of: int) -> ClipResult:
    """Return a result that has everything."""
    made = arrays(frames, **of)
    return ClipResult(**made, times_s=times_of(frames, 10.0), keypoints=keypoints_of(made), image_size=IMAGE)
