"""`make lock`: the exact versions of everything that the set-up installs, with the SHA-256 of each of their files.

uv resolves pyproject.toml for every platform and every Python from 3.10 on at once. What a lock file already names is kept,
so a run changes only what pyproject.toml forces; newer versions come with `make lock UPGRADE=--upgrade`, or of one package
with `make lock UPGRADE='--upgrade-package numpy'`.

PyTorch is the one package with two sources. The wheels of the Python Package Index want CUDA's libraries on Linux, gigabytes
of them; PyTorch's own index has the same version without. torch-cpu.txt, written by hand, has the hashes of the latter; what only
the former wants is put into torch-cuda.txt. supply/install.py chooses.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "supply" / "locks"
OLDEST_PYTHON = "3.10"
# What each file is for, and what it is resolved from: arguments of 'uv pip compile'. Those after the first agree with the first.
FILES = {
    "test": ("make test, lint, typecheck, bench", ["--extra=export", "--extra=report", "--extra=train", "--extra=test", "--extra=dev"]),
    "demo": ("make demo, train, sweep, precision", ["--extra=export", "--extra=report", "--extra=train"]),
    "runtime-cpu": ("a device that runs bundles on its processor: numpy and ONNX Runtime", ["--extra=cpu"]),
    "build": ("what builds the package, installed before the rest", ["--group=build", "--no-deps"]),
    "supply": ("make lock, licences, sbom, audit: an environment of its own", ["--group=supply"]),
}
# Locked with an older interpreter's versions in mind: these do not share an environment with the tests.
ALONE = {"supply"}
COMPANIONS = "torch-cuda"


def blocks(text: str) -> dict[str, list[str]]:
    """Return the lock file's entries, each a package's lines, by its first line: name, version and marker."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if re.match(r"[A-Za-z0-9]", line):
            current = found.setdefault(line.removesuffix(" \\"), [])
        elif line.startswith(" "):
            current.append(line)
    return found


def name_of(entry: str) -> str:
    return entry.split("==")[0]


def pins(*names: str) -> str:
    """Return the versions that lock files have, without hashes: uv would keep those that it is given, unseen."""
    there = [LOCKS / f"{name}.txt" for name in names if (LOCKS / f"{name}.txt").exists()]
    return "".join(f"{entry}\n" for path in there for entry in blocks(path.read_text(encoding="utf-8")))


def compiled(name: str, arguments: list[str], upgrade: list[str]) -> dict[str, list[str]]:
    """Return what uv resolves."""
    with tempfile.TemporaryDirectory() as folder:
        out, agreed = Path(folder) / "out.txt", Path(folder) / "agreed.txt"
        out.write_text(pins(name, COMPANIONS) if name not in ALONE else pins(name), encoding="utf-8")  # preferred: what was locked
        agreed.write_text("" if name in {"test", *ALONE} else pins("test", COMPANIONS), encoding="utf-8")
        command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--universal", "--generate-hashes"]
        command += ["--no-header", "--annotation-style=line", f"--python-version={OLDEST_PYTHON}", f"--output-file={out}"]
        command += [f"--constraint={agreed}", *([] if "--group" in arguments[0] else ["pyproject.toml"]), *arguments]
        done = subprocess.run([*command, *upgrade], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"supply/locks/{name}.txt cannot be resolved:\n{done.stderr}")
        return blocks(out.read_text(encoding="utf-8"))


def wanted_by(lines: list[str]) -> set[str]:
    """Return the packages that want an entry; the project itself and its dependency groups among them."""
    [via] = [line.split("# via ", 1)[1] for line in lines if "# via " in line] or [""]
    return {w.split()[0] for w in via.split(", ") if w and not w.startswith("-c ")}


def split(entries: dict[str, list[str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the entries without PyTorch's CUDA companions, and those: on Linux only, and wanted by PyTorch or one another only."""
    names = {"torch"}
    while True:
        more = {name_of(e) for e, lines in entries.items() if "linux" in e and wanted_by(lines) and wanted_by(lines) <= names} - names
        if not more:
            break
        names |= more
    names.discard("torch")
    return (
        {e: lines for e, lines in entries.items() if name_of(e) not in names},
        {e: lines for e, lines in entries.items() if name_of(e) in names},
    )


def of_same_version(entries: dict[str, list[str]]) -> None:
    [torch] = [entry.split()[0] for entry in entries if name_of(entry) == "torch"]
    if f"\n{torch}+cpu " not in (LOCKS / "torch-cpu.txt").read_text(encoding="utf-8"):
        raise SystemExit(f"supply/locks/torch-cpu.txt is of another version than {torch}: write that one's hashes there")


def write(name: str, purpose: str, entries: dict[str, list[str]]) -> None:
    out = [f"# {purpose}. Made by 'make lock'; do not edit."]
    for entry, lines in sorted(entries.items()):
        hashes = [line.strip().removesuffix(" \\") for line in lines if "--hash" in line]
        out += [f"{entry} \\", *(f"    {h} \\" for h in hashes[:-1]), f"    {hashes[-1]}"]
        if by := sorted(wanted_by(lines)):
            out.append(f"    # via {', '.join(by)}")
    path = LOCKS / f"{name}.txt"
    path.write_text("\n".join(out) + "\n", encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {len(entries)} entries")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("upgrade", nargs=argparse.REMAINDER, help="options of 'uv pip compile', as --upgrade or --upgrade-package NAME")
    upgrade = parser.parse_args().upgrade
    for name, (purpose, arguments) in FILES.items():
        entries = compiled(name, arguments, upgrade if name in {"test", *ALONE} else [])
        if name in {"test", "demo"}:
            # The demo's have more: cuda-bindings, which the tests install for its own sake. The tests' come first, to be agreed with.
            entries, cuda = split(entries)
            write(COMPANIONS, "what PyTorch's wheel for CUDA wants besides, on Linux", cuda)
        write(name, purpose, entries)
        if name == "test":
            of_same_version(entries)


if __name__ == "__main__":
    main()
