"""A camera's people as bodies with identities: frames in, in any rhythm; :class:`BodyEstimate` out, in order. docs/pose-stream.md."""

from __future__ import annotations

import secrets
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter_ns
from types import TracebackType
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike

from diffpose_edge.body import BodyEstimate
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.keypoints import Keypoints, checked_keypoints, numbers_of
from diffpose_edge.readings import Reading
from diffpose_edge.runtime.identities import GivenIdentities, Identities
from diffpose_edge.runtime.one_euro import OneEuro
from diffpose_edge.runtime.pose_runtime import PoseRuntime
from diffpose_edge.runtime.slot_poses import Walk, slot_poses
from diffpose_edge.runtime.slots import Slots
from diffpose_edge.runtime.stamps import Stamps, StreamCounters
from diffpose_edge.runtime.stream_bodies import NOBODY, SeenFrame, StreamBodies
from diffpose_edge.runtime.stream_report import StreamReport
from diffpose_edge.runtime.stream_worker import StreamWorker, waiting_frames
from diffpose_edge.runtime.tracker import Tracker, Tracking
from diffpose_edge.skeleton import J

TRACKING = Tracking()
# Half a second: whoever is where somebody was half a second ago may well be somebody else.
MAX_GAP_NS = 500_000_000
MAX_MISSED = 10
# What fits into the stamps of ROS and of most files.
STAMPS = range(-(2**63), 2**63)
Bodies = list[BodyEstimate]


