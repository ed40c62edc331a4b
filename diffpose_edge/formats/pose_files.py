"""The formats of 3D poses by name and suffix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from diffpose_edge.atomic import atomic_file
from diffpose_edge.errors import OutputError, PoseFileError
from diffpose_edge.formats.bvh import bvh_lines, read_bvh
from diffpose_edge.formats.csv_table import csv_lines, read_csv
from diffpose_edge.formats.json_lines import json_lines, read_json_lines
from diffpose_edge.formats.poses import PoseSequence
from diffpose_edge.formats.trc import read_trc, trc_lines

# What `run` writes itself: everything that the runtime gives, as arrays.
NPZ = "npz"


@dataclass(frozen=True)
class PoseFormat:
    """A format: its ``name``, which is its suffix too, ``what`` it holds, its ``lines`` and how it is ``read``; whether it needs a rate."""

    name: str
    what: str
    lines: Callable[[PoseSequence, str], Iterator[str]]
    read: Callable[[Path], PoseSequence]
    needs_rate: bool


POSE_FORMATS = {
    f.name: f
    for f in (
        PoseFormat("jsonl", "JSON lines: joints, covariance and observed of each frame", json_lines, read_json_lines, False),
        PoseFormat("csv", "table: a row for each frame, joints in metres", csv_lines, read_csv, False),
        PoseFormat("bvh", "animation: rotations of a skeleton, centimetres, y up", bvh_lines, read_bvh, True),
        PoseFormat("trc", "OpenSim's markers: joints in millimetres, y up", trc_lines, read_trc, True),
    )
}


def pose_format(path: str | Path, name: str | None = None) -> str:
    """Return the name of the format that a file of poses is to have: ``name``, else by its suffix; another suffix means npz.

    Raises PoseFileError for a name that is not known.
    """
    names = (NPZ, *POSE_FORMATS)
    if name is None:
        suffix = Path(path).suffix.lower().removeprefix(".")
        return suffix if suffix in names else NPZ
    if name not in names:
        raise PoseFileError(f"expected the format of the poses as one of {', '.join(names)}, got {name!r}")
    return name


def check_rate(name: str, fps: float | None, path: Path) -> None:
    """Raise OutputError when the format called ``name`` needs a frame rate and there is none: worth asking before a long computation."""
    if fps is None and name in POSE_FORMATS and POSE_FORMATS[name].needs_rate:
        raise OutputError(f"cannot write {path}: {name} needs the frame rate, which the keypoints do not tell; give it: --fps 30, say")


def write_poses(path: str | Path, poses: PoseSequence, name: str | None = None) -> None:
    """Write a sequence, whole or not at all, as ``name`` or by the suffix: jsonl, csv, bvh or trc.

    Raises PoseFileError for another, and OutputError where the place cannot be written to, or the format needs what is not known.
    """
    chosen = _known(path, name)
    with atomic_file(path) as temporary:
        put_lines(temporary, chosen.lines(poses, Path(path).name))


def put_lines(file: Path, lines: Iterable[str]) -> None:
    """Write lines into a file that is somebody else's to put in place."""
    with open(file, "w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{line}\n" for line in lines)


def read_poses(path: str | Path, name: str | None = None) -> PoseSequence:
    """Read a sequence, as ``name`` or by the suffix: jsonl, csv, bvh or trc. Raises PoseFileError."""
    chosen = _known(path, name)
    try:
        return chosen.read(Path(path))
    except PoseFileError as err:
        # What a sequence itself refuses does not know where it came from.
        raise err if str(path) in str(err) else PoseFileError(f"{path}: {err}") from None


def _known(path: str | Path, name: str | None) -> PoseFormat:
    chosen = pose_format(path, name)
    if chosen not in POSE_FORMATS:
        raise PoseFileError(f"{path}: expected the suffix or the name of one of {', '.join(POSE_FORMATS)}; an npz is numpy's own to read")
    return POSE_FORMATS[chosen]
