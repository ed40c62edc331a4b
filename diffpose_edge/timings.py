"""What a frame takes on one machine: measured there, kept beside the bundle, used nowhere else.

A bundle is shipped to many machines, so its timings are no part of its manifest. They lie in ``timings/<key>.json`` of its folder, one
file for each machine, backend, precision, number of threads and pair of graphs: all of that is the *key*, and a file whose key is
not the one that is asked for is never used. :meth:`diffpose_edge.runtime.PoseRuntime.measure` makes them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diffpose_edge.atomic import atomic_file, output_error
from diffpose_edge.bundle import Bundle
from diffpose_edge.errors import BudgetError, OutputError
from diffpose_edge.folder_lock import FolderLock
from diffpose_edge.plain_json import json_of
from diffpose_edge.reading import leads_out, read_file, reason_of

FORMAT, FORMAT_VERSION = "diffpose-edge-timings", 1
FOLDER = "timings"
MOST_FILE_BYTES = 2**20
# Eleven days: no frame takes longer, and Python's whole numbers go beyond what a float holds.
MOST_MS = 1e9
# What a backend tells of itself that may differ from run to run, or is a matter of moments.
PASSING = ("one_launch", "eager_because", "one_graph_per_step")


@dataclass(frozen=True)
class Spread:
    """How long something took over many rounds, milliseconds: the median, and what 99 of 100 stay within."""

    p50: float
    p99: float

    def __post_init__(self) -> None:
        for value in (self.p50, self.p99):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_MS:
                raise ValueError(f"{str(value)[:40]} is no duration: expected milliseconds within 0..{MOST_MS:g}")
        if self.p50 > self.p99:
            raise ValueError(f"a median of {self.p50} above the 99th percentile {self.p99}")


@dataclass(frozen=True)
class MachineTimings:
    """What was measured, milliseconds, of one batch of P people.

    ``frame`` by K: a whole estimate. ``walk`` by K: an estimate without the encoder. ``encoder``: one run of it. ``step``: one
    reverse step, and ``after``: what follows the last of them; None where a backend does not show its steps one by one. ``made`` is a
    record of when and how.
    """

    key: Mapping[str, Any]
    frame: Mapping[int, Spread]
    walk: Mapping[int, Spread]
    encoder: Spread
    step: Spread | None = None
    after: Spread | None = None
    made: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.frame or set(self.frame) != set(self.walk) or any(type(K) is not int or K < 1 for K in self.frame):
            raise ValueError("it lacks frames, or the same numbers of steps for both kinds of them")

    def p99_ms(self, K: int, batches: int = 1, encoders: int | None = None) -> float:
        """Return what K steps for ``batches`` batches with so many runs of the encoder (default: one for each batch) stay within.

        A K that was not measured takes as long as the next larger one that was; beyond all of them it is infinite. Batches are taken
        to be slow all at once: their 99th percentiles add up, which errs on the safe side.
        """
        measured = min((each for each in self.frame if each >= K), default=None)
        if measured is None:
            return math.inf
        runs = batches if encoders is None else encoders
        whole = min(batches, runs)
        return whole * self.frame[measured].p99 + (batches - whole) * self.walk[measured].p99 + (runs - whole) * self.encoder.p99

    def as_record(self) -> dict[str, Any]:
        """Return it as it stands in a file."""

        def spread(value: Spread | None) -> dict[str, float] | None:
            return None if value is None else asdict(value)

        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "key": dict(self.key),
            "made": dict(self.made),
            "encoder_ms": spread(self.encoder),
            "step_ms": spread(self.step),
            "after_ms": spread(self.after),
            "frame_ms": {str(K): spread(self.frame[K]) for K in sorted(self.frame)},
            "walk_ms": {str(K): spread(self.walk[K]) for K in sorted(self.walk)},
        }


def timings_key(
    bundle: Bundle, machine: Mapping[str, Any], backend: Mapping[str, Any], precision: str, graphs: Mapping[str, str]
) -> dict[str, Any]:
    """Return what timings are valid for: the ``machine`` (:func:`diffpose_edge.machine.this_machine`), what the ``backend`` describes
    itself by, the ``precision`` and the ``graphs``, their precisions by role (those for the CPU differ).
    """
    manifest = bundle.manifest
    return {
        "machine": dict(machine),
        "backend": {name: value for name, value in backend.items() if name not in PASSING},
        "precision": precision,
        "graphs": {role: manifest.files[manifest.file_of(role, kind)].sha256 for role, kind in graphs.items()},
        "P": manifest.shape.P,
        "N": manifest.shape.N,
        "F": manifest.shape.F,
    }


def save_timings(bundle: Bundle, timings: MachineTimings) -> Path:
    """Write timings beside the bundle's files, in place of older ones of the same key; return where. Raises OutputError, FolderBusy."""
    path = _path(bundle, timings.key)
    if leads_out(path, bundle.path):
        raise OutputError(f"cannot write {path}: a link in the bundle leads out of it; remove that link. Nothing was written")
    # Under the bundle's lock: who exchanges the bundle takes its timings along, and must not miss these.
    with FolderLock(bundle.path):
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as err:
            raise output_error(path, err) from err
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(timings.as_record(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def timings_of(bundle: Bundle, key: Mapping[str, Any]) -> MachineTimings | None:
    """Return the timings of this key, None where there are none. Raises BudgetError for a damaged file."""
    path = _path(bundle, key)
    if not path.exists():
        return None
    found = _read(path)
    # The name is a hash of the key: a file under another key's name was renamed, or written by hand.
    return found if found.key == _plain(key) else None


def all_timings(bundle: Bundle) -> Iterator[MachineTimings]:
    """Yield every machine's timings that lie beside a bundle, in the order of their names. Raises BudgetError for a damaged file."""
    for path in sorted((bundle.path / FOLDER).glob("[!.]*.json")):
        yield _read(path)


def timings_here(bundle: Bundle, machine: Mapping[str, Any]) -> Iterator[MachineTimings]:
    """Yield those timings beside a bundle that are of this ``machine`` and of graphs that the bundle still has. Raises BudgetError."""
    hashes = {entry.sha256 for entry in bundle.manifest.files.values()}
    for timings in all_timings(bundle):
        graphs = timings.key.get("graphs")
        if timings.key.get("machine") == _plain(machine) and isinstance(graphs, dict) and set(graphs.values()) <= hashes:
            yield timings


def named_key(key: Mapping[str, Any], *, machine: bool = True) -> str:
    """Return what a key tells a person; without ``machine``: of the backend alone."""
    parts: list[Any] = []
    for name in ("machine", "backend"):
        told = key.get(name)
        told = told if isinstance(told, dict) else {}
        if name == "backend":
            parts += [told.get(word) for word in ("device", "backend", "version")]
            parts += [key.get("precision"), f"threads {told['threads']}" if "threads" in told else None]
        elif machine:
            parts += [told.get("board"), told.get("processor")]
    return ", ".join(str(part) for part in parts if part is not None)


def _path(bundle: Bundle, key: Mapping[str, Any]) -> Path:
    return bundle.path / FOLDER / f"{hashlib.sha256(json.dumps(_plain(key), sort_keys=True).encode()).hexdigest()[:16]}.json"


def _plain(key: Mapping[str, Any]) -> Any:
    """Return a key as it comes back from a file."""
    return json.loads(json.dumps(dict(key)))


def _steps(name: str) -> int:
    if not (name.isascii() and name.isdigit() and len(name) < 10):
        raise ValueError(f"expected a number of steps, got {name[:40]!r}")
    return int(name)


def _read(path: Path) -> MachineTimings:
    try:
        content = json_of(read_file(path, MOST_FILE_BYTES, inside=path.parent.parent))
        if (content["format"], content["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise ValueError("another format")
        frame, walk = ({_steps(K): Spread(**spread) for K, spread in content[name].items()} for name in ("frame_ms", "walk_ms"))
        step, after = (None if content[name] is None else Spread(**content[name]) for name in ("step_ms", "after_ms"))
        if not isinstance(content["key"], dict) or not isinstance(content["made"], dict):
            raise TypeError("its key or its record is no object")
        json.dumps(content, allow_nan=False)  # a key with NaN in it is the key of nothing, and could not be written again
        return MachineTimings(content["key"], frame, walk, Spread(**content["encoder_ms"]), step, after, content["made"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as err:
        raise BudgetError(f"{path} is not a file of timings ({reason_of(err)}). Remove it, and measure again: diffpose-edge time") from None
