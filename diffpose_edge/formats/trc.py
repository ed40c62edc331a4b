"""Poses as TRC (track, row, column), the markers' file that OpenSim and Motion Analysis programs read.

Tab-separated. Line 1: ``PathFileType 4 (X/Y/Z) name``. Lines 2 and 3: eight names and their values, DataRate, CameraRate, NumFrames,
NumMarkers, Units, OrigDataRate, OrigDataStartFrame, OrigNumFrames. Line 4: ``Frame#``, ``Time``, and each marker's name over three
columns. Line 5: X1, Y1, Z1, X2, … Line 6 is empty. Then a row for each frame: its number, the time in seconds, and x, y, z of each marker.
OpenSim's own reader asks for exactly these names, and takes "nan" for a marker that was not seen, which is how its writer writes it.

Here a marker is a joint, called by its name, in millimetres; y is up and z points to the camera, x stays: OpenSim's vertical is y. With a
root the markers are where the person is, seen from the camera, otherwise around the hip at the origin. A camera that is tilted tilts them.

Source: OpenSim documentation, "Marker (.trc) Files"; opensim-core, OpenSim/Common/TRCFileAdapter.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diffpose_edge.errors import OutputError, PoseFileError
from diffpose_edge.formats.poses import PoseSequence, from_placed, y_up
from diffpose_edge.formats.text_file import lines_of, numbers_in, text_of, whole
from diffpose_edge.skeleton import JOINTS

_HEADER = ["DataRate", "CameraRate", "NumFrames", "NumMarkers", "Units", "OrigDataRate", "OrigDataStartFrame", "OrigNumFrames"]
_PER_METRE = {"mm": 1000.0, "m": 1.0, "cm": 100.0}


def trc_lines(poses: PoseSequence, name: str) -> Iterator[str]:
    """Yield the lines of a sequence as markers in millimetres, for a file called ``name``. Raises OutputError without a frame rate."""
    if poses.fps is None:
        raise OutputError(f"cannot write {name}: TRC needs the frame rate, and it is not known; give it (--fps)")
    rate, n, first = text_of(poses.fps), len(poses.frames), int(poses.frames[0])
    markers = y_up(poses.placed).reshape(n, -1) * _PER_METRE["mm"] + 0.0  # + 0.0: no minus before zero
    yield f"PathFileType\t4\t(X/Y/Z)\t{name}"
    yield "\t".join(_HEADER)
    yield "\t".join([rate, rate, str(n), str(len(JOINTS)), "mm", rate, str(first), str(n)])
    yield "Frame#\tTime\t" + "\t\t\t".join(JOINTS)
    yield "\t\t" + "\t".join(f"{axis}{i}" for i in range(1, len(JOINTS) + 1) for axis in "XYZ")
    yield ""
    for frame, row in zip(poses.frames.tolist(), markers.tolist(), strict=True):
        yield "\t".join([str(frame), text_of((frame - first) / poses.fps), *map(text_of, row)])


def read_trc(path: Path) -> PoseSequence:
    """Read a TRC file that has the 17 joints among its markers, in mm, cm or m. Raises PoseFileError, which names the line."""
    lines = lines_of(path)
    if len(lines) < 6 or not lines[0].startswith("PathFileType"):
        raise PoseFileError(f"{path} is not TRC: expected PathFileType in line 1, four more lines of header, an empty one, and frames")
    names, values = lines[1].split("\t"), lines[2].split("\t")
    if [name for name in names if name] != _HEADER or len([value for value in values if value]) != len(_HEADER):
        raise PoseFileError(f"{path}, lines 2 and 3: expected the names {', '.join(_HEADER)}, and a value of each")
    header = dict(zip(_HEADER, [value.strip() for value in values if value], strict=True))
    markers = [name for name in lines[3].split("\t") if name.strip()][2:]
    scale = _PER_METRE.get(header["Units"])
    missing = [joint for joint in JOINTS if markers.count(joint) != 1]
    if scale is None or missing or len(markers) != whole(header["NumMarkers"], f"{path}, line 3"):
        told = f"no single marker {missing[0]}" if missing else f"{len(markers)} markers in {header['Units']}"
        raise PoseFileError(f"{path}: expected each of the 17 joints once among NumMarkers markers, in mm, cm or m; got {told}")
    rows = [(i, line.split("\t")) for i, line in enumerate(lines[5:], 6) if line.strip()]
    if len(rows) != whole(header["NumFrames"], f"{path}, line 3") or not rows:
        raise PoseFileError(f"{path}: the header says {header['NumFrames']} frames, and there are {len(rows)}; is the file cut off?")
    frames, table = [], []
    for i, row in rows:
        # Some writers end rows with a tab.
        cells = row[:-1] if len(row) == 3 * len(markers) + 3 and not row[-1] else row
        if len(cells) != 3 * len(markers) + 2:
            raise PoseFileError(f"{path}, line {i}: expected {3 * len(markers) + 2} columns, got {len(cells)}")
        frames.append(whole(cells[0], f"{path}, line {i}"))
        table.append(numbers_in(cells[2:], f"{path}, line {i}"))
    points = np.stack(table).reshape(len(rows), len(markers), 3)[:, [markers.index(joint) for joint in JOINTS]]
    fps = float(numbers_in([header["DataRate"]], f"{path}, line 3")[0])
    return from_placed(y_up(points / scale), fps, np.array(frames, np.int64))
