"""JSON from strangers: of bounded size, read by the standard library, every part of it checked, and named where it is wrong.

The names of places read like code: ``poses.json[12].keypoints``.
"""

from __future__ import annotations

import errno
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import KeypointError
from diffpose_edge.layouts import Layout
from diffpose_edge.plain_json import json_of
from diffpose_edge.reading import read_file

# Ten minutes of three people with 136 keypoints each, at 30 frames a second, are 430 MB. In memory a document is some ten times as large.
MOST_BYTES = 512 << 20
# Frame numbers beyond it are none: at 1000 frames a second it is a month.
MOST_FRAME = 1 << 32


def read_json(path: Path) -> Any:
    """Return the document in a file. Raises KeypointError when it is missing, too large (``MOST_BYTES``), not JSON, or too deep."""
    try:
        return json_of(read_file(path, MOST_BYTES))
    except FileNotFoundError:
        raise KeypointError(f"no keypoint file at {path}; check the path") from None
    except OSError as err:
        again = ". Split it by frames" if err.errno == errno.EFBIG else ""
        raise KeypointError(f"{path} cannot be read: {err.strerror or err}{again}") from None
    except json.JSONDecodeError as err:
        cut = "; the file seems to be cut off" if err.pos >= len(err.doc.rstrip()) - 1 else ""
        raise KeypointError(f"{path} is not JSON: {err.msg} at line {err.lineno}, column {err.colno}{cut}") from None
    except UnicodeDecodeError as err:
        raise KeypointError(f"{path} is not text in UTF-8: {err.reason} at byte {err.start}") from None
    except ValueError as err:  # nested too deeply, a whole number of thousands of digits, too much for the memory
        raise KeypointError(f"{path} cannot be read as JSON: {err}") from None


def part(value: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Return ``value[key]``, or raise KeypointError when ``value`` is no object, lacks it, or holds something else there than ``kind``."""
    if not isinstance(value, dict):
        raise KeypointError(f"{where}: expected an object with {key!r}, got {told(value)}")
    if key not in value:
        raise KeypointError(f"{where}: has no {key!r}; it has: {', '.join(list(map(str, value))[:12]) or 'nothing'}")
    return of_kind(value[key], kind, f"{where}.{key}")


_NAMES = {list: "a list", dict: "an object", str: "a text", int: "a whole number", float: "a number", type(None): "null"}


def of_kind(value: Any, kind: type | tuple[type, ...], where: str) -> Any:
    """Return ``value`` when it is of a kind, or raise KeypointError. True and false are no numbers."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise KeypointError(f"{where}: expected {' or '.join(_NAMES[k] for k in kinds)}, got {told(value)}")
    return value


def told(value: Any) -> str:
    """Return a value as messages name it: short, whatever it is."""
    if isinstance(value, dict | list):
        return f"{_NAMES[type(value)]} of {len(value)}"
    text = repr(value) if not isinstance(value, int) or abs(value) < 1 << 64 else "a number beyond 64 bits"
    return text if len(text) <= 40 else f"{text[:37]}…"


def frame_number(value: Any, where: str) -> int:
    """Return a frame's number, or raise KeypointError unless it is a whole number from 0."""
    number: int = of_kind(value, int, where)
    if not 0 <= number < MOST_FRAME:
        raise KeypointError(f"{where}: expected a frame's number from 0 to {MOST_FRAME - 1}, got {told(value)}")
    return number


def numbers(values: Any, where: str) -> NDArray[np.float64]:
    """Return a list, or a list of lists of one length, as float64. Raises KeypointError for anything but finite numbers."""
    of_kind(values, list, where)
    try:
        raw = np.asarray(values)
        if raw.dtype.kind not in "fiu" and raw.size:
            raise TypeError
        array = raw.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise KeypointError(f"{where}: expected a list of numbers; something else is among them, or its parts differ in length") from None
    wrong = ~np.isfinite(array)
    if wrong.any():
        at = "".join(f"[{int(i)}]" for i in np.argwhere(wrong)[0])
        raise KeypointError(f"{where}{at} is {array[wrong][0]}: expected a finite number; say that a keypoint was not seen by confidence 0")
    return array


def number(value: Any, where: str) -> float:
    """Return a value as a number, or raise KeypointError unless it is a finite one."""
    of_kind(value, (int, float), where)
    if not abs(value) < math.inf or abs(value) > sys.float_info.max:
        raise KeypointError(f"{where} is {told(value)}: expected a finite number")
    return float(value)


def score_of(value: Any, where: str) -> float | None:
    """Return the score of a person, None where there is none. Raises KeypointError unless it is a finite number."""
    return None if value is None else number(value, where)


def triples(values: Any, layouts: dict[int, Layout], where: str) -> tuple[NDArray[np.float64], Layout]:
    """Return keypoints (n, 3) of a flat list x, y, confidence, x, …, and the layout that has so many.

    ``layouts``: which layout a count of keypoints means; of a larger count its first ones are taken. Confidences are cut to 0..1.
    """
    flat = numbers(values, where)
    count, rest = divmod(flat.size, 3)
    if flat.ndim != 1 or rest or count not in layouts:
        expected = ", ".join(f"{3 * n} ({layout.name})" if n == len(layout) else str(3 * n) for n, layout in layouts.items())
        raise KeypointError(f"{where}: expected x, y and confidence of each keypoint, {expected} numbers; got {told(values)}")
    layout = layouts[count]
    return with_confidence(flat.reshape(count, 3)[: len(layout)]), layout


def with_confidence(keypoints: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return keypoints (n, 3) with confidences within 0..1, and NaN for the coordinates of those at 0.

    Detectors that regress heatmaps give values a little above 1 and below 0.
    """
    keypoints = keypoints.copy()
    keypoints[:, 2] = np.clip(keypoints[:, 2], 0.0, 1.0)
    keypoints[keypoints[:, 2] == 0, :2] = np.nan
    return keypoints
