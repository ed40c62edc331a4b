"""Poses as JSON lines: a header, then a line for each frame, for programs that read as a file grows.

Header: ``{"format": "diffpose-edge poses", "version": 1, "fps": 30.0, "person": null, "joints": [17 names], "unit": "m", "axes": …}``.
Frame: ``{"frame": 0, "time": 0.0, "joints": [[x, y, z], …] or null, "root": [x, y, z], "covariance": [[xx, xy, xz, yy, yz, zz], …],
"observed": [true, …], "out_of_range": false, "non_finite": false}``; what comes after the joints only where it is known. Units and axes are
those of :class:`PoseSequence`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import KeypointError, PoseFileError
from diffpose_edge.formats.json_text import number, numbers, part
from diffpose_edge.formats.poses import PoseSequence
from diffpose_edge.formats.text_file import lines_of, text_of
from diffpose_edge.plain_json import json_of
from diffpose_edge.skeleton import JOINTS, J

FORMAT, VERSION = "diffpose-edge poses", 1
FLAGS = ("out_of_range", "non_finite")
# The six numbers of a symmetric matrix: its upper half, row by row.
_UPPER = np.triu_indices(3)


def json_lines(poses: PoseSequence, name: str) -> Iterator[str]:
    """Yield the lines of a sequence's file; every float32 comes back as it was. ``name``: of the file, which this format does not tell."""
    header = {"format": FORMAT, "version": VERSION, "fps": poses.fps, "person": poses.person, "joints": JOINTS, "unit": "m"}
    yield json.dumps({**header, "axes": "camera: x right, y down, z forward; joints relative to the hip"})
    found, first = poses.found, int(poses.frames[0])
    for i, frame in enumerate(poses.frames.tolist()):
        line: dict[str, Any] = {"frame": frame, "time": None if poses.fps is None else (frame - first) / poses.fps}
        line["joints"] = _rounded(poses.joints[i]) if found[i] else None
        if poses.root is not None:
            line["root"] = _rounded(poses.root[i]) if found[i] else None
        if poses.covariance is not None:
            known = np.isfinite(poses.covariance[i]).all()
            line["covariance"] = _rounded(poses.covariance[i][:, _UPPER[0], _UPPER[1]]) if known else None
        if poses.observed is not None:
            line["observed"] = poses.observed[i].tolist()
        for name in FLAGS:
            flags = getattr(poses, name)
            if flags is not None:
                line[name] = bool(flags[i])
        # NaN and Infinity are no JSON: what has none of them has null.
        yield json.dumps(line, allow_nan=False)


def _rounded(array: NDArray[np.float32]) -> Any:
    flat = np.array([float(text_of(value)) for value in array.ravel().tolist()])
    return flat.reshape(array.shape).tolist()


def read_json_lines(path: Path) -> PoseSequence:
    """Read what :func:`json_lines` says. Raises PoseFileError, which names the line."""
    lines = [(i, line) for i, line in enumerate(lines_of(path), 1) if line.strip()]
    try:
        header = _document(lines[0][1], f"{path}, line {lines[0][0]}") if lines else None
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise PoseFileError(f"{path} does not begin with the header of {FORMAT}")
        if header.get("version") != VERSION:
            raise PoseFileError(f"{path} has version {str(header.get('version'))[:20]} of the format; this program reads version {VERSION}")
        rows = [_row(_document(line, f"{path}, line {i}"), f"{path}, line {i}") for i, line in lines[1:]]
        fps = header.get("fps")
        rate = None if fps is None else number(fps, f"{path}: fps")
    except KeypointError as err:
        raise PoseFileError(str(err)) from None
    if not rows:
        raise PoseFileError(f"{path} has no frames")
    stacked: dict[str, Any] = {}
    for name in ("root", "covariance", "observed", *FLAGS):
        have = [row[name] for row in rows if name in row]
        if have and len(have) < len(rows):
            raise PoseFileError(f"{path}: some frames have {name} and some have not; expected all or none")
        stacked[name] = np.stack(have) if have else None
    joints, frames = np.stack([row["joints"] for row in rows]), np.array([row["frame"] for row in rows], np.int64)
    person = None if header.get("person") is None else str(header["person"])
    return PoseSequence(joints, rate, frames, person=person, **stacked)


def _document(line: str, where: str) -> Any:
    try:
        return json_of(line)
    except ValueError as err:
        raise PoseFileError(f"{where} is not JSON: {err}") from None


def _row(line: Any, where: str) -> dict[str, Any]:
    row: dict[str, Any] = {"frame": part(line, "frame", int, where)}
    if abs(row["frame"]) >= 1 << 62:
        raise PoseFileError(f"{where}: expected a frame's number of less than 62 bits")
    shapes = {"joints": (J, 3), "root": (3,), "covariance": (J, 6)}
    for name, shape in shapes.items():
        if name not in line and name != "joints":
            continue
        given = part(line, name, (list, type(None)), where)
        array = np.full(shape, np.nan) if given is None else numbers(given, f"{where}.{name}")
        if array.shape != shape:
            raise PoseFileError(f"{where}.{name}: expected {shape} numbers, got {array.shape}")
        row[name] = array.astype(np.float32)
    if "covariance" in row:
        full = np.zeros((J, 3, 3), np.float32)
        full[:, _UPPER[0], _UPPER[1]] = full[:, _UPPER[1], _UPPER[0]] = row["covariance"]
        row["covariance"] = full
    if "observed" in line:
        observed = part(line, "observed", list, where)
        if len(observed) != J or not all(isinstance(one, bool) for one in observed):
            raise PoseFileError(f"{where}.observed: expected {J} times true or false")
        row["observed"] = np.array(observed)
    for name in FLAGS:
        if name in line:
            if not isinstance(line[name], bool):
                raise PoseFileError(f"{where}.{name}: expected true or false")
            row[name] = np.array(line[name])
    return row
