"""The reverse process, step by step: for every backend whose steps the host can see."""

from __future__ import annotations

from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.runtime.backend import Array, CleanSteps, Steps
from diffpose_edge.runtime.deadline import Deadline


def reverse_process(backend: Steps, K: int, step_ns: NDArray[np.float64], trajectory: Array | None = None) -> Array:
    """Walk the state in ``backend.x`` through the K steps of the current schedule; return the final state (P N, 17, 5).

    ``step_ns`` (K,) gains each step's nanoseconds. ``trajectory`` (K + 1, P N, 17, 5), if given, receives every state,
    start first. Nothing is allocated, logged or converted in the loop.
    """
    if trajectory is not None:
        trajectory[0] = backend.state(0)
    for k in range(K):
        began = perf_counter_ns()
        backend.step(k)
        step_ns[k] += perf_counter_ns() - began
        if trajectory is not None:
            trajectory[k + 1] = backend.state(k + 1)
    return backend.state(K)


def reverse_process_until(
    backend: CleanSteps,
    K: int,
    step_ns: NDArray[np.float64],
    deadline: Deadline,
    trajectory: Array | None = None,
    clean: Array | None = None,
) -> int:
    """Walk as many of the K steps as end by the ``deadline``; return how many that were.

    Before each step the clock is asked. A step is expected to take what it takes as a rule, or what the one before it took in this very
    walk if that was longer: a machine that has just become slower is believed. With its median as the rule, a walk that goes as
    it usually does is never cut short. ``clean`` (K, P N, 17, 5), if given, receives the clean state that each step's output means.
    The rest as for :func:`reverse_process`; of steps that were not walked nothing is written. Nothing is allocated in the loop.
    """
    if trajectory is not None:
        trajectory[0] = backend.state(0)
    expected, clock = deadline.step_ns, deadline.clock
    last = deadline.ends_ns - deadline.after_ns
    now = clock()
    for k in range(K):
        if now + expected > last:
            return k
        backend.step(k)
        if clean is not None:
            backend.clean(k, deadline.clean[k], clean[k])
        if trajectory is not None:
            trajectory[k + 1] = backend.state(k + 1)
        then = clock()
        step_ns[k] += then - now
        expected = max(deadline.step_ns, then - now)
        now = then
    return K
