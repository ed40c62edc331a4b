"""What a stream has to say of itself: its counters as readings, and now and then a line in the log, never one for every frame."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict

from diffpose_edge.events import Seldom
from diffpose_edge.readings import Histogram, Reading, register
from diffpose_edge.runtime.stamps import Stamps

log = logging.getLogger(__name__)


class StreamReport:
    """Tells of the frames that a stream's ``stamps`` judged; ``latency`` is whoever's who answers them. ``about``: the runtime."""

    def __init__(self, stamps: Stamps, latency: Histogram, about: Mapping[str, str | int]):
        self.about = dict(about)
        self._stamps, self._counters, self._latency = stamps, stamps.counters, latency
        self._seldom, self._closed = Seldom(log), False
        register(self)

    def admits(self, stamp_ns: int) -> bool:
        """Count a frame that came; tell whether it is newer than all before it."""
        admitted = self._stamps.admit(stamp_ns)
        if not admitted:
            message = "a frame was dropped: its stamp, %d ns, is not after that of the frame before"
            self._seldom.tell(logging.WARNING, "frame_not_in_order", message, stamp_ns, stamp_ns=stamp_ns)
        return admitted

    def dropped(self, frames: int) -> None:
        """Count frames that were admitted and will never be computed."""
        self._stamps.drop(frames)
        # What "latest" is for: a camera that is faster than the poses is no fault.
        message = "a frame was given up for a newer one, or at the close: %d of %d so far"
        counters = self._counters
        self._seldom.tell(logging.INFO, "frame_dropped", message, counters.dropped, counters.frames, dropped=counters.dropped)

    def malformed(self) -> None:
        """Count what was no frame; whoever brought it is told by an error."""
        self._counters.malformed += 1

    def readings(self) -> list[Reading]:
        """Return the counters, for :class:`diffpose_edge.readings.Readable`."""
        counters = self._counters
        reasons = {
            "back_pressure": counters.dropped,
            "duplicate": counters.duplicated,
            "out_of_order": counters.out_of_order,
            "malformed": counters.malformed,
        }
        plain = {
            "diffpose_frames_total": counters.frames + counters.malformed,
            "diffpose_frames_answered_total": counters.computed,
            "diffpose_frames_missed_total": counters.missed,
            "diffpose_stream_gaps_total": counters.gaps,
            "diffpose_bodies_entered_total": counters.entered,
            "diffpose_bodies_left_total": counters.left,
            "diffpose_bodies_left_out_total": counters.left_out,
        }
        return [
            *(Reading(name, value) for name, value in plain.items()),
            *(Reading("diffpose_frames_dropped_total", value, {"reason": reason}) for reason, value in reasons.items()),
            Reading("diffpose_frame_latency_seconds", self._latency.copy()),
        ]

    def close(self) -> None:
        """Log what was kept back, and what the stream came to; a second call does nothing."""
        self._seldom.close()
        if not self._closed:
            self._closed = True
            counts = asdict(self._counters)
            message = "a stream ended: %d frames came, %d were computed"
            log.info(message, counts["frames"], counts["computed"], extra={"event": "stream_closed", **counts})
