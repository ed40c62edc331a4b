"""Files from strangers, opened so that they can neither stop the program nor fill its memory.

What goes wrong is an OSError whose ``strerror`` is a sentence that goes on after the file's name: readers have their own error, and say
it with these words.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

from diffpose_edge.errors import told_by

# A pipe that nobody writes to is waited for, for ever, unless it is opened so; files do not know the difference. A terminal is not to
# become the process's own.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_file(path: str | Path, most: int, *, inside: Path | None = None) -> io.BufferedReader:
    """Open a regular file of at most ``most`` bytes for reading; ``inside``: a bundle's folder, which links must not lead out of.

    Raises OSError: FileNotFoundError, IsADirectoryError, and for pipes, sockets, devices, larger files, impossible names and places
    outside.
    """
    try:
        where = Path(path) if inside is None else _confined(Path(path), inside)
        # Looked at first: to open a device can already do something.
        _check(os.stat(where), path, most)
        descriptor = os.open(where, _FLAGS)
    except ValueError as err:  # a null character
        raise OSError(errno.EINVAL, f"it is no possible path ({err})") from None
    try:
        _check(os.fstat(descriptor), path, most)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_file(path: str | Path, most: int, *, inside: Path | None = None) -> bytes:
    """Return what is in a regular file of at most ``most`` bytes. Raises OSError as :func:`open_file`, and for a file that grows."""
    with open_file(path, most, inside=inside) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) or b""
    if len(content) > size:
        raise OSError(errno.EAGAIN, "it grew while it was read, or does not tell its size", str(path))
    return content


def leads_out(path: Path, folder: Path) -> bool:
    """Tell whether a path, through links or by itself, leads out of a folder: nothing of a bundle is written there either."""
    return not path.resolve().is_relative_to(folder.resolve())


def reason_of(err: Exception) -> str:
    """Return what an error says, without the name of the file, which a reader's own message begins with."""
    return (err.strerror if isinstance(err, OSError) else None) or told_by(err)


def _check(found: os.stat_result, path: str | Path, most: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a file", str(path))
    if found.st_size > most:
        raise OSError(errno.EFBIG, f"it has {found.st_size} bytes, and up to {most} are read", str(path))


def _confined(path: Path, folder: Path) -> Path:
    """Return where a path leads, or raise OSError when that is not inside ``folder``."""
    try:
        target = path.resolve()
        out = leads_out(path, folder)
    except RuntimeError as err:  # a link that leads to itself, before Python 3.13
        raise OSError(errno.ELOOP, f"it cannot be followed: {err}", str(path)) from None
    if out:
        raise OSError(errno.EPERM, f"it leads out of the bundle (to {target}); refused", str(path))
    return target
