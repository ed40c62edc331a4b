"""The smallest set of layers to keep in higher precision so that the poses stay within a budget.

What layers add is not the sum of what each adds alone, so every set is judged by walking the shipped form of the graphs;
the sensitivities only say in which order to look.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from diffpose_edge.calibration.added_error import Trial
from diffpose_edge.calibration.sensitivity import GroupError, estimate_macs
from diffpose_edge.comparison import AddedError
from diffpose_edge.errors import CalibrationError, DiffPoseEdgeError
from diffpose_edge.export.fp16_rounding import with_fp16_rounding
from diffpose_edge.export.precision import PrecisionPlan, lowered_graph
from diffpose_edge.manifest import GRAPHS

# A group of less than this share of an estimate's matmul work saves nothing in INT8, and is not worth a part of the budget.
LEAST_SHARE = 1e-3
Names = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Tried:
    """A set that was kept, by role, what the poses then err by, and the share of the matmul work that stays in low precision."""

    kept: Names
    added: AddedError
    share: float

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {"kept": {role: list(names) for role, names in self.kept.items()}, "share": self.share, **self.added.as_json()}


@dataclass(frozen=True)
class BudgetResult:
    """``plan`` keeps within the budget; ``kept`` are the groups in higher precision, by role; ``added`` what the poses err by.

    ``share_before`` and ``share_after``: the share of an estimate's matmul work in low precision, at most and in ``plan``.
    ``tried``: every set that was walked, in order.
    """

    plan: PrecisionPlan
    kept: Names
    added: AddedError
    share_before: float
    share_after: float
    tried: tuple[Tried, ...]


def most_trials(sensitivities: Sequence[GroupError]) -> int:
    """Return how many sets :func:`smallest_kept` walks at most."""
    n = len(_lowered(sensitivities))
    return 2 + math.ceil(math.log2(n + 1)) + n


def added_together(trial: Trial, plan: PrecisionPlan, precision: str) -> AddedError:
    """Return what the graphs of a plan, as they ship, add to the poses; FP16 rounds after every operator."""
    manifest = trial.bundle.manifest
    models = {role: onnx.load_model_from_string(trial.fp32[role]) for role in GRAPHS}
    lowered = {role: lowered_graph(models[role], manifest, role, precision, plan).content for role in GRAPHS}
    return trial.added({role: with_fp16_rounding(content) for role, content in lowered.items()})


def smallest_kept(
    trial: Trial,
    plan: PrecisionPlan,
    precision: str,
    budget_mm: float,
    sensitivities: Sequence[GroupError],
    *,
    worst_mm: float | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> BudgetResult:
    """Find the groups to keep so that the mean error is at most ``budget_mm`` and, if given, the worst joint's ``worst_mm``.

    From all of ``sensitivities`` lowered, the groups are kept that cost most for what they save: squared error by
    multiply-accumulates for INT8, error alone for FP16, where the number of layers counts. How many is found by bisection;
    then each is put back that can be, the largest (for FP16: the mildest) first. Groups below LEAST_SHARE of the work are
    always kept out of INT8. For FP16 what ``plan`` kept before does not count. ``progress`` hears of each set walked
    (:func:`most_trials`).

    Raises CalibrationError, saying what is possible, when the budget is missed with everything kept; DiffPoseEdgeError for
    a budget that is not a positive number.
    """
    for value in (budget_mm, *([] if worst_mm is None else [worst_mm])):
        if not (math.isfinite(value) and value > 0):
            raise DiffPoseEdgeError(f"expected a budget in millimetres above zero, got {value}")
    search = _Search(trial, plan, precision, sensitivities, budget_mm, worst_mm, progress)
    groups = search.ranked()
    kept: list[GroupError] = []
    if not search.holds(kept):
        kept = list(groups)
        if not search.holds(kept):
            raise CalibrationError(_out_of_reach(precision, budget_mm, worst_mm, search.tried[-1].added))
        fails, enough = 0, len(groups)
        while enough - fails > 1:
            middle = (fails + enough) // 2
            if search.holds(groups[:middle]):
                enough = middle
            else:
                fails = middle
        kept = groups[:enough]
        for group in search.to_put_back(kept):
            without = [other for other in kept if other is not group]
            if search.holds(without):
                kept = without
    names = search.named(kept)
    chosen = next(tried for tried in search.tried if tried.kept == names)
    return BudgetResult(search.plan(kept), names, chosen.added, search.tried[0].share, chosen.share, tuple(search.tried))


class _Search:
    def __init__(
        self,
        trial: Trial,
        plan: PrecisionPlan,
        precision: str,
        sensitivities: Sequence[GroupError],
        budget_mm: float,
        worst_mm: float | None,
        progress: Callable[[int], None],
    ):
        self.trial, self.base, self.precision, self.progress = trial, plan, precision, progress
        self.budget_mm, self.worst_mm = budget_mm, worst_mm
        self.groups = _lowered(sensitivities)
        self.macs = estimate_macs(trial)
        self.always = [group for group in self.groups if precision == "int8" and group.macs < LEAST_SHARE * self.macs]
        self.tried: list[Tried] = []

    def ranked(self) -> list[GroupError]:
        """Return the groups that are chosen among, in the order in which they are kept; equals in the order of the graphs."""
        return sorted((group for group in self.groups if group not in self.always), key=lambda group: -self._gain(group))

    def to_put_back(self, kept: Sequence[GroupError]) -> list[GroupError]:
        """Return the kept groups, the one that is most rewarding to lower first."""
        if self.precision == "fp16":
            return sorted(kept, key=self._gain)
        return sorted(kept, key=lambda group: (-group.macs, self._gain(group)))

    def _gain(self, group: GroupError) -> float:
        assert group.added is not None
        if not math.isfinite(group.added.mean):
            return math.inf
        # Errors of independent groups add up in squares.
        return group.added.mean**2 / (1 if self.precision == "fp16" else group.macs)

    def holds(self, kept: Sequence[GroupError]) -> bool:
        """Walk the graphs with these groups kept, note what came of it, and tell whether that is within the budget."""
        added = added_together(self.trial, self.plan(kept), self.precision)
        low = sum(group.macs for group in self.groups if group not in (*self.always, *kept))
        self.tried.append(Tried(self.named(kept), added, low / self.macs))
        self.progress(1)
        # Written so that NaN, which an overflow leaves, does not hold.
        return added.mean <= self.budget_mm and (self.worst_mm is None or added.worst <= self.worst_mm)

    def named(self, kept: Sequence[GroupError]) -> Names:
        every = (*self.always, *kept)
        return {role: tuple(group.name for group in self.groups if group.role == role and group in every) for role in GRAPHS}

    def plan(self, kept: Sequence[GroupError]) -> PrecisionPlan:
        every = (*self.always, *kept)
        members = {role: [m for group in self.groups if group.role == role and group in every for m in group.members] for role in GRAPHS}
        if self.precision == "fp16":
            return replace(self.base, fp32={role: tuple(names) for role, names in members.items()})
        lowered = {role: {m for group in self.groups if group.role == role for m in group.members} - set(members[role]) for role in GRAPHS}
        int8 = {role: {n: scales for n, scales in self.base.int8.get(role, {}).items() if n in lowered[role]} for role in GRAPHS}
        return replace(self.base, int8=int8)


def _lowered(sensitivities: Sequence[GroupError]) -> list[GroupError]:
    return [group for group in sensitivities if group.added is not None]


def _out_of_reach(precision: str, budget_mm: float, worst_mm: float | None, best: AddedError) -> str:
    asked = f"{budget_mm:g} mm" + ("" if worst_mm is None else f", worst joint {worst_mm:g} mm")
    what = "no matmul in INT8, and FP16 around them," if precision == "int8" else "every layer in FP32"
    return (
        f"the budget of {asked} is out of reach: with {what} the poses still err by {best.mean:.3g} mm, worst joint {best.worst:.3g} mm. "
        f"Ask for more than that"
        + ("" if precision == "fp16" else ", or keep layers out of FP16 first: --precision fp16 with a budget and --apply")
    )
