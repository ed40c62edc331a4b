"""A command that is stopped before its first write, and goes on from there as often as asked: to be killed, refused, or let run.

What a command computes takes seconds, what it writes milliseconds. A process runs it up to its first write below a folder, and forks
there for every try: so each moment of writing can be tried. Python tells of its file-system calls before it makes them
(``sys.addaudithook``); flushing and renameat2, of which it does not, are told of here.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from diffpose_edge import atomic, exchange, temporaries
from diffpose_edge.runtime import own_process

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_DIRECTORY
# By the event's name, which of its arguments are paths, and which is a folder's descriptor that they are relative to.
_CALLS = {
    "os.mkdir": ((0,), 2),
    "os.rmdir": ((0,), 1),
    "os.remove": ((0,), 1),
    "os.chmod": ((0,), 2),
    "os.rename": ((0, 1), 2),
    "os.link": ((0, 1), 2),
    "os.symlink": ((1,), 2),
    "os.truncate": ((0,), None),
}
_MS_REMOUNT_READ_ONLY = 0x21
# What no try takes; a fork that copied a lock in another thread's hands would wait for ever.
STUCK_S = 240.0


@dataclass(frozen=True)
class Ended:
    """How a try ended: its exit ``status``, negative for a signal; the file-system ``calls`` begun; ``seconds``; what it ``said``."""

    status: int
    calls: int
    seconds: float
    said: str


class Killable:
    """Owns a process that stands before the first write of ``action`` below ``folder``, until ``close()``; use it with ``with``.

    ``action`` returns an exit status. ``told``: a file for what it prints. Raises RuntimeError when it writes nothing there.
    """

    def __init__(self, action: Callable[[], int], folder: Path, told: Path):
        self._told = told
        self._counter = mmap.mmap(-1, 8)
        asked, self._ask = os.pipe()
        self._answer, answered = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._ask)
            os.close(self._answer)
            _Stopped(folder, told, self._counter, asked, answered).run(action)
        os.close(asked)
        os.close(answered)
        self._lines = os.fdopen(self._answer, "r", encoding="ascii")
        ready = self._lines.readline()
        if ready != "ready\n":
            self.close()
            raise RuntimeError(f"it wrote nothing below {folder}: {told.read_text(encoding='utf-8', errors='replace')[-2000:]}")

    def go_on(self, how: str = "whole", at: float = 0) -> Ended:
        """Go on and return how that ended. ``how``: "whole"; "killed", before call number ``at``, from 1; "killed after", ``at`` seconds;
        "input/output error", from call number ``at`` on; "read-only", the file system of the folder before call number ``at``.
        """
        os.write(self._ask, (json.dumps([how, at]) + "\n").encode())
        status, calls, seconds = json.loads(self._lines.readline())
        return Ended(status, calls, seconds, self._told.read_text(encoding="utf-8", errors="replace"))

    def begin(self) -> None:
        """Go on without waiting for the end; :meth:`ended` does."""
        os.write(self._ask, b'["whole", 0]\n')

    def ended(self) -> Ended:
        """Wait for the end of what was begun."""
        status, calls, seconds = json.loads(self._lines.readline())
        return Ended(status, calls, seconds, self._told.read_text(encoding="utf-8", errors="replace"))

    def close(self) -> None:
        """End the process; a second call does nothing."""
        if self._pid:
            os.close(self._ask)
            self._lines.close()
            os.waitpid(self._pid, 0)
            self._pid = 0

    def __enter__(self) -> Killable:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        self.close()


class _Stopped:
    """The process: counts file-system calls, stops before the first, and forks a child for every try."""

    def __init__(self, folder: Path, told: Path, counter: mmap.mmap, asked: int, answered: int):
        self._folder = str(folder)
        self._counter, self._asked, self._answered = counter, asked, answered
        self._how, self._at, self._calls, self._child = "", 0.0, 0, False
        log = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        # A pytest that captures has put something else there.
        sys.stdout, sys.stderr = (os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) for _ in range(2))

    def run(self, action: Callable[[], int]) -> None:
        """Run it, in this process up to the first write, from there in children. Never returns."""
        flush, rename, tidied = os.fsync, exchange._renameat2, temporaries.remove_ownerless

        def told_flush(descriptor: int) -> None:
            self._called()
            flush(descriptor)

        def told_rename(one: Path, other: Path, flags: int) -> bool:
            self._called()
            return rename(one, other, flags)

        def told_tidying(folder: Path) -> None:
            # A write begins with it: who goes on from here tidies up what an earlier try has left.
            if self._is_below(folder):
                self._called()
            tidied(folder)

        os.fsync = told_flush  # type: ignore[assignment]
        exchange._renameat2 = told_rename
        atomic.remove_ownerless = told_tidying  # type: ignore[attr-defined]
        sys.addaudithook(self._heard)
        status = 70
        try:
            status = action()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes | os.PathLike) and isinstance(flags, int) and flags & _WRITES and self._is_below(path):
                self._called()
        elif event in _CALLS:
            paths, beside = _CALLS[event]
            relative = beside is not None and len(arguments) > beside and arguments[beside] not in (-1, None)
            if relative or any(self._is_below(arguments[i]) for i in paths):
                self._called()

    def _is_below(self, path: Any) -> bool:
        return not isinstance(path, int) and os.path.abspath(os.fsdecode(path)).startswith(self._folder)

    def _called(self) -> None:
        """Before a call: the first one waits for what to do; then what was asked for happens."""
        if not self._child:
            self._serve()
        self._calls += 1
        self._counter[:8] = self._calls.to_bytes(8, "little")
        if self._how == "killed" and self._calls == self._at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._how == "input/output error" and self._calls >= self._at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self._how == "read-only" and self._calls == self._at:
            ctypes.CDLL(None).mount(b"none", os.fsencode(self._folder), None, _MS_REMOUNT_READ_ONLY, None)

    def _serve(self) -> None:
        """Fork a child for every try; return in the child, and never in this process."""
        os.write(self._answered, b"ready\n")
        asked = os.fdopen(self._asked, "r", encoding="ascii")
        while line := asked.readline():
            self._how, self._at = json.loads(line)
            os.ftruncate(1, 0)
            self._counter[:8] = bytes(8)
            began = time.monotonic()
            home = own_process._this
            child = os.fork()
            if child == 0:
                # It stands for the process that it comes from; a runtime of one thread has none that stayed behind.
                own_process._this = home
                self._child = True
                return
            status = self._waited(child, began + (self._at if self._how == "killed after" else STUCK_S))
            answer = [status, int.from_bytes(self._counter[:8], "little"), time.monotonic() - began]
            os.write(self._answered, (json.dumps(answer) + "\n").encode())
        os._exit(0)

    def _waited(self, child: int, until: float) -> int:
        while True:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            left = until - time.monotonic()
            if left <= 0:
                os.kill(child, signal.SIGKILL)
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            time.sleep(min(left, 0.002))
