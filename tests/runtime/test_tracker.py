"""Identities: how alike two people are, and who keeps which number."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from diffpose_edge.errors import DiffPoseEdgeError, MissingPackage
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.runtime.identities import GivenIdentities
from diffpose_edge.runtime.likeness import SIGMAS, areas_of, boxes_of, iou, oks
from diffpose_edge.runtime.tracker import Tracker, Tracking
from diffpose_edge.skeleton import JOINTS, J

from .walkers import PERIOD_NS, crossing, walker

FRAMES = 60


def people_of(*people: np.ndarray) -> Keypoints:
    both = np.stack(people) if people else np.zeros((0, J, 3), np.float32)
    return Keypoints(both[..., :2], both[..., 2])


# likeness


def test_oks_is_cocos_formula_over_the_joints_seen_in_both():
    a, b = walker(0, (0.0, 0.0)), walker(7, (0.03, -0.01))
    a[3, 2] = b[12, 2] = 0.0
    b[12, :2] = np.nan
    terms = []
    area = (areas_of(boxes_of(people_of(a)))[0] + areas_of(boxes_of(people_of(b)))[0]) / 2
    for j, name in enumerate(JOINTS):
        if j not in (3, 12):
            d2 = float(((a[j, :2] - b[j, :2]) ** 2).sum())
            terms.append(np.exp(-d2 / (2 * area * (2 * SIGMAS[name]) ** 2)))
    assert oks(people_of(a), people_of(b))[0, 0] == pytest.approx(np.mean(terms), rel=1e-5)


def test_one_is_like_oneself_and_nobody_like_somebody_far_or_unseen():
    a, unseen = walker(0, (0.0, 0.0)), walker(0, (0.0, 0.0))
    unseen[2:, 2] = 0.0
    others = people_of(a, walker(0, (0.5, 0.0)), unseen)
    assert oks(people_of(a), others)[0] == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)
    assert iou(people_of(a), others)[0, :2] == pytest.approx([1.0, 0.0], abs=1e-6)


def test_iou_of_boxes_that_share_a_half():
    corners = np.zeros((2, J, 3), np.float32)
    corners[:, :4, :2] = [[0, 0], [1, 0], [0, 1], [1, 1]]
    corners[1, :, 0] += 0.5
    corners[:, :4, 2] = 1.0
    people = people_of(*corners)
    assert iou(people, people) == pytest.approx(np.array([[1, 1 / 3], [1 / 3, 1]]))


def test_somebody_edge_on_has_a_box():
    line = np.zeros((J, 3), np.float32)
    line[:, 1], line[:, 2] = np.linspace(0, 1, J), 1.0
    assert areas_of(boxes_of(people_of(line)))[0] == pytest.approx(0.25)
    line[:, 2] = 0.0
    assert areas_of(boxes_of(people_of(line)))[0] == 0.0


# identities


@pytest.mark.parametrize("likeness", ["oks", "iou", "both"])
@pytest.mark.parametrize("seed", range(3))
def test_two_who_cross_keep_their_numbers_in_any_order_of_detection(likeness, seed):
    rng = np.random.default_rng(seed)
    tracker = Tracker(Tracking(likeness), max_missed=5)
    for i in range(FRAMES):
        order = [0, 1] if i == 0 else rng.permutation(2)
        both = crossing(i, FRAMES)
        both[..., :2] += rng.normal(0, 0.004, (2, J, 2))
        sighting = tracker.identify(people_of(*both[order]), None, i * PERIOD_NS)
        assert sighting.ids == tuple(order), i
        assert sighting.entered == ((0, 1) if i == 0 else ())
        assert sighting.left == ()


def hidden(i: int) -> bool:
    """The one behind is not found while the other is in front."""
    return abs(i - FRAMES // 2) < 6


def ids_at_the_end(predict: bool) -> tuple[int | None, ...]:
    tracker = Tracker(Tracking(predict=predict), max_missed=15)
    for i in range(FRAMES):
        both = crossing(i, FRAMES)
        sighting = tracker.identify(people_of(*both[:1] if hidden(i) else both), None, i * PERIOD_NS)
    return sighting.ids


def test_velocity_pays_where_one_is_hidden_while_they_cross():
    assert ids_at_the_end(predict=True) == (0, 1)
    assert ids_at_the_end(predict=False) != (0, 1)


def everybody_who_enters(likeness: str) -> int:
    """Three people who walk to and fro, over a real clip at 15 Hz; its detector leaps by half a body's height."""
    tracker, entered = Tracker(Tracking(likeness), max_missed=10), 0
    for i in range(0, 600, 2):
        x = 0.6 * np.sin(2 * np.pi * (i / 360 + np.arange(3) / 3))
        people = people_of(*(walker(i, (x[p], 0.05 * p), 0.2 + 0.015 * p, phase=31 * p) for p in range(3)))
        entered += len(tracker.identify(people, None, i * PERIOD_NS).entered)
    return entered


