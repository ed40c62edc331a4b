"""VideoPose3D's own 2D files, ``data_2d_custom_*.npz``: any videos, one person each.

``positions_2d``: {video: {"custom": [(frames, 17, 2)]}}, pixels; data sets have {subject: {action: [a view, …]}} there. ``metadata``:
{"layout_name": "coco" or "h36m", "num_joints": 17, "keypoints_symmetry": …, "video_metadata": {video: {"w": 1280, "h": 720}}}. There are
no confidences: every keypoint counts as seen, and VideoPose3D interpolates what was not found. Both are pickled dictionaries; they are
read without running the pickle (:mod:`diffpose_edge.formats.plain_pickle`). Each video is a track: its name, or ``subject/action/view``.
Source: Pavllo et al., VideoPose3D, data/prepare_data_2d_custom.py, data/data_utils.py and common/custom_dataset.py.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.atomic import atomic_file
from diffpose_edge.errors import KeypointError, OutputError
from diffpose_edge.formats.detections import Detections, Frame, Person
from diffpose_edge.formats.plain_pickle import read_plain_pickle
from diffpose_edge.formats.source import Source
from diffpose_edge.keypoints import UNREADABLE
from diffpose_edge.layouts import COCO17, H36M17, Layout
from diffpose_edge.npz_file import NpzFile
from diffpose_edge.reading import reason_of

_LAYOUTS = {"coco": COCO17, "h36m": H36M17}
_SYMMETRY = {
    "coco": [[1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]],
    "h36m": [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]],
}
# A few hours of a few people; an archive may claim to unpack to more than there is memory.
MOST_BYTES = 1 << 30


def is_videopose3d(source: Source) -> bool:
    """Tell whether an npz has ``positions_2d``."""
    return source.kind == "npz" and "positions_2d" in source.entries


def read_videopose3d(source: Source) -> Detections:
    """Read the file: frames with one person for each video that is so long. Raises KeypointError."""
    positions, metadata = _tree(source, "positions_2d"), _tree(source, "metadata")
    name = str(metadata.get("layout_name", "coco"))
    if name not in _LAYOUTS:
        raise KeypointError(f"{source.path}: expected keypoints of the layout {' or '.join(_LAYOUTS)}, got {name[:40]!r}")
    layout, videos = _LAYOUTS[name], _videos(positions, source.path)
    told = metadata.get("video_metadata")
    sizes = {video: _size(told, video, source) for video in videos}
    length = max(map(len, videos.values()))
    arrays = {video: _checked(array, layout, f"{source.path}: {video}") for video, array in videos.items()}
    frames = tuple(Frame(i, tuple(Person(a[i], video) for video, a in arrays.items() if i < len(a))) for i in range(length))
    return Detections(layout, frames, source.said_size, {video: size for video, size in sizes.items() if size is not None})


def _tree(source: Source, name: str) -> dict[str, Any]:
    try:
        with NpzFile(source.path, MOST_BYTES) as file:
            _, _, kind, content = file.parts(name)
            if not kind.hasobject:
                raise KeypointError(f"{source.path}: expected {name} as a pickled dictionary, got an array of numbers")
            tree = read_plain_pickle(bytes(content))
    except KeyError:
        raise KeypointError(f"{source.path} has no {name!r}; it has: {', '.join(sorted(source.entries))}") from None
    except (*UNREADABLE, pickle.UnpicklingError) as err:
        raise KeypointError(f"{source.path}: {name} cannot be read: {reason_of(err)}") from None
    if not isinstance(tree, dict):
        raise KeypointError(f"{source.path}: expected {name} to be a dictionary, got {type(tree).__name__}")
    return tree


def _videos(positions: dict[str, Any], path: Path) -> dict[str, NDArray[Any]]:
    """Return the array of each video. A video with one view and the action "custom" is called by its own name alone."""
    found = {}
    for subject, actions in positions.items():
        if not isinstance(actions, dict):
            raise KeypointError(f"{path}: positions_2d/{subject}: expected a dictionary of actions, got {type(actions).__name__}")
        for action, views in actions.items():
            for i, array in enumerate(views if isinstance(views, list | np.ndarray) else [views]):
                where = f"{subject}/{action}/{i}"
                if not isinstance(array, np.ndarray):
                    raise KeypointError(f"{path}: positions_2d/{where}: expected an array of keypoints, got {type(array).__name__}")
                found[subject if action == "custom" and len(actions) == len(views) == 1 else where] = array
    if not found:
        raise KeypointError(f"{path}: positions_2d is empty: there are no frames")
    return found


def _checked(array: NDArray[Any], layout: Layout, where: str) -> NDArray[np.float64]:
    if array.ndim != 3 or array.shape[1] != len(layout) or array.shape[2] not in (2, 3) or array.dtype.kind not in "fiu" or not len(array):
        expected = f"(frames, {len(layout)}, 2 or 3) of numbers"
        raise KeypointError(f"{where}: expected keypoints {expected}, got {array.shape} of {array.dtype}")
    values = np.ones((len(array), len(layout), 3))
    values[..., : array.shape[2]] = array
    wrong = ~np.isfinite(values).all(axis=-1)
    if wrong.any():
        frame, point = map(int, np.argwhere(wrong)[0])
        raise KeypointError(f"{where}: {layout.told(point)} of frame {frame} is {values[frame, point].tolist()}: expected finite numbers")
    values[..., 2] = np.clip(values[..., 2], 0.0, 1.0)
    return values


def _size(told: Any, video: str, source: Source) -> tuple[float, float] | None:
    """Return a video's own size; None where the file does not tell, or the user does and it is the same."""
    own = told.get(video, told.get(video.split("/")[0])) if isinstance(told, dict) else None
    if own is None:
        return None
    try:
        size = float(own["w"]), float(own["h"])
    except (KeyError, TypeError, ValueError):
        raise KeypointError(f"{source.path}: metadata/video_metadata/{video}: expected the numbers w and h, got {str(own)[:60]}") from None
    return source.size(size)


def write_videopose3d(path: Path, detections: Detections) -> None:
    """Write what VideoPose3D reads: float32, a video for each track ("person" where there are none).

    Raises OutputError for another layout than COCO-17 and Human3.6M-17, without sizes, and where a keypoint was not seen or a frame is
    left out, for which the format has no place.
    """
    name = next((name for name, layout in _LAYOUTS.items() if layout == detections.layout), None)
    if name is None or not detections.pixels:
        raise OutputError(
            f"cannot write {path}: the format holds pixels of the layouts {', '.join(_LAYOUTS)}, not {detections.layout.name}"
        )
    videos: dict[str, list[NDArray[np.float64]]] = {}
    for i, frame in enumerate(detections.frames):
        for person in frame.people:
            rows = videos.setdefault(person.track or "person", [])
            if len(rows) != i or frame.number != i or not (person.keypoints[:, 2] > 0).all():
                raise OutputError(f"cannot write {path}: the format has every keypoint of every frame from 0 on; see frame {frame.number}")
            rows.append(person.keypoints)
    sizes = {video: detections.sizes.get(video, detections.image_size) for video in videos}
    known = {video: {"w": size[0], "h": size[1]} for video, size in sizes.items() if size is not None}
    if len(known) < len(videos):
        raise OutputError(f"cannot write {path}: the format needs the image's size, and it is not known")
    metadata: Any = {"layout_name": name, "num_joints": 17, "keypoints_symmetry": _SYMMETRY[name], "video_metadata": known}
    positions: Any = {video: {"custom": [np.asarray(rows, np.float32)[..., :2]]} for video, rows in videos.items()}
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, positions_2d=positions, metadata=metadata)
