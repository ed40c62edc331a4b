"""One call of the runtime: batch after batch through the loop, into results of the caller's size."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.manifest import Manifest
from diffpose_edge.runtime.backend import Array, Backend
from diffpose_edge.runtime.estimate import PoseEstimate, Timings, aggregate
from diffpose_edge.runtime.loop import reverse_process
from diffpose_edge.runtime.start import LEAST_OBSERVED, noise_start, released_start
from diffpose_edge.schedule import ddim_coefficients
from diffpose_edge.skeleton import J


def timed(call: Callable[[], None]) -> int:
    """Run ``call`` and return the nanoseconds that it took."""
    began = perf_counter_ns()
    call()
    return perf_counter_ns() - began


class Call:
    """Collects one call's results, batch by batch. Made and used while the runtime's lock is held.

    uv (B, 17, 2) with missing joints filled in; observed (B, 17) or, for frames of a window, likewise.
    """

    def __init__(
        self,
        backend: Backend,
        manifest: Manifest,
        uv: Array,
        observed: NDArray[np.bool_],
        timesteps: tuple[int, ...],
        mode: str,
        rng: np.random.Generator,
        trace: bool,
    ):
        B, self.N, self.K = len(uv), backend.shape.N, len(timesteps)
        self.backend, self.uv, self.observed, self.rng, self.mode = backend, uv, observed, rng, mode
        self.a_t = manifest.alpha_bar[timesteps[0]]
        backend.begin(timesteps, ddim_coefficients(manifest.alpha_bar_table, timesteps))
        self.joints = np.empty((B, J, 3), np.float32)
        self.covariance = np.empty((B, J, 3, 3), np.float32)
        self.samples = np.empty((B, self.N, J, 3), np.float32)
        self.trajectory = np.empty((self.K + 1, B, self.N, J, 5), np.float32) if trace else None
        self.batch_states = np.empty((self.K + 1, *backend.shape.state), np.float32) if trace else None
        self.step_ns = np.zeros(self.K, np.int64)
        self.context_ns = self.aggregate_ns = self.batches = 0

    def batch(self, people: slice, xyz: Array) -> None:
        """Run the loop for ``people``, whose contexts are the first rows of xyz (P, 17, 3)."""
        backend, count = self.backend, people.stop - people.start
        P = backend.shape.P
        uv = np.zeros((P, J, 2), np.float32)
        uv[:count] = self.uv[people]
        released_start(uv, xyz, backend.x)
        if self.mode == "noised":
            e = np.zeros(backend.x.shape, np.float32)
            e[: count * self.N] = self.rng.standard_normal((count * self.N, J, 5), dtype=np.float32)
            noise_start(backend.x, e, self.a_t)
        final = reverse_process(backend, self.K, self.step_ns, self.batch_states)
        began = perf_counter_ns()
        aggregate(final[: count * self.N], self.samples[people], self.joints[people], self.covariance[people])
        self.aggregate_ns += perf_counter_ns() - began
        if self.trajectory is not None and self.batch_states is not None:
            self.trajectory[:, people] = self.batch_states[:, : count * self.N].reshape(self.K + 1, count, self.N, J, 5)
        self.batches += 1

    def finish(self, began: int) -> PoseEstimate:
        """Blank the people with too few joints seen, and return the estimate."""
        unknown = self.observed.sum(axis=-1) < LEAST_OBSERVED
        for result in (self.joints, self.covariance, self.samples):
            result[unknown] = np.nan
        if self.trajectory is not None:
            self.trajectory[:, unknown] = np.nan
        second = np.float64(1e-9)
        timings = Timings(
            context=self.context_ns * second,
            steps=self.step_ns * second,
            aggregate=self.aggregate_ns * second,
            total=(perf_counter_ns() - began) * second,
            batches=self.batches,
        )
        return PoseEstimate(self.joints, self.covariance, self.samples, self.observed, timings, self.trajectory)
