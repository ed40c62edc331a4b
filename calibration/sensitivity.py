"""What each layer alone adds to the poses in lower precision: the rest of both graphs stays float32.

A layer is judged by the final pose in millimetres, not by the error of its own output: the schedule damps most of what a
denoiser's layer errs by, and none of what the encoder does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from diffpose_edge.calibration.added_error import Trial
from diffpose_edge.comparison import AddedError
from diffpose_edge.errors import CalibrationError, DiffPoseEdgeError
from diffpose_edge.export.fp16 import fp16_from_fp32
from diffpose_edge.export.fp16_rounding import with_fp16_rounding
from diffpose_edge.export.int8 import int8_from_fp32
from diffpose_edge.export.layer_groups import groups_of, matmul_macs, taps_of, weight_matmuls
from diffpose_edge.export.precision import PrecisionPlan
from diffpose_edge.manifest import GRAPHS

PRECISIONS = ("int8", "fp16")
BY = ("matmul", "layer")


@dataclass(frozen=True)
class Group:
    """What is lowered at a time: ``members`` are the matmuls' names for INT8, the layer's for FP16.

    ``macs``: multiply-accumulates of its matmuls with constant weights in one estimate, in which the step runs K times.
    """

    role: str
    name: str
    members: tuple[str, ...]
    macs: int


@dataclass(frozen=True)
class GroupError(Group):
    """``added``: what the group alone adds; None when it stays float32 in any case, as the input and output layers do in FP16."""

    added: AddedError | None

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        added = None if self.added is None else self.added.as_json()
        return {"role": self.role, "name": self.name, "members": list(self.members), "macs": self.macs, "added": added}


def sensitivity(
    trial: Trial, plan: PrecisionPlan, precision: str, by: str = "matmul", progress: Callable[[int], None] = lambda done: None
) -> tuple[GroupError, ...]:
    """Lower one group at a time and return what each adds, in the order of the graphs (:func:`groups_to_try`).

    "int8": each matmul that ``plan`` has a scale for, or all of a layer, in INT8. "fp16": each layer in FP16; what ``plan``
    keeps in float32 is tried as well, but values beyond its ranges stay float32. ``progress`` hears of each group. Raises
    DiffPoseEdgeError for another precision or grouping, CalibrationError for a plan that was made for another network.
    """
    groups = groups_to_try(trial, plan, precision, by)
    models = _models(trial)
    found = []
    for group in groups:
        others = [other.name for other in groups if other.role == group.role and other != group]
        content = _alone(models[group.role], taps_of(trial.bundle.manifest, group.role), plan, precision, group, others)
        added = None if content is None else trial.added({group.role: content})
        found.append(GroupError(group.role, group.name, group.members, group.macs, added))
        progress(1)
    return tuple(found)


def groups_to_try(trial: Trial, plan: PrecisionPlan, precision: str, by: str = "matmul") -> tuple[Group, ...]:
    """Return the groups that :func:`sensitivity` tries one by one. Raises as it does, and for a plan without anything to try."""
    if precision not in PRECISIONS or by not in BY:
        raise DiffPoseEdgeError(f"expected a precision out of {', '.join(PRECISIONS)} by {' or '.join(BY)}, got {precision!r} by {by!r}")
    if precision == "fp16" and by != "layer":
        raise DiffPoseEdgeError("FP16 is chosen by layer: between two matmuls in it there would be casts. Use --by layer")
    found = []
    for role, model in _models(trial).items():
        taps = taps_of(trial.bundle.manifest, role)
        collect = _fp16_groups(model, taps) if precision == "fp16" else _int8_groups(model, taps, plan.int8.get(role, {}), by)
        runs = runs_of(trial, role)
        found += [Group(role, name, members, macs * runs) for name, (members, macs) in collect.items()]
    if not found:
        raise CalibrationError("the calibration has no scale for any matmul: there is nothing to try. Run: diffpose-edge calibrate")
    return tuple(found)


def runs_of(trial: Trial, role: str) -> int:
    """Return how often a graph runs in one estimate."""
    return len(trial.timesteps) if role == "step" else 1


def estimate_macs(trial: Trial) -> int:
    """Return the multiply-accumulates of all matmuls in one estimate, those of two activations too."""
    return sum(matmul_macs(model) * runs_of(trial, role) for role, model in _models(trial).items())


def _models(trial: Trial) -> dict[str, onnx.ModelProto]:
    return {role: onnx.load_model_from_string(trial.fp32[role]) for role in GRAPHS}


def _int8_groups(model: onnx.ModelProto, taps: Sequence[str], scales: Mapping[str, Any], by: str) -> dict[str, tuple[tuple[str, ...], int]]:
    known = {matmul.name: matmul for matmul in weight_matmuls(model, taps)}
    if missing := sorted(set(scales) - set(known)):
        raise CalibrationError(
            f"the calibration names {', '.join(missing[:3])}, which the graph does not have: it was made for another network. "
            f"Run: diffpose-edge calibrate"
        )
    found: dict[str, tuple[tuple[str, ...], int]] = {}
    for name, matmul in known.items():
        if name in scales:
            key = name if by == "matmul" else matmul.group
            members, macs = found.get(key, ((), 0))
            found[key] = (*members, name), macs + matmul.macs
    return found


def _fp16_groups(model: onnx.ModelProto, taps: Sequence[str]) -> dict[str, tuple[tuple[str, ...], int]]:
    groups = groups_of(model, taps)
    macs = dict.fromkeys(groups.values(), 0)
    for matmul in weight_matmuls(model, taps):
        macs[groups[matmul.node]] += matmul.macs
    return {name: ((name,), macs[name]) for name in macs}


def _alone(
    model: onnx.ModelProto, taps: Sequence[str], plan: PrecisionPlan, precision: str, group: Group, others: Sequence[str]
) -> bytes | None:
    """Return the graph with this group alone lowered; None when nothing of it changes."""
    if precision == "int8":
        scales = plan.int8[group.role]
        return int8_from_fp32(model, taps, {name: scales[name] for name in group.members}).SerializeToString()
    lowered = fp16_from_fp32(model, taps, plan.ranges.get(group.role), keep=others).model
    half = onnx.TensorProto.FLOAT16
    rounds = any(tensor.data_type == half for tensor in lowered.graph.initializer) or any(
        node.op_type == "Cast" and node.attribute[0].i == half for node in lowered.graph.node
    )
    return with_fp16_rounding(lowered.SerializeToString()) if rounds else None
