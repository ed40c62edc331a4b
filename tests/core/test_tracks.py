"""Tracks: a clip that jumps from one person to another is split, one that moves is not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.clips import held_out_path, street_walk
from diffpose_edge.evaluation import load_evaluation
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.tracks import nearest_found, tracks_of

POSE = np.random.default_rng(0).normal(0, 0.1, (17, 2)).astype(np.float32)


def _clip(centres: NDArray[np.float64], scales: NDArray[np.float64] | float = 1.0) -> Keypoints:
    uv = POSE * np.broadcast_to(scales, len(centres))[:, None, None] + centres[:, None]
    return Keypoints(uv.astype(np.float32), np.ones(uv.shape[:2], np.float32))


def test_the_street_clip_shows_three_people_one_after_another() -> None:
    assert tracks_of(street_walk().keypoints) == [slice(0, 170), slice(170, 202), slice(202, 230)]


def test_people_who_move_are_one_track() -> None:
    assert all(len(tracks_of(clip.keypoints)) == 1 for clip in load_evaluation(held_out_path()))
    steps = np.linspace(0, 2, 60)[:, None] * np.array([1.0, 0.2])
    assert tracks_of(_clip(steps, np.linspace(1, 3, 60))) == [slice(0, 60)]


def test_a_jump_or_a_sudden_size_splits() -> None:
    centres = np.zeros((10, 2))
    centres[6:] = 0.5
    assert tracks_of(_clip(centres)) == [slice(0, 6), slice(6, 10)]
    sizes = np.where(np.arange(10) < 3, 1.0, 2.0)
    assert tracks_of(_clip(np.zeros((10, 2)), sizes)) == [slice(0, 3), slice(3, 10)]


def test_frames_without_anybody_neither_split_nor_count_as_a_jump() -> None:
    clip = _clip(np.linspace(0, 0.3, 8)[:, None] * np.ones(2))
    clip.confidence[[0, 3, 4]] = 0.0
    clip.uv[[0, 3, 4]] = 9.0
    assert tracks_of(clip) == [slice(0, 8)]
    clip.confidence[:] = 0.0
    assert tracks_of(clip) == [slice(0, 8)]


def test_the_nearest_frame_that_shows_somebody() -> None:
    found = np.array([False, False, True, False, False, False, True, True])
    assert nearest_found(found).tolist() == [2, 2, 2, 2, 2, 6, 6, 7]
    assert nearest_found(np.zeros(3, bool)).tolist() == [0, 1, 2]
