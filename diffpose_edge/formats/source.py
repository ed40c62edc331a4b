"""A file or folder of keypoints, opened as far as telling its format needs. What was read once is not read again."""

from __future__ import annotations

import re
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import KeypointError
from diffpose_edge.formats.json_text import MOST_FRAME, read_json
from diffpose_edge.keypoints import UNREADABLE, arrays_of, image_size_of, normalise_pixels
from diffpose_edge.npz_file import NpzFile, is_archive
from diffpose_edge.reading import reason_of

# Of an npz of keypoints; what a file has besides is not looked at.
_ARRAYS = ("keypoints", "confidence", "image_size", "fps", "layout")
# A folder with more files is none of frames.
MOST_FILES = 1_000_000


class Source:
    """A path, and what the user says of it: ``image_size`` (w, h), pixels, for files that do not tell.

    Raises KeypointError when there is neither a file nor a folder.
    """

    def __init__(self, path: str | Path, image_size: tuple[float, float] | None = None) -> None:
        self.path = Path(path)
        self.said_size = image_size
        if image_size is not None:
            normalise_pixels((0.0, 0.0), image_size)  # raises where it is no size
        try:
            exists = self.path.exists()
        except OSError as err:  # a name too long, a folder that is not ours to look into
            raise KeypointError(f"{str(path)[:200]!r} cannot be read: {reason_of(err)}") from None
        if not exists:
            raise KeypointError(f"no keypoint file at {path}; check the path")
        self.kind: Literal["folder", "npz", "json"]
        if self.path.is_dir():
            self.kind = "folder"
        elif not self.path.is_file():
            raise KeypointError(f"{path} is neither a file nor a folder: keypoints are read from files")
        else:
            self.kind = "npz" if self.path.suffix.lower() == ".npz" or self._is_archive() else "json"

    def _is_archive(self) -> bool:
        try:
            return is_archive(self.path)
        except OSError as err:
            raise KeypointError(f"{self.path} cannot be read: {reason_of(err)}") from None

    @cached_property
    def files(self) -> list[Path]:
        """The JSON files of the folder, or the file itself, by name. Raises KeypointError when there is none."""
        if self.kind != "folder":
            return [self.path]
        files = sorted(path for path in self.path.iterdir() if path.suffix.lower() == ".json" and path.is_file())
        if not files:
            raise KeypointError(f"the folder {self.path} has no JSON files; expected one for each frame")
        if len(files) > MOST_FILES:
            raise KeypointError(f"the folder {self.path} has {len(files)} JSON files; up to {MOST_FILES} frames are read")
        return files

    @cached_property
    def first(self) -> Any:
        """The document in the JSON file, or in the folder's first."""
        return read_json(self.files[0])

    def document(self, file: Path) -> Any:
        """Return the document in one of ``files``."""
        return self.first if file == self.files[0] else read_json(file)

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of an npz that a clip of keypoints can have, and the names of its others with nothing in them."""
        return arrays_of(self.path, _ARRAYS)

    @cached_property
    def entries(self) -> set[str]:
        """The names of what an npz holds, which is not read for it. Raises KeypointError when it is no archive."""
        try:
            with NpzFile(self.path) as file:
                return set(file.names)
        except zipfile.BadZipFile:
            raise KeypointError(f"{self.path} cannot be read as an npz of plain arrays: it is no archive, or its end is missing") from None
        except UNREADABLE as err:
            raise KeypointError(f"{self.path} cannot be read as an npz of plain arrays: {reason_of(err)}") from None

    def array_size(self) -> tuple[float, float] | None:
        """Return the image's size: the npz's own, else the user's."""
        return self.size(image_size_of(self.arrays["image_size"], self.path) if "image_size" in self.arrays else None)

    def array_fps(self) -> float | None:
        """Return the npz's frame rate, Hz. Raises KeypointError unless it is a positive number."""
        array = self.arrays.get("fps")
        if array is None:
            return None
        if array.size != 1 or array.dtype.kind not in "fiu" or not (np.isfinite(array).all() and array.item() > 0):
            raise KeypointError(f"{self.path}: expected fps as a positive number, got an array of shape {array.shape} of {array.dtype}")
        return float(array.item())

    def size(self, own: tuple[float, float] | None) -> tuple[float, float] | None:
        """Return the image's size: the file's ``own``, else what the user says. Raises KeypointError when they differ."""
        if own is not None:
            try:
                normalise_pixels((0.0, 0.0), own)  # raises where it is no size
            except KeypointError as err:
                raise KeypointError(f"{self.path}: {err}") from None
        if own is None or self.said_size is None:
            return own or self.said_size
        if tuple(own) != tuple(self.said_size):
            (w, h), (a, b) = own, self.said_size
            raise KeypointError(f"{self.path} says that the image is {w:g}x{h:g}, the option {a:g}x{b:g}; leave the option out")
        return own


def numbered(stems: list[str]) -> list[int]:
    """Return a number for each file name without its suffix: its last digits where all have some and all differ, else by their order."""
    found = [_number_in(stem) for stem in stems]
    own = [number for number in found if number is not None]
    return own if len(own) == len(set(own)) == len(stems) else list(range(len(stems)))


def _number_in(stem: str) -> int | None:
    digits = re.findall(r"[0-9]+", stem)
    return int(digits[-1]) if digits and len(digits[-1]) <= 18 and int(digits[-1]) < MOST_FRAME else None
