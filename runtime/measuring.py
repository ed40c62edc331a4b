"""Measures what frames take on this machine, for :mod:`diffpose_edge.runtime.budget` to choose by."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import BudgetError
from diffpose_edge.runtime.backend import KEPT_SCHEDULES
from diffpose_edge.runtime.budget import offered_steps
from diffpose_edge.runtime.call import timed
from diffpose_edge.runtime.plan import step_plan
from diffpose_edge.skeleton import J
from diffpose_edge.timings import MachineTimings, Spread

if TYPE_CHECKING:
    from diffpose_edge.runtime.pose_runtime import PoseRuntime

# With fewer the 99th percentile would be the slowest frame of all.
LEAST_ROUNDS = 100
DEFAULT_ROUNDS = 200
# A camera's frames do not come one on the heels of the other: cores that have nothing to do slow down, and wake late.
DEFAULT_PAUSE_MS = 5.0
WARM_UP = 3


def measured_timings(
    runtime: PoseRuntime,
    key: Mapping[str, Any],
    steps: Sequence[int] | None = None,
    rounds: int = DEFAULT_ROUNDS,
    pause_ms: float = DEFAULT_PAUSE_MS,
    progress: Callable[[int], None] | None = None,
) -> MachineTimings:
    """Return what estimates of P people take: whole, without the encoder, the encoder, a step, and what follows the last of them.

    ``steps``: every K to measure (default: all on offer). They take turns, so that a drift of the machine touches all alike, in groups of
    as many schedules as a backend keeps prepared; ``rounds`` estimates of each, after a few that are not counted, ``pause_ms`` between
    any two. What frames take does not depend on what they show: keypoints are drawn. ``progress`` is told of each estimate.

    Raises BudgetError for fewer than 100 rounds, a negative pause or no steps; TimestepError.
    """
    if type(rounds) is not int or rounds < LEAST_ROUNDS:
        raise BudgetError(f"expected at least {LEAST_ROUNDS} rounds, of which a 99th percentile can be told; got {rounds!r}")
    if not math.isfinite(pause_ms) or pause_ms < 0:
        raise BudgetError(f"expected a pause of at least 0 ms, got {pause_ms!r}")
    manifest = runtime.bundle.manifest
    wanted = sorted(set(offered_steps(manifest) if steps is None else steps))
    if not wanted:
        raise BudgetError("expected at least one number of steps to measure, got none")
    for K in wanted:
        step_plan(manifest, steps=K)
    frame, walk = ({K: np.zeros(rounds) for K in wanted} for _ in range(2))
    encoder, one, after = (np.zeros((len(wanted), rounds)) for _ in range(3))
    shape = manifest.shape
    windows = (shape.P, J, 2) if shape.F == 1 else (shape.P, shape.F, J, 2)
    people = np.random.default_rng(0).uniform(-0.5, 0.5, windows).astype(np.float32)
    for first in range(0, len(wanted), KEPT_SCHEDULES):
        group = wanted[first : first + KEPT_SCHEDULES]
        for number in range(-WARM_UP, rounds):
            for i, K in enumerate(group, first):
                time.sleep(pause_ms / 1000)
                began = runtime._clock()
                timings = runtime.estimate(people, seed=0, steps=K).timings
                ms = (runtime._clock() - began) / 1e6
                if number < 0:
                    continue
                encoded, stepped = timings.context * 1e3, timings.steps * 1e3
                if math.isnan(encoded):
                    # On a GPU the frame is one piece: its encoder is timed apart from it, and its walk is taken to be the whole of it.
                    with runtime._lock:
                        encoded, stepped = timed(runtime._open().encode) / 1e6, np.full(K, np.nan)
                frame[K][number], encoder[i, number], one[i, number] = ms, encoded, stepped[number % K]
                walk[K][number] = ms if np.isnan(stepped).any() else ms - encoded
                after[i, number] = timings.aggregate * 1e3
                if progress is not None:
                    progress(1)
    seen = not np.isnan(one).any()
    made = {"when": datetime.now(timezone.utc).isoformat(timespec="seconds"), "rounds": rounds, "pause_ms": pause_ms}
    return MachineTimings(
        dict(key),
        {K: _spread(values) for K, values in frame.items()},
        {K: _spread(values) for K, values in walk.items()},
        _spread(encoder),
        _spread(one) if seen else None,
        _spread(after) if seen else None,
        made,
    )


def _spread(ms: NDArray[np.float64]) -> Spread:
    """Return the median, and the least measured value that at least 99 of 100 do not exceed."""
    return Spread(round(float(np.median(ms)), 4), round(float(np.quantile(ms, 0.99, method="inverted_cdf")), 4))
