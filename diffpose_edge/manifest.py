"""The bundle's manifest: what is in it, for which shapes, made from what. See docs/bundle.md for every field."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.causal_io import cache_io
from diffpose_edge.config import (
    MAX_BATCH,
    MAX_DEPTH,
    MAX_FRAMES,
    MAX_T,
    MAX_WIDTH,
    BatchShape,
    CausalConfig,
    ContextConfig,
    GraphNetworkConfig,
    VideoConfig,
)
from diffpose_edge.distribution import START_CHANNELS, StartSpread, spread_from_record
from diffpose_edge.errors import BundleError, DiffPoseEdgeError
from diffpose_edge.fitted import FittedSchedule, fitted_from_records, records_of
from diffpose_edge.plain_json import json_of
from diffpose_edge.schedule import checked_timesteps
from diffpose_edge.skeleton import J
from diffpose_edge.trained_range import TrainedRange, range_from_record

FORMAT = "diffpose-edge-bundle"
# 1: released weights only. 2: says which process the denoiser was trained for. 3: graphs of several precisions, and the
# calibration that those of INT8 were made with. 4: the step takes and gives what the network says, for samplers that remember
# it; and fitted schedules. Steps of older bundles cannot, so they are no longer read.
FORMAT_VERSION, OLDEST_READ = 4, 4
GRAPHS = ("context", "step")
ROLES = (*GRAPHS, "calibration")
KINDS = ("released", "distribution")
PREDICTIONS = ("eps", "v")
# A graph in the operators and layout that are fastest on the CPU has this after its precision: "fp32-cpu".
FOR_CPU = "-cpu"
# The name of the first dimension of x, start, previous, x_next and eps in a step that takes any number of samples, and the key in
# the graph's metadata under which it says how many it was laid out for.
SAMPLES = "samples"
# What a bundle may ask for, looked at before anything is allocated. Files: a message of Protocol Buffers has no more bytes than that, and
# we write ten. Buffers: every array that goes in and out of the graphs; those of the bundles that ship take less than 1 MB, those of a
# causal encoder of 243 frames, 512 wide and 8 deep, 135 MB for each person.
MOST_FILES, MOST_FILE_BYTES = 64, 2**31 - 1
MOST_BUFFER_BYTES = 4 << 30
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle: what it is for, its precision, its SHA-256 and its size in bytes."""

    role: str
    precision: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Process:
    """What the denoiser was trained for: the released process, or the paper's with a start distribution.

    ``prediction`` is what the network predicts, "eps" or "v" (:func:`diffpose_edge.schedule.step_coefficients`); ``start``
    the spread around the start's mean, for kind "distribution".
    """

    kind: str = "released"
    prediction: str = "eps"
    start: StartSpread | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.prediction not in PREDICTIONS:
            raise BundleError(f"expected a process of kind {KINDS} that predicts {PREDICTIONS}, got {self.kind!r} and {self.prediction!r}")
        if (self.kind == "distribution") != (self.start is not None):
            raise BundleError(f"a process of kind {self.kind!r} {'needs' if self.start is None else 'has no'} start spread")


