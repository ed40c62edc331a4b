"""People for the tests of streams: one real walk, put anywhere in the image, at any size."""

from __future__ import annotations

from functools import cache

import numpy as np

from diffpose_edge.clips import street_walk
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.person import person_view

FPS = 30
PERIOD_NS = 1_000_000_000 // FPS


@cache
def walk() -> Keypoints:
    """Return the frames of the street clip in which everything was seen, centred, and a unit tall: (frames, 17, 2)."""
    clip = street_walk().keypoints
    seen = np.flatnonzero(clip.confidence.min(axis=1) > 0)
    view = person_view(clip.uv[seen], clip.confidence[seen])
    uv = view.to_person(clip.uv[seen])
    return Keypoints(uv / np.float32(np.ptp(uv[..., 1])), clip.confidence[seen])


def walker(i: int, at: tuple[float, float], height: float = 0.4, phase: int = 0) -> np.ndarray:
    """Return frame i of the walk (17, 3), around ``at``, ``height`` tall; ``phase`` frames ahead."""
    clip = walk()
    f = (i + phase) % len(clip)
    return np.concatenate([clip.uv[f] * height + np.float32(at), clip.confidence[f, :, None]], axis=-1).astype(np.float32)


def crossing(i: int, frames: int) -> np.ndarray:
    """Return two people (2, 17, 3) who walk past each other: the first from left to right, the second from right to left.

    In the middle they are at the same place; a little beside each other and of other sizes, as people are.
    """
    x = -0.6 + 1.2 * i / (frames - 1)
    return np.stack([walker(i, (x, 0.0), 0.4), walker(i, (-x, 0.02), 0.38, phase=40)])