def test_a_detectors_leaps_make_nobody_new():
    assert everybody_who_enters(Tracking().likeness) == 3
    assert everybody_who_enters("oks") > 3


def test_who_leaves_is_gone_after_so_many_frames_and_no_number_comes_twice():
    tracker = Tracker(Tracking(), max_missed=2)
    here, there = walker(0, (-0.5, 0.0)), walker(0, (0.5, 0.0))
    assert tracker.identify(people_of(here, there), None, 0).entered == (0, 1)
    for i in (1, 2):
        assert tracker.identify(people_of(here), None, i * PERIOD_NS).left == ()
    back = tracker.identify(people_of(there, here), None, 3 * PERIOD_NS)
    assert (back.ids, back.entered) == ((1, 0), ())
    left = [tracker.identify(people_of(here), None, i * PERIOD_NS).left for i in range(4, 8)]
    assert left == [(), (), (1,), ()]
    again = tracker.identify(people_of(there, here), None, 8 * PERIOD_NS)
    assert (again.ids, again.entered) == ((2, 0), (2,))
    assert sorted(tracker.forget()) == [0, 2]
    assert tracker.identify(people_of(here), None, 9 * PERIOD_NS).ids == (3,)


def test_somebody_new_gets_a_number_after_so_many_frames():
    tracker = Tracker(Tracking(hits=3), max_missed=2)
    here, ghost = walker(0, (-0.5, 0.0)), walker(0, (0.5, 0.0))
    frames = [people_of(here), people_of(ghost, here), people_of(here), people_of(ghost, here), people_of(ghost, here)]
    ids = [tracker.identify(frame, None, i * PERIOD_NS).ids for i, frame in enumerate(frames)]
    assert ids == [(None,), (None, None), (0,), (None, 0), (None, 0)]
    assert tracker.identify(people_of(ghost, here), None, 5 * PERIOD_NS).ids == (1, 0)


def test_somebody_with_hardly_a_joint_seen_is_nobody():
    tracker = Tracker(Tracking(), max_missed=2)
    little = walker(0, (0.0, 0.0))
    little[4:, 2] = 0.0
    assert tracker.identify(people_of(little), None, 0).ids == (None,)
    assert tracker.identify(people_of(), None, 1).ids == ()


def test_unseen_joints_may_be_anything():
    tracker = Tracker(Tracking(), max_missed=2)
    for i in range(4):
        person = walker(i, (0.0, 0.0))
        person[i : i + 5] = [np.inf, np.nan, 0.0]
        with np.errstate(all="raise"):
            assert tracker.identify(people_of(person), None, i * PERIOD_NS).ids == (0,)


def test_stamps_that_follow_at_once_throw_nobody_away():
    """A detector's noise over a microsecond is no velocity."""
    rng, tracker, stamp = np.random.default_rng(0), Tracker(Tracking(), max_missed=2), 0
    for i in range(40):
        stamp += 1_000 if i % 2 else PERIOD_NS
        person = walker(i, (0.0, 0.0))
        person[:, :2] += rng.normal(0, 0.01, (J, 2))
        assert tracker.identify(people_of(person), None, stamp).ids == (0,)


def test_given_ids_come_and_go():
    given = GivenIdentities(max_missed=1)
    frames = [(7, 3), (3,), (3,), (3, 7), ()]
    told = [given.identify(people_of(), ids, i) for i, ids in enumerate(frames)]
    assert [one.entered for one in told] == [(7, 3), (), (), (7,), ()]
    assert [one.left for one in told] == [(), (), (7,), (), ()]
    assert set(given.forget()) == {3, 7}


@pytest.mark.parametrize("ids", [None, (1,), (1, 1), (1, -1), (1, 2.0), (True, 2)])
def test_ids_that_are_none(ids):
    with pytest.raises(DiffPoseEdgeError, match="body_ids"):
        GivenIdentities(1).check(ids, 2)


def test_a_tracker_takes_no_ids():
    with pytest.raises(DiffPoseEdgeError, match="tracking=None"):
        Tracker(Tracking(), 1).check((0, 1), 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"likeness": "boxes"}, "likeness"),
        ({"least": 0}, "least"),
        ({"least": True}, "least"),
        ({"hits": 0}, "hits"),
        ({"predict": 1}, "predict"),
    ],
)
def test_options_that_are_none(arguments, told):
    with pytest.raises(DiffPoseEdgeError, match=told):
        Tracking(**arguments)


def test_without_scipy_the_message_has_the_command(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "scipy" else found(name, *more))
    with pytest.raises(MissingPackage, match=r"pip install scipy.*tracking"):
        Tracker(Tracking(), 1)
