"""What a backend must offer to the loop: fixed buffers, the encoder, and the reverse process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.config import BatchShape

if TYPE_CHECKING:
    from diffpose_edge.runtime.deadline import Deadline

Array = NDArray[np.float32]
# What tells schedules apart: samplers walk the same timesteps with other coefficients.
ScheduleKey = tuple[tuple[int, ...], bytes]
# How many schedules keep what was prepared for them: a robot uses a few (one for each deadline), a sweep any number.
KEPT_SCHEDULES = 8

# What each of them says of a call after ``close()``.
CLOSED = "this backend was closed, and its sessions and buffers are gone; make another"


def schedule_key(timesteps: tuple[int, ...], coefficients: Array) -> ScheduleKey:
    """Return what a prepared schedule is found by."""
    return timesteps, coefficients.tobytes()


class Steps(Protocol):
    """The reverse process one step at a time."""

    def step(self, k: int) -> None:
        """Run reverse step k of the current schedule."""

    def state(self, k: int) -> Array:
        """Return the state (P N, 17, 5) after k steps, in a buffer that the next but one step may overwrite."""


class CleanSteps(Steps, Protocol):
    """Steps of which can also be told what pose they were heading for."""

    def clean(self, k: int, row: Array, out: Array) -> None:
        """Write into ``out`` (P N, 17, 5) the clean state c0 x_t + c1 out that step k's input and output mean; ``row`` is c0, c1.

        To be asked after step k and before the next one.
        """


class Backend(Protocol):
    """Runs a bundle's two graphs over buffers that are allocated once, at load.

    The caller writes ``observation``, calls ``encode()`` and reads ``xyz``; calls ``begin`` with a schedule, writes the start
    into ``x`` and calls ``walk``, which returns the final state. For a conditioned denoiser the encoder also gives
    ``features``, of which the caller copies those of the frame in question to ``feature``, and writes what the samples start
    from into ``start``; for a released one these three are None.

    A backend whose ``base`` is not None can also do all of it in one go, and is then a :class:`WholeFrameBackend`.
    """

    shape: BatchShape
    observation: Array
    xyz: Array
    features: Array | None
    x: Array
    feature: Array | None
    start: Array | None
    base: Array | None

    def encode(self) -> None:
        """Run the context graph: ``observation`` → ``xyz``, ``features``."""

    def begin(self, timesteps: tuple[int, ...], coefficients: Array) -> None:
        """Make a schedule current: K timesteps and their coefficients (K, 3). Prepares it only the first time."""

    def walk(self, step_ns: NDArray[np.float64], trajectory: Array | None) -> Array:
        """Walk the state in ``x`` through the steps of the current schedule; return the final state (P N, 17, 5).

        ``step_ns`` (K,) gains each step's nanoseconds, NaN where they are not taken. ``trajectory`` (K + 1, P N, 17, 5), if
        given, receives every state, start first.
        """

    def describe(self) -> dict[str, Any]:
        """Return the backend's name, version and settings."""

    def close(self) -> None:
        """Release everything; calling it again does nothing."""


@runtime_checkable
class StoppableWalk(Protocol):
    """A backend whose walk can end early, because the host sees its steps one by one."""

    def walk_until(self, step_ns: NDArray[np.float64], trajectory: Array | None, deadline: Deadline) -> tuple[Array, int]:
        """Walk as :meth:`Backend.walk` does, as far as the time reaches; return a state (P N, 17, 5), and how many steps m were walked.

        For m = K it is the final state, for 0 < m < K the clean state that step m's output means; for m = 0 it means nothing. All
        samples have walked m steps. ``step_ns`` gains nothing, and of ``trajectory`` nothing is defined, where no step was walked.
        """


class WholeFrameBackend(Backend, Protocol):
    """A backend that runs encoder, start and steps without the host in between.

    The caller writes ``observation``, ``base`` (P N, 17, C) and ``scale`` (1,), of which
    :mod:`diffpose_edge.runtime.start_graph` makes the start, and for a conditioned denoiser ``x``.
    """

    scale: Array
    newest: Array

    def frame(self, spent: NDArray[np.float64]) -> Array:
        """Return the final state (P N, 17, 5); ``newest`` (P, 17, 3) then holds the encoder's xyz of the newest frame.

        ``spent`` (K + 2,) gains the nanoseconds of the encoder, of each step, and of everything else on the device; NaN
        where they are not taken.
        """
