"""A bundle on disk: one folder with everything that the device needs, written whole and loaded only if unaltered."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from diffpose_edge.errors import BundleError, SignatureError
from diffpose_edge.exchange import bring_back
from diffpose_edge.graph_contents import checked_graph
from diffpose_edge.manifest import GRAPHS, MOST_FILE_BYTES, FileEntry, Manifest, manifest_from_json
from diffpose_edge.reading import open_file, read_file
from diffpose_edge.signature_file import check_nothing_added, digest_of
from diffpose_edge.trust import PublicKey, Trust

MANIFEST = "manifest.json"
# The largest possible table, of 100,000 values of alpha_bar, has 2 MB; of what ships 20 kB.
MAX_MANIFEST_BYTES = 16 * 2**20
# How often a bundle is read anew because it was replaced meanwhile, and how long to wait for one that is being moved.
_MOST_READS, _MOVED_S = 20, 0.05


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest has been read and whose files have been checked.

    ``digest`` is that of the whole bundle (:func:`diffpose_edge.signature_file.digest_of`), as it was when it was read; ``signer`` the
    key that was found to have signed it, where one was asked for.
    """

    path: Path
    manifest: Manifest
    digest: str = ""
    signer: PublicKey | None = None

    def read(self, role: str, precision: str = "fp32") -> bytes:
        """Return the content of the file with this role and precision, checked against its hash once more.

        What is returned is what was hashed, so that a file exchanged in between is not used; and a graph holds nothing but what
        :func:`diffpose_edge.graph_contents.checked_graph` lets through. Raises BundleError.
        """
        name = self.manifest.file_of(role, precision)
        try:
            content = _checked_content(self.path, name, self.manifest.files[name])
        except BundleError:
            # Another process may have exchanged it, which is said, or the folder around it: then it is read from the new one.
            unaltered(self, (name,))
            content = _checked_content(self.path, name, self.manifest.files[name])
        if role in GRAPHS:
            checked_graph(content, f"{name} of {self.path}")
        return content

    def graphs(self, precision: str = "fp32", *, for_cpu: bool = False) -> dict[str, bytes]:
        """Return the graphs of a precision by role; ``for_cpu``: those made for the CPU, where there are any. Raises BundleError."""
        kinds = {role: self.manifest.cpu_precision(role, precision) if for_cpu else precision for role in GRAPHS}
        return {role: self.read(role, kind) for role, kind in kinds.items()}