@dataclass(frozen=True)
class Manifest:
    """Everything that a runtime needs to know about a bundle.

    ``alpha_bar`` is the full table over T timesteps; ``timesteps`` the default ones, largest first; ``files`` by name
    within the bundle; ``provenance`` and ``verification`` are records, not instructions; ``fitted`` the schedules that were
    searched for these networks; ``trained_range`` what their training showed them, None where it was not measured.
    """

    denoiser: GraphNetworkConfig
    context: ContextConfig
    shape: BatchShape
    alpha_bar: tuple[float, ...]
    timesteps: tuple[int, ...]
    files: Mapping[str, FileEntry]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    verification: Mapping[str, Any] = field(default_factory=dict)
    process: Process = Process()
    fitted: tuple[FittedSchedule, ...] = ()
    trained_range: TrainedRange | None = None

    def __post_init__(self) -> None:
        if self.process.kind == "distribution" and (
            self.denoiser.channels != 2 or (isinstance(self.context, VideoConfig) and self.context.mirror_average)
        ):
            raise BundleError("a trained pair has no mirror averaging, and channels only in its context encoder")
        conditioned, person = self.denoiser.condition > 0, self.context.channels != 2
        if {conditioned, person} != {self.process.kind == "distribution"}:
            raise BundleError(
                f"a process of kind {self.process.kind!r} does not go with a denoiser conditioned on {self.denoiser.condition} features "
                f"and a context encoder of {self.context.channels} channels"
            )
        if conditioned and self.denoiser.condition != self.feature_width:
            raise BundleError(
                f"expected a denoiser and an encoder of one pair: the denoiser takes a feature of width {self.denoiser.condition}, "
                f"the encoder gives {self.feature_width}"
            )
        if self.trained_range is not None and not conditioned:
            raise BundleError("released weights have no trained range: nothing of their training views is known")
        if self.buffer_bytes > MOST_BUFFER_BYTES:
            raise BundleError(
                f"P={self.shape.P}, N={self.shape.N}, F={self.shape.F} and networks of this size take {self.buffer_bytes:,} bytes for what "
                f"goes in and out of the graphs; up to {MOST_BUFFER_BYTES:,} are given. Export with fewer persons or samples"
            )

    @property
    def buffer_bytes(self) -> int:
        """How many bytes everything that goes in and out of the two graphs takes, float32."""
        shapes = [shape for io in (self.context_io, self.step_io) for side in io for shape in side.values()]
        return sum(4 * math.prod(shape) for shape in shapes)

    @property
    def feature_width(self) -> int:
        """Width C' of the context encoder's feature f_ST."""
        return self.context.hidden if isinstance(self.context, GraphNetworkConfig) else self.context.width

    @property
    def causal(self) -> CausalConfig | None:
        """The context encoder's size if it is a causal one, which takes frame after frame and remembers; else None."""
        return self.context if isinstance(self.context, CausalConfig) else None

    @property
    def stretch(self) -> int:
        """How many frames in a row show the context encoder what it is made for: F of a window, or of a causal encoder's layers."""
        return self.shape.F if self.causal is None else self.causal.frames

    @property
    def context_io(self) -> tuple[Shapes, Shapes]:
        """Names and shapes of the context graph's inputs and outputs; what it observes and the xyz it gives come first."""
        places = self.shape.uv[:-1]
        if self.process.kind == "released":
            return {"uv": self.shape.uv}, {"xyz": self.shape.xyz}
        taken, given = ({}, {}) if self.causal is None else cache_io(self.causal, self.shape.P)
        return (
            {"observation": (*places, self.context.channels), **taken},
            {"xyz": self.shape.xyz, "feature": (*places, self.feature_width), **given},
        )

    @property
    def step_io(self) -> tuple[Shapes, Shapes]:
        """Names and shapes of the step graph's inputs and outputs."""
        inputs: Shapes = {"x": self.shape.state, "timestep": (1,), "coefficients": (3,), "previous": self.shape.state}
        if self.process.kind == "distribution":
            inputs |= {"feature": (self.shape.P, J, self.feature_width), "start": (*self.shape.state[:-1], START_CHANNELS)}
        return inputs, {"x_next": self.shape.state, "eps": self.shape.state}

    @property
    def T(self) -> int:
        """Number of training timesteps."""
        return len(self.alpha_bar)

    @property
    def alpha_bar_table(self) -> NDArray[np.float64]:
        """alpha_bar as an array, shape (T,)."""
        return np.array(self.alpha_bar, dtype=np.float64)

    def cpu_precision(self, role: str, precision: str) -> str:
        """Return the precision under which the graph that the CPU runs is kept: one made for it, else the portable one."""
        made = any(entry.role == role and entry.precision == precision + FOR_CPU for entry in self.files.values())
        return precision + FOR_CPU if made else precision

    def file_of(self, role: str, precision: str = "fp32") -> str:
        """Return the name of the file with a role and precision, or raise BundleError."""
        for name, entry in self.files.items():
            if entry.role == role and entry.precision == precision:
                return name
        have = sorted({f"{e.role} {e.precision}" for e in self.files.values() if not e.precision.endswith(FOR_CPU)})
        remedy = "" if precision == "fp32" else ". Graphs in fp16 and int8 are made by: diffpose-edge calibrate"
        raise BundleError(f"the bundle has no {role} graph in {precision}; it has: {', '.join(have) or 'nothing'}{remedy}")

    def to_json(self) -> str:
        """Return the manifest as it is written to disk."""
        kind = {GraphNetworkConfig: "frame", VideoConfig: "video", CausalConfig: "causal"}[type(self.context)]
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model": {"denoiser": asdict(self.denoiser), "context": {"kind": kind, **asdict(self.context)}},
            "shapes": asdict(self.shape),
            "process": {
                "kind": self.process.kind,
                "prediction": self.process.prediction,
                **({"start": self.process.start.as_record()} if self.process.start else {}),
            },
            **({"trained_range": self.trained_range.as_record()} if self.trained_range else {}),
            "schedule": {
                "timesteps": list(self.timesteps),
                "alpha_bar": list(self.alpha_bar),
                "fitted": records_of(self.fitted),
            },
            "files": {name: asdict(entry) for name, entry in self.files.items()},
            "provenance": dict(self.provenance),
            "verification": dict(self.verification),
        }
        return json.dumps(content, indent=2, allow_nan=False) + "\n"


