"""What docs/deadlines.md says of each K, and of walks that were cut short, is what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import diffpose_edge

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = Path(diffpose_edge.__file__).parent / "weights"
PAIRS = ("frame", "video")
REACHED = ("sample_mm", "pose_mm", "pose_p99_mm", "mpjpe_mm")


def rows_of(marker: str) -> list[list[str]]:
    """The cells of the table below a comment of docs/deadlines.md."""
    text = (ROOT / "docs" / "deadlines.md").read_text(encoding="utf-8")
    lines = text[text.index(marker) :].splitlines()[1:]
    table = lines[: next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def results(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))
    return content


def test_what_each_k_reaches() -> None:
    fitted = [json.loads((WEIGHTS / pair / "schedules.json").read_text(encoding="utf-8"))["fitted"] for pair in PAIRS]
    rows = rows_of("<!-- figures from diffpose_edge/weights")
    assert [int(row[0]) for row in rows] == [1, *map(int, fitted[0]), 50]
    for K, sampler, *cells in rows:
        if K == "1":
            one = [next(row for row in results(f"{pair}_samplers.json")["rows"] if row["K"] == 1) for pair in PAIRS]
            wanted = [record[name] for record in one for name in REACHED]
        elif K == "50":
            wanted = [value for each in fitted for value in (0, 0, 0, each["2"]["accuracy"]["dense_mpjpe_mm"])]
        else:
            wanted = [each[K]["accuracy"]["fitted"][name] for each in fitted for name in REACHED]
        assert sampler == ("fitted" if K in fitted[0] else "DDIM")
        assert [float(cell) for cell in cells] == pytest.approx(wanted, abs=0.0501)


def test_what_is_left_of_a_walk_that_was_cut_short() -> None:
    records = [results(f"{pair}_truncated.json") for pair in PAIRS]
    assert {record["K"] for record in records} == {8}
    rows = rows_of("<!-- figures from benchmarks/results/*_truncated.json")
    assert len(rows) == 8
    for m, row in enumerate(rows):
        measured = [record["rows"][m] for record in records]
        assert {record["walked"] for record in measured} == {int(row[0])} == {m + 1}
        wanted = [record[name] for record in measured for name in REACHED]
        assert [float(cell) for cell in row[1:]] == pytest.approx(wanted, abs=0.0501)
