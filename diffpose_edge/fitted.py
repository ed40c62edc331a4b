"""Fitted schedules: timesteps that were searched, and rows that were fitted, on real poses, for one pair of networks.

A pair's own numbers, kept with the accuracy that they reach: ``diffpose-edge search-steps`` makes them
(:mod:`diffpose_edge.calibration.step_search`), a bundle's manifest holds them, and a file ``schedules.json`` beside the
checkpoints carries them to every export of those.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import BundleError, TimestepError
from diffpose_edge.plain_json import json_of
from diffpose_edge.reading import read_file
from diffpose_edge.schedule import checked_timesteps

FILE = "schedules.json"
FORMAT, FORMAT_VERSION = "diffpose-edge-schedules", 1
MOST_FILE_BYTES = 2**20
# Far beyond any sampler: a row of DDIM on a scaled state goes up to sqrt(a_s / a_t).
MOST_COEFFICIENT = 1e4


@dataclass(frozen=True)
class FittedSchedule:
    """K ``timesteps``, largest first, and K ``rows`` (c0, c1, c2), of the state that the network sees (scaled by sqrt(a_t) in
    trained pairs); c2 is 0 in the first. ``accuracy`` is a record, in mm, of what they reach.

    Raises BundleError for what cannot be one.
    """

    timesteps: tuple[int, ...]
    rows: tuple[tuple[float, float, float], ...]
    accuracy: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = [c for row in self.rows for c in row]
        if len(self.rows) != len(self.timesteps) or any(len(row) != 3 for row in self.rows):
            raise BundleError(f"a fitted schedule needs three coefficients for each of its {len(self.timesteps)} timesteps")
        if not all(isinstance(c, float | int) and not isinstance(c, bool) and abs(c) <= MOST_COEFFICIENT for c in numbers):
            raise BundleError(f"a fitted schedule's coefficients must be numbers within +-{MOST_COEFFICIENT:g}")
        if self.rows[0][2] != 0:
            raise BundleError("a fitted schedule's first step has nothing to remember: its third coefficient must be 0")

    @property
    def coefficients(self) -> NDArray[np.float32]:
        """The rows as the step graph takes them, (K, 3)."""
        return np.array(self.rows, np.float64).astype(np.float32)

    def as_record(self) -> dict[str, Any]:
        """Return it as it stands in a manifest."""
        return {"timesteps": list(self.timesteps), "coefficients": [list(row) for row in self.rows], "accuracy": dict(self.accuracy)}


def fitted_from_records(records: Any, T: int) -> tuple[FittedSchedule, ...]:
    """Read schedules by their K, as :func:`records_of` wrote them, for a table of T timesteps. Raises BundleError."""
    if not isinstance(records, dict):
        raise BundleError(f"expected fitted schedules by their number of steps, got {type(records).__name__}")
    found = []
    for K, record in records.items():
        if not isinstance(record, dict) or not all(isinstance(record.get(key), list) for key in ("timesteps", "coefficients")):
            raise BundleError(f"the fitted schedule {K[:20]!r} lacks a list of timesteps or coefficients")
        if not isinstance(record.get("accuracy"), dict) or not all(isinstance(row, list) for row in record["coefficients"]):
            raise BundleError(f"the fitted schedule {K[:20]!r} lacks its accuracy, or its coefficients are not rows")
        try:
            timesteps = checked_timesteps(record["timesteps"], T)
        except TimestepError as err:
            raise BundleError(f"the fitted schedule {K[:20]!r}: {err}") from None
        if str(len(timesteps)) != K:
            raise BundleError(f"the fitted schedule {K[:20]!r} has {len(timesteps)} steps: expected as many as its name says")
        found.append(FittedSchedule(timesteps, tuple(tuple(row) for row in record["coefficients"]), record["accuracy"]))
    return tuple(found)


def records_of(schedules: Sequence[FittedSchedule]) -> dict[str, Any]:
    """Return schedules by their K, as JSON takes them."""
    return {str(len(schedule.timesteps)): schedule.as_record() for schedule in schedules}


def schedules_json(schedules: Sequence[FittedSchedule], checkpoints: Mapping[str, str]) -> str:
    """Return the content of a ``schedules.json``; ``checkpoints`` are the SHA-256 of the pair's files by their role."""
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "checkpoints": dict(checkpoints), "fitted": records_of(schedules)}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def schedules_of_checkpoints(path: Path, checkpoints: Mapping[str, str], T: int) -> tuple[FittedSchedule, ...] | None:
    """Return the schedules in a ``schedules.json``; none if there is no such file, None if it was made for other checkpoints.

    ``checkpoints``: SHA-256 of the pair's files by their role. Raises BundleError for a file that is damaged.
    """
    try:
        raw = read_file(path, MOST_FILE_BYTES)
    except FileNotFoundError:
        return ()
    except OSError as err:
        raise BundleError(f"{path} cannot be read: {err.strerror}. Remove it, or make it again: diffpose-edge search-steps") from None
    try:
        content = json_of(raw)
    except ValueError:
        content = None
    if not isinstance(content, dict) or (content.get("format"), content.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise BundleError(f"{path} is not a file of schedules of this version. Remove it, or make it again: diffpose-edge search-steps")
    if content.get("checkpoints") != dict(checkpoints):
        return None
    try:
        return fitted_from_records(content.get("fitted"), T)
    except BundleError as err:
        raise BundleError(f"{path}: {err}. Make it again: diffpose-edge search-steps") from None
