"""Engines in a bundle, and the record beside each that says where it belongs.

An engine is compiled for one graph, one TensorRT and, as a rule, one kind of GPU. It lies in
``engines/<flavour>-<version>-sm<NN>/<role>.<precision>.engine`` of the bundle, its record beside it as ``.json``. They are not
in the bundle's manifest: the bundle is the same everywhere, engines are of a machine.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diffpose_edge.atomic import atomic_directory, output_error
from diffpose_edge.bundle import Bundle, sha256_of
from diffpose_edge.errors import DiffPoseEdgeError, EngineMismatch, OutputError
from diffpose_edge.exchange import bring_back_all
from diffpose_edge.folder_lock import FolderLock
from diffpose_edge.plain_json import json_of
from diffpose_edge.reading import leads_out, read_file, reason_of

FORMAT = "diffpose-edge-engine"
FORMAT_VERSION = 1
FOLDER = "engines"
LISTING = ".layers.txt"
# The record of how an engine was proved, layer by layer, has some hundred kB.
MOST_RECORD_BYTES = 16 << 20
# Twice what the largest graph could hold, for an engine that keeps its weights in two forms.
MOST_ENGINE_BYTES = 4 << 30
# By what --flavour takes: the module, and what people call it.
FLAVOURS = {"tensorrt": ("tensorrt", "TensorRT"), "rtx": ("tensorrt_rtx", "TensorRT-RTX")}
PRECISIONS = ("fp32", "fp16", "int8")
ENGINE_ROLES = ("context", "step", "start")
# Hardware compatibility "ampere_plus" begins here.
AMPERE = 80
# The first TensorRT whose precision is in the graph alone.
STRONGLY_TYPED = 10


@dataclass(frozen=True)
class Target:
    """What an engine is to run on: a flavour out of FLAVOURS, its version, and the GPU's compute capability, 87 for 8.7."""

    flavour: str
    version: str
    sm: int

    def __str__(self) -> str:
        return f"{FLAVOURS[self.flavour][1]} {self.version}, SM {self.sm / 10:.1f}"


@dataclass(frozen=True)
class EngineRecord:
    """Where an engine belongs and how it was made.

    ``graph`` is the precision of the ONNX file that it was made of, ``onnx_sha256`` that file's hash; ``sm`` None means any
    GPU that the flavour supports; ``sha256`` and ``bytes`` are of the engine itself. ``version_compatible``: it runs on
    later versions of the same major one, too; ``hardware_compatible``: on every GPU from SM 8.0 on. The rest is a record.
    """

    role: str
    precision: str
    graph: str
    flavour: str
    version: str
    sm: int | None
    onnx_sha256: str
    sha256: str
    bytes: int
    version_compatible: bool = False
    hardware_compatible: bool = False
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The engine's place in the bundle."""
        sm = "any" if self.sm is None else f"sm{self.sm}"
        return f"{FOLDER}/{self.flavour}-{self.version}-{sm}/{self.role}.{self.precision}.engine"

    def misfit(self, bundle: Bundle, target: Target) -> str | None:
        """Return why the engine cannot run this bundle's graph there, or None when it can."""
        if self.flavour != target.flavour:
            return f"it is an engine of {FLAVOURS[self.flavour][1]}"
        if self.version != target.version and not (self.version_compatible and _follows(target.version, self.version)):
            return f"it was built with {FLAVOURS[self.flavour][1]} {self.version}"
        if self.sm not in (None, target.sm) and not (self.hardware_compatible and target.sm >= AMPERE):
            return f"it was built for SM {(self.sm or 0) / 10:.1f}"
        if self.role in ("context", "step"):
            file = bundle.manifest.files[bundle.manifest.file_of(self.role, self.graph)]
            if file.sha256 != self.onnx_sha256:
                return "the bundle's graph has changed since it was built"
        return None


def _follows(version: str, built: str) -> bool:
    """Tell whether ``version`` is of the same major one as ``built``, and not before it."""
    now, then = ([int(part) for part in text.split(".") if part.isdigit()] for text in (version, built))
    return now[:1] == then[:1] and now >= then


def graph_precision(precision: str, flavour: str, version: str) -> str:
    """Return the precision of the graph that this TensorRT is given for ``precision``: 8.6 takes INT8 in a form of its own."""
    old = flavour == "tensorrt" and int(version.split(".")[0]) < STRONGLY_TYPED
    return "int8-trt8" if precision == "int8" and old else precision


def checked_precision(precision: str) -> str:
    """Return ``precision``, or raise DiffPoseEdgeError when there are no engines in it."""
    if precision not in PRECISIONS:
        raise DiffPoseEdgeError(f"expected a precision out of {', '.join(PRECISIONS)}, got {precision!r}")
    return precision


def checked_flavour(flavour: str) -> str:
    """Return ``flavour``, or raise DiffPoseEdgeError when it is none of FLAVOURS."""
    if flavour not in FLAVOURS:
        raise DiffPoseEdgeError(f"expected a flavour out of {', '.join(FLAVOURS)}, got {flavour!r}")
    return flavour


