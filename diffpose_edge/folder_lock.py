"""One process at a time alters a folder: a bundle, or one that is being trained in.

The lock is the folder itself (flock on its descriptor): it leaves no file, ends with its process, and takes no right to write. Whoever
only reads needs none: what is exchanged is exchanged in one step.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType

from diffpose_edge.errors import FolderBusy, OutputError

WAIT_S = 60.0
_POLL_S = 0.05


class FolderLock:
    """Owns the right to alter ``folder``, or the folder that a link there leads to, until ``close()``; use it with ``with``.

    Waits ``wait_s`` seconds, by the monotonic clock, for a process that has it. Threads and processes exclude each other alike, and a
    second lock of the same owner waits like any other. A process that was forked in the meantime shares it. Raises FolderBusy, which
    names who has it; OutputError when there is no folder to lock.
    """

    def __init__(self, folder: str | Path, *, wait_s: float = WAIT_S):
        self.folder = Path(folder)
        self._descriptor: int | None = None
        until = time.monotonic() + wait_s
        while True:
            descriptor = self._opened()
            try:
                if self._taken(descriptor):
                    self._descriptor = descriptor
                    return
                if time.monotonic() >= until:
                    raise FolderBusy(
                        f"{self.folder} is being written by {_holder(descriptor)}, which has not finished within {wait_s:g} s; wait for it "
                        f"and run this again. Nothing was written"
                    )
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
            time.sleep(_POLL_S)

    def _opened(self) -> int:
        try:
            return os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as err:
            raise OutputError(f"cannot write into {self.folder}: {err.strerror}; nothing was written") from None

    def _taken(self, descriptor: int) -> bool:
        from fcntl import LOCK_EX, LOCK_NB, flock

        try:
            flock(descriptor, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as err:
            raise OutputError(f"cannot lock {self.folder}: {err.strerror}; copy it to a local disk. Nothing was written") from None
        try:
            # Who had it before may have put another folder under the name.
            return os.path.samestat(os.stat(self.folder), os.fstat(descriptor))
        except OSError:
            return False

    def close(self) -> None:
        """Let others alter the folder; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        self.close()


def _holder(descriptor: int) -> str:
    """Return who holds the lock of what is open, as Linux lists it (proc(5), /proc/locks)."""
    found = os.fstat(descriptor)
    try:
        with open("/proc/locks", encoding="ascii") as lines:
            fields = [line.split() for line in lines]
    except (OSError, UnicodeDecodeError):
        fields = []
    for line in fields:
        # <number>: FLOCK ADVISORY WRITE <pid> <major>:<minor>:<inode> 0 EOF; the device is another on some file systems.
        if len(line) >= 6 and line[1] == "FLOCK" and line[5].rpartition(":")[2] == str(found.st_ino) and int(line[4]) > 0:
            return f"process {line[4]}" if int(line[4]) != os.getpid() else "this process itself, in another thread or call"
    return "another process"
