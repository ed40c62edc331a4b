"""A person's 3D poses over time, as files of poses hold them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import PoseFileError
from diffpose_edge.skeleton import ROOT, J

Array = NDArray[np.float32]


@dataclass(frozen=True)
class PoseSequence:
    """``joints`` (frames, 17, 3): metres relative to the hip, x right, y down, z forward; NaN throughout where a frame has no pose.

    ``fps``: Hz, None where it is not known. ``frames`` (frames,): their numbers. ``root`` (frames, 3): metres, where the hip is in the
    camera's frame, None where nobody worked it out. ``covariance`` (frames, 17, 3, 3): square metres; ``observed`` (frames, 17): which
    joints the detector saw; None where nobody tells. ``person``: who it is. ``out_of_range``, ``non_finite`` (frames,): what the runtime
    said of the frame's pose (:class:`diffpose_edge.runtime.estimate.PoseEstimate`), None where nobody tells.

    Raises PoseFileError for other shapes, for no frames, and for poses that are finite in part.
    """

    joints: Array
    fps: float | None
    frames: NDArray[np.int64]
    root: Array | None = None
    covariance: Array | None = None
    observed: NDArray[np.bool_] | None = None
    person: str | None = None
    out_of_range: NDArray[np.bool_] | None = None
    non_finite: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        n = len(self.frames)
        shapes = {"joints": (n, J, 3), "frames": (n,), "root": (n, 3), "covariance": (n, J, 3, 3), "observed": (n, J)}
        shapes |= {"out_of_range": (n,), "non_finite": (n,)}
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise PoseFileError(f"expected {name} of {n} frames as {shape}, got {array.shape}")
        if n == 0:
            raise PoseFileError("expected at least one frame of poses, got none")
        if self.fps is not None and not (np.isfinite(self.fps) and self.fps > 0):
            raise PoseFileError(f"expected fps as a positive number, got {self.fps}")
        partly = np.isfinite(self.joints).any(axis=(1, 2)) & ~self.found
        if partly.any():
            raise PoseFileError(f"frame {int(self.frames[partly][0])} has a pose in part: expected 17 joints, or NaN throughout")
        if self.root is not None and not np.isfinite(self.root[self.found]).all():
            raise PoseFileError("expected a root for every frame that has a pose")

    @property
    def found(self) -> NDArray[np.bool_]:
        """Which frames have a pose, (frames,)."""
        return np.asarray(np.isfinite(self.joints).all(axis=(1, 2)))

    @property
    def placed(self) -> NDArray[np.float64]:
        """Joints (frames, 17, 3) in the camera's frame, metres; around the hip at the origin where the root is not known."""
        joints = self.joints.astype(np.float64)
        return joints if self.root is None else joints + self.root[:, None]


def from_placed(placed: NDArray[np.float64], fps: float | None, frames: NDArray[np.int64], *, person: str | None = None) -> PoseSequence:
    """Return the sequence of joints (frames, 17, 3) in the camera's frame: the opposite of ``placed``.

    A hip that never leaves the origin is one that nobody has placed.
    """
    root = placed[:, ROOT]
    placed_hip = bool((root[np.isfinite(root).all(axis=1)] != 0).any())
    joints = (placed - root[:, None]).astype(np.float32)
    return PoseSequence(joints, fps, frames, root.astype(np.float32) if placed_hip else None, person=person)


def y_up(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn points (…, 3) by half a turn about x: from the camera's axes (y down, z forward) to y up, z to the camera; and back."""
    return points * np.array([1.0, -1.0, -1.0])
