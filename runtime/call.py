"""One call of the runtime: batch after batch through the loop, into results of the caller's size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import cast

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.distribution import sigma_of, start_channels, unwhitened
from diffpose_edge.manifest import Manifest
from diffpose_edge.person import PersonView
from diffpose_edge.runtime.backend import Array, Backend, StoppableWalk, WholeFrameBackend
from diffpose_edge.runtime.deadline import Deadline
from diffpose_edge.runtime.estimate import PoseEstimate, Timings, aggregate, calibrated
from diffpose_edge.runtime.last_finite import finite, finite_context, mended
from diffpose_edge.runtime.plan import StepPlan
from diffpose_edge.runtime.start import LEAST_OBSERVED, Draws, StartDraws, noise_start, normals, released_start
from diffpose_edge.runtime.start_graph import XYZ
from diffpose_edge.skeleton import ROOT, J


def timed(call: Callable[[], None]) -> int:
    """Run ``call`` and return the nanoseconds that it took."""
    began = perf_counter_ns()
    call()
    return perf_counter_ns() - began


@dataclass(frozen=True)
class Request:
    """What is asked for: ``uv`` (B, 17, 2) of the frames to estimate, missing joints filled in for released weights;
    ``confidence`` (B, 17); the plan of the steps; the mode; for mode ``distribution`` where the people are and their starts; when
    it has to be there; who (B,) is outside what training showed, None for nobody; and what is to be done about results that are no
    numbers (:data:`diffpose_edge.runtime.last_finite.NON_FINITE`).
    """

    uv: Array
    confidence: Array
    plan: StepPlan
    mode: str
    rng: Draws
    trace: bool
    view: PersonView | None = None
    draws: StartDraws | None = None
    deadline: Deadline | None = None
    out_of_range: NDArray[np.bool_] | None = None
    non_finite: str = "raise"


class Call:
    """Collects one call's results, batch by batch. Made and used while the runtime's lock is held."""

    def __init__(self, backend: Backend, manifest: Manifest, request: Request):
        timesteps = request.plan.timesteps
        B, self.N, self.K = len(request.uv), backend.shape.N, len(timesteps)
        self.backend, self.manifest, self.request, self.spread = backend, manifest, request, manifest.process.start
        self.observed = request.confidence > 0
        self.a_t = manifest.alpha_bar[timesteps[0]]
        if request.draws is not None:
            # The state in the buffers is sqrt(a_t) x_t; after the last step the scale is one.
            self.scales = np.sqrt(np.append(manifest.alpha_bar_table[list(timesteps)], 1.0)).astype(np.float32)
        backend.begin(timesteps, request.plan.coefficients)
        self.joints = np.empty((B, J, 3), np.float32)
        self.context = np.empty((B, J, 3), np.float32)
        self.covariance = np.empty((B, J, 3, 3), np.float32)
        self.samples = np.empty((B, self.N, J, 3), np.float32)
        self.trajectory = np.empty((self.K + 1, B, self.N, J, 5), np.float32) if request.trace else None
        self.batch_states = np.empty((self.K + 1, *backend.shape.state), np.float32) if request.trace else None
        self.step_ns = np.zeros(self.K)
        self.context_ns = self.device_ns = 0.0
        self.aggregate_ns = self.batches = 0
        self.walked = np.full(B, self.K)
        self.truncated = False
        self.non_finite = np.zeros(B, np.bool_)
        # Of whom not even the context encoder said anything finite.
        self.without_context = np.zeros(B, np.bool_)
        self._share_ends = 0.0
        self._noise_of: tuple[int, Array] | None = None

    def in_batches(self) -> Iterator[slice]:
        """Yield the people of each batch, at most P; each gets an equal share of the time that is left."""
        B, P, deadline = len(self.joints), self.backend.shape.P, self.request.deadline
        for first in range(0, B, P):
            if deadline is not None:
                now = deadline.clock()
                self._share_ends = now + (deadline.ends_ns - now) / -(-(B - first) // P)
            yield slice(first, min(first + P, B))

    def batch(self, people: slice, xyz: Array, features: Array | None) -> None:
        """Run the loop for ``people``, whose contexts are the first rows of xyz (P, 17, 3) and of features (P, 17, C')."""
        count = people.stop - people.start
        xyz, features, lost = finite_context(self, people, xyz, features)
        np.subtract(xyz[:count], xyz[:count, ROOT : ROOT + 1], out=self.context[people])
        mu, cholesky = self._start(people, xyz, features)
        deadline, backend = self.request.deadline, self.backend
        walked = self.K
        if deadline is not None and isinstance(backend, StoppableWalk):
            final, walked = backend.walk_until(self.step_ns, self.batch_states, replace(deadline, ends_ns=self._share_ends))
            self.walked[people] = walked
            self.truncated |= walked < self.K
            if walked == 0:
                final = self.unwalked(people, xyz)
            if self.batch_states is not None:
                self.batch_states[walked + 1 :] = np.nan
        else:
            final = backend.walk(self.step_ns, self.batch_states)
        if backend.base is not None:
            self.device_ns = np.nan  # on a GPU, apart from the encoder, copies are not timed
        if lost.any() or not finite(final[: count * self.N]):
            final = mended(self, people, final, walked, xyz, features, lost)
        self._collect(people, final, mu, cholesky)

    def whole_frame(self, people: slice) -> None:
        """Run encoder and loop in one go for ``people``, whose observations are in the buffers. The estimate is of their newest frame."""
        backend = cast(WholeFrameBackend, self.backend)
        count = people.stop - people.start
        assert backend.base is not None
        mu = cholesky = None
        if self.request.draws is None:
            self._released_base(people, backend)
        else:
            # Sigma does not depend on where the encoder sees the joints, so that can be added to mu later.
            self.context[people] = 0.0
            backend.scale[0] = 1.0
            mu, cholesky = self._distribution_start(people, self.request.draws, backend.base)
        spent = np.zeros(self.K + 2)
        final = backend.frame(spent)
        self.context_ns += spent[0]
        self.step_ns += spent[1:-1]
        self.device_ns += spent[-1]
        newest = backend.newest
        if not (finite(newest[:count]) and finite(final[: count * self.N])):
            # Once more, with the host in between.
            final = final.copy()
            backend.encode()
            chosen = (slice(None),) if backend.shape.F == 1 else (slice(None), -1)
            features = None if backend.features is None else backend.features[chosen]
            newest, features, lost = finite_context(self, people, backend.xyz[chosen], features)
            np.subtract(newest[:count], newest[:count, ROOT : ROOT + 1], out=self.context[people])
            final = mended(self, people, final, self.K, newest, features, lost)
        np.subtract(newest[:count], newest[:count, ROOT : ROOT + 1], out=self.context[people])
        if mu is not None:
            mu.reshape(count, self.N, J, 5)[..., XYZ] = self.context[people, None]
        self._collect(people, final, mu, cholesky)

    def skip(self, people: slice) -> None:
        """Leave out a batch of ``people`` none of whom has a pose. Their noise is drawn, so that a seed's poses do not depend on P."""
        if self.request.mode == "noised":
            self._noise(people, self.backend.x.shape)

    def known(self, people: slice) -> NDArray[np.bool_]:
        """Tell which people (b,) were seen well enough for a pose."""
        return np.asarray(self.observed[people].sum(axis=-1) >= LEAST_OBSERVED)

    def states_again(self, people: slice, xyz: Array, features: Array | None, plan: StepPlan) -> Array:
        """Walk ``people`` from the same start along ``plan``, seen step by step; return all states (K + 1, P N, 17, 5), start first."""
        states = np.empty((len(plan.timesteps) + 1, *self.backend.shape.state), np.float32)
        self.backend.begin(plan.timesteps, plan.coefficients)
        self._start(people, xyz, features)
        self.backend.walk(np.zeros(len(plan.timesteps)), states)
        # The next batch goes on with the schedule that was asked for.
        self.backend.begin(self.request.plan.timesteps, self.request.plan.coefficients)
        return states

    def _start(self, people: slice, xyz: Array, features: Array | None) -> tuple[Array | None, Array | None]:
        """Write the start of ``people`` into the buffers; return mu and L's entries, if there are any."""
        if self.request.draws is None:
            self._released_start(people, xyz)
            return None, None
        assert features is not None
        assert self.backend.feature is not None
        self.backend.feature[...] = features
        return self._distribution_start(people, self.request.draws, self.backend.start)

    def _collect(self, people: slice, final: Array, mu: Array | None, cholesky: Array | None) -> None:
        """Aggregate what the samples of ``people`` ended at."""
        began = perf_counter_ns()
        count = people.stop - people.start
        final = final[: count * self.N]
        if mu is not None and cholesky is not None:
            final = unwhitened(final, mu, cholesky)
        aggregate(final, self.samples[people], self.joints[people], self.covariance[people])
        if self.spread is not None:
            residual = self.spread.residual_at(self.request.confidence[people])
            self.covariance[people] = calibrated(self.covariance[people], self.N, residual)
        self.aggregate_ns += perf_counter_ns() - began
        if self.trajectory is not None and self.batch_states is not None:
            states = self.batch_states[:, : count * self.N]
            if mu is not None and cholesky is not None:
                states = self._image_states(states, mu, cholesky, people)
            self.trajectory[:, people] = states.reshape(self.K + 1, count, self.N, J, 5)
        self.batches += 1

    def unwalked(self, people: slice, xyz: Array) -> Array:
        """Return what samples are before any step: draws around the encoder's pose, or that pose where there is but one, or no spread."""
        final = np.zeros_like(self.backend.x)
        if self.request.draws is None:
            uv = np.zeros((self.backend.shape.P, J, 2), np.float32)
            uv[: people.stop - people.start] = self.request.uv[people]
            released_start(uv, xyz, final)
        elif self.N > 1:
            draws = self.request.draws.r[people].reshape(-1, J, 5)
            final[: len(draws)] = draws
        return final

    def _released_start(self, people: slice, xyz: Array) -> None:
        backend, request, count = self.backend, self.request, people.stop - people.start
        uv = np.zeros((backend.shape.P, J, 2), np.float32)
        uv[:count] = request.uv[people]
        released_start(uv, xyz, backend.x)
        if request.mode == "noised":
            noise_start(backend.x, self._noise(people, backend.x.shape), self.a_t)

    def _released_base(self, people: slice, backend: WholeFrameBackend) -> None:
        """Write all of the start but the encoder's part: what :meth:`_released_start` does, rounded in the same places."""
        base = backend.base
        assert base is not None
        count = people.stop - people.start
        base[...] = 0.0
        base.reshape(backend.shape.P, self.N, J, 5)[:count, ..., :2] = self.request.uv[people, None]
        backend.scale[0] = 1.0
        if self.request.mode == "noised":
            backend.scale[0] = np.sqrt(self.a_t)
            noise_start(base, self._noise(people, base.shape), self.a_t)

    def _noise(self, people: slice, shape: tuple[int, ...]) -> Array:
        """Draw e for ``people``, person after person; the padding has none. Asked again for the same people: the same."""
        if self._noise_of is not None and self._noise_of[0] == people.start:
            return self._noise_of[1]
        rows = (people.stop - people.start) * self.N
        e = np.zeros(shape, np.float32)
        e[:rows] = normals(self.request.rng, people, (self.N, J, 5)).reshape(rows, J, 5)
        self._noise_of = people.start, e
        return e

    def _distribution_start(self, people: slice, draws: StartDraws, told: Array | None) -> tuple[Array, Array]:
        """Fill ``x`` and what the denoiser is ``told`` of the start; return mu and L's entries of the batch's samples,
        (count N, 17, 5) and (count N, 17, 6).
        """
        backend, rows = self.backend, (people.stop - people.start) * self.N
        assert told is not None
        assert self.spread is not None
        mu, cholesky = (p.reshape(rows, J, -1) for p in draws.parameters(people, self.context[people], self.spread))
        told[:rows] = start_channels(mu, sigma_of(cholesky))
        told[rows:] = 0.0
        backend.x[:rows] = self.scales[0] * draws.r[people].reshape(rows, J, 5)
        backend.x[rows:] = 0.0
        return mu, cholesky

    def _image_states(self, states: Array, mu: Array, cholesky: Array, people: slice) -> Array:
        """Return the states in the buffers (K + 1, b N, 17, 5) as h with u, v in the image."""
        view = self.request.view
        assert view is not None
        h = unwhitened(states / self.scales[:, None, None, None], mu, cholesky)
        own = PersonView(np.repeat(view.centre[people], self.N, axis=0), np.repeat(view.scale[people], self.N))
        for state in h:
            state[..., :2] = own.to_image(state[..., :2])
        return h

    def finish(self, began: int) -> PoseEstimate:
        """Blank the people with too few joints seen, or without anything finite, and return the estimate."""
        unknown = (self.observed.sum(axis=-1) < LEAST_OBSERVED) | self.without_context
        for result in (self.joints, self.context, self.covariance, self.samples):
            result[unknown] = np.nan
        if self.trajectory is not None:
            self.trajectory[:, unknown] = np.nan
        second = np.float64(1e-9)
        timings = Timings(
            context=self.context_ns * second,
            steps=self.step_ns * second,
            copies=self.device_ns * second,
            aggregate=self.aggregate_ns * second,
            total=(perf_counter_ns() - began) * second,
            batches=self.batches,
        )
        outside = np.zeros_like(unknown) if self.request.out_of_range is None else self.request.out_of_range & ~unknown
        results = self.joints, self.covariance, self.samples, self.observed, timings, self.context, self.trajectory
        return PoseEstimate(*results, self.truncated, self.walked, outside, self.non_finite)
