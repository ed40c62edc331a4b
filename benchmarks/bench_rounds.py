"""Variants of the runtime, measured by turns: one estimate of each in every round, so that a drift of the machine touches all alike."""

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

from diffpose_edge.benchmarks.bench_variant import AFTER_STEPS, Load, Loaded, Variant, load_variant, serve
from diffpose_edge.errors import DiffPoseEdgeError

# Between two estimates: the threads of the one before have stopped spinning for work by then.
PAUSE_S = 0.002
# How long a process may take to end when it is told to, before it is ended.
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Measured:
    """A variant and its samples: ``stages`` by name, in milliseconds, (rounds,), or (rounds, K) for "steps"."""

    variant: Variant
    loaded: Loaded
    stages: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Refused:
    """A variant that does not run here, and the reason."""

    variant: Variant
    reason: str


def measured(
    variants: Sequence[Variant],
    rounds: int,
    *,
    warm_up: int = 10,
    load: Load = load_variant,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[Measured], list[Refused]]:
    """Run every variant once in each of ``warm_up + rounds`` rounds; return what the last ``rounds`` took, and what was refused.

    Each round begins with another variant, so that none always follows the same one. ``load`` makes the runtime, in the
    variant's own process; ``progress`` hears of each round. Raises DiffPoseEdgeError when a variant's process ends on the way.
    """
    if rounds < 1 or warm_up < 0:
        raise DiffPoseEdgeError(f"expected one round or more and no negative warm-up, got {rounds} and {warm_up}")
    refused: list[Refused] = []
    with ExitStack() as stack:
        running: list[tuple[Variant, Loaded, Connection]] = []
        for variant in variants:  # one after another: loads do not disturb each other's times
            connection = stack.enter_context(_process(variant, load))
            answer = _answer(connection, variant)
            if isinstance(answer, Loaded):
                running.append((variant, answer, connection))
            else:
                refused.append(Refused(variant, answer))
        samples: list[list[NDArray[np.float64]]] = [[] for _ in running]
        for index in range(warm_up + rounds):
            for turn in range(len(running)):
                which = (index + turn) % len(running)
                variant, _, connection = running[which]
                sleep(PAUSE_S)
                connection.send("run")
                sample = _answer(connection, variant)
                if index >= warm_up:
                    samples[which].append(sample)
            progress(1)
    return [_measured(variant, loaded, np.stack(taken)) for (variant, loaded, _), taken in zip(running, samples, strict=True)], refused


def _measured(variant: Variant, loaded: Loaded, seconds: NDArray[np.float64]) -> Measured:
    ms = 1000 * seconds
    stages = {name: ms[:, variant.K + i] for i, name in enumerate(AFTER_STEPS)}
    return Measured(variant, loaded, {"steps": ms[:, : variant.K], **stages})


@contextmanager
def _process(variant: Variant, load: Load) -> Iterator[Connection]:
    # A new interpreter, not a fork: nothing of this process, no thread and no session, is in it.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, variant, load), daemon=True)
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


def _answer(connection: Connection, variant: Variant) -> Any:
    try:
        return connection.recv()
    except EOFError:
        raise DiffPoseEdgeError(f"the process that ran {variant} ended before it answered; what it said of it stands above") from None