def sha256_of(content: bytes) -> str:
    """Return the SHA-256 of ``content`` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def unaltered(bundle: Bundle, names: Iterable[str]) -> Bundle:
    """Return the bundle as it is on disk by now. Raises BundleError if its files ``names`` are not those that were loaded."""
    now = load_bundle(bundle.path)
    if any(now.manifest.files.get(name) != bundle.manifest.files[name] for name in names):
        raise BundleError(
            f"{bundle.path} was replaced by another process while this one worked on what was there before; nothing was written. "
            f"Run the command again"
        )
    return now


def load_bundle(path: str | Path, trust: Trust | None = None) -> Bundle:
    """Read a bundle, checking format, shapes, paths, sizes and hashes of every file that its manifest names.

    One that another process replaces meanwhile is read anew, so that it is the older or the newer one as a whole.
    With ``trust``, signature and digest are checked before anything of the manifest is read, and nothing may lie in the folder that the
    manifest does not name, but for engines and timings. Raises BundleError saying what is wrong with it, SignatureError.
    """
    path = Path(path)
    for _ in range(_MOST_READS):
        before = _seen(path)
        try:
            return _loaded(path, trust)
        except (BundleError, SignatureError):
            if _seen(path) == before and not _moved_aside(path):
                raise
    raise BundleError(f"{path} was replaced {_MOST_READS} times while it was being read; wait until nothing writes it any more")


def _seen(path: Path) -> tuple[int, ...] | None:
    """Return what differs when another bundle, or another manifest, has taken the place of one; None where there is none."""
    try:
        folder, manifest = os.stat(path), os.stat(path / MANIFEST)
    except (OSError, ValueError):
        return None
    return (folder.st_dev, folder.st_ino, manifest.st_ino, manifest.st_mtime_ns)


def _moved_aside(path: Path) -> bool:
    """Put a bundle back that a killed process has moved aside, or wait for one that is moving it; tell whether there is hope."""
    try:
        if path.exists():
            return False
        if bring_back(path):
            time.sleep(_MOVED_S)
            return True
        return path.exists()
    except ValueError:  # a name that no folder can have
        return False
    except OSError as err:
        raise BundleError(f"{path} was moved aside by a process that was killed, and cannot be put back: {err}") from None


def _loaded(path: Path, trust: Trust | None) -> Bundle:
    raw = read_manifest(path)
    if trust is None:
        return bundle_of(path, raw)
    signer = trust.check(path, raw)
    bundle = replace(bundle_of(path, raw), signer=signer)
    check_nothing_added(path, (MANIFEST, *bundle.manifest.files))
    return bundle


def trusted_bundle(bundle: str | Path | Bundle, trust: Trust | None) -> Bundle:
    """Return the bundle at a path, or the one that was loaded already; with ``trust`` the latter is read again, to be checked.

    Raises as :func:`load_bundle`.
    """
    if not isinstance(bundle, Bundle):
        return load_bundle(bundle, trust)
    return bundle if trust is None else load_bundle(bundle.path, trust)


def read_manifest(path: str | Path) -> bytes:
    """Return the bytes of a bundle's manifest, unread. Raises BundleError when there is no bundle, or the manifest is too large."""
    path = Path(path)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as err:  # a name too long, a null character
        raise BundleError(f"expected a bundle folder, but {str(path)[:200]!r} is not a possible path: {err}") from None
    if not is_folder:
        what = "is a file" if exists else "does not exist"
        raise BundleError(f"expected a bundle folder, but {path} {what}. Make one with: diffpose-edge export --help")
    try:
        raw = read_file(path / MANIFEST, MAX_MANIFEST_BYTES, inside=path)
    except FileNotFoundError:
        raise BundleError(f"{path} has no {MANIFEST}: it is not a bundle. Make one with: diffpose-edge export --help") from None
    except OSError as err:
        raise BundleError(f"{path / MANIFEST} cannot be read: {err.strerror}") from None
    return raw


def bundle_of(path: str | Path, raw: bytes) -> Bundle:
    """Return the bundle at ``path`` that has ``raw`` as its manifest, with every file checked. Raises BundleError."""
    path = Path(path)
    try:
        manifest = manifest_from_json(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise BundleError(f"{path / MANIFEST} is not UTF-8 text; the bundle is damaged: export it again") from None
    for name, entry in manifest.files.items():
        _check_file(path, name, entry)
    for role in GRAPHS:
        manifest.file_of(role)
    return Bundle(path, manifest, digest_of(raw))


def _check_file(folder: Path, name: str, entry: FileEntry) -> None:
    """Raise BundleError unless a file is there and is what the manifest says, without taking memory for all of it."""
    digest = hashlib.sha256()
    with _opened(folder, name, entry) as file:
        while part := file.read(1 << 20):
            digest.update(part)
    _check_digest(folder / name, digest.hexdigest(), entry)


def _checked_content(folder: Path, name: str, entry: FileEntry) -> bytes:
    with _opened(folder, name, entry) as file:
        content = file.read(entry.bytes)
    _check_digest(folder / name, sha256_of(content), entry)
    return content


@contextmanager
def _opened(folder: Path, name: str, entry: FileEntry) -> Iterator[BinaryIO]:
    """Open a file of the bundle that has as many bytes as the manifest says. Raises BundleError, also for what reading it meets."""
    file = folder / name
    try:
        with open_file(file, MOST_FILE_BYTES, inside=folder) as opened:
            size = os.fstat(opened.fileno()).st_size
            if size != entry.bytes:
                raise BundleError(f"{file} has {size} bytes, the manifest says {entry.bytes}; copy the bundle again, or export it again")
            yield opened
    except FileNotFoundError:
        raise BundleError(f"{folder} lacks the file {name}; copy the whole folder, or export it again") from None
    except OSError as err:
        raise BundleError(f"{file} cannot be read: {err.strerror}") from None


def _check_digest(file: Path, digest: str, entry: FileEntry) -> None:
    if digest != entry.sha256:
        raise BundleError(f"{file} was altered: its SHA-256 is not the one in the manifest; copy the bundle again, or export it again")
