"""What ``diffpose-edge bench`` measures: anything that can be loaded in a process of its own and makes one estimate when told to."""

from __future__ import annotations

import gc
import resource
import signal
import sys
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from time import perf_counter, process_time
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import DiffPoseEdgeError

# After the K steps of an estimate come these stages, in seconds.
AFTER_STEPS = ("encoder", "aggregate", "frame")
# After these comes the time that the process's threads were on a processor together, from the call to its answer.
ON_PROCESSORS = "processors"
# What a candidate is called by, in a report's rows.
NAMES = ("bundle", "backend", "precision", "K", "threads")


class Estimator(Protocol):
    """A candidate that is loaded: its N, P, F, and the timesteps that it walks."""

    @property
    def N(self) -> int: ...

    @property
    def P(self) -> int: ...

    @property
    def F(self) -> int: ...

    @property
    def timesteps(self) -> tuple[int, ...]: ...

    def estimate(self) -> NDArray[np.float64]:
        """Estimate the poses of P people once; return the seconds of each of the K steps, then of :data:`AFTER_STEPS`, (K + 3,).

        NaN is for what cannot be told apart; the whole frame always can.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return what it is made of, such as versions, as plain values."""
        ...


class Candidate(Protocol):
    """What is measured, before it is loaded. It is pickled on the way to its process: a dataclass of plain values, at best.

    ``bundle`` is the path of what it runs, or a name; ``backend`` what runs it; ``K`` the number of steps; ``threads`` None where
    their number has no meaning.
    """

    @property
    def bundle(self) -> str: ...

    @property
    def backend(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def K(self) -> int: ...

    @property
    def threads(self) -> int | None: ...

    def load(self) -> AbstractContextManager[Estimator]:
        """Load it, in the process that calls; leaving the context gives everything back. Raises DiffPoseEdgeError where it cannot run."""
        ...


@dataclass(frozen=True)
class Loaded:
    """What a candidate is once it is loaded. ``load_s`` and ``first_ms``: seconds to load, milliseconds of the first estimate;
    ``resident_mb``: the process's memory after it, at its highest.
    """

    N: int
    P: int
    F: int
    timesteps: tuple[int, ...]
    described: dict[str, Any]
    load_s: float
    first_ms: float
    resident_mb: float

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "timesteps": list(self.timesteps)}


def names_of(candidate: Candidate) -> dict[str, Any]:
    """Return what a candidate is called by in a report."""
    return {name: getattr(candidate, name) for name in NAMES}


def serve(connection: Connection, candidate: Candidate) -> None:
    """Load a candidate, tell what came of it, and run one estimate for each message, answering with its stages in seconds and with
    :data:`ON_PROCESSORS`, (K + 4,).

    The answer to the first message is a :class:`Loaded`, or the text of what refused the candidate. It ends at a None.
    """
    # Ctrl-C reaches every process of the terminal: who asked for the measurement ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with connection, ExitStack() as stack:
        try:
            began = perf_counter()
            loaded = stack.enter_context(candidate.load())
            load_s = perf_counter() - began
            began = perf_counter()
            loaded.estimate()
            first_ms = 1000 * (perf_counter() - began)
        except DiffPoseEdgeError as refused:
            connection.send(str(refused))
            return
        told = loaded.N, loaded.P, loaded.F, loaded.timesteps, loaded.describe()
        if not _sent(connection, Loaded(*told, load_s, first_ms, _resident_mb())):
            return
        # A collection in the middle of a frame is a matter of luck, and of everything else in the process. A robot that cares
        # does the same: what is loaded stays, and nothing that a frame makes has cycles.
        gc.collect()
        gc.freeze()
        gc.disable()
        while connection.recv() is not None:
            on_processors = process_time()
            stages = loaded.estimate()
            if not _sent(connection, np.append(stages, process_time() - on_processors)):
                return


def _sent(connection: Connection, answer: Any) -> bool:
    """Send an answer; tell whether anybody is there: who asked may have been stopped meanwhile."""
    try:
        connection.send(answer)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def _resident_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak / (2**20 if sys.platform == "darwin" else 2**10))
