"""`make sbom`: bills of materials of two environments, CycloneDX 1.6, into supply/sbom/.

runtime-cpu is what a device has that runs bundles on its processor: an environment made anew from the lock file. development
is the environment of `make test`. cyclonedx-py reads both, with licences and with what asks for what, and validates them.
Of what it writes, links and descriptions are left out, and packages that the lock files do not have (pip, or what somebody
installed by hand); a locked package that is missing, or there in another version, is an error. Files' hashes: supply/locks/.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name
from packaging.version import Version

from supply.lockfile import LOCKS, PROJECT, ROOT, Entry, entries

OUT = ROOT / "supply" / "sbom"
KEPT = ("type", "bom-ref", "name", "version", "purl", "licenses")
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "diffpose_edge" / "__init__.py").read_text(encoding="utf-8")).group(1)


def read(python: Path) -> dict[str, Any]:
    """Return what cyclonedx-py writes of an environment."""
    tool = Path(sys.executable).with_name("cyclonedx-py")
    command = [
        str(tool),
        "environment",
        str(python),
        f"--pyproject={ROOT / 'pyproject.toml'}",
        "--output-reproducible",
        "--spec-version=1.6",
    ]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def public(version: str) -> str:
    """Return a version without its local part: PyTorch's 2.13.0+cpu is 2.13.0 to the lock files."""
    return Version(version).public


def of_locked(bill: dict[str, Any], locked: list[Entry]) -> dict[str, Any]:
    """Return a bill of what is locked for this platform and this Python."""
    wanted = {entry.name: entry.version for entry in locked if entry.applies()}
    there = {canonicalize_name(c["name"]): c for c in bill["components"]}
    wrong = [f"{n} {v}" for n, v in sorted(wanted.items()) if n not in there or public(there[n]["version"]) != public(v)]
    if wrong:
        raise SystemExit(f"the environment is not what the lock files say; 'make test' sets it up. They have: {', '.join(wrong)}")
    for left_out in sorted(set(there) - set(wanted) - {PROJECT}):
        print(f"left out, for it is not locked: {left_out}")
    kept = [there[name] for name in sorted(wanted)]
    root = bill["metadata"]["component"]
    root |= {"version": VERSION, "purl": f"pkg:pypi/{PROJECT}@{VERSION}"}
    refs = {c["bom-ref"] for c in kept} | {root["bom-ref"]}
    graph = [{"ref": d["ref"], "dependsOn": sorted(refs & set(d.get("dependsOn", ())))} for d in bill["dependencies"] if d["ref"] in refs]
    tools = [{k: t[k] for k in ("type", "name", "version")} for t in bill["metadata"]["tools"]["components"]]
    return {
        **{key: bill[key] for key in ("$schema", "bomFormat", "specVersion", "version")},
        "metadata": {"component": root, "properties": bill["metadata"]["properties"], "tools": {"components": tools}},
        "components": [{key: c[key] for key in KEPT if key in c} for c in kept],
        "dependencies": graph,
    }


def write(name: str, bill: dict[str, Any]) -> None:
    text = json.dumps(bill, indent=1, sort_keys=True) + "\n"
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise SystemExit(f"{name} is no CycloneDX 1.6: {fault}")
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{name}.cdx.json"
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT)}: {len(bill['components'])} components")


def runtime() -> dict[str, Any]:
    """Return the bill of an environment with what runtime-cpu.txt locks, and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "env" / "bin" / "python"
        venv.create(python.parents[1], with_pip=False, symlinks=True)
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--require-hashes", "--requirement", str(LOCKS / "runtime-cpu.txt")], check=True)
        return of_locked(read(python), entries("runtime-cpu"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", type=Path, default=ROOT / ".venv" / "bin" / "python", help="of the environment of 'make test'")
    given = parser.parse_args()
    write("runtime-cpu", runtime())
    write("development", of_locked(read(given.python), entries("build", "test")))


if __name__ == "__main__":
    main()
