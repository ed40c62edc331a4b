"""Training batches: motions seen by virtual cameras and a model detector. A batch depends on its seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.person import PersonView, context_channels, person_view
from diffpose_edge.reference.training.bodies import poses_of, random_lengths, with_lengths
from diffpose_edge.reference.training.cameras import projected, random_cameras, seen_by
from diffpose_edge.reference.training.detector import Detections, detect
from diffpose_edge.reference.training.motions import Motion, MotionSource
from diffpose_edge.reference.training.rotations import rotated
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
    ``view`` the people's own frames.
    """

    channels: Array
    uv: Array
    xyz: Array
    detections: Detections
    view: PersonView


def training_batch(source: MotionSource, count: int, seed: Sequence[int]) -> Batch:
    """Make a batch of ``count`` windows of new motions and bodies; the same seed gives the same batch."""
    rng = np.random.default_rng(list(seed))
    motion = source.draw(count, rng)
    lengths = random_lengths(source.bodies, count, rng)
    return viewed(Motion(motion.pelvis, with_lengths(motion.bones, lengths), motion.root), count, rng)


def held_out_batch(source: MotionSource, count: int, seed: Sequence[int]) -> Batch:
    """Make a batch of ``count`` windows as they were captured, body and motion, seen by new cameras and the model detector."""
    rng = np.random.default_rng(list(seed))
    return viewed(source.window(count, rng), count, rng)


def viewed(motion: Motion, count: int, rng: np.random.Generator) -> Batch:
    """Return ``count`` windows of motion as drawn cameras and the model detector see them."""
    poses = poses_of(motion.bones)
    offsets = rng.standard_normal((count, 1, J, 3)).astype(np.float32) * DEFINITION_SPREAD[:, None]
    # A quarter of the detectors agree with our definitions to the millimetre: heat maps trained on the same data set.
    offsets *= np.where(rng.random((count, 1, 1, 1)) < 0.25, 0.1, 1.0).astype(np.float32)
    turn = motion.pelvis
    root = motion.root - motion.root[:, motion.root.shape[1] // 2][:, None]
    both = np.concatenate([rotated(turn, poses), rotated(turn, poses + offsets)], axis=2) + root[:, :, None]
    cameras = random_cameras(count, rng)
    points = seen_by(cameras, both)
    uv = projected(cameras, points)
    detections = detect(uv[:, :, J:], cameras.aspect, rng)
    view = person_view(detections.uv, detections.confidence)
    xyz = points[:, :, :J] - points[:, :, ROOT : ROOT + 1]
    channels = context_channels(detections.uv, detections.confidence, view)
    return Batch(channels, uv[:, :, :J], xyz.astype(np.float32), detections, view)
