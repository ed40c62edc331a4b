"""Clips of one person in an npz, in any layout: the format of this project.

``keypoints`` (frames, n, 2 or 3): x, y in pixels, and a confidence within 0..1; without it every keypoint counts as seen. ``image_size``
(w, h), pixels. ``fps``, if known. ``layout``: which one, by name; a file without it is told by the count: 17 is Human3.6M-17, 33
MediaPipe. NaN in a keypoint means that it was not seen. Human3.6M-17 may also be normalised, without ``image_size``, and there NaN in a
keypoint that is not said to be unseen is an error (:func:`diffpose_edge.keypoints.load_keypoints`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.atomic import atomic_file
from diffpose_edge.errors import KeypointError, OutputError
from diffpose_edge.formats.detections import Detections, Frame, Person
from diffpose_edge.formats.source import Source
from diffpose_edge.keypoints import MOST_NORMALISED, keypoints_of_arrays
from diffpose_edge.layouts import COCO17, H36M17, LAYOUTS, MEDIAPIPE33, Layout


def layout_of(source: Source) -> Layout | None:
    """Return the layout of an npz with keypoints; None of any other file. Raises KeypointError for a layout that is not known."""
    if source.kind != "npz" or "positions_2d" in {entry.split("/")[0] for entry in source.entries}:
        return None
    named = source.arrays.get("layout")
    if named is not None:
        if named.dtype.kind != "U" or named.size != 1 or named.item() not in LAYOUTS:
            raise KeypointError(f"{source.path}: expected layout as one of {', '.join(LAYOUTS)}, got {str(named)[:40]!r}")
        return LAYOUTS[named.item()]
    keypoints = source.arrays.get("keypoints", np.empty(0))
    # Of any other count it is Human3.6M-17, whose reader says what is wrong with it.
    return MEDIAPIPE33 if keypoints.ndim >= 2 and keypoints.shape[-2] == len(MEDIAPIPE33) else H36M17


def read_h36m17(source: Source) -> Detections:
    """Read a Human3.6M-17 npz, normalised as the networks take it. Raises KeypointError as ``load_keypoints`` does."""
    arrays, size = dict(source.arrays), source.array_size()
    if size is not None and "image_size" not in arrays:
        _refuse_normalised(arrays.get("keypoints"), source)
        arrays["image_size"] = np.array(size)
    clip = keypoints_of_arrays(arrays, source.path)
    values = np.concatenate([clip.uv, clip.confidence[..., None]], axis=-1).astype(np.float64)
    return Detections(H36M17, _frames(values), size, fps=source.array_fps(), pixels=False)


def _refuse_normalised(keypoints: NDArray[Any] | None, source: Source) -> None:
    if keypoints is None or keypoints.dtype.kind not in "fiu" or keypoints.ndim != 3:
        return
    xy = keypoints[..., :2]
    if np.isfinite(xy).any() and np.abs(xy[np.isfinite(xy)]).max() <= MOST_NORMALISED:
        raise KeypointError(
            f"{source.path}: the keypoints are normalised already, or all within {MOST_NORMALISED:g} pixels; leave image_size out"
        )


def read_coco17(source: Source) -> Detections:
    """Read a COCO-17 npz. Raises KeypointError."""
    return _read(source, COCO17)


def read_mediapipe33(source: Source) -> Detections:
    """Read an npz of MediaPipe's 33 landmarks, pixels and visibility. Raises KeypointError."""
    return _read(source, MEDIAPIPE33)


def _read(source: Source, layout: Layout) -> Detections:
    path, array = source.path, source.arrays.get("keypoints")
    if array is None:
        raise KeypointError(f"{path} has no array 'keypoints'; it has: {', '.join(source.arrays) or 'nothing'}")
    if array.dtype.kind not in "fiu" or array.ndim != 3 or array.shape[1] != len(layout) or array.shape[2] not in (2, 3) or not len(array):
        expected = f"(frames, {len(layout)}, 2 or 3) of numbers"
        raise KeypointError(f"{path}: expected keypoints of {layout.name}, {expected}, got {array.shape} of {array.dtype}")
    own = source.arrays.get("confidence")
    if own is not None and (array.shape[2] == 3 or own.shape != array.shape[:2] or own.dtype.kind not in "fiu"):
        raise KeypointError(f"{path}: expected confidence of shape {array.shape[:2]}, and keypoints without one; got {own.shape}")
    values = np.ones((*array.shape[:2], 3))
    values[..., : array.shape[2]] = array
    if own is not None:
        values[..., 2] = own
    values[~np.isfinite(values).all(axis=-1)] = (np.nan, np.nan, 0.0)
    wrong = (values[..., 2] < 0) | (values[..., 2] > 1)
    if wrong.any():
        frame, point = map(int, np.argwhere(wrong)[0])
        raise KeypointError(f"{path}: confidence of {layout.told(point)} in row {frame} is {values[frame, point, 2]:g}: expected 0..1")
    values[values[..., 2] == 0, :2] = np.nan
    return Detections(layout, _frames(values), source.array_size(), fps=source.array_fps())


def _frames(values: NDArray[np.float64]) -> tuple[Frame, ...]:
    return tuple(Frame(i, (Person(person),)) for i, person in enumerate(values))


def write_npz_clip(path: Path, detections: Detections) -> None:
    """Write the one person of each frame; a frame without anybody is a row of keypoints that were not seen.

    Raises OutputError where a frame has more than one, and where frames are left out: rows are numbered from 0.
    """
    if detections.most_people() > 1:
        raise OutputError(f"cannot write {path}: an npz holds one person, and a frame here has {detections.most_people()}")
    if [frame.number for frame in detections.frames] != list(range(len(detections.frames))):
        raise OutputError(f"cannot write {path}: the rows of an npz are frames from 0 on, and here some are left out")
    values = np.full((len(detections.frames), len(detections.layout), 3), np.nan)
    values[..., 2] = 0.0
    for row, frame in zip(values, detections.frames, strict=True):
        if frame.people:
            row[:] = frame.people[0].keypoints
    arrays: dict[str, Any] = {"keypoints": values, "layout": np.array(detections.layout.name)}
    if detections.image_size is not None and detections.pixels:
        arrays["image_size"] = np.array(detections.image_size)
    if detections.fps is not None:
        arrays["fps"] = np.array(detections.fps)
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
