"""What tells the rows of a report apart, and what they have in common: for tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FIELDS = ("backend", "precision", "N", "P", "K", "threads")


def labels_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Return what all rows share, and of each row what it does not share with all others.

    Names of bundles stand there only where nothing else tells two rows apart, or where there is one.
    """
    names = [str(Path(row["bundle"]).name) for row in rows]
    same = [field for field in FIELDS if len({row[field] for row in rows}) == 1]
    of_rows = [" ".join(_said(row, field) for field in FIELDS if field not in same).strip() for row in rows]
    common = " ".join(_said(rows[0], field) for field in same).strip() if rows else ""
    if len(set(names)) == 1:
        common = f"{names[0]} {common}".strip()
    elif len(set(of_rows)) < len(rows):
        of_rows = [f"{name} {label}".strip() for name, label in zip(names, of_rows, strict=True)]
    return common, [label or common for label in of_rows]


def _said(row: Mapping[str, Any], field: str) -> str:
    value = row[field]
    if field == "threads":
        return "" if value is None else f"{value} thr."
    return str(value) if field in ("backend", "precision") else f"{field}={value}"
