"""A bundle is written: whole, or not at all, by one process at a time."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffpose_edge.atomic import atomic_directory, atomic_file, folder_place
from diffpose_edge.bundle import MANIFEST, MAX_MANIFEST_BYTES, Bundle, load_bundle, sha256_of, unaltered
from diffpose_edge.errors import BundleError, OutputError
from diffpose_edge.fitted import FittedSchedule
from diffpose_edge.folder_lock import FolderLock
from diffpose_edge.manifest import FOR_CPU, FORMAT, GRAPHS, FileEntry, Manifest, checked_file_name
from diffpose_edge.plain_json import json_of
from diffpose_edge.reading import read_file
from diffpose_edge.signature_file import SIGNATURE, drop_signature, is_signed, tell_dropped
from diffpose_edge.temporaries import PARTIAL

FP32 = ("fp32", "fp32" + FOR_CPU)
# What machines have put into a bundle's folder beside what its manifest names. Both kinds say which graphs they are of.
OF_MACHINES = ("engines", "timings")
# What a folder may hold that is taken for a bundle whose manifest is damaged.
_OUR_NAMES = re.compile(
    rf"{re.escape(MANIFEST)}|calibration\.json|{re.escape(SIGNATURE)}|({'|'.join(GRAPHS)})\.[a-z0-9-]+\.onnx|{'|'.join(OF_MACHINES)}|\..*{PARTIAL}.*"
)


def save_bundle(
    path: str | Path, manifest: Manifest, contents: Mapping[str, tuple[str, str, bytes]], *, replace_existing: bool = False
) -> Bundle:
    """Write a bundle atomically and return it, loaded from disk.

    ``contents`` maps a file name to (role, precision, bytes). With ``replace_existing`` an older bundle at ``path`` is
    replaced, with the engines and timings in its folder; its signature is gone, and a warning says so. Any other folder is left alone.
    Raises OutputError, FolderBusy while another
    process alters that bundle, or BundleError for a file name that leads out of the bundle and for contents that lack a graph; then
    nothing has changed.
    """
    path = Path(path)
    check_target(path, replace_existing=replace_existing)
    files = _files_of(contents)
    with ExitStack() as locked:
        if path.is_dir():
            locked.enter_context(FolderLock(path))
        return _written(path, replace(manifest, files=files), contents, replace_existing=replace_existing)


def exchange_contents(bundle: Bundle, contents: Mapping[str, tuple[str, str, bytes]], alter: Callable[[Manifest], Manifest]) -> Bundle:
    """Exchange a bundle's files but its FP32 graphs for ``contents``, as for :func:`save_bundle`, and return it, loaded from disk.

    ``alter`` is given the manifest as it then is, with what was recorded since ``bundle`` was loaded, and returns the new one without its
    files. Engines and timings stay: each says which graph it is of. Raises BundleError where other FP32 graphs are there than
    were loaded, OutputError, FolderBusy; then nothing has changed.
    """
    check_target(bundle.path, replace_existing=True)
    with FolderLock(bundle.path):
        now = unaltered(bundle, (name for name, entry in bundle.manifest.files.items() if entry.precision in FP32))
        kept = {name: (e.role, e.precision, now.read(e.role, e.precision)) for name, e in now.manifest.files.items() if e.precision in FP32}
        all_of_it = {**kept, **contents}
        altered = replace(alter(now.manifest), files=_files_of(all_of_it))
        return _written(bundle.path, altered, all_of_it, replace_existing=True, keep=OF_MACHINES)


def _files_of(contents: Mapping[str, tuple[str, str, bytes]]) -> dict[str, FileEntry]:
    for name in contents:
        checked_file_name(name)
    lacking = set(GRAPHS) - {role for role, _, _ in contents.values()}
    if lacking:
        raise BundleError(f"a bundle needs a graph for each of {', '.join(GRAPHS)}; there is none for {', '.join(sorted(lacking))}")
    return {name: FileEntry(role, precision, sha256_of(content), len(content)) for name, (role, precision, content) in contents.items()}


def _written(
    path: Path,
    manifest: Manifest,
    contents: Mapping[str, tuple[str, str, bytes]],
    *,
    replace_existing: bool,
    keep: Sequence[str] = (),
) -> Bundle:
    signed = is_signed(path)
    with atomic_directory(path, replace=replace_existing) as temporary:
        for name, (_, _, content) in contents.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(content)
        for name in keep:
            _copied(path / name, temporary / name)
        (temporary / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    if signed:
        tell_dropped(path)
    return load_bundle(path)


def _copied(folder: Path, target: Path) -> None:
    """Copy a folder if there is one, without what a killed process has left in it; a link stays one."""
    if folder.is_symlink():
        target.symlink_to(os.readlink(folder))
    elif folder.is_dir():
        shutil.copytree(folder, target, symlinks=True, ignore=shutil.ignore_patterns(".*"))


def record_verification(bundle: Bundle, name: str, record: Mapping[str, Any]) -> Bundle:
    """Write a record under ``name`` of the manifest's ``verification`` and return the bundle, read again.

    Only the manifest is exchanged; what another process has recorded meanwhile stays. A signature, which no longer fits, is removed with
    a warning. Raises BundleError when the files are no longer those that were loaded, OutputError when it cannot be written, FolderBusy;
    then it is as it was.
    """
    return _recorded(bundle, bundle.manifest.files, lambda now: replace(now, verification={**now.verification, name: dict(record)}))


def record_fitted(bundle: Bundle, schedules: Sequence[FittedSchedule]) -> Bundle:
    """Put fitted schedules into the manifest, in place of those of the same K, and return the bundle, read again.

    Only the manifest is exchanged; what another process has recorded meanwhile stays. A signature, which no longer fits, is removed with
    a warning. Raises BundleError when the FP32 graphs are no longer those that were loaded, OutputError when it cannot be written,
    FolderBusy; then it is as it was.
    """

    def fitted(now: Manifest) -> Manifest:
        by_steps = {len(schedule.timesteps): schedule for schedule in (*now.fitted, *schedules)}
        return replace(now, fitted=tuple(by_steps[K] for K in sorted(by_steps)))

    return _recorded(bundle, (name for name, entry in bundle.manifest.files.items() if entry.precision in FP32), fitted)


def _recorded(bundle: Bundle, same: Iterable[str], alter: Callable[[Manifest], Manifest]) -> Bundle:
    with FolderLock(bundle.path):
        altered = alter(unaltered(bundle, same).manifest)
        with atomic_file(bundle.path / MANIFEST) as temporary:
            temporary.write_text(altered.to_json(), encoding="utf-8")
        drop_signature(bundle.path)
        return load_bundle(bundle.path)


def check_target(path: str | Path, *, replace_existing: bool = False) -> None:
    """Raise OutputError when a bundle could not be written to ``path``; with ``replace_existing`` only a bundle may stand there.

    A bundle whose manifest is damaged or gone counts as one if all in its folder has the names that we give.
    """
    place = folder_place(path, replace=replace_existing)
    if place.exists() and not _names_our_format(place / MANIFEST) and not _has_our_names(place):
        raise OutputError(f"{path} exists and is not a bundle; it is left alone. Remove it, or choose another name")


def _has_our_names(folder: Path) -> bool:
    """Tell whether a folder has a graph of ours, and nothing that is not ours."""
    names = [path.name for path in folder.iterdir()]
    return all(_OUR_NAMES.fullmatch(name) for name in names) and any(name.endswith(".onnx") for name in names)


def _names_our_format(manifest: Path) -> bool:
    """Tell whether a manifest, damaged in other ways or not, is one of ours: web pages have a manifest.json too."""
    try:
        content = json_of(read_file(manifest, MAX_MANIFEST_BYTES))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT
