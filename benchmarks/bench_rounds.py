"""Candidates measured by turns: one estimate of each in every round, so that a drift of the machine touches all alike.

Sessions in one process disturb each other: the threads of one spin on while another's run. So each has a process of its own.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from time import sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.benchmarks.bench_candidate import AFTER_STEPS, ON_PROCESSORS, Candidate, Loaded, serve
from diffpose_edge.benchmarks.bench_floor import costs_of
from diffpose_edge.benchmarks.telemetry import Telemetry
from diffpose_edge.errors import DiffPoseEdgeError

# Between two estimates: the threads of the one before have stopped spinning for work by then.
PAUSE_S = 0.002
# How often there is time for something else: before the rounds, among and after them.
INTERLUDES = 5
# How long a process may take to end when it is told to, before it is ended.
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Measured:
    """A candidate and its samples: ``stages`` by name, in milliseconds, (rounds,), or (rounds, K) for "steps"; "processors" is how long
    its threads were on one, together. ``joules`` (rounds,): what the processors took meanwhile, None where no counter tells; ``cost``:
    of its graphs, see ``bench_floor.costs_of``.
    """

    candidate: Candidate
    loaded: Loaded
    stages: dict[str, NDArray[np.float64]]
    joules: NDArray[np.float64] | None = None
    cost: tuple[dict[str, Any] | None, str | None] = (None, "not counted")


@dataclass(frozen=True)
class Refused:
    """A candidate that does not run here, and the reason."""

    candidate: Candidate
    reason: str


def measured(
    candidates: Sequence[Candidate],
    rounds: int,
    *,
    warm_up: int = 10,
    telemetry: Telemetry | None = None,
    interlude: Callable[[int], None] = lambda index: None,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[Measured], list[Refused]]:
    """Run every candidate once in each of ``warm_up + rounds`` rounds; return what the last ``rounds`` took, and what was refused.

    Each is loaded in a process of its own, and each round has another order, so that none always follows the same one.
    ``telemetry`` is sampled during the rounds that count; ``interlude`` is called before, three times among and after them with
    the number of the round to come, while no candidate runs; ``progress`` hears of each round. Raises DiffPoseEdgeError when a
    candidate's process ends on the way.
    """
    if rounds < 1 or warm_up < 0:
        raise DiffPoseEdgeError(f"expected one round or more and no negative warm-up, got {rounds} and {warm_up}")
    refused: list[Refused] = []
    with ExitStack() as stack:
        running: list[_Running] = []
        for candidate in candidates:  # one after another: loads do not disturb each other's times
            connection = stack.enter_context(_process(candidate))
            answer = _answer(connection, candidate)
            if isinstance(answer, Loaded):
                running.append(_Running(candidate, answer, connection))
            else:
                refused.append(Refused(candidate, answer))
        rng = np.random.default_rng(0)
        pauses = set(np.linspace(0, rounds, INTERLUDES).round().astype(int).tolist())
        for index in range(-warm_up, rounds):
            if index in pauses and running:
                interlude(index)
            if index == 0 and telemetry is not None:
                telemetry.sample(now=True)
            for which in rng.permutation(len(running)):
                running[which].take_turn(telemetry, counts=index >= 0)
            progress(1)
        if telemetry is not None:
            telemetry.sample(now=True)
        if running:
            interlude(rounds)
    return [one.measured() for one in running], refused


@dataclass
class _Running:
    """A candidate's process, and its samples so far: seconds, and joules where they are told."""

    candidate: Candidate
    loaded: Loaded
    connection: Connection
    seconds: list[NDArray[np.float64]] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)

    def take_turn(self, telemetry: Telemetry | None, *, counts: bool) -> None:
        sleep(PAUSE_S)
        before = None if telemetry is None else telemetry.joules()
        self.connection.send("run")
        sample = _answer(self.connection, self.candidate)
        after = None if telemetry is None else telemetry.joules()
        if not counts:
            return
        self.seconds.append(sample)
        if before is not None and after is not None:
            self.joules.append(after - before)
        if telemetry is not None:
            telemetry.sample()

    def measured(self) -> Measured:
        ms, K = 1000 * np.stack(self.seconds), self.candidate.K
        stages = {name: ms[:, K + i] for i, name in enumerate((*AFTER_STEPS, ON_PROCESSORS))}
        joules = np.array(self.joules) if self.joules else None
        # Counted now: whoever measured bundles in a temporary folder may make the report when it is gone.
        return Measured(self.candidate, self.loaded, {"steps": ms[:, :K], **stages}, joules, costs_of(self.candidate))


@contextmanager
def _process(candidate: Candidate) -> Iterator[Connection]:
    # A new interpreter, not a fork: nothing of this process, no thread and no session, is in it.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, candidate), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        with suppress(OSError):  # it has ended before
            ours.send(None)
        ours.close()
        process.join(PATIENCE_S)
        if process.is_alive():
            process.kill()
            process.join()


def _answer(connection: Connection, candidate: Candidate) -> Any:
    try:
        return connection.recv()
    except EOFError:
        raise DiffPoseEdgeError(f"the process that ran {candidate} ended before it answered; what it said of it stands above") from None
