"""A clip: every frame of one person in order, batch after batch, by each kind of context encoder."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter_ns
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.keypoints import Keypoints
from diffpose_edge.manifest import Manifest
from diffpose_edge.person import PersonView
from diffpose_edge.runtime.backend import Array
from diffpose_edge.runtime.budget import Pace
from diffpose_edge.runtime.call import Call, timed
from diffpose_edge.runtime.counters import counted
from diffpose_edge.runtime.estimate import PoseEstimate
from diffpose_edge.runtime.frame_caches import FrameCaches
from diffpose_edge.runtime.people import observed
from diffpose_edge.runtime.start import LEAST_OBSERVED
from diffpose_edge.runtime.video_stream import CausalBackend
from diffpose_edge.tracks import nearest_found, tracks_of

if TYPE_CHECKING:
    from diffpose_edge.runtime.pose_runtime import PoseRuntime


def clip_load(manifest: Manifest) -> tuple[int, int]:
    """Return how many batches, and how many runs of the encoder, an estimate of a clip takes at most."""
    P, F = manifest.shape.P, manifest.shape.F
    if manifest.causal is not None:
        return 1, P
    return (1, 1) if F == 1 else (-(-F // P), 1)


class ClipEstimates:
    """The estimates of a clip, made as they are asked for; see :meth:`diffpose_edge.runtime.PoseRuntime.estimate_clip`.

    It has the runtime's sessions and buffers for the length of each estimate only.
    """

    def __init__(self, runtime: PoseRuntime, pace: Pace, mode: str, rng: np.random.Generator, trace: bool):
        self._runtime, self._pace, self._mode, self._rng, self._trace = runtime, pace, mode, rng, trace
        self._counting = runtime._counting
        # Every estimate takes the steps that the largest one has time for: a last one with fewer frames is no better than the others.
        self._plan = pace.plan(*clip_load(runtime.bundle.manifest))

    def of(self, keypoints: Keypoints) -> Iterator[PoseEstimate]:
        """Yield the estimates of a clip (frames, 17, 2): of at most P frames, or of a window's."""
        shape = self._runtime.bundle.manifest.shape
        if self._runtime.bundle.manifest.causal is not None:
            for track in tracks_of(keypoints):
                with self._runtime._lock:
                    caches = cast(CausalBackend, self._runtime._open()).new_caches()
                for first in range(track.start, track.stop, shape.P):
                    batch = slice(first, min(first + shape.P, track.stop))
                    yield self._after(Keypoints(keypoints.uv[batch], keypoints.confidence[batch]), caches)
            return
        if shape.F == 1:
            for first in range(0, len(keypoints), shape.P):
                part = Keypoints(keypoints.uv[first : first + shape.P], keypoints.confidence[first : first + shape.P])
                asked = self._runtime._clock()
                yield self._runtime._estimate(part, None, self._pace, asked, self._mode, self._rng, self._trace)
            return
        found = np.asarray((keypoints.confidence > 0).any(axis=-1))
        for track in tracks_of(keypoints):
            shown = nearest_found(found[track]) + track.start
            for first in range(0, len(shown), shape.F):
                frames = min(shape.F, len(shown) - first)
                at = shown[np.minimum(np.arange(first, first + shape.F), len(shown) - 1)]
                window = Keypoints(keypoints.uv[at], keypoints.confidence[at])
                yield self._window(window, frames, ~found[track][first : first + frames])

    @counted
    def _window(self, window: Keypoints, frames: int, nobody: NDArray[np.bool_]) -> PoseEstimate:
        """Poses of the first ``frames`` frames of one person's window, from one pass of the video encoder; those marked in
        ``nobody`` (frames,) get none.
        """
        began, runtime = perf_counter_ns(), self._runtime
        asked = runtime._clock()
        with runtime._lock:
            backend = runtime._open()
            P = backend.shape.P
            one = Keypoints(window.uv[None], window.confidence[None])
            observation, uv, view = observed(one, runtime.bundle.manifest.process.kind)
            backend.observation[:1] = observation
            backend.observation[1:] = 0.0
            if view is not None:
                # All frames of the window are seen from the window's own centre and scale.
                view = PersonView(np.repeat(view.centre, frames, axis=0), np.repeat(view.scale, frames))
            confidence = window.confidence[:frames]
            due = self._pace.deadline(self._plan, asked)
            request = runtime._request(uv[0, :frames], confidence, self._plan, due, self._mode, self._rng, self._trace, view, None)
            call = Call(backend, runtime.bundle.manifest, request)
            call.observed[nobody] = False
            call.context_ns += timed(backend.encode)
            for part in call.in_batches():
                features = None if backend.features is None else _slots(backend.features[0, part], P)
                call.batch(part, _slots(backend.xyz[0, part], P), features)
            return call.finish(began)

    @counted
    def _after(self, frames: Keypoints, caches: FrameCaches) -> PoseEstimate:
        """Poses of at most P frames of one person, one after another, from what a causal encoder remembers in ``caches``."""
        began, runtime = perf_counter_ns(), self._runtime
        asked = runtime._clock()
        with runtime._lock:
            backend = cast(CausalBackend, runtime._open())
            observation, uv, view = observed(frames, runtime.bundle.manifest.process.kind)
            due = self._pace.deadline(self._plan, asked)
            request = runtime._request(uv, frames.confidence, self._plan, due, self._mode, self._rng, self._trace, view, None)
            call = Call(backend, runtime.bundle.manifest, request)
            assert backend.features is not None
            xyz, features = np.zeros_like(backend.xyz), np.zeros_like(backend.features)
            backend.observation[1:] = 0.0
            for f, seen in enumerate((frames.confidence > 0).sum(axis=-1) >= LEAST_OBSERVED):
                backend.observation[0] = observation[f]
                call.context_ns += timed(lambda: backend.encode_after(caches))
                xyz[f], features[f] = backend.xyz[0], backend.features[0]
                if seen:
                    caches.store(0)
                else:
                    caches.skip(0)
            for people in call.in_batches():  # one
                call.batch(people, xyz, features)
            return call.finish(began)


def _slots(rows: Array, P: int) -> Array:
    """Return rows (n, …) in a batch of P, the rest zero."""
    slots = np.zeros((P, *rows.shape[1:]), np.float32)
    slots[: len(rows)] = rows
    return slots
