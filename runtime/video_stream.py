"""Video as it comes: one frame after another of the same people, each answered before the next one is there.

Two ways to what the denoiser needs of the past. A causal encoder (:mod:`diffpose_edge.runtime.frame_caches`) is run over every frame
and remembers. An encoder of whole windows (MixSTE) is run over the last F frames, every H-th frame only ("hop"): between two of its
runs the denoiser goes on from the last pose and feature that it gave, which are then up to H - 1 frames old, but from the present
keypoints. Of a window the newest frame is answered, or the middle one, which is seen with its future and comes later.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.errors import DiffPoseEdgeError, KeypointError, RuntimeClosed
from diffpose_edge.keypoints import Keypoints, checked_keypoints, numbers_of
from diffpose_edge.runtime.backend import Array, Backend
from diffpose_edge.runtime.budget import Pace
from diffpose_edge.runtime.call import Call, timed
from diffpose_edge.runtime.counters import counted
from diffpose_edge.runtime.estimate import PoseEstimate
from diffpose_edge.runtime.frame_caches import FrameCaches
from diffpose_edge.runtime.last_finite import finite, finite_rows
from diffpose_edge.runtime.people import observed
from diffpose_edge.runtime.start import LEAST_OBSERVED, Seed, draws_of, generator_of
from diffpose_edge.skeleton import J

if TYPE_CHECKING:
    from diffpose_edge.runtime.pose_runtime import PoseRuntime

# Far above what fits on a camera's image: a stream keeps a window, or caches, for each.
MOST_PEOPLE = 4096
OUTPUTS = ("last", "middle")


class CausalBackend(Backend, Protocol):
    """A backend that runs a causal encoder over caches."""

    def new_caches(self) -> FrameCaches:
        """Return empty caches of P people."""

    def encode_after(self, caches: FrameCaches) -> None:
        """Run the context graph: ``observation`` and ``caches.taken`` → ``xyz``, ``features`` and ``caches.given``."""


class Past(Protocol):
    """What a stream knows of the frames before, and makes the context of. ``frame``: which one of a window is answered."""

    frame: int

    def shown(self, frame: Keypoints, seen: NDArray[np.bool_]) -> tuple[Keypoints, NDArray[np.bool_]]:
        """Take in a frame (B, 17, 2). Return what the encoder is shown of it, the frame or windows (B, F, 17, 2), and who (B,) was seen
        in the frame that is answered.
        """

    def context(self, backend: Backend, people: slice, observation: Array, seen: NDArray[np.bool_]) -> int:
        """Bring the contexts of at most P people up to date; return the nanoseconds that the encoder took. ``seen``: who is answered."""

    def rows(self, people: slice) -> tuple[Array, Array | None]:
        """Return the contexts of these people in a batch of P: xyz (P, 17, 3) and features (P, 17, C')."""

    def reset(self, person: int) -> None:
        """Forget a person."""


class RememberedFrames:
    """The past as a causal encoder's caches: :class:`Past` of bundles with one."""

    def __init__(self, backend: CausalBackend, people: int):
        self.P = backend.shape.P
        self.xyz: Array = backend.xyz
        self.features = backend.features
        self.caches = [backend.new_caches() for _ in range(0, people, self.P)]
        self.frame = -1

    def shown(self, frame: Keypoints, seen: NDArray[np.bool_]) -> tuple[Keypoints, NDArray[np.bool_]]:
        return frame, seen

    def context(self, backend: Backend, people: slice, observation: Array, seen: NDArray[np.bool_]) -> int:
        caches, count, spent = self.caches[people.start // self.P], people.stop - people.start, 0
        if seen.any():
            backend.observation[:count] = observation
            backend.observation[count:] = 0.0
            spent = timed(lambda: cast(CausalBackend, backend).encode_after(caches))
        for person in range(count):
            if seen[person]:
                caches.store(person)
            else:
                caches.skip(person)
        return spent

    def rows(self, people: slice) -> tuple[Array, Array | None]:
        return self.xyz, self.features

    def reset(self, person: int) -> None:
        self.caches[person // self.P].reset(person % self.P)


class HeldContext:
    """The past as windows, and what the encoder last made of them: :class:`Past` of bundles with a MixSTE."""

    def __init__(self, backend: Backend, people: int, hop: int, output: str):
        F = backend.shape.F
        self.P, self.hop = backend.shape.P, hop
        self.frame = F - 1 if output == "last" else F // 2
        self.uv = np.zeros((people, F, J, 2), np.float32)
        self.confidence = np.zeros((people, F, J), np.float32)
        self.xyz = np.zeros((people, J, 3), np.float32)
        self.features = None if backend.features is None else np.zeros((people, *backend.features.shape[2:]), np.float32)
        self.begun = np.zeros(people, bool)
        # In which frames of their window each person was really seen, and not only repeated.
        self.seen = np.zeros((people, F), bool)
        # Frames since the encoder last ran for each person; at ``hop`` it is due.
        self.since = np.full(people, hop)

    def shown(self, frame: Keypoints, seen: NDArray[np.bool_]) -> tuple[Keypoints, NDArray[np.bool_]]:
        """Move every window on by one frame. A person's first frame fills theirs; where they are not seen the frame before is repeated."""
        new = seen & ~self.begun
        self.uv[new], self.confidence[new] = frame.uv[new, None], frame.confidence[new, None]
        for window, values in ((self.uv, frame.uv), (self.confidence, frame.confidence)):
            window[:, :-1] = window[:, 1:]
            window[seen, -1] = values[seen]
        self.seen[:, :-1] = self.seen[:, 1:]
        self.seen[:, -1] = seen
        self.begun |= seen
        return Keypoints(self.uv, self.confidence), self.seen[:, self.frame]

    def context(self, backend: Backend, people: slice, observation: Array, seen: NDArray[np.bool_]) -> int:
        since, count, spent = self.since[people], people.stop - people.start, 0
        due = seen & (since >= self.hop)
        if due.any():
            backend.observation[:count] = observation
            backend.observation[count:] = 0.0
            spent = timed(backend.encode)
            self.xyz[people][due] = backend.xyz[:count, self.frame][due]
            if self.features is not None and backend.features is not None:
                self.features[people][due] = backend.features[:count, self.frame][due]
            since[due] = 0
            if not (finite(backend.xyz[:count, self.frame]) and (self.features is None or finite(self.features[people]))):
                # Not to be held: the encoder is due again with the next frame.
                since[~finite_rows(self.xyz[people])] = self.hop
                if self.features is not None:
                    since[~finite_rows(self.features[people])] = self.hop
        since += 1
        return spent

    def rows(self, people: slice) -> tuple[Array, Array | None]:
        return _batch_of(self.xyz[people], self.P), None if self.features is None else _batch_of(self.features[people], self.P)

    def reset(self, person: int) -> None:
        for array in (self.uv, self.confidence, self.xyz, *(() if self.features is None else (self.features,))):
            array[person] = 0.0
        self.begun[person] = self.seen[person] = False
        self.since[person] = self.hop


class VideoStream:
    """A stream of frames of a fixed number of people; made by :meth:`diffpose_edge.runtime.PoseRuntime.stream`. Use it with ``with``.

    It has the runtime's sessions and buffers for the length of each ``push``, and only its past for itself: any number of
    streams, and other calls, share a runtime.
    """

    def __init__(
        self,
        runtime: PoseRuntime,
        people: int,
        hop: int,
        output: str,
        seed: int | np.random.Generator | None,
        pace: Callable[[int], Pace],
        mode: str,
    ):
        manifest = runtime.bundle.manifest
        if type(people) is not int or not 1 <= people <= MOST_PEOPLE:
            raise DiffPoseEdgeError(f"expected people as a whole number within 1..{MOST_PEOPLE}, got {people!r}")
        if type(hop) is not int or hop < 1:
            raise DiffPoseEdgeError(f"expected a hop that is a whole number of at least 1, got {hop!r}")
        if manifest.causal is None and manifest.shape.F == 1:
            raise DiffPoseEdgeError(
                "this bundle has a frame encoder, to which every frame is new: call estimate. A stream needs a video encoder"
            )
        if manifest.causal is not None and hop != 1:
            raise DiffPoseEdgeError(f"expected no hop for a causal encoder, which has to be shown every frame; got a hop of {hop}")
        if output not in OUTPUTS:
            raise DiffPoseEdgeError(f"expected an output out of {', '.join(OUTPUTS)}, got {output!r}")
        if output == "middle" and (manifest.causal is not None or hop != 1):
            given = "a causal encoder" if manifest.causal is not None else f"a hop of {hop}"
            raise DiffPoseEdgeError(f"the output 'middle' needs an encoder of windows and a hop of 1; got {given}")
        self.people, self.hop, self.output = people, hop, output
        self._runtime, self._mode, self._rng = runtime, mode, generator_of(seed)
        self._counting = runtime._counting
        self._batches = -(-people // manifest.shape.P)
        self._pace = pace(self._batches)
        with runtime._lock:
            backend = runtime._open()
            self._past: Past | None = (
                HeldContext(backend, people, hop, output)
                if manifest.causal is None
                else RememberedFrames(cast(CausalBackend, backend), people)
            )

    @property
    def delay(self) -> int:
        """How many frames later than the newest the one is that ``push`` answers."""
        return 0 if self.output == "last" else (self._runtime.bundle.manifest.shape.F - 1) // 2

    @counted
    def push(self, keypoints: ArrayLike, confidence: ArrayLike | None = None, seed: Seed = None, *, trace: bool = False) -> PoseEstimate:
        """Take in the next frame and return the poses in it, or in the frame ``delay`` before it.

        keypoints: (people, 17, 2), or (people, 17, 3) with the confidence as third number; of a single person (17, 2|3) will do.
        Row p is the same person in every frame, until ``reset(p)``. A person with fewer than 9 joints seen gets NaN, and the
        frame leaves no trace of them but the time that passes; P people in a row of whom that is true cost nothing. With the
        output "middle" a person's poses begin ``delay`` frames after they do: NaN until then. seed: draw from it, and not
        from the stream's own. trace: keep every state.

        Raises KeypointError, DiffPoseEdgeError for a seed that is none, and then nothing has changed; RuntimeClosed.
        """
        runtime = self._runtime
        asked = runtime._clock()
        frame = self._checked(keypoints, confidence)
        rng = self._rng if seed is None else draws_of(seed, self.people)
        began = perf_counter_ns()
        with runtime._lock:
            past, backend = self._open(), runtime._open()
            seen = (frame.confidence > 0).sum(axis=-1) >= LEAST_OBSERVED
            shown, answered = past.shown(frame, seen)
            observation, uv, view = observed(shown, runtime.bundle.manifest.process.kind)
            chosen = slice(None) if shown.uv.ndim == 3 else (slice(None), past.frame)
            # The slowest frame counts, in which the encoder runs for everybody: what takes turns with it would not be one stream.
            plan = self._pace.plan(self._batches, self._batches)
            due = self._pace.deadline(plan, asked)
            request = runtime._request(uv[chosen], shown.confidence[chosen], plan, due, self._mode, rng, trace, view, None)
            call = Call(backend, runtime.bundle.manifest, request)
            call.observed[~answered] = False
            for people in call.in_batches():
                call.context_ns += past.context(backend, people, observation[people], answered[people])
                if answered[people].any():
                    call.batch(people, *past.rows(people))
                else:
                    call.skip(people)
            return call.finish(began)

    def reset(self, person: int | None = None) -> None:
        """Forget a person, or everybody: the next frame is then the first one. The draws go on. Raises KeypointError, RuntimeClosed."""
        with self._runtime._lock:
            past = self._open()
            if person is not None and (type(person) is not int or not 0 <= person < self.people):
                raise KeypointError(f"expected a person within 0..{self.people - 1}, got {person!r}")
            for each in range(self.people) if person is None else (person,):
                past.reset(each)

    def close(self) -> None:
        """Release the stream's past; the runtime goes on. A second call does nothing."""
        self._past = None

    def __enter__(self) -> VideoStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        self._runtime._home.refuse_to_leave()

    def _open(self) -> Past:
        if self._past is None:
            raise RuntimeClosed("this stream was closed; begin another with PoseRuntime.stream")
        return self._past

    def _checked(self, keypoints: ArrayLike, confidence: ArrayLike | None) -> Keypoints:
        array: NDArray[np.float32] = numbers_of(keypoints, "keypoints")
        if array.ndim == 2:
            array = array[None]
            confidence = None if confidence is None else numbers_of(confidence, "confidence")[None]
        checked = checked_keypoints(array, confidence)
        if len(checked) != self.people:
            raise KeypointError(
                f"expected the keypoints of this stream's {self.people} people, got {len(checked)}. "
                f"A person who is not there has confidence 0 in every joint"
            )
        return checked


def _batch_of(rows: Array, P: int) -> Array:
    """Return rows (n, …) in a batch of P, the rest zero."""
    if len(rows) == P:
        return rows
    batch = np.zeros((P, *rows.shape[1:]), np.float32)
    batch[: len(rows)] = rows
    return batch
