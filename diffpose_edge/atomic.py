"""Writes that either happen whole or not at all.

A file or folder is built under a temporary name beside its target and renamed into place; when anything fails, the
temporary is removed and what stood at the target stays as it was.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffpose_edge.errors import OutputError

_REMEDY = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another place",
    errno.EFBIG: "the file would exceed the size limit set for this process (see ulimit -f)",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EACCES: "permission denied; choose a place that you may write to",
    errno.EPERM: "not permitted; choose a place that you may write to",
    errno.ENOENT: "its parent folder does not exist; create it first",
    errno.ENOTDIR: "a part of its path is not a folder",
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
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:40]}.", suffix=f".partial{target.suffix}", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _sync(temporary)
            temporary.chmod(0o666 & ~_umask())
            os.replace(temporary, target)
            _sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to fill; on leaving, move it to ``target``.

    With ``replace``, a folder that stands there, or behind a link there, is moved aside first and removed afterwards.
    Raises OutputError as :func:`folder_place` does, or when the writing fails; then nothing has changed.
    """
    named = Path(target)
    target = folder_place(named, replace=replace)
    with _writing(named):
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", suffix=".partial", dir=target.parent))
        try:
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    _sync(path)
            temporary.chmod(0o777 & ~_umask())
            if replace and target.exists():
                aside = temporary.with_suffix(".replaced")
                os.replace(target, aside)
                try:
                    os.replace(temporary, target)
                except OSError:
                    os.replace(aside, target)
                    raise
                # The new folder is in place: what cannot be removed of the old one is no failure of the write.
                shutil.rmtree(aside, ignore_errors=True)
            else:
                folder_place(target, replace=replace)
                os.rename(temporary, target)
            _sync_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def folder_place(target: str | Path, *, replace: bool = False) -> Path:
    """Return where a folder named ``target`` would be put: there, or with ``replace`` where a link there leads.

    Raises OutputError when something stands there (without ``replace``), when it is a file, or when the parent folder
    does not exist: worth asking before a long computation.
    """
    target = Path(target)
    with _writing(target):
        if not replace and (target.exists() or target.is_symlink()):
            raise OutputError(f"{target} exists already; remove it, choose another name, or ask for it to be replaced (--force)")
        place = target.resolve() if target.is_symlink() else target
        if place.exists() and not place.is_dir():
            raise OutputError(f"{target} is a file; it is left alone. Remove it, or choose another name")
        if not place.parent.is_dir():
            missing = errno.ENOTDIR if place.parent.exists() else errno.ENOENT
            raise OSError(missing, os.strerror(missing), str(place.parent))
        return place


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename outlasts a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
