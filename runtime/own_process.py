"""Resources that live in the process that made them: their threads, locks and GPU contexts neither survive a fork nor can be sent.

A forked child has the memory of a runtime, but none of its threads: to wait for one of them is to wait for ever, and so is to wait for a
lock that one of them held. So whoever uses such a resource in another process is told. Whoever closes it there, or lets it go, touches
nothing: what would be released is the parent's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

from diffpose_edge.errors import WrongProcess


class _Process:
    """One process; a forked child is another."""

    def __init__(self) -> None:
        self.pid = os.getpid()


_this = _Process()
# What is let go in a forked child, kept from being released: to destroy a pool of threads that are not there may wait for them.
_the_parents: list[object] = []


def _forked() -> None:
    global _this
    _this = _Process()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_forked)


class Home:
    """The process that something was made in. ``what`` it is, and ``remedy``, what to do in another one, are for the error."""

    def __init__(self, what: str, remedy: str):
        self._process, self._what, self._remedy = _this, what, remedy

    @property
    def here(self) -> bool:
        """Whether this is that process."""
        return self._process is _this

    def check(self) -> None:
        """Raise WrongProcess in a process that was forked from it."""
        if self._process is not _this:
            raise WrongProcess(
                f"this {self._what} was made in process {self._process.pid}, of which process {_this.pid} was forked: its threads did not "
                f"come along; {self._remedy}"
            )

    def refuse_to_leave(self) -> NoReturn:
        """Raise WrongProcess for a pickle or a copy."""
        raise WrongProcess(f"a {self._what} has threads and memory that cannot be copied or sent to another process; {self._remedy}")

    def __reduce__(self) -> NoReturn:
        self.refuse_to_leave()

    def releasing(self, release: Callable[[], object]) -> Callable[[], None]:
        """Return what calls ``release`` in this process and keeps what it would release untouched in another."""

        def at_home() -> None:
            if self.here:
                release()
            else:
                _the_parents.append(release)

        return at_home
