"""Which steps a call takes: its timesteps, and the rows of coefficients that its sampler has for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffpose_edge.errors import DiffPoseEdgeError, TimestepError
from diffpose_edge.fitted import FittedSchedule
from diffpose_edge.manifest import Manifest
from diffpose_edge.runtime.backend import Array
from diffpose_edge.samplers import SAMPLERS, even_timesteps, sampler_rows
from diffpose_edge.schedule import checked_timesteps

FITTED = "fitted"


@dataclass(frozen=True, eq=False)
class StepPlan:
    """K ``timesteps``, largest first, and the step graph's ``coefficients`` (K, 3); ``sampler`` says whose they are."""

    sampler: str
    timesteps: tuple[int, ...]
    coefficients: Array


def step_plan(manifest: Manifest, timesteps: Sequence[int] | None = None, steps: int | None = None, sampler: str | None = None) -> StepPlan:
    """Return what is meant by ``timesteps``, or by a number of ``steps`` K, and a ``sampler``: "ddim", "ab2" or "fitted".

    Neither: the bundle's default timesteps by DDIM. Timesteps: these, by DDIM. Steps: the bundle's fitted schedule of that
    K, and where it has none K even timesteps by DDIM; of released weights they lead from the default's first to 0. A sampler that
    is named is the one that is taken; "fitted" alone is of the default's K, and with timesteps they must be its own.

    Raises TimestepError; DiffPoseEdgeError for an unknown sampler and where the bundle has no such fitted schedule.
    """
    checked_sampler(sampler)
    if timesteps is not None and steps is not None:
        raise TimestepError(f"expected timesteps or a number of steps, got both: {timesteps!r} and {steps!r}. Leave one out")
    chosen = None if timesteps is None else checked_timesteps(timesteps, manifest.T)
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise TimestepError(f"expected a number of steps of at least 1, got {steps!r}")
    K = steps if steps is not None else len(chosen or manifest.timesteps)
    fitted = next((schedule for schedule in manifest.fitted if len(schedule.timesteps) == K), None)
    if sampler == FITTED and (fitted is None or (chosen is not None and chosen != fitted.timesteps)):
        raise DiffPoseEdgeError(_no_fitted(manifest, K, fitted))
    if fitted is not None and (sampler == FITTED or (sampler is None and steps is not None)):
        return StepPlan(FITTED, fitted.timesteps, fitted.coefficients)
    if chosen is None:
        chosen = manifest.timesteps if steps is None else _even(manifest, steps)
    return plan_of(manifest, sampler or "ddim", chosen)


def plan_of(manifest: Manifest, sampler: str, timesteps: tuple[int, ...]) -> StepPlan:
    """Return the plan of a sampler out of SAMPLERS: of released weights for x_t, of conditioned ones for sqrt(a_t) x_t."""
    process = manifest.process
    rows = sampler_rows(sampler, manifest.alpha_bar_table, timesteps, process.prediction, scaled=process.kind != "released")
    return StepPlan(sampler, timesteps, rows)


def checked_sampler(sampler: str | None) -> str | None:
    """Return ``sampler``, or raise DiffPoseEdgeError naming those that there are."""
    if sampler is not None and sampler not in (*SAMPLERS, FITTED):
        raise DiffPoseEdgeError(f"expected a sampler out of {', '.join((*SAMPLERS, FITTED))}, got {sampler!r}")
    return sampler


def _even(manifest: Manifest, K: int) -> tuple[int, ...]:
    return even_timesteps(manifest.T, K, manifest.timesteps[0] if manifest.process.kind == "released" else None)


def _no_fitted(manifest: Manifest, K: int, fitted: FittedSchedule | None) -> str:
    if fitted is not None:
        return f"the fitted schedule of {K} steps has the timesteps {fitted.timesteps}, and no others. Leave timesteps out"
    have = ", ".join(str(len(schedule.timesteps)) for schedule in manifest.fitted) or "none"
    return f"the bundle has no fitted schedule of {K} steps (it has: {have}). Make one: diffpose-edge search-steps BUNDLE --steps {K}"
