"""docs/formats.md says what the code does: the formats' names, and which keypoint stands for which joint."""

from __future__ import annotations

import re
from pathlib import Path

from diffpose_edge.formats import KEYPOINT_FORMATS, POSE_FORMATS
from diffpose_edge.layouts import BODY25, COCO17, HALPE26, MEDIAPIPE33
from diffpose_edge.skeleton import JOINTS

PAGE = (Path(__file__).parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")


def _rows(first_cell: str) -> list[list[str]]:
    """The cells of the table whose header begins so, without it and its rule."""
    lines = PAGE[PAGE.index(f"| {first_cell} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_format_has_its_row() -> None:
    names = re.findall(r"^\| `([\w-]+)` \|", PAGE, re.MULTILINE)
    assert names == [*KEYPOINT_FORMATS, "npz", *POSE_FORMATS]


def test_the_table_of_joints_is_the_one_in_the_code() -> None:
    told: dict[str, dict[int, list[int]]] = {}
    for joints, *cells in _rows("Human3.6M-17"):
        places = [int(n) for n in re.findall(r"\d+", joints)]
        for layout, cell in zip((COCO17, BODY25, HALPE26, MEDIAPIPE33), cells, strict=True):
            numbers = [int(n) for n in re.findall(r"(?<![.\d])\d+(?!\.)", cell)]
            for i, place in enumerate(places):
                direct = JOINTS[place] in layout.direct
                told.setdefault(layout.name, {})[place] = [numbers[i]] if len(numbers) == len(places) and direct else []
    for layout in (COCO17, BODY25, HALPE26, MEDIAPIPE33):
        for place, joint in enumerate(JOINTS):
            assert told[layout.name][place] == ([layout.direct[joint]] if joint in layout.direct else []), (layout.name, joint)
