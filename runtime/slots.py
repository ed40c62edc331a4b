"""Who has which of the P slots of a batch, from frame to frame: what is remembered of somebody lies in their slot."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import DiffPoseEdgeError

# More people than P: all of them, in further batches, or the P nearest ones, which are those with the largest boxes.
CROWDS = ("batches", "nearest")
# Whoever has a slot is only displaced by somebody whose box is larger by this factor: two people at the same distance would take turns
# otherwise, and nothing would ever be remembered of either.
DISPLACES = 1.25


@dataclass
class Slot:
    """``owner``: whose it is; ``tenure``: a number that every owner of every slot gets anew; ``seen``: the frame they were last seen in;
    ``gone``: they will not come back to it.
    """

    owner: int | None = None
    tenure: int = -1
    seen: int = 0
    gone: bool = False


class Slots:
    """The slots of a stream. ``delay``: how many frames after somebody was last seen answers about them are still due, so that their
    slot stays theirs. Raises DiffPoseEdgeError for a crowd that is none.
    """

    def __init__(self, P: int, crowd: str, delay: int):
        if crowd not in CROWDS:
            raise DiffPoseEdgeError(f"expected a crowd out of {', '.join(CROWDS)}, got {crowd!r}")
        self.P, self.crowd, self.delay = P, crowd, delay
        self._slots = [Slot() for _ in range(P)]
        self._frames = self._tenures = 0

    def __len__(self) -> int:
        return len(self._slots)

    def tenure(self, slot: int) -> int:
        """Return the number of a slot's present ownership."""
        return self._slots[slot].tenure

    def seat(self, ids: Sequence[int | None], areas: NDArray[np.float64]) -> tuple[dict[int, int], dict[int, int]]:
        """Let a frame pass in which these people were seen; ``areas`` (B,) of their boxes.

        Returns the rows of those who have a slot, {slot: row}, and the ids of the owners of slots that have changed hands,
        {slot: id}. Somebody keeps their slot; somebody new gets the first that is free. If none is, P more are added ("batches"), or
        whoever was not seen for longest loses theirs ("nearest").
        """
        self._frames += 1
        seats: dict[int, int] = {}
        fresh: dict[int, int] = {}
        rows = self._chosen(ids, areas)
        for row in rows:
            body_id = ids[row]
            assert body_id is not None
            at = self._slot_of(body_id)
            if at is None:
                at = self._vacant({ids[row] for row in rows})
                self._slots[at] = Slot(body_id, self._tenures)
                self._tenures += 1
                fresh[at] = body_id
            self._slots[at].seen = self._frames
            seats[at] = row
        return seats, fresh

    def leave(self, gone: Collection[int]) -> None:
        """Let people go. Batches at the end in which nobody is left are given up."""
        for slot in self._slots:
            slot.gone = slot.gone or slot.owner in gone
        while len(self._slots) > self.P and all(self._free(slot) for slot in self._slots[-self.P :]):
            del self._slots[-self.P :]

    def clear(self) -> None:
        """Let everybody go at once, whatever is due."""
        self._slots = [Slot() for _ in range(self.P)]

    def _free(self, slot: Slot) -> bool:
        return slot.owner is None or (slot.gone and self._frames - slot.seen > self.delay)

    def _slot_of(self, body_id: int) -> int | None:
        return next((at for at, slot in enumerate(self._slots) if slot.owner == body_id and not slot.gone), None)

    def _vacant(self, present: set[int | None]) -> int:
        for at, slot in enumerate(self._slots):
            if self._free(slot):
                return at
        if self.crowd == "batches":
            self._slots += [Slot() for _ in range(self.P)]
            return len(self._slots) - self.P
        # There is somebody: no more people were chosen than there are slots, and one of them has none yet.
        absent = [at for at, slot in enumerate(self._slots) if slot.gone or slot.owner not in present]
        return min(absent, key=lambda at: self._slots[at].seen)

    def _chosen(self, ids: Sequence[int | None], areas: NDArray[np.float64]) -> list[int]:
        """Return the rows of those who are to have a slot, in order."""
        people = {row: body_id for row, body_id in enumerate(ids) if body_id is not None}
        if self.crowd == "batches" or len(people) <= self.P:
            return list(people)
        size = {row: areas[row] * (1.0 if self._slot_of(body_id) is None else DISPLACES) for row, body_id in people.items()}
        return sorted(sorted(people, key=lambda row: -size[row])[: self.P])
