"""The signature that lies in a bundle's folder: 64 bytes beside the manifest, and what they stand for.

A manifest has the SHA-256 of every file of its bundle, so whoever vouches for the manifest's bytes vouches for all of them. The
signature is Ed25519 (RFC 8032) over those bytes as they are, and nothing else: there is no container that would have to be read before
it is known whom it comes from, and ``openssl pkeyutl`` checks it. See docs/signing.md.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from diffpose_edge.errors import OutputError, SignatureError
from diffpose_edge.temporaries import is_temporary

SIGNATURE = "manifest.json.sig"
SIGNATURE_BYTES = 64
DIGEST_PREFIX = "sha256:"
# Made on the machine that they are for, after the bundle was signed: no signature covers them.
NOT_COVERED = ("engines", "timings")
log = logging.getLogger(__name__)


def digest_of(manifest: bytes) -> str:
    """Return the digest of a whole bundle, "sha256:" and 64 hexadecimal digits, from the bytes of its manifest.

    It is what ``sha256sum manifest.json`` says. Two bundles with the same digest have the same files.
    """
    return DIGEST_PREFIX + hashlib.sha256(manifest).hexdigest()


def is_signed(folder: Path) -> bool:
    """Tell whether a signature lies in the folder, whatever it is worth."""
    return os.path.lexists(folder / SIGNATURE)


def read_signature(folder: Path) -> bytes:
    """Return the 64 bytes of a bundle's signature. Raises SignatureError for none, another size, a link, or what is no file."""
    file = folder / SIGNATURE
    try:
        # Not through a link, and without waiting for whoever may write to a pipe.
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise SignatureError(f"{file} is not a file; refused")
            content = opened.read(SIGNATURE_BYTES + 1)
    except FileNotFoundError:
        raise SignatureError(f"{folder} is not signed: it has no {SIGNATURE}. Sign it with: diffpose-edge sign --help") from None
    except OSError as err:
        why = "it is a link, and must be a file of its own" if err.errno == errno.ELOOP else err.strerror
        raise SignatureError(f"{file} cannot be read: {why}; refused") from None
    if len(content) != SIGNATURE_BYTES:
        size = f"{len(content)} bytes" if len(content) < SIGNATURE_BYTES else f"more than {SIGNATURE_BYTES} bytes"
        raise SignatureError(f"{file} has {size}, an Ed25519 signature has {SIGNATURE_BYTES}: it is damaged. Copy it again, or sign again")
    return content


def drop_signature(folder: Path) -> None:
    """Remove the signature of a bundle whose manifest has just been changed, and log a warning; without one, do nothing.

    Raises OutputError when it cannot be removed.
    """
    if not is_signed(folder):
        return
    file = folder / SIGNATURE
    try:
        file.unlink(missing_ok=True)
    except OSError as err:
        raise OutputError(f"{file} no longer fits the manifest, which was changed, and cannot be removed: {err.strerror}") from None
    tell_dropped(folder)


def tell_dropped(folder: Path) -> None:
    """Log the warning that a bundle has lost its signature."""
    log.warning("%s was signed, and what was signed has changed: its signature is removed. Sign it again: diffpose-edge sign", folder)


def check_nothing_added(folder: Path, names: Iterable[str]) -> None:
    """Raise SignatureError when a bundle's folder holds anything but the files ``names`` and its signature.

    Engines and timings may lie there, and are not looked at; nor is what a command that was killed has left, which nobody reads.
    Links to folders are not followed.
    """
    known = {SIGNATURE, *names}
    parents = {str(parent) for name in known for parent in Path(name).parents} - {"."}
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        try:
            with os.scandir(folder / inside) as entries:
                for entry in entries:
                    name = f"{inside}/{entry.name}" if inside else entry.name
                    if name in NOT_COVERED or name in known or is_temporary(entry.name):
                        continue
                    if name not in parents or not entry.is_dir(follow_symlinks=False):
                        raise SignatureError(
                            f"{folder} holds {name!r}, which its manifest does not name; refused. Remove it, or get the bundle again"
                        )
                    waiting.append(name)
        except OSError as err:
            raise SignatureError(f"{folder / inside} cannot be read: {err.strerror}") from None
