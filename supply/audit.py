"""`make audit`: are the locked files still what the index serves, has one been withdrawn, and is anything known against them?

The first two ask the index that uv uses. The third is pip-audit, which asks the Python Packaging Advisory Database through the
index's JSON interface: where that cannot be reached, nothing is known, and the command says so and fails. (pip-audit alone
would call packages that it could not look up free of known vulnerabilities, unless --strict.)
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from supply.lockfile import LOCKS, ROOT, Entry, entries

FILES = ("build", "demo", "runtime-cpu", "test", "torch-cuda", "supply")


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def served(lock: Path) -> tuple[list[Entry], list[str]]:
    """Return a lock file's pins with the hashes that the index has for them now, and what uv warns of: withdrawn versions."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "now.txt"
        command = [
            tool("uv"),
            "pip",
            "compile",
            "--universal",
            "--no-deps",
            "--generate-hashes",
            "--refresh",
            "--no-header",
            "--no-annotate",
        ]
        command += ["--python-version=3.10", f"--output-file={out}", str(lock)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{lock.name}: the index does not have it all, or cannot be reached:\n{done.stderr}")
        return entries(out), [line for line in done.stderr.splitlines() if "yanked" in line]


def faults_of_files(name: str) -> list[str]:
    """Return what differs between a lock file and the index."""
    now, faults = served(LOCKS / f"{name}.txt")
    there = {(entry.name, entry.version): entry.hashes for entry in now}
    for entry in entries(name):
        if gone := entry.hashes - there.get((entry.name, entry.version), set()):
            faults.append(f"{entry.name} {entry.version}: {len(gone)} of {len(entry.hashes)} locked files are no longer served")
    return [f"{name}.txt: {fault}" for fault in faults]


def advisories(name: str) -> tuple[bool, str]:
    """Return whether pip-audit looked all of a lock file up and found nothing, and what it said."""
    command = [tool("pip-audit"), "--strict", "--disable-pip", "--require-hashes", "--progress-spinner=off", "--timeout=15"]
    done = subprocess.run([*command, "--requirement", str(LOCKS / f"{name}.txt")], capture_output=True, text=True, check=False)
    return done.returncode == 0, (done.stdout + done.stderr).strip()


def main() -> None:
    faults = []
    for name in FILES:
        faults += faults_of_files(name)
        print(f"{name}.txt: {len(entries(name))} entries held against the index")
    print("\n".join(faults) or "every locked file is served, with its hash, and none is withdrawn")
    for name in FILES:
        clean, told = advisories(name)
        if not clean:
            print(f"known vulnerabilities of {name}.txt: not clean, or NOT CHECKED. pip-audit says:\n{told}")
            raise SystemExit(1)
        print(f"{name}.txt: no known vulnerabilities")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