def manifest_from_json(text: str) -> Manifest:
    """Read a manifest, checking every field that the runtime relies on. Raises BundleError."""
    try:
        content = json_of(text, parse_constant=_refuse_constant)
    except ValueError as err:
        raise BundleError(f"manifest.json is not JSON ({err}); the bundle is damaged: export it again") from None
    root = _Fields(content, "manifest.json")
    if root.get("format", str) != FORMAT:
        raise BundleError(f"manifest.json says format {content['format']!r}; expected {FORMAT!r}: this is not a bundle")
    version = root.whole("format_version", 1, 10**9)
    if version > FORMAT_VERSION:
        raise BundleError(
            f"the bundle has format version {version}; this diffpose-edge reads up to {FORMAT_VERSION}. "
            f"Update diffpose-edge, or export the bundle with this version"
        )
    if version < OLDEST_READ:
        raise BundleError(
            f"the bundle has format version {version}; this diffpose-edge reads from {OLDEST_READ} on: since then a step remembers what "
            f"the network said before. Export it again from its checkpoints"
        )
    try:
        return _manifest(root)
    except BundleError:
        raise
    except DiffPoseEdgeError as err:
        raise BundleError(f"manifest.json: {err}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which JSON has no word for")


_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def checked_file_name(name: str) -> str:
    """Return the name of a file within a bundle, or raise BundleError when it is not a plain relative path."""
    plain = len(name) <= 200 and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*", name)
    # Windows opens a device for CON and NUL.txt, wherever they are, and takes a name without the dots at its end.
    if not plain or any(part.endswith(".") or _DEVICE.fullmatch(part) for part in name.split("/")):
        raise BundleError(f"the file name {name[:200]!r} is not a plain path within the bundle; refused")
    return name


