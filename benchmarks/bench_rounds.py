"""Candidates measured by turns: one estimate of each in every round, so that a drift of the machine touches all alike.

Sessions in one process disturb each other: the threads of one spin on while another's run. So each has a process of its own.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.benchmarks.bench_candidate import AFTER_STEPS, Candidate, Loaded, serve
from diffpose_edge.errors import DiffPoseEdgeError

# Between two estimates: the threads of the one before have stopped spinning for work by then.
PAUSE_S = 0.002
# How long a process may take to end when it is told to, before it is ended.
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Measured:
    """A candidate and its samples: ``stages`` by name, in milliseconds, (rounds,), or (rounds, K) for "steps"."""

    candidate: Candidate
    loaded: Loaded
    stages: dict[str, NDArray[np.float64]]


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
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[Measured], list[Refused]]:
    """Run every candidate once in each of ``warm_up + rounds`` rounds; return what the last ``rounds`` took, and what was refused.

    Each is loaded in a process of its own. Each round begins with another one, so that none always follows the same one.
    ``progress`` hears of each round. Raises DiffPoseEdgeError when a candidate's process ends on the way.
    """
    if rounds < 1 or warm_up < 0:
        raise DiffPoseEdgeError(f"expected one round or more and no negative warm-up, got {rounds} and {warm_up}")
    refused: list[Refused] = []
    with ExitStack() as stack:
        running: list[tuple[Candidate, Loaded, Connection]] = []
        for candidate in candidates:  # one after another: loads do not disturb each other's times
            connection = stack.enter_context(_process(candidate))
            answer = _answer(connection, candidate)
            if isinstance(answer, Loaded):
                running.append((candidate, answer, connection))
            else:
                refused.append(Refused(candidate, answer))
        samples: list[list[NDArray[np.float64]]] = [[] for _ in running]
        for index in range(warm_up + rounds):
            for turn in range(len(running)):
                which = (index + turn) % len(running)
                candidate, _, connection = running[which]
                sleep(PAUSE_S)
                connection.send("run")
                sample = _answer(connection, candidate)
                if index >= warm_up:
                    samples[which].append(sample)
            progress(1)
    return [_measured(candidate, loaded, np.stack(taken)) for (candidate, loaded, _), taken in zip(running, samples, strict=True)], refused


def _measured(candidate: Candidate, loaded: Loaded, seconds: NDArray[np.float64]) -> Measured:
    ms = 1000 * seconds
    stages = {name: ms[:, candidate.K + i] for i, name in enumerate(AFTER_STEPS)}
    return Measured(candidate, loaded, {"steps": ms[:, : candidate.K], **stages})


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
