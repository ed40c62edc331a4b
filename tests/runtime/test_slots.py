"""Slots: who has which, and who has to go."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.runtime.slots import Slots


def seated(slots: Slots, ids: list[int | None], areas: list[float] | None = None) -> tuple[dict[int, int], dict[int, int]]:
    return slots.seat(ids, np.array(areas if areas is not None else [1.0] * len(ids)))


def test_everybody_keeps_their_slot_in_any_order():
    slots = Slots(2, "batches", delay=0)
    assert seated(slots, [5, None, 8]) == ({0: 0, 1: 2}, {0: 5, 1: 8})
    assert seated(slots, [8, 5]) == ({1: 0, 0: 1}, {})
    assert seated(slots, [8]) == ({1: 0}, {})
    assert seated(slots, []) == ({}, {})
    assert seated(slots, [5, 8]) == ({0: 0, 1: 1}, {})


def test_more_people_are_further_batches_that_go_with_them():
    slots = Slots(2, "batches", delay=0)
    assert seated(slots, [0, 1, 2]) == ({0: 0, 1: 1, 2: 2}, {0: 0, 1: 1, 2: 2})
    assert len(slots) == 4
    slots.leave([0])
    # The first free slot, so that the last batch empties.
    assert seated(slots, [3, 1, 2]) == ({0: 0, 1: 1, 2: 2}, {0: 3})
    slots.leave([2])
    assert seated(slots, [3, 1])[0] == {0: 0, 1: 1}
    slots.leave([])
    assert len(slots) == 2


def test_a_slot_waits_for_the_answers_that_are_due():
    slots = Slots(1, "batches", delay=2)
    seated(slots, [0])
    tenure = slots.tenure(0)
    slots.leave([0])
    assert seated(slots, [1])[1] == {1: 1}
    assert slots.tenure(0) == tenure
    # Who comes back meanwhile is somebody of whom nothing is remembered.
    assert seated(slots, [1, 0])[1] == {2: 0}
    assert seated(slots, [1, 0, 2])[1] == {0: 2}
    assert slots.tenure(0) != tenure


def test_the_nearest_have_the_slots_and_small_differences_displace_nobody():
    slots = Slots(2, "nearest", delay=0)
    assert seated(slots, [0, 1, 2], [1.0, 3.0, 2.0]) == ({0: 1, 1: 2}, {0: 1, 1: 2})
    assert seated(slots, [0, 1, 2], [2.2, 3.0, 2.0]) == ({0: 1, 1: 2}, {})
    assert seated(slots, [0, 1, 2], [2.8, 3.0, 2.0]) == ({1: 0, 0: 1}, {1: 0})
    assert len(slots) == 2


def test_whoever_is_there_comes_before_whoever_is_not():
    slots = Slots(2, "nearest", delay=0)
    seated(slots, [0, 1])
    seated(slots, [0])
    assert seated(slots, [2, 0]) == ({1: 0, 0: 1}, {1: 2})


def test_a_crowd_that_is_none():
    with pytest.raises(DiffPoseEdgeError, match="batches, nearest"):
        Slots(2, "all", delay=0)