class PoseStream:
    """Frames of people in, bodies out: with a thread (``push``, then ``get``, ``results`` or a callback), or without (``process``).

    runtime: stays yours, and open for as long as the stream is. tracking: how people are told from one frame to the next; None: every
    frame brings ids. max_missed: how many frames somebody may not be found in before they are gone. crowd: with more people than the
    bundle's P, "batches": all are estimated, in further batches; "nearest": those P with the largest boxes. output and hop: of video
    bundles, see ``PoseRuntime.stream``; with "middle" a frame's bodies come (F - 1) // 2 frames later. max_gap_ns: after more time
    than this without a frame everybody is forgotten. period_ns: the time between two frames, if it is known: what is remembered then
    ages by the frames that are missing. smoothing: a :class:`OneEuro` filter on the joints. back_pressure: "latest" or "queue(n)":
    how many frames may wait, the oldest being dropped. on_bodies: called in the stream's thread with each frame's bodies. frame_id: of
    the bodies. seed: body b's draws are those of ``numpy.random.default_rng([seed, b])``, whoever else is there. timesteps, steps,
    sampler, mode: as for ``PoseRuntime.estimate``; so is budget_ms, for all of a frame's people together (of video bundles with the
    crowd "nearest" alone). It counts from when the frame's turn comes: a frame that waits loses none of it.

    Raises DiffPoseEdgeError for an option that is none or that the bundle cannot have, MissingPackage for a tracker without scipy.
    """

    def __init__(
        self,
        runtime: PoseRuntime,
        *,
        tracking: Tracking | None = TRACKING,
        max_missed: int = MAX_MISSED,
        crowd: str = "batches",
        output: str = "last",
        hop: int = 1,
        max_gap_ns: int = MAX_GAP_NS,
        period_ns: int | None = None,
        smoothing: OneEuro | None = None,
        back_pressure: str = "latest",
        on_bodies: Callable[[Bodies], object] | None = None,
        frame_id: str = "camera",
        seed: int | None = None,
        timesteps: Sequence[int] | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        budget_ms: float | None = None,
        mode: str | None = None,
    ):
        if type(max_missed) is not int or max_missed < 0:
            raise DiffPoseEdgeError(f"expected max_missed as a whole number of at least 0, got {max_missed!r}")
        if not isinstance(frame_id, str):
            raise DiffPoseEdgeError(f"expected frame_id as a text, got {frame_id!r}")
        if seed is not None and (type(seed) is not int or seed < 0):
            raise DiffPoseEdgeError(f"expected a seed that is a whole number of at least 0, got {seed!r}")
        for name, value, kind in (("tracking", tracking, Tracking), ("smoothing", smoothing, OneEuro)):
            if value is not None and not isinstance(value, kind):
                raise DiffPoseEdgeError(f"expected {name} as a {kind.__name__}, or None; got {value!r}")
        waiting = waiting_frames(back_pressure)
        walk = Walk(timesteps=timesteps, steps=steps, sampler=sampler, budget_ms=budget_ms, mode=mode)
        self._counters = StreamCounters()
        self._stamps = Stamps(max_gap_ns, period_ns, self._counters)
        poses = slot_poses(runtime, hop, output, walk, crowd)
        slots = Slots(runtime.bundle.manifest.shape.P, crowd, poses.delay)
        self._identities: Identities = GivenIdentities(max_missed) if tracking is None else Tracker(tracking, max_missed)
        own_seed = secrets.randbits(63) if seed is None else seed
        self._bodies = StreamBodies(poses, self._identities, slots, self._stamps, self._counters, smoothing, frame_id, own_seed)
        self._report = StreamReport(self._stamps, self._bodies.latency, runtime.about)
        self.delay = poses.delay
        # Frames are admitted, and counted, one at a time, whichever thread they come from.
        self._admission = threading.Lock()
        self._worker = StreamWorker[SeenFrame, Bodies](self._bodies.frame, self._bodies.flush, self._report.dropped, waiting, on_bodies)
        # At the end of the program, or where nobody has kept the stream: the thread ends before the runtime does.
        self._end = weakref.finalize(self, self._worker.discard)

    def push(self, keypoints: ArrayLike | Keypoints, stamp_ns: int, body_ids: Sequence[int] | None = None) -> bool:
        """Take a frame in and return at once; tell whether it was admitted, or is one of those that come too late.

        keypoints: those of the B people seen in it, (B, 17, 2), normalised, or (B, 17, 3) with the confidence as third number; B may be
        0, and is free. They are copied. stamp_ns: when the image was taken, in nanoseconds of any clock. body_ids: B numbers, for
        streams that track nobody.

        A frame with the newest frame's stamp, or an older one, is counted and dropped. Raises KeypointError or DiffPoseEdgeError for
        what is no frame, and then nothing has changed; RuntimeClosed, also after an error in the stream's thread.
        """
        frame = self._frame(keypoints, stamp_ns, body_ids)
        self._worker.check_open()
        with self._admission:
            self._worker.check_open()  # again: it may have been closed meanwhile
            if not self._report.admits(frame.stamp_ns):
                return False
            self._worker.put(frame)
            return True

    def get(self, timeout: float | None = None) -> Bodies | None:
        """Wait for the next frame's bodies, in the order of its people; None once the stream is closed and nothing more will come.

        A list is empty where nobody in the frame has an estimate; a body whose joints were too few is there, and NaN. Raises
        TimeoutError after ``timeout`` seconds, what went wrong in the stream's thread, DiffPoseEdgeError with a callback.
        """
        return self._worker.get(timeout)

    def results(self) -> Iterator[Bodies]:
        """Iterate over ``get()`` until the stream is closed, from this thread or another."""
        while (bodies := self.get()) is not None:
            yield bodies

    def process(self, keypoints: ArrayLike | Keypoints, stamp_ns: int, body_ids: Sequence[int] | None = None) -> Bodies:
        """Compute a frame now, in this thread, and return what can be answered: its bodies, or with the output "middle" those of an
        earlier frame, or of several after a gap (``stamp_ns`` tells them apart). Nothing is dropped but by its stamp.

        Takes and raises as ``push`` does, and DiffPoseEdgeError in a stream to which frames were pushed.
        """
        frame = self._frame(keypoints, stamp_ns, body_ids)
        self._worker.check_open()
        with self._admission:
            self._check_own_thread("process")
            if not self._report.admits(frame.stamp_ns):
                return []
            return [body for bodies in self._bodies.frame(frame) for body in bodies]

    def flush(self) -> Bodies:
        """Without a thread: answer every frame that is still due, and forget everybody. ``close`` does it for a stream with one."""
        self._worker.check_open()
        with self._admission:
            self._check_own_thread("flush")
            return [body for bodies in self._bodies.flush() for body in bodies]

    @property
    def counters(self) -> StreamCounters:
        """What became of the frames and people so far: a copy."""
        return replace(self._counters)

    @property
    def about(self) -> Mapping[str, str | int]:
        """The runtime's bundle, backend, precision and sizes."""
        return self._report.about

    def readings(self) -> list[Reading]:
        """Return the counters as readings, for :class:`diffpose_edge.metrics_endpoint.MetricsEndpoint`."""
        return self._report.readings()

    def close(self, drain: bool = True) -> None:
        """End the stream: compute the frames that wait, and answer those that are due, or give them up; join the thread.

        Bodies that were not taken can still be. The runtime stays open. A second call does nothing. Called by the callback it
        gives up. Raises what went wrong in the stream's thread where nobody was told of it yet. In a forked process it does nothing.
        """
        if not self._worker.home.here:
            return
        try:
            self._worker.close(drain)
        finally:
            self._end.detach()
            with self._admission:  # a frame that another thread is computing is computed
                self._bodies.close()
            self._report.close()

    def __enter__(self) -> PoseStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        if err is None:
            self.close()
            return
        # What went wrong in the block goes on; nothing is computed any more, and nothing else is raised in its place.
        self._worker.discard()
        self.close(drain=False)

    def __reduce__(self) -> NoReturn:
        self._worker.home.refuse_to_leave()

    def _frame(self, keypoints: ArrayLike | Keypoints, stamp_ns: int, body_ids: Sequence[int] | None) -> SeenFrame:
        arrived_ns = perf_counter_ns()
        try:
            if not isinstance(stamp_ns, int | np.integer) or isinstance(stamp_ns, bool) or int(stamp_ns) not in STAMPS:
                raise DiffPoseEdgeError(f"expected stamp_ns as a whole number of nanoseconds within 64 bits, got {stamp_ns!r}")
            people = _people_of(keypoints)
            return SeenFrame(int(stamp_ns), people, self._identities.check(body_ids, len(people)), arrived_ns)
        except DiffPoseEdgeError:
            with self._admission:
                self._report.malformed()
            raise

    def _check_own_thread(self, name: str) -> None:
        self._worker.check_open()
        if self._worker.begun:
            raise DiffPoseEdgeError(f"expected no {name}: frames were pushed to this stream, and its own thread computes them")


def _people_of(keypoints: ArrayLike | Keypoints) -> Keypoints:
    """Return a copy of a frame's keypoints, checked; of nobody, too."""
    if isinstance(keypoints, Keypoints):
        uv, confidence = keypoints.uv, keypoints.confidence
        return checked_keypoints(uv, confidence) if len(uv) else NOBODY
    array = numbers_of(keypoints, "keypoints")
    if array.size == 0 and array.shape in ((0,), (0, J, 2), (0, J, 3)):
        return NOBODY
    return checked_keypoints(array)
