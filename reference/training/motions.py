"""Motion capture clips as bones in the body's own axes, and new motions made from them.

World axes: z up, metres. Source of the clips: ``diffpose_edge/data/README.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import DatasetError
from diffpose_edge.keypoints import UNREADABLE
from diffpose_edge.npz_file import read_npz
from diffpose_edge.reading import reason_of
from diffpose_edge.reference.training.bodies import BONE_TO, bones_of, group_lengths, mirrored
from diffpose_edge.reference.training.procedural import random_motions
from diffpose_edge.reference.training.rotations import frame_of, rotated, small
from diffpose_edge.skeleton import J

Array = NDArray[Any]

# Whole clips that training never sees: another body (boxing), a climb, a walk, a playground.
HELD_OUT = ("boxing", "climb_3", "cmu_02_01", "cmu_01_06")
FPS = 30.0
# How far the furthest joint of anybody lies from the hip, metres: neither millimetres nor kilometres.
LEAST_REACH, MOST_REACH = 0.2, 3.0

LEGS = np.array([BONE_TO[j] for j in (1, 2, 3, 4, 5, 6)])
LEFT_ARM = np.array([BONE_TO[j] for j in (12, 13)])
RIGHT_ARM = np.array([BONE_TO[j] for j in (15, 16)])
# A bone turns together with all that hangs on it: (bones, how far, degrees).
TURNS = (
    ([BONE_TO[j] for j in (2, 3)], 6.0), ([BONE_TO[3]], 5.0), ([BONE_TO[j] for j in (5, 6)], 6.0), ([BONE_TO[6]], 5.0),
    ([BONE_TO[j] for j in (8, 9, 10, 11, 12, 13, 14, 15, 16)], 5.0), ([BONE_TO[j] for j in (9, 10)], 8.0),
    ([BONE_TO[j] for j in (12, 13)], 8.0), ([BONE_TO[13]], 6.0), ([BONE_TO[j] for j in (15, 16)], 8.0), ([BONE_TO[16]], 6.0),
)  # fmt: skip


@dataclass(frozen=True)
class Clip:
    """A clip: poses (frames, 17, 3) in world axes and frames per second."""

    name: str
    poses: Array
    fps: float


def load_clips(path: str | Path) -> list[Clip]:
    """Read clips from an npz: arrays (frames, 17, 3) in metres, z up, with an ``fps_<clip>`` in Hz for each. Raises DatasetError."""
    content = _arrays_of(Path(path))
    try:
        clips = [_clip(name, poses, content) for name, poses in content.items() if not name.startswith("fps_")]
    except DatasetError as err:
        raise DatasetError(f"{path}: {err}") from None
    if not clips:
        raise DatasetError(f"{path} holds no clips; expected arrays (frames, 17, 3), each with its fps_<clip>")
    return clips


def _arrays_of(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return read_npz(path)
    except FileNotFoundError:
        raise DatasetError(f"no motion clips at {path}; check the path") from None
    except UNREADABLE as err:
        raise DatasetError(f"{path} cannot be read as an npz of motion clips: {reason_of(err)}") from None


def _clip(name: str, poses: NDArray[Any], content: dict[str, NDArray[Any]]) -> Clip:
    if poses.dtype.kind not in "fiu" or poses.ndim != 3 or poses.shape[1:] != (J, 3) or not len(poses):
        raise DatasetError(f"expected clip {name} as numbers (frames, 17, 3), got {poses.dtype} of shape {poses.shape}")
    if not np.isfinite(poses).all():
        raise DatasetError(f"clip {name} is not finite in frame {int(np.argwhere(~np.isfinite(poses))[0, 0])}; cut it there")
    reach = float(np.abs(poses - poses[:, :1]).max())
    if not LEAST_REACH < reach < MOST_REACH:
        raise DatasetError(f"clip {name} reaches {reach:.4g} from the hip; expected a person in metres")
    fps = content.get(f"fps_{name}", np.empty(0))
    if fps.shape != () or fps.dtype.kind not in "fiu" or not 0 < float(fps) < np.inf:
        raise DatasetError(f"expected fps_{name}, frames per second, as one number above 0; got {fps.dtype} {fps.tolist()}")
    return Clip(name, poses.astype(np.float32), float(fps))


@dataclass(frozen=True)
class Motion:
    """Windows of motion in parts: ``pelvis`` (B, F, 3, 3) body axes in the world, ``bones`` (B, F, 16, 3) in these axes,
    ``root`` (B, F, 3) the hip in the world, metres.
    """

    pelvis: Array
    bones: Array
    root: Array


class MotionSource:
    """Draws windows from clips, exchanges body parts between them, and mixes in made-up poses.

    ``landmark_share`` and ``frame_views`` say how its windows are to be seen: :func:`diffpose_edge.reference.training.batches.viewed`.
    """

    def __init__(self, clips: Iterable[Clip], frames: int, landmark_share: float = 0.0, frame_views: bool = False):
        self.frames, self.landmark_share, self.frame_views = frames, landmark_share, frame_views
        poses, starts, bodies = [], [], []
        offset = 0
        for clip in clips:
            at_fps = resampled(clip.poses, clip.fps, FPS)
            if len(at_fps) < 2 * frames:
                at_fps = np.concatenate([at_fps, at_fps[::-1]] * (2 * frames // len(at_fps) + 1))
            for turned in (at_fps, mirrored(at_fps)):
                poses.append(turned)
                starts.append(offset + np.arange(len(turned) - 2 * frames + 1))
                offset += len(turned)
            bodies.append(group_lengths(bones_of(clip.poses)))
        everything = np.concatenate(poses)
        bones = bones_of(everything)
        self.root = everything[:, 0].copy()
        self.pelvis = frame_of(everything[:, 4] - everything[:, 1], everything[:, 7] - everything[:, 0])
        # Rows are vectors: v^T R are the coordinates of v in the columns of R.
        self.bones = np.matmul(bones, self.pelvis)
        self.starts = np.concatenate(starts)
        self.bodies: Array = np.unique(np.round(np.stack(bodies), 3), axis=0)

    def window(self, count: int, rng: np.random.Generator) -> Motion:
        """Draw windows as they were captured, at 0.5 to 1.6 times their speed."""
        first = rng.choice(self.starts, count)
        if self.frames == 1:
            return Motion(self.pelvis[first][:, None], self.bones[first][:, None], self.root[first][:, None])
        at = rng.uniform(0.5, 1.6, (count, 1)) * np.arange(self.frames)
        low = at.astype(np.int64)
        share = (at - low).astype(np.float32)
        here, there = first[:, None] + low, first[:, None] + np.minimum(low + 1, 2 * self.frames - 1)

        def between(values: Array) -> Array:
            s = share.reshape(*share.shape, *(1,) * (values.ndim - 1))
            return values[here] * (1 - s) + values[there] * s

        # Axes between two neighbouring frames: straight interpolation, then made orthonormal again.
        axes = between(self.pelvis)
        return Motion(frame_of(axes[..., 0], axes[..., 2]), between(self.bones), between(self.root))

    def draw(self, count: int, rng: np.random.Generator) -> Motion:
        """Draw windows for training: parts exchanged, limbs turned a little, a share of them made up."""
        base = self.window(count, rng)
        bones = base.bones.copy()
        legs = self.window(count, rng).bones
        swap = rng.random(count) < 0.4
        every = np.arange(self.frames)
        bones[np.ix_(swap, every, LEGS)] = legs[np.ix_(swap, every, LEGS)]
        for arm in (LEFT_ARM, RIGHT_ARM):
            donor = self.window(count, rng).bones
            swap = rng.random(count) < 0.4
            # An arm goes with its trunk: from the donor's shoulder axes to the receiver's.
            turn = np.matmul(_trunk(bones[swap]), np.swapaxes(_trunk(donor[swap]), -1, -2))
            bones[np.ix_(swap, every, arm)] = rotated(turn, donor[swap][:, :, arm])
        made_up = rng.random(count) < 0.3
        bones[made_up] = random_motions(int(made_up.sum()), self.frames, rng)
        for moved, degrees in TURNS:
            turn = small((count, 1), np.deg2rad(degrees), rng)
            bones[:, :, moved] = rotated(turn, bones[:, :, moved])
        pelvis = np.matmul(_random_tilt(count, rng), base.pelvis)
        pelvis[made_up] = np.matmul(small((int(made_up.sum()), 1), np.deg2rad(12.0), rng), np.eye(3, dtype=np.float32))
        return Motion(pelvis.astype(np.float32), bones.astype(np.float32), base.root)


def resampled(poses: Array, fps: float, wanted: float) -> Array:
    """Return poses (frames, 17, 3) at another frame rate, by linear interpolation."""
    at = np.arange(0.0, len(poses) - 1 + 1e-6, fps / wanted)
    low = np.minimum(at.astype(np.int64), len(poses) - 1)
    share = (at - low).astype(np.float32)[:, None, None]
    return poses[low] * (1 - share) + poses[np.minimum(low + 1, len(poses) - 1)] * share


def _trunk(bones: Array) -> Array:
    shoulders = bones[..., BONE_TO[11], :] - bones[..., BONE_TO[14], :]
    return frame_of(shoulders, bones[..., BONE_TO[8], :])


def _random_tilt(count: int, rng: np.random.Generator) -> Array:
    """Lean the whole body: by a few degrees mostly, now and then by anything up to lying down."""
    tilt = small((count, 1), np.deg2rad(5.0), rng)
    far = rng.random(count) < 0.06
    tilt[far] = small((int(far.sum()), 1), np.deg2rad(50.0), rng)
    return tilt
