"""What `make` installs: the packages of a lock file, each held against its hash, and the checkout itself.

Run with the Python of the environment that is to have them: `.venv/bin/python -m supply.install demo`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "supply" / "locks"
PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
NOT_THERE = ("No matching distribution found", "Could not find a version")


def locked(name: str, *, may_lack: bool = False) -> bool:
    """Install a lock file's packages, no others. A package that no index has may be lacking with `may_lack`: then nothing is installed.

    What builds packages from source is there already, and nothing is fetched to build in: build.txt is installed first.
    """
    command = [*PIP, "--require-hashes", "--no-deps", "--no-build-isolation", "--requirement", str(LOCKS / f"{name}.txt")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode == 0:
        return True
    if may_lack and any(text in done.stdout for text in NOT_THERE):
        return False
    sys.stderr.write(done.stdout)
    raise SystemExit(
        f"\nNot what supply/locks/{name}.txt has: see above. Where a hash differs, the index serves another file than the one that was "
        "tested.\nWhere no file fits this platform or this Python, the lock file does not cover it; without it: make LOCK= ..."
    )


def wants_cuda() -> bool:
    """Return whether the PyTorch that is installed asks for CUDA's libraries, as PyPI's for Linux does."""
    return any(need.startswith(("nvidia", "cuda-toolkit")) for need in importlib.metadata.requires("torch") or ())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=["demo", "test"])
    name = parser.parse_args().set
    locked("build")
    # First, for pip prefers a file whose hash its index tells to one that it would have to fetch.
    if not locked("torch-cpu", may_lack=True):
        print("No index here has PyTorch's CPU wheels: it comes from PyPI, with CUDA's libraries (some 3 GB)")
    locked(name)
    if wants_cuda():
        locked("torch-cuda")
    subprocess.run([*PIP, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], check=True)
    subprocess.run([sys.executable, "-m", "pip", "check"], check=True)


if __name__ == "__main__":
    main()
