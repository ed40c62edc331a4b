"""The rings of a causal encoder: each frame in a slot, each slot with the age of its frame."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_edge.config import CausalConfig
from diffpose_edge.runtime.frame_caches import FrameCaches

F = 4
CONFIG = CausalConfig(frames=F, width=8, depth=2, heads=2)


@pytest.fixture
def caches() -> FrameCaches:
    return FrameCaches(CONFIG, 2)


def give(caches: FrameCaches, frame: int) -> None:
    """Let the graph have given keys and values that tell the frame, the layer and which of the two they are."""
    for i in range(CONFIG.depth):
        caches.given[f"key{i}"][...] = 100 * frame + 10 * i + 1
        caches.given[f"value{i}"][...] = 100 * frame + 10 * i + 2


def frames_in(caches: FrameCaches, person: int) -> dict[int, int]:
    """Return the age of each frame that a person's ring holds; fails when keys, values and layers disagree."""
    held = {}
    for slot in np.flatnonzero(caches.ages[person] < F):
        found = set()
        for i in range(CONFIG.depth):
            for kind, array in ((1, caches.taken[f"keys{i}"][person, ..., slot]), (2, caches.taken[f"values{i}"][person, :, :, slot])):
                values = np.unique(array)
                assert len(values) == 1
                found.add((int(values[0]) - 10 * i - kind) // 100)
        assert len(found) == 1
        held[found.pop()] = int(caches.ages[person, slot])
    return held


def test_nothing_is_known_at_first(caches):
    assert frames_in(caches, 0) == {}
    assert (caches.ages == F).all()


def test_a_ring_holds_the_last_frames_and_their_ages(caches):
    for frame in range(1, 9):
        give(caches, frame)
        caches.store(0)
        assert frames_in(caches, 0) == {past: frame + 1 - past for past in range(max(1, frame - F + 2), frame + 1)}
        assert frames_in(caches, 1) == {}


def test_a_frame_stays_where_it_is_put(caches):
    give(caches, 1)
    caches.store(0)
    where = {name: array.ctypes.data for name, array in caches.taken.items()}
    slot = int(np.flatnonzero(caches.ages[0] == 1)[0])
    give(caches, 2)
    caches.store(0)
    assert caches.ages[0, slot] == 2
    assert (caches.taken["keys0"][0, ..., slot] == 101).all()
    assert where == {name: array.ctypes.data for name, array in caches.taken.items()}


def test_time_passes_where_nobody_was_seen(caches):
    give(caches, 1)
    caches.store(0)
    caches.skip(0)
    assert frames_in(caches, 0) == {1: 2}
    give(caches, 3)
    caches.store(0)
    assert frames_in(caches, 0) == {1: 3, 3: 1}
    for _ in range(F):
        caches.skip(0)
    assert frames_in(caches, 0) == {}
    # A gap does not lose a slot: the ring fills as before.
    for frame in (10, 11, 12):
        give(caches, frame)
        caches.store(0)
    assert frames_in(caches, 0) == {10: 3, 11: 2, 12: 1}


def test_to_forget_leaves_not_a_bit(caches):
    fresh = {name: array[0].tobytes() for name, array in caches.taken.items()}
    for frame in range(1, 6):
        give(caches, frame)
        caches.store(0)
        caches.store(1)
    kept = frames_in(caches, 1)
    caches.reset(0)
    assert {name: array[0].tobytes() for name, array in caches.taken.items()} == fresh
    assert caches.slot_of(0) == 0
    assert frames_in(caches, 1) == kept
