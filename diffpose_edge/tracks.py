"""Where a clip stops showing one person and goes on with another: a window must not reach across."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.keypoints import Keypoints
from diffpose_edge.person import person_view

# Between two frames in which somebody was found nobody moves further than this, in multiples of their own extent (a quarter
# of the standing height), nor appears larger or smaller by more than this factor. A detector that loses one person and finds
# another does.
FURTHEST, MOST_GROWTH = 1.0, 1.6
# Fewer joints than this say too little about where a person is.
LEAST_SEEN = 5


def tracks_of(clip: Keypoints) -> list[slice]:
    """Split the frames of a clip (frames, 17, 2) where the person jumps; the slices follow one another and cover the clip.

    Frames in which nobody was found belong to the track before them.
    """
    found = np.flatnonzero((clip.confidence > 0).sum(axis=-1) >= LEAST_SEEN)
    if len(found) < 2:
        return [slice(0, len(clip))]
    view = person_view(clip.uv[found], clip.confidence[found])
    moved = np.linalg.norm(np.diff(view.centre, axis=0), axis=-1) / np.minimum(view.scale[1:], view.scale[:-1])
    grown = np.abs(np.diff(np.log(view.scale)))
    # A person may go on moving while not found.
    frames = np.diff(found)
    cuts = found[1:][(moved > FURTHEST * frames) | (grown > np.log(MOST_GROWTH))]
    edges = [0, *map(int, cuts), len(clip)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def nearest_found(found: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return for each frame (frames,) the nearest one in which somebody was ``found``, itself if so; itself too if nobody ever was."""
    frames = np.arange(len(found))
    at = np.flatnonzero(found)
    if len(at) == 0:
        return frames
    return at[np.abs(frames[:, None] - at[None]).argmin(axis=1)]
