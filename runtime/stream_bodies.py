"""People of one frame after another to bodies: identities, slots, poses, smoothing. :class:`PoseStream` gives it a thread and a queue."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

from diffpose_edge.body import BodyEstimate, bodies_of
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.readings import Histogram
from diffpose_edge.runtime.identities import Identities
from diffpose_edge.runtime.likeness import areas_of, boxes_of
from diffpose_edge.runtime.one_euro import OneEuro, OneEuroFilter
from diffpose_edge.runtime.slot_poses import Answers, SlotPoses
from diffpose_edge.runtime.slots import Slots
from diffpose_edge.runtime.stamps import Stamps, StreamCounters
from diffpose_edge.skeleton import J

NOBODY = Keypoints(np.zeros((0, J, 2), np.float32), np.zeros((0, J), np.float32))


@dataclass(frozen=True)
class SeenFrame:
    """People seen in an image: keypoints (B, 17, 2), B may be 0; their ids, if they came with them; when it came, by perf_counter_ns."""

    stamp_ns: int
    people: Keypoints
    body_ids: tuple[int, ...] | None
    arrived_ns: int


@dataclass(frozen=True)
class _Due:
    """A frame that is still to be answered, and in which slots its people are: (row, id, tenure) by slot."""

    frame: SeenFrame | None
    seats: dict[int, tuple[int, int, int]]


class StreamBodies:
    """All that a stream knows of its people, for one thread at a time."""

    def __init__(
        self,
        poses: SlotPoses,
        identities: Identities,
        slots: Slots,
        stamps: Stamps,
        counters: StreamCounters,
        smoothing: OneEuro | None,
        frame_id: str,
        seed: int,
    ):
        self.poses, self.identities, self.slots, self.stamps, self.counters = poses, identities, slots, stamps, counters
        self.smoothing, self.frame_id, self.seed = smoothing, frame_id, seed
        self.latency = Histogram()
        self._due: deque[_Due] = deque()
        self._filters: dict[int, OneEuroFilter] = {}
        self._present: set[int] = set()

    def frame(self, frame: SeenFrame) -> list[list[BodyEstimate]]:
        """Take in a frame; return the bodies of each frame that can now be answered, in order."""
        missing = self.stamps.after(frame.stamp_ns)
        answered: list[list[BodyEstimate]] = []
        if missing is None:
            answered += self._flushed()
        for _ in range(missing or 0):
            # As a frame in which nobody was seen; but nobody could have been, so nobody was missed in it.
            answered += self._lift(None)
        return answered + self._lift(frame)

    def flush(self) -> list[list[BodyEstimate]]:
        """Answer every frame that is still due, as if the last one repeated itself, and forget everybody."""
        answered = self._flushed()
        self.stamps.forget()
        return answered

    def close(self) -> None:
        """Release what is remembered; a second call does nothing."""
        self.poses.close()

    def _flushed(self) -> list[list[BodyEstimate]]:
        answered = [bodies for _ in range(self.poses.delay if self._due else 0) for bodies in self._lift(None)]
        self.counters.left += len(self.identities.forget())
        for part in (self._due, self._filters, self._present, self.slots, self.poses):
            part.clear()
        return answered

    def _lift(self, frame: SeenFrame | None) -> list[list[BodyEstimate]]:
        people, ids = (NOBODY, ()) if frame is None else (frame.people, self._identified(frame))
        areas = areas_of(boxes_of(people)) if len(people) else np.zeros(0)
        seats, fresh = self.slots.seat(ids, areas)
        self.counters.left_out += len(people) - len(seats)
        for slot, body_id in fresh.items():
            self.poses.begin(slot, np.random.default_rng([self.seed, body_id]))
        answers = self.poses.push(seats, people)
        numbered = {slot: (row, ids[row], self.slots.tenure(slot)) for slot, row in seats.items()}
        self._due.append(_Due(frame, {slot: (row, i, tenure) for slot, (row, i, tenure) in numbered.items() if i is not None}))
        if len(self._due) <= self.poses.delay:
            return []
        due = self._due.popleft()
        bodies = [] if due.frame is None else [self._smoothed(self._bodies(due.frame, due.seats, answers))]
        self._forget_filters()
        if due.frame is not None:
            self.latency.add((perf_counter_ns() - due.frame.arrived_ns) * 1e-9)
        return bodies

    def _identified(self, frame: SeenFrame) -> tuple[int | None, ...]:
        sighting = self.identities.identify(frame.people, frame.body_ids, frame.stamp_ns)
        self.counters.entered += len(sighting.entered)
        self.counters.left += len(sighting.left)
        self._present = (self._present | set(sighting.entered)) - set(sighting.left)
        self.slots.leave(sighting.left)
        self.poses.keep(len(self.slots))
        return sighting.ids

    def _bodies(self, frame: SeenFrame, seats: dict[int, tuple[int, int, int]], answers: Answers) -> list[BodyEstimate]:
        """Return the bodies of a frame, in the order of its people; without those whose slot is somebody else's by now."""
        found: dict[int, BodyEstimate] = {}
        for slots, estimate in answers:
            here = {b: seats[slot] for b, slot in enumerate(slots) if slot in seats and self.slots.tenure(slot) == seats[slot][2]}
            if not here:
                continue
            ids, shown = [-1] * len(slots), Keypoints(np.zeros((len(slots), J, 2), np.float32), np.zeros((len(slots), J), np.float32))
            for b, (row, body_id, _) in here.items():
                ids[b], shown.uv[b], shown.confidence[b] = body_id, frame.people.uv[row], frame.people.confidence[row]
            latency_ns = perf_counter_ns() - frame.arrived_ns
            bodies = bodies_of(estimate, ids, frame.stamp_ns, self.frame_id, shown, latency_ns)
            found |= {row: bodies[b] for b, (row, _, _) in here.items()}
        return [found[row] for row in sorted(found)]

    def _smoothed(self, bodies: list[BodyEstimate]) -> list[BodyEstimate]:
        if self.smoothing is None:
            return bodies
        for body in bodies:
            self._filters.setdefault(body.body_id, OneEuroFilter(self.smoothing))
        return [self._filters[body.body_id].body(body) for body in bodies]

    def _forget_filters(self) -> None:
        """A filter stays for as long as its body is there, or due."""
        due = {body_id for due in self._due for _, body_id, _ in due.seats.values()}
        for body_id in [body_id for body_id in self._filters if body_id not in self._present and body_id not in due]:
            del self._filters[body_id]
