"""Faults that no exception tells of (a segmentation fault in a library): Python's faulthandler writes them, the next start reports them.

faulthandler writes whole paths, from a process that can do nothing else any more. So its file is not the report: it lies beside the
reports, for its owner alone, until the next process opens them, makes a report of the names that are public, and removes it.
"""

from __future__ import annotations

import faulthandler
import os
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import diffpose_edge
from diffpose_edge.plain_words import plain

try:
    import fcntl
except ImportError:  # Windows: without locks nobody could tell whose process has ended
    fcntl = None  # type: ignore[assignment]

# The folders of a checkout that are parts of the package; beside them lies what is the user's.
PARTS = ("runtime", "export", "reference", "calibration", "benchmarks")
MOST_BYTES = 256 * 1024
MOST_FRAMES = 60
_FRAME = re.compile(r'\s+File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)')


class FaultFile:
    """A file that faulthandler writes into while this process lives: locked, so that others see that it lives."""

    def __init__(self, path: Path, file: IO[bytes]):
        self._path, self._file = path, file
        self._process = os.getpid()

    @classmethod
    def opened(cls, folder: Path) -> FaultFile | None:
        """Give faulthandler a file in ``folder``; None where somebody has enabled it already, or there are no locks. Raises OSError."""
        if fcntl is None or faulthandler.is_enabled():
            return None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"fault-{os.getpid()}-{os.urandom(4).hex()}.txt"
        # A file that nobody has locked yet could be taken for one that was left: it gets its name once it is locked.
        hidden = path.with_suffix(".new")
        file = os.fdopen(os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.replace(hidden, path)
        except OSError:
            file.close()
            hidden.unlink(missing_ok=True)
            raise
        faulthandler.enable(file)
        return cls(path, file)

    def close(self) -> None:
        """Disable faulthandler and remove the file; a second call does nothing."""
        # A forked child has the same file open: it is its parent's to remove.
        if not self._file.closed:
            faulthandler.disable()
            # What a child that ended in a fault has written is for the next start.
            if os.getpid() == self._process and os.fstat(self._file.fileno()).st_size == 0:
                self._path.unlink(missing_ok=True)
            self._file.close()


def left_faults(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what processes that are no more have left in ``folder``, an error as a report has it, and remove it once it was taken.

    Raises OSError.
    """
    if fcntl is None:
        return
    for path in sorted(folder.glob("fault-*.txt")):
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            # Two processes may have opened it; whoever comes second finds that it has no name any more.
            if os.fstat(file.fileno()).st_nlink:
                text = file.read(MOST_BYTES).decode("utf-8", "replace")
                if text.strip():
                    yield fault_of(text)
                path.unlink(missing_ok=True)


def fault_of(text: str) -> dict[str, Any]:
    """Return what faulthandler wrote as an error of a report: the frames of the thread that failed, without paths."""
    title, _, rest = text.partition("\n")
    # Of several threads the one that failed is called the current one.
    _, found, current = rest.partition("Current thread")
    frames = [match for match in map(_FRAME.fullmatch, (current if found else rest).split("\n\n")[0].splitlines()) if match]
    return {
        "type": "hard fault",
        "message": plain(title),
        # faulthandler writes the latest call first, a traceback last.
        "frames": [_frame(**match.groupdict()) for match in reversed(frames[:MOST_FRAMES])],
    }


def _frame(file: str, line: str, function: str) -> dict[str, Any]:
    place = _public(file)
    return {"module": place or "<program>", "line": int(line), **({"function": function} if place else {})}


def _public(file: str) -> str | None:
    """Return a file of this package's, of numpy's or ONNX Runtime's, or of Python's own, relative to it; None for all others."""
    package, *checkout = map(Path, diffpose_edge.__path__)
    roots = [(package, "diffpose_edge"), *((root / part, f"diffpose_edge/{part}") for root in checkout for part in PARTS)]
    for paths in ("purelib", "platlib"):
        roots += [(Path(sysconfig.get_path(paths)) / name, name) for name in ("numpy", "onnxruntime", "typer", "click")]
    for folder, name in roots:
        if Path(file).is_relative_to(folder):
            return f"{name}/{Path(file).relative_to(folder).as_posix()}"
    stdlib = Path(sysconfig.get_path("stdlib"))
    if Path(file).is_relative_to(stdlib) and "-packages" not in file:
        return Path(file).relative_to(stdlib).as_posix()
    return None
