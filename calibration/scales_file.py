"""The calibration of a bundle as a file: every scale, and where it came from. Graphs are rebuilt from it without the data.

JSON with one line for each matmul, so that two calibrations can be compared with ``diff``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffpose_edge.errors import CalibrationError
from diffpose_edge.export.fp16 import FP16_MAX
from diffpose_edge.export.int8 import MatMulScales
from diffpose_edge.export.precision import PrecisionPlan
from diffpose_edge.manifest import GRAPHS
from diffpose_edge.plain_json import json_of

FORMAT = "diffpose-edge-calibration"
FORMAT_VERSION = 1
FILE = "calibration.json"
# 2^-14 is the smallest normal number of FP16, in which activations are smoothed.
MOST_EXPONENT = 14


@dataclass(frozen=True)
class Calibration:
    """``scales`` by role and matmul, for every one that could run in INT8; ``int8`` the names of those that do, by role;
    ``fp32`` the layers that stay float32 in both lower precisions, by role; ``ranges`` the largest magnitude seen of every
    value, by role; ``weights`` a hash of the weight matrices that it was made for, by role; ``provenance`` is a record.
    """

    scales: Mapping[str, Mapping[str, MatMulScales]]
    int8: Mapping[str, tuple[str, ...]]
    fp32: Mapping[str, tuple[str, ...]]
    ranges: Mapping[str, Mapping[str, float]]
    weights: Mapping[str, str]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plan(self) -> PrecisionPlan:
        """What the lower precisions are made from."""
        int8 = {role: {name: self.scales[role][name] for name in names} for role, names in self.int8.items()}
        return PrecisionPlan(int8, self.fp32, self.ranges)

    def to_json(self) -> str:
        """Return the calibration as it is written to disk."""
        lines = ["{", f'  "format": "{FORMAT}",', f'  "format_version": {FORMAT_VERSION},']
        lines.append(f'  "provenance": {json.dumps(dict(self.provenance), allow_nan=False)},')
        lines.append(f'  "weights": {json.dumps({role: self.weights[role] for role in GRAPHS})},')
        for key, names in (("int8", self.int8), ("fp32", self.fp32)):
            lines.append(f'  "{key}": {json.dumps({role: list(names[role]) for role in GRAPHS})},')
        scales = {
            role: {name: {"scale": s.scale, "smoothing": list(s.smoothing)} for name, s in self.scales[role].items()} for role in GRAPHS
        }
        lines += [*_by_line("scales", scales), *_by_line("ranges", self.ranges, last=True), "}"]
        return "\n".join(lines) + "\n"


def _by_line(key: str, content: Mapping[str, Mapping[str, Any]], last: bool = False) -> list[str]:
    lines = [f'  "{key}": {{']
    for i, role in enumerate(GRAPHS):
        entries = [f"      {json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in content[role].items()]
        lines += [
            f'    "{role}": {{',
            *[f"{line}," for line in entries[:-1]],
            *entries[-1:],
            "    }" + ("," if i + 1 < len(GRAPHS) else ""),
        ]
    return [*lines, "  }" + ("" if last else ",")]


def calibration_from_json(text: str) -> Calibration:
    """Read a calibration, checking everything that graphs are made from. Raises CalibrationError."""
    try:
        content = json_of(text)
    except ValueError as err:
        raise CalibrationError(f"the calibration is not JSON ({err}); it is damaged: calibrate again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CalibrationError(f"expected a file of format {FORMAT!r}: this is not a calibration. Make one with: diffpose-edge calibrate")
    if type(content.get("format_version")) is not int or content["format_version"] != FORMAT_VERSION:
        raise CalibrationError(
            f"the calibration has format version {content.get('format_version')!r}; this diffpose-edge reads {FORMAT_VERSION}. "
            f"Calibrate again with this version"
        )
    scales: dict[str, dict[str, MatMulScales]] = {}
    ranges: dict[str, dict[str, float]] = {}
    names: dict[str, dict[str, tuple[str, ...]]] = {"int8": {}, "fp32": {}}
    for role in GRAPHS:
        scales[role] = {name: _scales(f"{role} {name}", entry) for name, entry in _object(content, "scales", role).items()}
        ranges[role] = {
            name: _positive(f"range of {role} {name}", value, sys.float_info.max, zero=True)
            for name, value in _object(content, "ranges", role).items()
        }
        for key, found in names.items():
            listed = content.get(key, {}).get(role) if isinstance(content.get(key), dict) else None
            if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
                raise CalibrationError(f"the calibration's {key!r} must list names for {role!r}")
            found[role] = tuple(listed)
        if unknown := sorted(set(names["int8"][role]) - set(scales[role])):
            raise CalibrationError(f"the calibration runs {', '.join(unknown[:3])} in INT8 without a scale for it")
    weights = content.get("weights")
    if not isinstance(weights, dict) or not all(isinstance(weights.get(role), str) for role in GRAPHS):
        raise CalibrationError("the calibration does not say which weights it was made for; it is damaged: calibrate again")
    provenance = content.get("provenance", {})
    if not isinstance(provenance, dict):
        raise CalibrationError("the calibration's 'provenance' must be an object")
    try:  # it is written again with the graphs
        json.dumps(provenance, allow_nan=False)
    except (ValueError, RecursionError) as err:
        raise CalibrationError(f"the calibration's 'provenance' is not JSON ({err})") from None
    return Calibration(scales, names["int8"], names["fp32"], ranges, {role: weights[role] for role in GRAPHS}, provenance)


def _object(content: dict[str, Any], key: str, role: str) -> dict[str, Any]:
    outer = content.get(key)
    inner = outer.get(role) if isinstance(outer, dict) else None
    if not isinstance(inner, dict):
        raise CalibrationError(f"the calibration lacks {key!r} for {role!r}; it is damaged: calibrate again")
    return inner


def _positive(what: str, value: Any, most: float, zero: bool = False) -> float:
    number = isinstance(value, float | int) and not isinstance(value, bool)
    if not number or not 0 <= value <= most or (value == 0 and not zero):  # NaN is not within anything
        raise CalibrationError(f"{what}: expected a positive number of at most {most:g}, got {str(value)[:80]}")
    return float(value)


def _scales(what: str, entry: Any) -> MatMulScales:
    if not isinstance(entry, dict) or not isinstance(entry.get("smoothing"), list):
        raise CalibrationError(f"{what}: expected a scale and a list of smoothing exponents, got {str(entry)[:80]}")
    smoothing = entry["smoothing"]
    if not all(type(e) is int and abs(e) <= MOST_EXPONENT for e in smoothing):
        raise CalibrationError(f"{what}: expected smoothing as whole numbers within -{MOST_EXPONENT}..{MOST_EXPONENT}")
    return MatMulScales(_positive(f"scale of {what}", entry.get("scale"), FP16_MAX), tuple(smoothing))
