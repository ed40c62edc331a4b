"""The reverse process with the samples dealt out to the cores: each walks all K steps of its part, without waiting for the others.

Samples do not meet before their mean is taken. Cores that share every matmul meet after each of a step's hundred operators, which at
these sizes costs more than it wins (docs/bench.md has figures).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import RuntimeClosed
from diffpose_edge.runtime.backend import Array
from diffpose_edge.runtime.deadline import Deadline
from diffpose_edge.runtime.loop import reverse_process_until
from diffpose_edge.runtime.onnxruntime_steps import OnnxRuntimeSteps


def dealt_samples(N: int, parts: int) -> list[int]:
    """Return how many of N samples each of at most ``parts`` parts gets: as equal as can be, none empty."""
    parts = min(N, parts)
    return [N // parts + (part < N % parts) for part in range(parts)]


class SamplesSideBySide:
    """Several :class:`OnnxRuntimeSteps`, each with some samples of every person, and a thread for each; owns them all.

    It has the buffers and methods of one, but for single steps. ``P``: how many people, ``N``: how many samples each.
    """

    def __init__(self, parts: Sequence[OnnxRuntimeSteps], P: int, N: int):
        self._parts, self._shape = tuple(parts), (P, N)
        first, *_ = self._parts
        self.x = np.zeros((P * N, *first.x.shape[1:]), np.float32)
        self.feature = None if first.feature is None else np.zeros_like(first.feature)
        self.start = None if first.start is None else np.zeros((P * N, *first.start.shape[1:]), np.float32)
        self._final = np.zeros_like(self.x)
        ends = np.cumsum([len(part.x) // P for part in self._parts])
        self._samples = [slice(end - len(part.x) // P, end) for part, end in zip(self._parts, ends, strict=True)]
        self._K = 0
        # What each part's steps were heading for, step after step: grown when a schedule is walked against a deadline for the first time.
        self._clean = [np.zeros((0, *part.x.shape), np.float32) for part in self._parts]
        # The caller's thread walks the first part.
        self._pool = ThreadPoolExecutor(len(self._parts) - 1, thread_name_prefix="diffpose-edge-samples")

    def __len__(self) -> int:
        return len(self._parts)

    def begin(self, timesteps: tuple[int, ...], coefficients: Array) -> None:
        """Make a schedule current: K timesteps and their coefficients (K, 3). Raises RuntimeClosed, as ``walk`` does."""
        for part in self._parts:
            part.begin(timesteps, coefficients)
        self._K = len(timesteps)

    def walk(self, step_ns: NDArray[np.float64], trajectory: Array | None) -> Array:
        """Walk all steps of all samples; return the final state (P N, 17, 5).

        A step is over when the slowest part has done it: ``step_ns`` (K,) gains what lies between that and the step before.
        """
        began = perf_counter_ns()
        over = np.zeros((len(self._parts), self._K))
        self._together(lambda i: self._walk_part(i, over[i], trajectory))
        step_ns += np.diff(over.max(axis=0), prepend=began)
        return self._final

    def walk_until(self, step_ns: NDArray[np.float64], trajectory: Array | None, deadline: Deadline) -> tuple[Array, int]:
        """Walk as far as the time reaches; see :class:`diffpose_edge.runtime.backend.StoppableWalk`.

        No part waits for another: each stops by the clock, and notes after every step what pose it was heading for. The part that came
        least far then decides for all, and what the others walked beyond that is dropped. So the samples of an estimate have all walked
        the same steps, and a core that is taken away in the middle costs a frame no more than the step that it was at.
        """
        began, K = deadline.clock(), self._K
        for i, part in enumerate(self._parts):
            if len(self._clean[i]) < K:
                self._clean[i] = np.zeros((K, *part.x.shape), np.float32)
        over, walked = np.zeros((len(self._parts), K)), [0] * len(self._parts)

        def walk(i: int) -> None:
            walked[i] = self._walk_part_until(i, over[i], trajectory, deadline)

        self._together(walk)
        least = min(walked)
        step_ns[:least] += np.diff(over[:, :least].max(axis=0), prepend=began)
        for i, part in enumerate(self._parts):
            if least:
                self._put(self._final, i, part.state(K) if least == K else self._clean[i][least - 1])
        return self._final, least

    def close(self) -> None:
        """Let go of threads and sessions; calling it again does nothing."""
        self._pool.shutdown()
        for part in self._parts:
            part.close()

    def _walk_part(self, i: int, over: NDArray[np.float64], trajectory: Array | None) -> None:
        """Walk part i; ``over`` (K,) gets when each of its steps was over."""
        part = self._given(i)
        if trajectory is not None:
            self._put(trajectory[0], i, part.x)
        for k in range(self._K):
            part.step(k)
            over[k] = perf_counter_ns()
            if trajectory is not None:
                self._put(trajectory[k + 1], i, part.state(k + 1))
        self._put(self._final, i, part.state(self._K))

    def _walk_part_until(self, i: int, over: NDArray[np.float64], trajectory: Array | None, deadline: Deadline) -> int:
        """Walk part i as far as the time reaches; return how many steps that were. ``over`` (K,) gets when each of them was over."""
        part, began = self._given(i), deadline.clock()
        own = None if trajectory is None else np.zeros((self._K + 1, *part.x.shape), np.float32)
        walked = reverse_process_until(part, self._K, over, deadline, own, self._clean[i])
        over[:walked] = began + np.cumsum(over[:walked])
        if own is not None and trajectory is not None:
            for k in range(walked + 1):
                self._put(trajectory[k], i, own[k])
        return walked

    def _together(self, walk: Callable[[int], None]) -> None:
        """Call ``walk`` for every part, each in a thread of its own; return when all have ended."""
        self._parts[0].check_open()
        others = [self._submitted(walk, i) for i in range(1, len(self._parts))]
        try:
            walk(0)
        finally:
            wait(others)  # nobody else may write the buffers when this returns, whatever went wrong
        for other in others:
            other.result()

    def _submitted(self, walk: Callable[[int], None], i: int) -> Future[None]:
        try:
            return self._pool.submit(walk, i)
        except RuntimeError as err:  # Python ends its pools of threads first when a program ends, whatever still runs
            raise RuntimeClosed(f"this backend's threads have ended, with the program: {err}") from None

    def _given(self, i: int) -> OnnxRuntimeSteps:
        """Return part i with the start of its samples, and what they are told, in its buffers."""
        part = self._parts[i]
        part.x[...] = self._rows(self.x, i)
        if part.feature is not None and part.start is not None and self.start is not None:
            part.feature[...] = self.feature
            part.start[...] = self._rows(self.start, i)
        return part

    def _rows(self, whole: Array, i: int) -> Array:
        """Return the rows of part i's samples."""
        rows: Array = whole.reshape(*self._shape, *whole.shape[1:])[:, self._samples[i]]
        return rows.reshape(-1, *whole.shape[1:])

    def _put(self, whole: Array, i: int, rows: Array) -> None:
        whole.reshape(*self._shape, *whole.shape[1:])[:, self._samples[i]] = rows.reshape(self._shape[0], -1, *whole.shape[1:])
