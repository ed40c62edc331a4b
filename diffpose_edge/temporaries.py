"""Temporaries beside what is being written: locked while their process lives, removed by a later write once it is gone.

A process that is killed cannot tidy up. So a temporary is its own lock (flock): the system lets go of it when its owner ends, however
that ends. What has such a name and can be locked has no owner any more.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

PARTIAL = "diffpose-edge-partial"
_NAME = re.compile(rf"\..{{1,40}}\.[a-z0-9_]{{8}}\.{PARTIAL}(\.[^./]*)?", re.DOTALL)


class Temporary:
    """Owns a new file, or a ``folder``, beside ``target`` until ``close()``, which removes whatever then has its name.

    It is on the same file system and, a file, has the same suffix, which some writers go by. Raises OSError.
    """

    def __init__(self, target: Path, *, folder: bool = False):
        prefix, suffix = f".{target.name[:40]}.", f".{PARTIAL}{'' if folder else target.suffix}"
        while True:
            if folder:
                self.path = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=target.parent))
                self._descriptor: int | None = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            else:
                self._descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=target.parent)
                self.path = Path(name)
            # Between its making and its locking another process may have taken it for one without an owner.
            if _locked(self._descriptor, otherwise=True) and _is_still(self.path, self._descriptor):
                return
            os.close(self._descriptor)

    def close(self) -> None:
        """Remove it, if it was not moved to its place, and let go; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        # What cannot be removed, on a disk that has become read-only, is removed by a later write, and must not hide why this one failed.
        _remove(self.path)
        os.close(descriptor)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        self.close()


def is_temporary(name: str) -> bool:
    """Tell whether a file's or folder's name is one that a :class:`Temporary` has: nobody reads those."""
    return _NAME.fullmatch(name) is not None


def remove_ownerless(folder: Path) -> None:
    """Remove the temporaries in ``folder`` whose processes are gone. Those in use, and what cannot be removed, are left alone."""
    try:
        with os.scandir(folder) as entries:
            found = [Path(entry.path) for entry in entries if _NAME.fullmatch(entry.name)]
    except OSError:  # it may be written to, but not listed
        return
    for path in found:
        descriptor = opened_if_ownerless(path)
        if descriptor is not None:
            _remove(path)
            os.close(descriptor)


def opened_if_ownerless(path: Path) -> int | None:
    """Return a descriptor that holds the lock of a file or folder whose owner is gone; None where it has one, or nobody can tell."""
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
        # For writing: NFS locks nothing that is open for reading alone.
        descriptor = os.open(path, flags | (os.O_RDONLY | os.O_DIRECTORY if is_folder else os.O_RDWR))
    except OSError:
        return None
    if _locked(descriptor, otherwise=False) and _is_still(path, descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _locked(descriptor: int, *, otherwise: bool) -> bool:
    """Lock without waiting and tell whether that went well; ``otherwise``: what to say where the file system knows no locks."""
    # Not at the top: what only reads bundles also runs where there is no such module.
    from fcntl import LOCK_EX, LOCK_NB, flock

    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return otherwise
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Tell whether ``path`` is the name of what is open."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except OSError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