def engine_folder(bundle: Bundle, path: Path) -> Path:
    """Make a folder of a bundle for an engine and return it. Raises OutputError."""
    _check_inside(bundle, path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise output_error(path, err) from err
    return path


def _check_inside(bundle: Bundle, path: Path) -> None:
    if leads_out(path, bundle.path):
        raise OutputError(f"cannot write {path}: a link in the bundle leads out of it; remove that link. Nothing was written")


def save_engine(bundle: Bundle, record: EngineRecord, plan: bytes, listing: str | None = None) -> Path:
    """Write an engine with its record, and with ``listing``, what the compiler made of it ("": nothing known, None: what there is stays).

    They appear together: their folder changes places with one that has them, and all else that was in it. Return the engine's path.
    Raises OutputError, FolderBusy; then nothing has changed.
    """
    path = bundle.path / record.name
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(record)}
    texts = {path.with_suffix(".json").name: json.dumps(content, indent=2, allow_nan=False) + "\n"}
    if listing is not None:
        texts[path.with_suffix(LISTING).name] = listing
    # Under the bundle's lock: who exchanges the bundle takes its engines along, and must not miss this one.
    with FolderLock(bundle.path):
        engine_folder(bundle, path.parent.parent)
        _check_inside(bundle, path.parent)
        with atomic_directory(path.parent, replace=True) as temporary:
            if path.parent.is_dir():
                _linked(path.parent, temporary, {path.name, *texts})
            (temporary / path.name).write_bytes(plan)
            for name, text in texts.items():
                if text:
                    (temporary / name).write_text(text, encoding="utf-8")
    return path


def _linked(folder: Path, target: Path, but: set[str]) -> None:
    """Give the files of ``folder`` names in ``target`` too, where the file system has such links; copy them elsewhere."""
    for path in sorted(folder.iterdir()):
        if path.name in but or path.name.startswith(".") or not path.is_file():
            continue
        try:
            os.link(path, target / path.name)
        except OSError:
            shutil.copyfile(path, target / path.name)


def engine_records(bundle: Bundle, remedy: str = "build again") -> Iterator[tuple[Path, EngineRecord]]:
    """Yield every engine's path and record, in the order of their names. Raises EngineMismatch for a damaged record."""
    try:
        bring_back_all(bundle.path / FOLDER)
    except OSError as err:
        raise EngineMismatch(
            f"{bundle.path / FOLDER} cannot be mended after a process that was killed: {err}. Remove it and {remedy}"
        ) from None
    for path in sorted((bundle.path / FOLDER).glob("[!.]*/[!.]*.json")):
        yield path.with_suffix(".engine"), _read_record(path, remedy)


def _read_record(path: Path, remedy: str) -> EngineRecord:
    try:
        content = json_of(read_file(path, MOST_RECORD_BYTES, inside=path.parent.parent.parent))
        if content.pop("format") != FORMAT or content.pop("format_version") != FORMAT_VERSION:
            raise ValueError("another format")
        record = EngineRecord(**content)
        _check_types(record)
        if record.flavour not in FLAVOURS or path.with_suffix(".engine") != path.parent.parent.parent / record.name:
            raise ValueError(f"it is the record of {record.name}")
        return record
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as err:
        raise EngineMismatch(f"{path} is not an engine's record ({reason_of(err)}). Remove its folder and {remedy}") from None


def _check_types(record: EngineRecord) -> None:
    texts = (record.role, record.precision, record.graph, record.flavour, record.version, record.onnx_sha256, record.sha256)
    flags = (record.version_compatible, record.hardware_compatible)
    numbers = (record.bytes, 0 if record.sm is None else record.sm)
    for kind, values in ((str, texts), (bool, flags), (int, numbers), (dict, (record.made,))):
        for value in values:
            if type(value) is not kind:
                raise TypeError(f"{value!r} where {kind.__name__} is expected")


def load_engine(bundle: Bundle, role: str, precision: str, target: Target) -> tuple[EngineRecord, bytes]:
    """Return the engine that fits, whole and unaltered. Raises EngineMismatch with the command that builds one."""
    command = build_command(bundle, precision, target.flavour)
    misfits = []
    for path, record in engine_records(bundle, f"build again with: {command}"):
        if (record.role, record.precision) != (role, precision if role != "start" else "fp32"):
            continue
        misfit = record.misfit(bundle, target)
        if misfit is None:
            return record, _whole(path, record, command)
        misfits.append(f"{path.parent.name}: {misfit}")
    found = "; ".join(misfits) or "there is none yet"
    raise EngineMismatch(f"no engine of the {role} graph in {precision} fits this machine ({target}): {found}. Build it with: {command}")


def _whole(path: Path, record: EngineRecord, command: str) -> bytes:
    try:
        plan = read_file(path, MOST_ENGINE_BYTES, inside=path.parent.parent.parent)
    except OSError as err:
        raise EngineMismatch(f"{path} cannot be read ({err.strerror}). Build it with: {command}") from None
    if len(plan) != record.bytes:
        raise EngineMismatch(f"{path} has {len(plan)} bytes, its record says {record.bytes}. Build it with: {command}")
    if sha256_of(plan) != record.sha256:
        raise EngineMismatch(f"{path} was altered: its SHA-256 is not the one in its record. Build it with: {command}")
    return plan


def build_command(bundle: Bundle, precision: str, flavour: str) -> str:
    """Return the command that builds a bundle's engines."""
    return f"diffpose-edge build {shlex.quote(str(bundle.path))} --precision {precision} --flavour {flavour}"
