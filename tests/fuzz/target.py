"""A target: a reader, what it is given, and how what it is given is changed."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.fuzz.mutators import Mutator

HERE = Path(__file__).parent
# Inputs that every run begins with, one folder for each target; and those that once were findings.
SEEDS, FOUND = HERE / "seeds", HERE / "found"


@dataclass(frozen=True)
class Target:
    """``run`` reads the bytes of a file or a message, as a user's program would; ``mutate`` makes others of them.

    ``allowed``: what ``run`` may raise besides DiffPoseEdgeError, where what it calls is no public entry.
    """

    name: str
    run: Callable[[bytes], object]
    mutate: Mutator
    allowed: tuple[type[Exception], ...] = ()

    def seeds(self) -> list[Path]:
        """The committed inputs, by name."""
        return sorted((SEEDS / self.name).glob("*"))

    def found(self) -> list[Path]:
        """The committed inputs that once were findings, by name."""
        return sorted((FOUND / self.name).glob("*"))


@cache
def _folder() -> Path:
    """A folder of this process alone; in memory where there is one, since every execution writes a file."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="diffpose-fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def file_of(name: str, data: bytes) -> Path:
    """Write an input into a file called ``name``, over the last one, and return where it is."""
    path = _folder() / name
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def folder_of(name: str) -> Path:
    """Return a folder of this process's own."""
    path = _folder() / name
    path.mkdir(parents=True, exist_ok=True)
    return path
