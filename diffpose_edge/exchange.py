"""Two folders change places in one step, so that a kill at any moment leaves one of them under the name.

Linux has ``renameat2(2)`` for it, which Python does not offer. Where the C library, the kernel or the file system lacks it, a folder
is replaced in two renames; a kill between them leaves nothing under the name, and what was there before beside it, under a name that
says so, from which the next command that looks there brings it back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from diffpose_edge.temporaries import opened_if_ownerless

REPLACED = "diffpose-edge-replaced"
_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2
# What is said where there is no renameat2, or not for these flags on this file system; EPERM is what some sandboxes say to what they do
# not know. Where it is meant, the renames that are tried next say it, too.
_LACKING = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)


def exchange_folders(new: Path, target: Path) -> None:
    """Let the folder ``new`` and the one at ``target`` change places. Raises OSError; then both are where they were."""
    if _renameat2(new, target, _EXCHANGE):
        return
    # Locked, by this or by another that owns it, it is nobody's to bring back while this goes on.
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.{REPLACED}")
    held = opened_if_ownerless(target)
    try:
        os.rename(target, aside)
        try:
            os.rename(new, target)
        except OSError:
            os.rename(aside, target)
            raise
        # The new one is in its place: where this fails, the next write there removes the old one.
        with suppress(OSError):
            os.rename(aside, new)
    finally:
        if held is not None:
            os.close(held)


def rename_to_new(new: Path, target: Path) -> None:
    """Give the folder ``new`` the name ``target``, which nothing may have. Raises OSError, FileExistsError if something has it."""
    if _renameat2(new, target, _NOREPLACE):
        return
    try:
        os.rename(new, target)
    except OSError as err:
        if err.errno == errno.ENOTEMPTY:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        raise


def bring_back_all(parent: Path) -> None:
    """Put back whatever a killed process had moved aside in ``parent`` (:func:`bring_back`). Raises OSError."""
    asides = (re.fullmatch(rf"\.(.+)\.[0-9a-f]{{8}}\.{REPLACED}", path.name) for path in (parent.iterdir() if parent.is_dir() else ()))
    for name in sorted({aside[1] for aside in asides if aside}):
        bring_back(parent / name)


def bring_back(target: Path) -> bool:
    """Put back what a killed process had moved aside from ``target``, if nothing stands there; tell whether its owner is still at it.

    Of several the newest is put back; where something stands at ``target``, what was moved aside is removed. Raises OSError.
    """
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.{REPLACED}")
    try:
        with os.scandir(target.parent) as entries:
            ours = [entry for entry in entries if pattern.fullmatch(entry.name)]
            found = [(entry.stat(follow_symlinks=False).st_ctime_ns, Path(entry.path)) for entry in ours]
    except OSError:  # a folder that cannot be listed, or one that has just been put back by another
        return False
    for _, path in sorted(found, reverse=True):
        descriptor = opened_if_ownerless(path)
        if descriptor is None:
            return True
        try:
            if os.path.lexists(target):
                shutil.rmtree(path, ignore_errors=True)
            else:
                rename_to_new(path, target)
        finally:
            os.close(descriptor)
    return False


def _renameat2(one: Path, other: Path, flags: int) -> bool:
    """Call renameat2; False where there is none for this. Raises OSError."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    if function(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _LACKING:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))
