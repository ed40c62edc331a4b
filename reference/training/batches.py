"""Training batches: motions seen by virtual cameras and a model detector. A batch depends on its seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.person import PersonView, context_channels, frame_views, person_view
from diffpose_edge.reference.training.bodies import poses_of, random_lengths, with_lengths
from diffpose_edge.reference.training.cameras import Cameras, projected, random_cameras, seen_by
from diffpose_edge.reference.training.detector import Detections, detect
from diffpose_edge.reference.training.motions import Motion, MotionSource
from diffpose_edge.reference.training.rotations import frame_of, rotated
from diffpose_edge.skeleton import ROOT, J

Array = NDArray[np.float32]

# Where a detector's joint lies from ours, metres in body axes: every annotation defines hips, spine, neck and head anew.
DEFINITION_SPREAD = np.array(
    [0.02, 0.022, 0.012, 0.02, 0.022, 0.012, 0.02, 0.035, 0.025, 0.035, 0.035, 0.02, 0.012, 0.015, 0.02, 0.012, 0.015], np.float32
)


@dataclass(frozen=True)
class Batch:
    """B windows of F frames. ``channels`` (B, F, 17, 6) what the encoder takes; ``uv`` (B, F, 17, 2) the true keypoints and
    ``xyz`` (B, F, 17, 3) the true pose, metres, camera axes, relative to the hip; ``detections`` in image coordinates, and
    ``view`` the people's own frames. ``root`` (B, F, 3): where the hip is, metres, camera axes, and ``cameras`` what saw it.
    """

    channels: Array
    uv: Array
    xyz: Array
    detections: Detections
    view: PersonView
    root: Array
    cameras: Cameras


def training_batch(source: MotionSource, count: int, seed: Sequence[int]) -> Batch:
    """Make a batch of ``count`` windows of new motions and bodies; the same seed gives the same batch."""
    rng = np.random.default_rng(list(seed))
    motion = source.draw(count, rng)
    lengths = random_lengths(source.bodies, count, rng)
    seen = Motion(motion.pelvis, with_lengths(motion.bones, lengths), motion.root)
    return viewed(seen, count, rng, source.landmark_share, source.frame_views)


def held_out_batch(source: MotionSource, count: int, seed: Sequence[int]) -> Batch:
    """Make a batch of ``count`` windows as they were captured, body and motion, seen by new cameras and the model detector."""
    rng = np.random.default_rng(list(seed))
    return viewed(source.window(count, rng), count, rng, source.landmark_share, source.frame_views)


def as_landmarks(poses: Array, detected: Array) -> Array:
    """Return ``detected`` (…, 17, 3) with the joints that landmark detectors do not have derived as our layouts derive them.

    The hip is the mean of both hips, the thorax that of the shoulders, the spine half-way between; joint 9 is the nose,
    10 cm in front of the true ``poses``' upper neck and 4 cm above it, in the axes of the head.
    """
    derived = detected.copy()
    derived[..., 0, :] = (detected[..., 1, :] + detected[..., 4, :]) / 2
    derived[..., 8, :] = (detected[..., 11, :] + detected[..., 14, :]) / 2
    derived[..., 7, :] = (derived[..., 0, :] + derived[..., 8, :]) / 2
    head = frame_of(poses[..., 11, :] - poses[..., 14, :], poses[..., 10, :] - poses[..., 9, :])
    derived[..., 9, :] = poses[..., 9, :] - 0.10 * head[..., 1] + 0.04 * head[..., 2]
    return derived


def viewed(motion: Motion, count: int, rng: np.random.Generator, landmark_share: float = 0.0, own_views: bool = False) -> Batch:
    """Return ``count`` windows of motion as drawn cameras and the model detector see them.

    ``landmark_share`` of the detectors find landmarks as COCO's or MediaPipe's do: see :func:`as_landmarks`. ``own_views``: every
    frame is seen from its own centre and scale, as a causal encoder is shown them, instead of the window's.
    """
    poses = poses_of(motion.bones)
    offsets = rng.standard_normal((count, 1, J, 3)).astype(np.float32) * DEFINITION_SPREAD[:, None]
    # A quarter of the detectors agree with our definitions to the millimetre: heat maps trained on the same data set.
    offsets *= np.where(rng.random((count, 1, 1, 1)) < 0.25, 0.1, 1.0).astype(np.float32)
    detected = poses + offsets
    if landmark_share > 0:
        style = rng.random((count, 1, 1, 1)) < landmark_share
        detected = np.where(style, as_landmarks(poses, detected), detected)
    turn = motion.pelvis
    root = motion.root - motion.root[:, motion.root.shape[1] // 2][:, None]
    both = np.concatenate([rotated(turn, poses), rotated(turn, detected)], axis=2) + root[:, :, None]
    cameras = random_cameras(count, rng)
    points = seen_by(cameras, both)
    uv = projected(cameras, points)
    detections = detect(uv[:, :, J:], cameras.aspect, rng)
    view = (frame_views if own_views else person_view)(detections.uv, detections.confidence)
    xyz = points[:, :, :J] - points[:, :, ROOT : ROOT + 1]
    channels = context_channels(detections.uv, detections.confidence, view)
    return Batch(channels, uv[:, :, :J], xyz.astype(np.float32), detections, view, points[:, :, ROOT], cameras)
