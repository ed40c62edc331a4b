"""A bundle on disk: one folder with everything that the device needs, written whole and loaded only if unaltered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffpose_edge.atomic import atomic_directory, atomic_file, folder_place
from diffpose_edge.errors import BundleError, OutputError
from diffpose_edge.fitted import FittedSchedule
from diffpose_edge.manifest import FORMAT, GRAPHS, FileEntry, Manifest, checked_file_name, manifest_from_json

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest has been read and whose files have been checked."""

    path: Path
    manifest: Manifest

    def read(self, role: str, precision: str = "fp32") -> bytes:
        """Return the content of the file with this role and precision, checked against its hash once more.

        What is returned is what was hashed, so that a file exchanged in between is not used. Raises BundleError.
        """
        name = self.manifest.file_of(role, precision)
        return _checked_content(self.path, name, self.manifest.files[name])

    def graphs(self, precision: str = "fp32", *, for_cpu: bool = False) -> dict[str, bytes]:
        """Return the graphs of a precision by role; ``for_cpu``: those made for the CPU, where there are any. Raises BundleError."""
        kinds = {role: self.manifest.cpu_precision(role, precision) if for_cpu else precision for role in GRAPHS}
        return {role: self.read(role, kind) for role, kind in kinds.items()}


def sha256_of(content: bytes) -> str:
    """Return the SHA-256 of ``content`` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def save_bundle(
    path: str | Path, manifest: Manifest, contents: Mapping[str, tuple[str, str, bytes]], *, replace_existing: bool = False
) -> Bundle:
    """Write a bundle atomically and return it, loaded from disk.

    ``contents`` maps a file name to (role, precision, bytes). With ``replace_existing`` an older bundle at ``path`` is
    replaced; any other folder is left alone. Raises OutputError, or BundleError for a file name that leads out of the
    bundle and for contents that lack a graph; then nothing has changed.
    """
    path = Path(path)
    check_target(path, replace_existing=replace_existing)
    for name in contents:
        checked_file_name(name)
    lacking = set(GRAPHS) - {role for role, _, _ in contents.values()}
    if lacking:
        raise BundleError(f"a bundle needs a graph for each of {', '.join(GRAPHS)}; there is none for {', '.join(sorted(lacking))}")
    files = {name: FileEntry(role, precision, sha256_of(content), len(content)) for name, (role, precision, content) in contents.items()}
    with atomic_directory(path, replace=replace_existing) as temporary:
        for name, (_, _, content) in contents.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(content)
        (temporary / MANIFEST).write_text(replace(manifest, files=files).to_json(), encoding="utf-8")
    return load_bundle(path)


def record_verification(bundle: Bundle, name: str, record: Mapping[str, Any]) -> Bundle:
    """Write a record under ``name`` of the manifest's ``verification`` and return the bundle, read again.

    Only the manifest is exchanged. Raises OutputError when it cannot be written; then it is as it was.
    """
    altered = replace(bundle.manifest, verification={**bundle.manifest.verification, name: dict(record)})
    with atomic_file(bundle.path / MANIFEST) as temporary:
        temporary.write_text(altered.to_json(), encoding="utf-8")
    return load_bundle(bundle.path)


def record_fitted(bundle: Bundle, schedules: Sequence[FittedSchedule]) -> Bundle:
    """Put fitted schedules into the manifest, in place of those of the same K, and return the bundle, read again.

    Only the manifest is exchanged. Raises OutputError when it cannot be written; then it is as it was.
    """
    by_steps = {len(schedule.timesteps): schedule for schedule in (*bundle.manifest.fitted, *schedules)}
    altered = replace(bundle.manifest, fitted=tuple(by_steps[K] for K in sorted(by_steps)))
    with atomic_file(bundle.path / MANIFEST) as temporary:
        temporary.write_text(altered.to_json(), encoding="utf-8")
    return load_bundle(bundle.path)


def check_target(path: str | Path, *, replace_existing: bool = False) -> None:
    """Raise OutputError when a bundle could not be written to ``path``; with ``replace_existing`` only a bundle may stand there."""
    place = folder_place(path, replace=replace_existing)
    if place.exists() and not _names_our_format(place / MANIFEST):
        raise OutputError(f"{path} exists and is not a bundle; it is left alone. Remove it, or choose another name")


def _names_our_format(manifest: Path) -> bool:
    """Tell whether a manifest, damaged in other ways or not, is one of ours: web pages have a manifest.json too."""
    try:
        content = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def load_bundle(path: str | Path) -> Bundle:
    """Read a bundle, checking format, shapes, paths, sizes and hashes of every file that its manifest names.

    Raises BundleError saying what is wrong with it.
    """
    path = Path(path)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as err:  # a name too long, a null character
        raise BundleError(f"expected a bundle folder, but {str(path)[:200]!r} is not a possible path: {err}") from None
    if not is_folder:
        what = "is a file" if exists else "does not exist"
        raise BundleError(f"expected a bundle folder, but {path} {what}. Make one with: diffpose-edge export --help")
    try:
        with open(path / MANIFEST, "rb") as file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise BundleError(f"{path} has no {MANIFEST}: it is not a bundle. Make one with: diffpose-edge export --help") from None
    except OSError as err:
        raise BundleError(f"{path / MANIFEST} cannot be read: {err.strerror}") from None
    if len(raw) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path / MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes; refused")
    try:
        manifest = manifest_from_json(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise BundleError(f"{path / MANIFEST} is not UTF-8 text; the bundle is damaged: export it again") from None
    for name, entry in manifest.files.items():
        _checked_content(path, name, entry)
    for role in GRAPHS:
        manifest.file_of(role)
    return Bundle(path, manifest)


def _checked_content(folder: Path, name: str, entry: FileEntry) -> bytes:
    file = folder / name
    try:
        target = file.resolve()
    except (OSError, RuntimeError) as err:  # a link that leads to itself: a RuntimeError before Python 3.13
        raise BundleError(f"{name} cannot be followed: {err}; refused") from None
    if not target.is_relative_to(folder.resolve()):
        raise BundleError(f"{name} leads out of the bundle (to {target}); refused")
    try:
        size = file.stat().st_size
        content = file.read_bytes() if size == entry.bytes else b""
    except FileNotFoundError:
        raise BundleError(f"{folder} lacks the file {name}; copy the whole folder, or export it again") from None
    except OSError as err:
        raise BundleError(f"{file} cannot be read: {err.strerror}") from None
    if size != entry.bytes:
        raise BundleError(f"{file} has {size} bytes, the manifest says {entry.bytes}; copy the bundle again, or export it again")
    if sha256_of(content) != entry.sha256:
        raise BundleError(f"{file} was altered: its SHA-256 is not the one in the manifest; copy the bundle again, or export it again")
    return content
