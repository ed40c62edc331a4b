"""Poses as a table of comma-separated values: a row for each frame, for spreadsheets and statistics programs.

Columns: ``frame``, ``time`` (s), ``fps``, then ``<joint>_x``, ``_y``, ``_z`` (metres relative to the hip) of the 17 joints, and
``root_x``, ``root_y``, ``root_z`` where the root is known. Cells of frames without a pose are empty. Covariances have no place in it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diffpose_edge.errors import PoseFileError
from diffpose_edge.formats.poses import PoseSequence
from diffpose_edge.formats.text_file import lines_of, numbers_in, text_of, whole
from diffpose_edge.skeleton import JOINTS, J

_LEADING = ["frame", "time", "fps"]
_JOINTS = [f"{joint}_{axis}" for joint in JOINTS for axis in "xyz"]
_ROOT = [f"root_{axis}" for axis in "xyz"]


def csv_lines(poses: PoseSequence, name: str) -> Iterator[str]:
    """Yield the lines of a sequence's table; every float32 comes back as it was. ``name``: of the file, which this format does not tell."""
    values = poses.joints.reshape(len(poses.frames), -1)
    if poses.root is not None:
        values = np.concatenate([values, poses.root], axis=1)
    fps, first = poses.fps, int(poses.frames[0])
    yield ",".join([*_LEADING, *_JOINTS, *([] if poses.root is None else _ROOT)])
    for frame, found, row in zip(poses.frames.tolist(), poses.found.tolist(), values.tolist(), strict=True):
        leading = [str(frame), "", ""] if fps is None else [str(frame), repr((frame - first) / fps), repr(fps)]
        yield ",".join([*leading, *(text_of(value) if found else "" for value in row)])


def read_csv(path: Path) -> PoseSequence:
    """Read what :func:`csv_lines` says. Raises PoseFileError, which names the line."""
    try:
        rows = list(csv.reader(io.StringIO("\n".join(lines_of(path))), strict=True))
    except csv.Error as err:
        raise PoseFileError(f"{path} is not a table of comma-separated values: {err}") from None
    expected = [*_LEADING, *_JOINTS]
    if not rows or rows[0] not in (expected, [*expected, *_ROOT]):
        raise PoseFileError(f"{path}: expected the columns {', '.join(expected[:5])}, …, {expected[-1]}, and perhaps {', '.join(_ROOT)}")
    if len(rows) == 1:
        raise PoseFileError(f"{path} has no frames")
    values, frames = [], []
    for line, row in enumerate(rows[1:], 2):
        where = f"{path}, line {line}"
        if len(row) != len(rows[0]):
            raise PoseFileError(f"{where}: expected {len(rows[0])} cells, got {len(row)}")
        frames.append(whole(row[0], where))
        values.append(numbers_in(row[2:], where))
    table = np.stack(values)
    rates = set(table[np.isfinite(table[:, 0]), 0].tolist())
    if len(rates) > 1:
        raise PoseFileError(f"{path}: expected one fps throughout, got {sorted(rates)[:3]}")
    joints = table[:, 1 : 1 + 3 * J].reshape(-1, J, 3).astype(np.float32)
    root = table[:, 1 + 3 * J :].astype(np.float32) if len(rows[0]) > len(expected) else None
    return PoseSequence(joints, rates.pop() if rates else None, np.array(frames, np.int64), root)
