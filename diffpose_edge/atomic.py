"""Writes that either happen whole or not at all.

A file or folder is built under a temporary name beside its target and put into place in one step; when anything fails, the
temporary is removed and what stood at the target stays as it was. After a kill the temporary stays, and the next write beside it
removes it (:mod:`diffpose_edge.temporaries`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffpose_edge.errors import OutputError
from diffpose_edge.exchange import bring_back, exchange_folders, rename_to_new
from diffpose_edge.temporaries import Temporary, remove_ownerless

_REMEDY = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another place",
    errno.EFBIG: "the file would exceed the size limit set for this process (see ulimit -f)",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EACCES: "permission denied; choose a place that you may write to",
    errno.EPERM: "not permitted; choose a place that you may write to",
    errno.ENOENT: "its parent folder does not exist; create it first",
    errno.ENOTDIR: "a part of its path is not a folder",
    errno.EIO: "the disk reports an error (see dmesg); choose another place",
    errno.EEXIST: "something has appeared there in the meantime, which is left alone; choose another name",
    errno.EISDIR: "a folder stands there; name a file",
}


def output_error(target: Path, err: OSError) -> OutputError:
    """Turn an operating-system error about ``target`` into one that says what to do."""
    remedy = _REMEDY.get(err.errno or 0, err.strerror or str(err))
    return OutputError(f"cannot write {target}: {remedy}; nothing was written")


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        if err.filename is not None and not _concerns(target, str(err.filename)):
            raise  # about another file, met while this one was being written
        raise output_error(target, err) from err
    except RuntimeError as err:
        # torch.save's own writer reports a full disk as a RuntimeError about its archive.
        if "PytorchStreamWriter" in str(err) or "unexpected pos" in str(err):
            raise OutputError(f"cannot write {target}: the disk is full or read-only; nothing was written") from err
        raise


def _concerns(target: Path, filename: str) -> bool:
    """Tell whether an error about ``filename`` is about the target, its parents, or something made beside it."""
    folder, named = target.absolute().parent, Path(filename).absolute()
    return named.is_relative_to(folder) or folder.is_relative_to(named) or named.is_relative_to(target.resolve().parent)


def check_file_place(target: str | Path) -> None:
    """Raise OutputError when a file could not be put at ``target``: worth asking before a long computation."""
    target = Path(target)
    with _writing(target):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(target))
        if target.exists() and not target.is_file():
            raise OutputError(f"cannot write {target}: it is a device or a pipe, and would be replaced by a file; name a file")
        if not target.parent.is_dir():
            missing = errno.ENOTDIR if target.parent.exists() else errno.ENOENT
            raise OSError(missing, os.strerror(missing), str(target.parent))


@contextmanager
def atomic_file(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write; on leaving, move it to ``target``, replacing a file that stands there.

    Raises OutputError when the place cannot be written to; then ``target`` is unchanged and the temporary gone.
    """
    target = Path(target)
    check_file_place(target)
    with _writing(target):
        remove_ownerless(target.parent)
        with Temporary(target) as temporary:
            yield temporary
            _sync(temporary)
            temporary.chmod(0o666 & ~_umask())
            os.replace(temporary, target)
        _sync_name(target)


@contextmanager
def atomic_directory(target: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to fill; on leaving, move it to ``target``.

    With ``replace``, it changes places with a folder that stands there, or behind a link there, which is then removed.
    Raises OutputError as :func:`folder_place` does, or when the writing fails; then nothing has changed.
    """
    named = Path(target)
    target = folder_place(named, replace=replace)
    with _writing(named):
        remove_ownerless(target.parent)
        with Temporary(target, folder=True) as temporary:
            yield temporary
            _sync_all(temporary)
            temporary.chmod(0o777 & ~_umask())
            if replace and target.exists():
                exchange_folders(temporary, target)
            else:
                folder_place(target, replace=replace)
                rename_to_new(temporary, target)
            # Before the older one goes: else a power failure could leave neither.
            _sync_name(target)


def folder_place(target: str | Path, *, replace: bool = False) -> Path:
    """Return where a folder named ``target`` would be put: there, or with ``replace`` where a link there leads.

    What a killed process has moved aside from there is put back first (:mod:`diffpose_edge.exchange`).

    Raises OutputError when something stands there (without ``replace``), when it is a file, or when the parent folder
    does not exist: worth asking before a long computation.
    """
    target = Path(target)
    with _writing(target):
        place = target.resolve() if target.is_symlink() else target
        bring_back(place)
        if not replace and (target.exists() or target.is_symlink()):
            raise OutputError(f"{target} exists already; remove it, choose another name, or ask for it to be replaced (--force)")
        if place.exists() and not place.is_dir():
            raise OutputError(f"{target} is a file; it is left alone. Remove it, or choose another name")
        if not place.parent.is_dir():
            missing = errno.ENOTDIR if place.parent.exists() else errno.ENOENT
            raise OSError(missing, os.strerror(missing), str(place.parent))
        return place


def _sync_all(folder: Path) -> None:
    """Flush a folder with all that is in it. What links in it lead to was there before."""
    for path, _, names in os.walk(folder):
        for name in names:
            if not os.path.islink(os.path.join(path, name)):
                _sync(Path(path, name))
        _sync(Path(path))


def _sync_name(target: Path) -> None:
    """Flush the entries of the folder that ``target`` is in. Raises OutputError, which says that it was written all the same."""
    try:
        _sync(target.parent)
    except OSError as err:
        raise OutputError(
            f"{target} was written, but its disk reports an error ({err.strerror}) and may lose it; see dmesg, and keep a copy elsewhere"
        ) from err


def _sync(path: Path) -> None:
    """Flush a file, or a folder's entries, so that a rename outlasts a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