class _Fields:
    """A JSON object whose fields are read with their types checked; errors name the path to the field."""

    def __init__(self, content: Any, path: str):
        if not isinstance(content, dict):
            raise BundleError(f"{path}: expected an object, got {type(content).__name__}")
        self.content, self.path = content, path

    def get(self, key: str, kind: type | tuple[type, ...]) -> Any:
        if key not in self.content:
            raise BundleError(f"{self.path} has no field {key!r}; the bundle is damaged: export it again")
        value = self.content[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise BundleError(f"{self.path}: field {key!r} has the wrong type {type(value).__name__}")
        return value

    def whole(self, key: str, least: int, most: int) -> int:
        value: int = self.get(key, int)
        if not least <= value <= most:
            raise BundleError(f"{self.path}: expected {key} within {least}..{most}, got {value}")
        return value

    def fields(self, key: str) -> _Fields:
        return _Fields(self.get(key, dict), f"{self.path}: {key}")


def _manifest(root: _Fields) -> Manifest:
    model = root.fields("model")
    denoiser = _graph_network(model.fields("denoiser"))
    context_fields = model.fields("context")
    kind = context_fields.get("kind", str)
    context: ContextConfig
    if kind == "frame":
        context = _graph_network(context_fields)
    elif kind == "video":
        context = VideoConfig(
            frames=context_fields.whole("frames", 2, MAX_FRAMES),
            width=context_fields.whole("width", 1, MAX_WIDTH),
            depth=context_fields.whole("depth", 1, MAX_DEPTH),
            heads=context_fields.whole("heads", 1, MAX_WIDTH),
            mirror_average=context_fields.get("mirror_average", bool),
            channels=context_fields.whole("channels", 1, MAX_WIDTH),
        )
    elif kind == "causal":
        context = CausalConfig(
            frames=context_fields.whole("frames", 2, MAX_FRAMES),
            width=context_fields.whole("width", 1, MAX_WIDTH),
            depth=context_fields.whole("depth", 1, MAX_DEPTH),
            heads=context_fields.whole("heads", 1, MAX_WIDTH),
            channels=context_fields.whole("channels", 1, MAX_WIDTH),
        )
    else:
        raise BundleError(f"manifest.json: the context encoder is of kind {kind!r}; expected 'frame', 'video' or 'causal'")
    sizes = root.fields("shapes")
    shape = BatchShape(*(sizes.whole(name, 1, most) for name, most in (("P", MAX_BATCH), ("N", MAX_BATCH), ("F", MAX_FRAMES))))
    if (context.frames if isinstance(context, VideoConfig) else 1) != shape.F:
        raise BundleError(f"manifest.json: the shapes say F={shape.F}, which the context encoder does not take")
    schedule = root.fields("schedule")
    alpha_bar = _alpha_bar(schedule.get("alpha_bar", list))
    timesteps = checked_timesteps(schedule.get("timesteps", list), len(alpha_bar))
    files = _files(root.get("files", dict))
    records = root.get("provenance", dict), root.get("verification", dict)
    process, fitted = _process(root.fields("process")), fitted_from_records(schedule.get("fitted", dict), len(alpha_bar))
    # Not in bundles of before it was measured; readers of before pass over it.
    trained = range_from_record(root.content["trained_range"]) if "trained_range" in root.content else None
    return Manifest(denoiser, context, shape, alpha_bar, timesteps, files, *records, process, fitted, trained)


def _graph_network(fields: _Fields) -> GraphNetworkConfig:
    return GraphNetworkConfig(
        hidden=fields.whole("hidden", 1, MAX_WIDTH),
        layers=fields.whole("layers", 1, MAX_DEPTH),
        heads=fields.whole("heads", 1, MAX_WIDTH),
        channels=fields.whole("channels", 1, MAX_WIDTH),
        condition=fields.whole("condition", 0, MAX_WIDTH),
    )


def _process(fields: _Fields) -> Process:
    start = spread_from_record(fields.get("start", dict)) if "start" in fields.content else None
    return Process(fields.get("kind", str), fields.get("prediction", str), start)


def _alpha_bar(values: list[Any]) -> tuple[float, ...]:
    if not 1 <= len(values) <= MAX_T:
        raise BundleError(f"manifest.json: expected 1..{MAX_T} values of alpha_bar, got {len(values)}")
    if not all(isinstance(a, float | int) and not isinstance(a, bool) and 0 < a <= 1 for a in values):
        raise BundleError("manifest.json: alpha_bar must hold numbers within (0, 1]")
    if any(after > before for before, after in itertools.pairwise(values)):
        raise BundleError("manifest.json: alpha_bar must not increase with the timestep")
    return tuple(float(a) for a in values)


def _files(entries: dict[str, Any]) -> dict[str, FileEntry]:
    if len(entries) > MOST_FILES:
        raise BundleError(f"manifest.json: expected at most {MOST_FILES} files, got {len(entries)}")
    files = {name: _file_entry(name, _Fields(entry, f"manifest.json: files: {name}")) for name, entry in entries.items()}
    # Two files for one purpose, or one file under two names where capitals do not count: which is meant would depend on the reader.
    if len({(entry.role, entry.precision) for entry in files.values()}) < len(files) or len({name.lower() for name in files}) < len(files):
        raise BundleError("manifest.json: two files have the same role and precision, or names that differ in capitals alone; refused")
    return files


def _file_entry(name: str, fields: _Fields) -> FileEntry:
    checked_file_name(name)
    role = fields.get("role", str)
    if role not in ROLES:
        raise BundleError(f"{fields.path}: unknown role {role!r}; expected one of {ROLES}")
    digest = fields.get("sha256", str)
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise BundleError(f"{fields.path}: sha256 must be 64 hexadecimal digits")
    precision = fields.get("precision", str)
    if not re.fullmatch(r"[a-z0-9.-]{1,40}", precision):
        raise BundleError(f"{fields.path}: expected a precision such as fp32 or int8-trt8, got {precision[:40]!r}")
    return FileEntry(role, precision, digest, fields.whole("bytes", 0, MOST_FILE_BYTES))
