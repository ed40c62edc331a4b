"""Files of poses: JSON lines, tables, BVH, TRC."""

from __future__ import annotations

from collections.abc import Callable

from diffpose_edge.formats import read_poses
from tests.fuzz.mutators import as_json_lines, as_table
from tests.fuzz.target import Target, file_of


def _reader(suffix: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        poses = read_poses(file_of(f"poses.{suffix}", data))
        assert poses.placed.shape == (len(poses.frames), 17, 3)

    return read


TARGETS = (
    Target("jsonl", _reader("jsonl"), as_json_lines),
    Target("csv", _reader("csv"), as_table),
    Target("bvh", _reader("bvh"), as_table),
    Target("trc", _reader("trc"), as_table),
)
