"""Text of files of poses: read within bounds, numbers checked, and named by line where they are wrong."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import PoseFileError
from diffpose_edge.reading import read_file

# An hour of poses with covariances at 60 frames a second, as JSON lines, is about 1 GB.
MOST_BYTES = 2 << 30

# Each takes some 60 bytes besides its text. An hour at 1000 frames a second has less than half as many.
MOST_LINES = 10_000_000
# Everything that ends a line for Python, in UTF-8.
_ENDS = (b"\n", b"\r", b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\xc2\x85", b"\xe2\x80")


def lines_of(path: Path) -> list[str]:
    """Return a text file's lines. Raises PoseFileError when it is missing, larger than ``MOST_BYTES``, or not text in UTF-8."""
    try:
        content = read_file(path, MOST_BYTES)
        ends = sum(content.count(end) for end in _ENDS)
        if ends > MOST_LINES:
            raise PoseFileError(f"{path} has {ends} lines; files of up to {MOST_LINES} are read")
        return content.decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise PoseFileError(f"no file of poses at {path}; check the path") from None
    except OSError as err:
        raise PoseFileError(f"{path} cannot be read: {err.strerror or err}") from None
    except UnicodeDecodeError as err:
        raise PoseFileError(f"{path} is not text in UTF-8: {err.reason} at byte {err.start}") from None


def numbers_in(words: Iterable[str], where: str) -> NDArray[np.float64]:
    """Return words as numbers; an empty word and "nan" are NaN. Raises PoseFileError for any other word, and for infinity."""
    words = list(words)
    try:
        # float() also takes 1_2 for 12: not what anybody writes here.
        array = np.array([float(word.replace("_", "x")) if word.strip() else np.nan for word in words])
    except ValueError as err:
        raise PoseFileError(f"{where}: {err}") from None
    if np.isinf(array).any():
        raise PoseFileError(f"{where}: expected finite numbers, got {words[int(np.flatnonzero(np.isinf(array))[0])]}")
    return array


def whole(word: str, where: str) -> int:
    """Return a word as a whole number of at most 15 digits. Raises PoseFileError."""
    bare = word.removeprefix("-")
    if not (bare.isascii() and bare.isdigit() and len(bare) <= 15):
        raise PoseFileError(f"{where}: expected a whole number, got {word[:40]!r}")
    return int(word)


def text_of(value: float) -> str:
    """Return a number in nine digits, from which a float32 comes back as it was."""
    return f"{value:.9g}"
