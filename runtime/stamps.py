"""Frames by their stamps: which come too late, how many never came, and when so much time has passed that the past says nothing."""

from __future__ import annotations

from dataclasses import dataclass

from diffpose_edge.errors import DiffPoseEdgeError


@dataclass
class StreamCounters:
    """What became of a stream's frames and people, counted from its beginning.

    ``frames`` came: ``computed``, still waiting, ``duplicated`` (the newest frame's stamp again), ``out_of_order`` (older than the
    newest), or ``dropped`` (given up for newer ones, or at a close without a drain). ``missed`` never came, as the period tells.
    ``gaps``: how often the past was forgotten. People: ``entered`` and ``left``; ``left_out``: how often somebody in a frame got no
    estimate, because they had no identity (yet) or no slot. ``malformed`` was no frame, raised an error, and is not among ``frames``.
    """

    frames: int = 0
    computed: int = 0
    dropped: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    missed: int = 0
    gaps: int = 0
    entered: int = 0
    left: int = 0
    left_out: int = 0
    malformed: int = 0


class Stamps:
    """The order of a stream's frames. ``admit`` is asked when they come, ``after`` when they are computed: some are dropped between.

    ``max_gap_ns``: more time than this between two frames that are computed, and the past is forgotten; at least 1. ``period_ns``:
    the time between two frames, or None where it is not known. Raises DiffPoseEdgeError.
    """

    def __init__(self, max_gap_ns: int, period_ns: int | None, counters: StreamCounters):
        for name, value in (("max_gap_ns", max_gap_ns), ("period_ns", period_ns)):
            if not (value is None and name == "period_ns") and (type(value) is not int or value < 1):
                raise DiffPoseEdgeError(f"expected {name} as a whole number of nanoseconds, at least 1; got {value!r}")
        self.max_gap_ns, self.period_ns, self.counters = max_gap_ns, period_ns, counters
        self._newest: int | None = None
        self._computed: int | None = None

    def admit(self, stamp_ns: int) -> bool:
        """Count a frame that came; tell whether it is newer than all before it."""
        self.counters.frames += 1
        if self._newest is not None and stamp_ns <= self._newest:
            if stamp_ns == self._newest:
                self.counters.duplicated += 1
            else:
                self.counters.out_of_order += 1
            return False
        self._newest = stamp_ns
        return True

    def drop(self, frames: int) -> None:
        """Count frames that were admitted and will never be computed."""
        self.counters.dropped += frames

    def after(self, stamp_ns: int) -> int | None:
        """Go on to the next frame that is computed; return how many are missing before it, or None where the past is to be forgotten."""
        before, self._computed = self._computed, stamp_ns
        self.counters.computed += 1
        if before is None:
            return 0
        if stamp_ns - before > self.max_gap_ns:
            self.counters.gaps += 1
            return None
        if self.period_ns is None:
            return 0
        # To the nearest: stamps jitter.
        missing = max(0, (2 * (stamp_ns - before) + self.period_ns) // (2 * self.period_ns) - 1)
        self.counters.missed += missing
        return missing

    def forget(self) -> None:
        """Let the next frame be a first one; it has to be newer than the last all the same."""
        self._computed = None
