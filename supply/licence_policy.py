"""Which licences may be used, by licences.toml: what of an expression is not allowed, and which packages are excepted."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

from supply.lockfile import ROOT, tomllib

POLICY: dict[str, Any] = tomllib.loads((ROOT / "supply" / "licences.toml").read_text(encoding="utf-8"))


def excepted(name: str, policy: dict[str, Any]) -> bool:
    return any(fnmatch(name, pattern) for pattern in policy["exceptions"])


def forbidden(expression: str, policy: dict[str, Any]) -> set[str]:
    """Return the parts of an expression that are not allowed."""
    parts = expression.replace("(", " ").replace(")", " ").replace(" OR ", " AND ").split(" AND ")
    return {part.strip() for part in parts} - set(policy["allowed"])
