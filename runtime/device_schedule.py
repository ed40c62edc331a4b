"""A schedule on the device: one row of timestep and coefficients for each step, the graphs captured for it, and its clock."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.runtime.backend import Array
from diffpose_edge.runtime.cuda import Cuda, Event, Graph, Stream
from diffpose_edge.runtime.device_memory import Region

# Moments of a frame; after "started" come the steps by their number, and "end".
MARKS = ("begin", "given", "encoded", "started", "end")


class Schedule:
    """K timesteps and their coefficients (K, 3), uploaded once; ``graphs`` by name. Wants the context to be current."""

    def __init__(self, cuda: Cuda, timesteps: tuple[int, ...], coefficients: Array, stream: Stream, *, timed: bool):
        self._cuda, self._K, self._stream = cuda, len(timesteps), stream
        self.graphs: dict[str, Graph] = {}
        rows: dict[str, tuple[int, ...]] = {}
        for what, size in (("timestep", 1), ("coefficients", 3)):
            rows |= {f"{what} {k}": (size,) for k in range(self._K)}
        with ExitStack() as stack:
            self._rows = stack.enter_context(Region(cuda, rows))
            for k, timestep in enumerate(timesteps):
                self._rows.host[f"timestep {k}"][:] = timestep
                self._rows.host[f"coefficients {k}"][:] = coefficients[k]
            self._rows.upload(stream.handle)
            stream.synchronize()
            marks: tuple[str | int, ...] = (*MARKS, *range(self._K)) if timed else ()
            self._events = {mark: stack.enter_context(Event(cuda)) for mark in marks}
            self._owned = stack.pop_all()

    def __len__(self) -> int:
        return self._K

    def keep(self, name: str, graph: Graph) -> None:
        """Own a graph from now on: it is given back before the rows and events whose addresses it holds."""
        self.graphs[name] = self._owned.enter_context(graph)

    def row(self, k: int) -> tuple[int, int]:
        """Return the addresses of step k's timestep and coefficients."""
        return self._rows.address[f"timestep {k}"], self._rows.address[f"coefficients {k}"]

    def mark(self, moment: str | int, capturing: bool) -> None:
        """Put a moment into the stream: one of MARKS, or the end of a step; nothing when time is not taken."""
        if self._events:
            self._cuda.record(self._events[moment].handle, self._stream.handle, capturing)

    def spent_ns(self) -> NDArray[np.float64]:
        """Return the nanoseconds (K + 2,) of the encoder, of each step, and of all else in the last run; NaN when not taken."""
        if not self._events:
            return np.full(self._K + 2, np.nan)
        steps = ["started", *range(self._K)]
        spent = [self._between("given", "encoded"), *(self._between(a, b) for a, b in pairwise(steps))]
        return np.array([*spent, self._between("begin", "end") - sum(spent)])

    def _between(self, first: str | int, second: str | int) -> float:
        return 1e6 * self._cuda.elapsed_ms(self._events[first].handle, self._events[second].handle)

    def close(self) -> None:
        """Give back graphs, events and rows; a second call does nothing."""
        self.graphs, self._events = {}, {}
        self._owned.close()
