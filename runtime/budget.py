"""Which schedule a time budget is good for: the largest on offer whose measured 99th percentile fits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from diffpose_edge.bundle import Bundle
from diffpose_edge.errors import BudgetError
from diffpose_edge.machine import this_machine
from diffpose_edge.manifest import GRAPHS, Manifest
from diffpose_edge.runtime.backend import Array
from diffpose_edge.runtime.deadline import Clock, Deadline, clean_rows
from diffpose_edge.runtime.plan import FITTED, StepPlan, checked_sampler, step_plan
from diffpose_edge.timings import MachineTimings, all_timings, named_key, timings_key, timings_of

# How many even steps are on offer where nothing was fitted, besides all that there are: each a fifth to a quarter more than the one before.
EVEN = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 32, 40)


class Offers:
    """The schedules that a budget chooses among, by K, and what their states mean where a walk along them ends early.

    With a ``sampler``: those that it has ("fitted": the bundle's fitted ones; the others: even timesteps, a ladder of K). Without one, for
    a bundle with fitted schedules: these, one step by DDIM, and every timestep by DDIM, which the fitted ones are made to come near.
    Even timesteps between the largest fitted K and all of them take longer and end further away (docs/deadlines.md), so they are left
    out. For a bundle without fitted schedules: even timesteps by DDIM.

    Raises DiffPoseEdgeError for an unknown sampler, or "fitted" where nothing is.
    """

    def __init__(self, manifest: Manifest, sampler: str | None = None):
        self.plans: Mapping[int, StepPlan] = {K: _plan(manifest, K, sampler) for K in offered_steps(manifest, sampler)}
        self._manifest = manifest
        self._clean: dict[int, Array] = {}

    def clean(self, K: int) -> Array:
        """Return :func:`diffpose_edge.runtime.deadline.clean_rows` of the schedule of K steps."""
        if K not in self._clean:
            self._clean[K] = clean_rows(self._manifest, self.plans[K].timesteps)
        return self._clean[K]


def offered_steps(manifest: Manifest, sampler: str | None = None) -> tuple[int, ...]:
    """Return every K on offer, smallest first; see :class:`Offers`. Raises DiffPoseEdgeError as it does."""
    fitted = [len(schedule.timesteps) for schedule in manifest.fitted]
    # Even timesteps of released weights lead from the default's first to 0.
    dense = manifest.timesteps[0] + 1 if manifest.process.kind == "released" else manifest.T
    if checked_sampler(sampler) == FITTED:
        if not fitted:
            raise BudgetError(
                "the bundle has no fitted schedules to choose among: leave the sampler out, or make some: diffpose-edge search-steps"
            )
        return tuple(sorted(fitted))
    if sampler is None and fitted:
        return tuple(sorted({1, *fitted, dense}))
    return tuple(sorted({dense, *(K for K in EVEN if K in range(dense))}))


def _plan(manifest: Manifest, K: int, sampler: str | None) -> StepPlan:
    return step_plan(manifest, steps=K, sampler=sampler)


class Pace(Protocol):
    """How many steps a call takes, and when it has to be over."""

    def plan(self, batches: int, encoders: int) -> StepPlan:
        """Return the steps for a call of so many batches, in which the encoder runs so many times."""

    def deadline(self, plan: StepPlan, asked_ns: int) -> Deadline | None:
        """Return when a call that takes this plan, and was asked for at ``asked_ns`` on the runtime's clock, has to be over."""


@dataclass(frozen=True, eq=False)
class FixedPace:
    """The steps that were asked for, however long they take."""

    steps: StepPlan

    def plan(self, batches: int, encoders: int) -> StepPlan:
        return self.steps

    def deadline(self, plan: StepPlan, asked_ns: int) -> Deadline | None:
        return None


@dataclass(frozen=True, eq=False)
class BudgetPace:
    """As many of the steps on ``offers`` as ``budget_ms`` is good for by these ``timings``."""

    offers: Offers
    timings: MachineTimings
    budget_ms: float
    clock: Clock

    def plan(self, batches: int, encoders: int) -> StepPlan:
        """Return the largest schedule that fits; the smallest where none does: a person more than there is time for is no reason to
        return nothing, and what is late is cut short.
        """
        fitting = (K for K in self.offers.plans if self.timings.p99_ms(K, batches, encoders) <= self.budget_ms)
        return self.offers.plans[max(fitting, default=min(self.offers.plans))]

    def deadline(self, plan: StepPlan, asked_ns: int) -> Deadline | None:
        step, after = self.timings.step, self.timings.after
        if step is None or after is None:
            return None
        ends_ns = asked_ns + self.budget_ms * 1e6
        return Deadline(ends_ns, step.p50 * 1e6, after.p50 * 1e6, self.offers.clean(len(plan.timesteps)), self.clock)

    def check(self, batches: int = 1, encoders: int | None = None) -> None:
        """Raise BudgetError when not even the smallest schedule fits: told where a robot is set up, not in the middle of its way."""
        K = min(self.offers.plans)
        least = self.timings.p99_ms(K, batches, encoders)
        if least > self.budget_ms:
            measured = f"{K} {'step' if K == 1 else 'steps'} for {batches} {'batch' if batches == 1 else 'batches'}"
            needs = "was not measured" if math.isinf(least) else f"takes up to {least:.2f} ms here (99 of 100 frames)"
            raise BudgetError(
                f"a budget of {self.budget_ms:g} ms is too little: {measured} {needs}. Give it more, take a bundle with fewer samples (N), "
                f"or a lower precision; measure again if the machine has changed: diffpose-edge time"
            )


def checked_budget(budget_ms: float) -> float:
    """Return a budget in milliseconds, or raise BudgetError for what is no positive number."""
    if isinstance(budget_ms, bool) or not isinstance(budget_ms, int | float) or not math.isfinite(budget_ms) or budget_ms <= 0:
        raise BudgetError(f"expected a budget in milliseconds, a number above 0, got {budget_ms!r}")
    return float(budget_ms)


class Budgets:
    """What budgets mean to one runtime: the timings of its backend on this machine, read once, and the schedules on offer.

    ``described``: the backend by itself; ``for_cpu``: it runs the graphs made for the CPU.
    """

    def __init__(self, bundle: Bundle, described: Mapping[str, Any], precision: str, for_cpu: bool, clock: Clock):
        self._bundle, self._described, self._precision, self._for_cpu, self._clock = bundle, described, precision, for_cpu, clock
        self._key: dict[str, Any] | None = None
        self._timings: MachineTimings | None = None
        self._looked = False
        self._offers: dict[str | None, Offers] = {}

    @property
    def key(self) -> dict[str, Any]:
        """What the runtime's timings are valid for."""
        if self._key is None:
            manifest = self._bundle.manifest
            kinds = {role: manifest.cpu_precision(role, self._precision) if self._for_cpu else self._precision for role in GRAPHS}
            self._key = timings_key(self._bundle, this_machine(), self._described, self._precision, kinds)
        return self._key

    @property
    def timings(self) -> MachineTimings | None:
        """The runtime's timings, None where nothing was measured. Raises BudgetError for a damaged file."""
        if not self._looked:
            self._timings = timings_of(self._bundle, self.key)
            self._looked = True
        return self._timings

    def keep(self, timings: MachineTimings) -> None:
        """Go by these timings from now on."""
        self._timings, self._looked = timings, True

    def pace(self, budget_ms: float, sampler: str | None, batches: int, encoders: int | None) -> BudgetPace:
        """Return what a budget is good for; it has to be enough for so many batches and runs of the encoder. Raises BudgetError."""
        budget, timings = checked_budget(budget_ms), self.timings
        if timings is None:
            raise BudgetError(self._nothing_measured())
        if sampler not in self._offers:
            self._offers[sampler] = Offers(self._bundle.manifest, sampler)
        pace = BudgetPace(self._offers[sampler], timings, budget, self._clock)
        pace.check(batches, encoders)
        return pace

    def _nothing_measured(self) -> str:
        others = sorted({named_key(timings.key) for timings in all_timings(self._bundle)})
        elsewhere = f" What lies beside the bundle is of {'; '.join(others)}, and says nothing about it." if others else ""
        return (
            f"a budget needs timings of this very machine, and there are none for {named_key(self.key)}.{elsewhere} Measure it: "
            f"runtime.measure(), or diffpose-edge time {self._bundle.path} with the same --backend, --precision and --threads"
        )
