"""What a lock file says: its packages, their versions by marker, and which package asks for which."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "supply" / "locks"
PROJECT = "diffpose-edge"


@dataclass
class Entry:
    """A version of a package: where it applies, what its files hash to, and who asks for it."""

    name: str
    version: str
    marker: Marker | None
    hashes: set[str] = field(default_factory=set)
    via: set[str] = field(default_factory=set)

    def applies(self, environment: dict[str, str] | None = None) -> bool:
        return self.marker is None or self.marker.evaluate(environment)


def entries(*names: str | Path) -> list[Entry]:
    """Return what lock files hold, in their order; each is a name in supply/locks/, or a path."""
    found: list[Entry] = []
    for name in names:
        path = name if isinstance(name, Path) else LOCKS / f"{name}.txt"
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.match(r"[A-Za-z0-9]", line):
                want = Requirement(line.removesuffix("\\").strip())
                [pin] = want.specifier
                if pin.operator != "==":
                    raise ValueError(f"{path.name}: {line} is no exact version")
                found.append(Entry(canonicalize_name(want.name), pin.version, want.marker))
            elif digest := re.search(r"--hash=sha256:([0-9a-f]{64})", line):
                found[-1].hashes.add(digest.group(1))
            elif "# via " in line:
                found[-1].via |= {canonicalize_name(w) for w in line.split("# via ")[1].split(", ")}
    return found


def extras() -> dict[str, list[Requirement]]:
    """Return the requirements of each extra, and under "" those of the package itself, with extras of extras resolved."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = {name: [Requirement(r) for r in wants] for name, wants in project["optional-dependencies"].items()}

    def whole(name: str, where: Marker | None = None) -> list[Requirement]:
        found = []
        for want in own[name]:
            markers = [str(marker) for marker in (where, want.marker) if marker is not None]
            place = Marker(" and ".join(f"({marker})" for marker in markers)) if markers else None
            if want.name == PROJECT:
                found += [r for extra in sorted(want.extras) for r in whole(extra, place)]
            else:
                found.append(Requirement(f"{want.name}{want.specifier}" + (f"; {place}" if place else "")))
        return found

    return {"": [Requirement(r) for r in project["dependencies"]], **{name: whole(name) for name in own}}


def brought_by(locked: list[Entry]) -> dict[str, set[str]]:
    """Return, for each package, the extras that bring it, "" for the package itself, directly or through others."""
    needs: dict[str, set[str]] = {}
    for entry in locked:
        for asker in entry.via:
            needs.setdefault(asker, set()).add(entry.name)
    found: dict[str, set[str]] = {entry.name: set() for entry in locked}
    for extra, wants in extras().items():
        todo, seen = [canonicalize_name(want.name) for want in wants], set()
        while todo:
            name = todo.pop()
            if name in found and name not in seen:
                seen.add(name)
                found[name].add(extra)
                todo += needs.get(name, ())
    return found
