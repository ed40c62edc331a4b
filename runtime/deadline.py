"""When a walk through the reverse process has to end, and what its states mean if it ends there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

from diffpose_edge.manifest import Manifest
from diffpose_edge.runtime.backend import Array
from diffpose_edge.runtime.plan import StepPlan
from diffpose_edge.samplers import sampler_rows

Clock = Callable[[], int]


@dataclass(frozen=True, eq=False)
class Deadline:
    """A point in time, ``ends_ns`` on the ``clock`` (monotonic, nanoseconds), for a call or for one walk of it.

    ``step_ns``: how long a step takes as a rule; ``after_ns``: what is still to be done after the walk. ``clean`` (K, 2) are the rows of
    :func:`clean_rows`, by which a walk that ends early becomes a pose.
    """

    ends_ns: float
    step_ns: float
    after_ns: float
    clean: Array
    clock: Clock = perf_counter_ns


def clean_rows(manifest: Manifest, timesteps: tuple[int, ...]) -> Array:
    """Return c0, c1 of x0 = c0 x_t + c1 out at every timestep, shape (K, 2), of the states that the network sees.

    What the network says at t is an opinion about the clean pose: for eps (x_t - sqrt(1 - a_t) eps) / sqrt(a_t), for v
    sqrt(a_t) x_t - sqrt(1 - a_t) v. That is DDIM's step from t straight to the end, so the rows are those of schedules of one step; for the
    scaled states of trained pairs they are scaled as theirs are.
    """
    process = manifest.process
    scaled = process.kind != "released"
    rows = [sampler_rows("ddim", manifest.alpha_bar_table, (t,), process.prediction, scaled=scaled)[0, :2] for t in timesteps]
    return np.stack(rows)


def cut_short(manifest: Manifest, plan: StepPlan, m: int) -> StepPlan:
    """Return the plan whose walk ends where that of ``plan`` does if it is cut short after 0 < m < K steps, but for rounding: the same
    steps, the last of them straight to the clean pose.
    """
    rows = plan.coefficients[:m].copy()
    rows[-1] = (*clean_rows(manifest, plan.timesteps[m - 1 : m])[0], 0.0)
    return StepPlan(plan.sampler, plan.timesteps[:m], rows)
