"""`make licences`: every locked package, its licence and the extra that brings it, into docs/licences.md.

Licences are what pip-licenses reads in the packages' metadata; where that is no SPDX expression, licences.toml has what a
person read. A package that neither of the two knows, and a licence that licences.toml does not allow, ends it with an error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from license_expression import ExpressionError, get_spdx_licensing
from packaging.utils import canonicalize_name

from supply.licence_policy import POLICY, excepted, forbidden
from supply.lockfile import ROOT, Entry, brought_by, entries

PAGE = ROOT / "docs" / "licences.md"
# Files that the package's own wheel carries, and where their licences lie in it.
CARRIED = """\
- `diffpose_edge/viewer/libraries/libraries.min.js`: three.js and uPlot, MIT (`LICENSE.three`, `LICENSE.uplot` beside it).
- `diffpose_edge/data/street_walk_mediapipe33.npz`: keypoints found in a film of Sports2D's, BSD-3-Clause (`LICENSE.sports2d`).
- `mocap_h36m17.npz` there, and `held_out.npz` and `calibration.npz` made of it: motion capture of CMU's, for any use with its
  acknowledgement, and of two more sources, Apache-2.0 (`LICENSE.apache-2.0`) and BSD-3-Clause (`LICENSE.assimp`);
  `diffpose_edge/data/README.md` has the acknowledgement and says which is which.

MediaPipe and its pose model are not in the wheel: the detector fetches them into an environment of its own, when asked
([docs/video.md](video.md)).
"""


def stated(python: Path) -> dict[str, str]:
    """Return what pip-licenses says of the packages of an environment, by name."""
    tool = Path(sys.executable).with_name("pip-licenses")
    command = [str(tool), f"--python={python}", "--from=mixed", "--format=json", "--with-system"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {canonicalize_name(item["Name"]): item["License"] for item in told}


def licence(name: str, told: dict[str, str], policy: dict[str, Any]) -> str:
    """Return a package's licence as an SPDX expression."""
    if name in policy["read"]:
        return policy["read"][name]
    if name not in told:
        if name in policy["elsewhere"]:
            return policy["elsewhere"][name]
        raise SystemExit(f"{name} is locked, but not installed here: read its licence in the index, and write it under [elsewhere]")
    text = policy["spdx"].get(told[name], told[name])
    if text.startswith("LicenseRef-"):
        return text
    try:
        return str(get_spdx_licensing().parse(text, validate=True))
    except ExpressionError:
        raise SystemExit(f"{name} says '{text[:60]}', which is no SPDX expression: read its licence, and write it under [read]") from None


def page(locked: list[Entry], told: dict[str, str], policy: dict[str, Any]) -> str:
    by = brought_by(locked)
    rows = []
    for name in sorted({entry.name for entry in locked}):
        versions = sorted({entry.version for entry in locked if entry.name == name})
        found = licence(name, told, policy)
        wrong = forbidden(found, policy)
        if wrong and not excepted(name, policy):
            raise SystemExit(f"{name} is under {', '.join(sorted(wrong))}, which licences.toml neither allows nor excepts")
        extras = ", ".join(sorted(e or "the package itself" for e in by[name])) or "set-up"
        star = " *" if wrong or name in policy["exceptions"] else ""
        rows.append(f"| {name} | {', '.join(versions)} | {found}{star} | {extras} |")
    exceptions = "\n".join(f"- `{name}`: {why}" for name, why in policy["exceptions"].items())
    return (
        "# Licences\n\nMade by `make licences` from the lock files; do not edit. More than one version: one for Python 3.10, others "
        "for later ones. `*`: an\nexception, below. What may be used: `supply/licences.toml`.\n\n"
        "| package | version | licence (SPDX) | extras that bring it |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\n## Exceptions\n\n{exceptions}\n\n## Files of others in this package's wheel\n\n{CARRIED}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", type=Path, default=ROOT / ".venv" / "bin" / "python", help="of the environment of 'make test'")
    told = stated(parser.parse_args().python)
    PAGE.write_text(page(entries("build", "test", "torch-cuda"), told, POLICY), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
