"""Who is who from frame to frame, where whoever detects people tells it; :mod:`diffpose_edge.runtime.tracker` is for where nobody does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.keypoints import Keypoints


@dataclass(frozen=True)
class Sighting:
    """Whom a frame shows: ``ids``, for each of its people their number, or None where they have none (yet); who is there for the first
    time (``entered``), and who has gone (``left``).
    """

    ids: tuple[int | None, ...]
    entered: tuple[int, ...] = ()
    left: tuple[int, ...] = ()


class Identities(Protocol):
    """Tells the people of one frame after another."""

    def identify(self, people: Keypoints, given: tuple[int, ...] | None, stamp_ns: int) -> Sighting:
        """Say who the people (B, 17, 2) of a frame later than the one before are; ``given``: the ids that came with them."""

    def check(self, given: Sequence[int] | None, people: int) -> tuple[int, ...] | None:
        """Return the ids that came with a frame of so many people, checked. Raises DiffPoseEdgeError; changes nothing."""

    def forget(self) -> tuple[int, ...]:
        """Let everybody be gone; return who was there."""


class GivenIdentities:
    """The ids that come with the frames. Whoever was not seen in more than ``max_missed`` frames one after another is gone; an id that
    comes back is the same number, of whom nothing is remembered.
    """

    def __init__(self, max_missed: int):
        self.max_missed = max_missed
        self._missed: dict[int, int] = {}

    def check(self, given: Sequence[int] | None, people: int) -> tuple[int, ...] | None:
        if given is None:
            raise DiffPoseEdgeError(f"expected body_ids with a frame of {people} people: this stream tracks nobody (tracking=None)")
        ids = tuple(given)
        if len(ids) != people or len(set(ids)) != people or not all(type(i) is int and i >= 0 for i in ids):
            raise DiffPoseEdgeError(f"expected {people} body_ids, whole numbers of at least 0, each once; got {list(ids)!r:.80}")
        return ids

    def identify(self, people: Keypoints, given: tuple[int, ...] | None, stamp_ns: int) -> Sighting:
        assert given is not None
        entered = tuple(i for i in given if i not in self._missed)
        for i in self._missed:
            self._missed[i] += 1
        for i in given:
            self._missed[i] = 0
        left = tuple(i for i, missed in self._missed.items() if missed > self.max_missed)
        for i in left:
            del self._missed[i]
        return Sighting(given, entered, left)

    def forget(self) -> tuple[int, ...]:
        gone = tuple(self._missed)
        self._missed.clear()
        return gone
