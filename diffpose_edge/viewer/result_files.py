"""Reads what ``diffpose-edge run`` wrote, and the keypoints that it was given, as one result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import ViewError
from diffpose_edge.keypoints import UNREADABLE, load_keypoints
from diffpose_edge.npz_file import read_npz
from diffpose_edge.reading import reason_of
from diffpose_edge.viewer.clip_result import SHAPES, ClipResult, doubts, times_of

# Where neither the command nor a file says how fast the clip is.
USUAL_FPS = 30.0


def load_result(path: str | Path, keypoints: str | Path | None = None, fps: float | None = None) -> ClipResult:
    """Read a result, and the keypoints that it was made from.

    ``fps`` is the clip's frames per second; None: the keypoint file's ``fps``, or 30, which the result's notes then say. A file of
    keypoints in pixels also gives the image's size. Raises ViewError, KeypointError. Pickled content is refused.
    """
    arrays = _arrays_of(Path(path), tuple(SHAPES))
    if "joints" not in arrays:
        raise ViewError(f"{path} has no array 'joints'; expected the npz that 'diffpose-edge run --out' wrote")
    clip, notes, about = None, [], {}
    if keypoints is not None:
        clip = load_keypoints(keypoints)
        about = _arrays_of(Path(keypoints), ("image_size", "fps"))
    if fps is None and "fps" in about:
        if about["fps"].size != 1 or about["fps"].dtype.kind not in "fiu":
            raise ViewError(
                f"{keypoints}: expected fps as one number, got {about['fps'].dtype} of shape {about['fps'].shape}; or give --fps"
            )
        fps = float(about["fps"].reshape(()))
    if fps is None:
        fps = USUAL_FPS
        notes.append(f"How fast the clip is was not said: {USUAL_FPS:g} frames a second are assumed.")
    marks = _arrays_of(Path(path), ("out_of_range", "non_finite"))
    notes += doubts(marks.get("out_of_range", ()), marks.get("non_finite", ()))
    size = about.get("image_size")
    return ClipResult(
        **arrays,
        times_s=times_of(len(np.atleast_1d(arrays["joints"])), fps),
        keypoints=clip,
        # load_keypoints has checked it.
        image_size=None if size is None else (float(size[0]), float(size[1])),
        notes=tuple(notes),
    )


def _arrays_of(path: Path, wanted: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    try:
        return read_npz(path, wanted)
    except FileNotFoundError:
        raise ViewError(f"no file at {path}; check the path") from None
    except UNREADABLE as err:
        raise ViewError(f"{path} cannot be read as an npz of plain arrays: {reason_of(err)}") from None
