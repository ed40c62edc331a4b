"""A small tracker: which of the people of a frame is which of those of the frames before.

Each person known is carried on to the frame's moment by their velocity; the likeness to each person detected
(:mod:`diffpose_edge.runtime.likeness`) is the gain of an assignment problem, solved exactly (Kuhn 1955; scipy's
``linear_sum_assignment``); a pair that is too unlike is none. It looks at keypoints alone: two people who are hidden behind each
other for long, and come out again in another order than they went, exchange their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.extras import require
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.runtime.identities import Sighting
from diffpose_edge.runtime.likeness import LEAST_COMMON, LIKENESS
from diffpose_edge.tracks import LEAST_SEEN

SECOND_NS = 1e9
# Velocities are low-passed with this time constant, in seconds: a detector's noise over one frame is no motion, a step's quarter is.
VELOCITY_TAU = 0.1


@dataclass(frozen=True)
class Tracking:
    """How identities are kept.

    ``likeness``: "oks", "iou" or "both", the mean of the two: OKS tells people apart who stand in each other's way, and the box is still
    there when a detector's joints leap. ``least``: pairs less alike than that, within 0..1, are not the same
    person. ``hits``: frames, one after another, that somebody new has to be seen in before they get a number; 1: at once. ``predict``:
    carry people on by their velocity. Raises DiffPoseEdgeError.
    """

    likeness: str = "both"
    least: float = 0.1
    hits: int = 1
    predict: bool = True

    def __post_init__(self) -> None:
        if self.likeness not in LIKENESS:
            raise DiffPoseEdgeError(f"expected a likeness out of {', '.join(LIKENESS)}, got {self.likeness!r}")
        if not isinstance(self.least, int | float) or isinstance(self.least, bool) or not 0 < self.least < 1:
            raise DiffPoseEdgeError(f"expected the least likeness as a number between 0 and 1, got {self.least!r}")
        if type(self.hits) is not int or self.hits < 1:
            raise DiffPoseEdgeError(f"expected hits as a whole number of at least 1, got {self.hits!r}")
        if type(self.predict) is not bool:
            raise DiffPoseEdgeError(f"expected predict as True or False, got {self.predict!r}")


@dataclass(eq=False)
class Track:
    """Somebody known: their keypoints ``uv`` (17, 2) and ``confidence`` (17,) when last seen, and ``velocity`` (2,), per second."""

    uv: NDArray[np.float32]
    confidence: NDArray[np.float32]
    stamp_ns: int
    velocity: NDArray[np.float64]
    hits: int = 1
    missed: int = 0
    body_id: int | None = None

    def moved(self, stamp_ns: int) -> NDArray[np.float64]:
        """Return where the keypoints (17, 2) should be by now."""
        return self.uv + self.velocity * ((stamp_ns - self.stamp_ns) / SECOND_NS)

    def see(self, uv: NDArray[np.float32], confidence: NDArray[np.float32], stamp_ns: int) -> None:
        """Take in a frame in which they were found."""
        seconds = (stamp_ns - self.stamp_ns) / SECOND_NS
        both = (self.confidence > 0) & (confidence > 0)
        if both.sum() >= LEAST_COMMON:
            # The median: arms and legs swing, the person moves.
            moved = np.median(uv[both] - self.uv[both], axis=0)
            # alpha dX / T_e with alpha = T_e / (T_e + tau), which stays small for frames that follow at once.
            self.velocity = (moved + VELOCITY_TAU * self.velocity) / (seconds + VELOCITY_TAU)
        self.uv, self.confidence, self.stamp_ns = uv, confidence, stamp_ns
        self.hits, self.missed = self.hits + 1, 0


class Tracker:
    """Keeps the identities of a stream's people. Numbers count from 0 and are never used again.

    Somebody with fewer than 5 joints seen says too little about where they are: they get no number in that frame. Somebody known who is
    not found in more than ``max_missed`` frames one after another is gone; somebody who had no number yet, at once. Raises
    MissingPackage without scipy.
    """

    def __init__(self, tracking: Tracking, max_missed: int):
        require("scipy")
        from scipy.optimize import linear_sum_assignment

        self.tracking, self.max_missed = tracking, max_missed
        self._assign = linear_sum_assignment
        self._tracks: list[Track] = []
        self._next = 0

    def check(self, given: Sequence[int] | None, people: int) -> tuple[int, ...] | None:
        if given is not None:
            raise DiffPoseEdgeError("expected no body_ids: this stream keeps identities itself. With tracking=None it takes yours")
        return None

    def identify(self, people: Keypoints, given: tuple[int, ...] | None, stamp_ns: int) -> Sighting:
        """Say who the people (B, 17, 2) are; in any order, which changes nothing but the order of the answer."""
        ids: list[int | None] = [None] * len(people)
        entered: list[int] = []
        rows = np.flatnonzero((people.confidence > 0).sum(axis=-1) >= LEAST_SEEN)
        confidence = people.confidence[rows]
        uv = np.where(confidence[..., None] > 0, people.uv[rows], np.float32(0.0))
        found = dict(self._pairs(Keypoints(uv, confidence), stamp_ns))
        seen: list[tuple[int, Track]] = []
        for b, row in enumerate(map(int, rows)):
            track = found.get(b)
            if track is None:
                track = Track(uv[b], confidence[b], stamp_ns, np.zeros(2))
                self._tracks.append(track)
            else:
                track.see(uv[b], confidence[b], stamp_ns)
            seen.append((row, track))
        for row, track in seen:
            if track.body_id is None and track.hits >= self.tracking.hits:
                track.body_id, self._next = self._next, self._next + 1
                entered.append(track.body_id)
            ids[row] = track.body_id
        return Sighting(tuple(ids), tuple(entered), self._gone({id(track) for _, track in seen}))

    def forget(self) -> tuple[int, ...]:
        gone = tuple(track.body_id for track in self._tracks if track.body_id is not None)
        self._tracks.clear()
        return gone

    def _pairs(self, people: Keypoints, stamp_ns: int) -> list[tuple[int, Track]]:
        """Return who was found: the row among ``people``, and whose it is."""
        if not self._tracks or len(people) == 0:
            return []
        uv = [track.moved(stamp_ns) if self.tracking.predict else track.uv for track in self._tracks]
        known = Keypoints(np.stack(uv).astype(np.float32), np.stack([track.confidence for track in self._tracks]))
        likeness = LIKENESS[self.tracking.likeness](known, people)
        # What is too unlike gains nothing, and is taken out where the assignment had to take it.
        likeness[likeness < self.tracking.least] = 0.0
        return [(int(b), self._tracks[a]) for a, b in zip(*self._assign(likeness, maximize=True), strict=True) if likeness[a, b] > 0]

    def _gone(self, seen: set[int]) -> tuple[int, ...]:
        """Let a frame pass for those who were not seen in it; return the numbers of those who are gone with it."""
        gone = []
        for track in [track for track in self._tracks if id(track) not in seen]:
            track.missed += 1
            if track.body_id is None or track.missed > self.max_missed:
                self._tracks.remove(track)
                if track.body_id is not None:
                    gone.append(track.body_id)
        return tuple(gone)
