"""Log records that do not come with every frame."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from diffpose_edge.events import MOST_KINDS, Seldom

log = logging.getLogger("diffpose_edge.test")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Iterator[list[Any]]:
    kept: list[Any] = []
    handler = logging.Handler()
    handler.emit = kept.append  # type: ignore[method-assign]
    log.addHandler(handler)
    caplog.set_level(logging.DEBUG, "diffpose_edge")
    yield kept
    log.removeHandler(handler)


def test_each_kind_is_told_of_once_in_a_period_with_how_many_were_kept_back(records: list[Any], clock: Clock) -> None:
    seldom = Seldom(log, 60, clock)
    for _ in range(1000):
        seldom.tell(logging.WARNING, "late", "frame %d is late", 7, kind="a", stamp_ns=7)
        seldom.tell(logging.WARNING, "late", "frame %d is late", 8, kind="b", stamp_ns=8)
    assert [(r.getMessage(), r.event, r.kind, r.stamp_ns, r.suppressed) for r in records] == [
        ("frame 7 is late", "late", "a", 7, 0),
        ("frame 8 is late", "late", "b", 8, 0),
    ]
    clock.now += 59.9
    assert not seldom.tell(logging.WARNING, "late", "frame %d is late", 9, kind="a")
    clock.now += 0.2
    assert seldom.tell(logging.WARNING, "late", "frame %d is late", 9, kind="a")
    assert records[-1].getMessage() == "frame 9 is late (1000 more since the last time)"
    assert records[-1].suppressed == 1000
    assert seldom.tell(logging.WARNING, "late", "frame %d is late", 9, kind="c")


def test_what_was_kept_back_is_told_at_the_end_once(records: list[Any], clock: Clock) -> None:
    seldom = Seldom(log, 60, clock)
    for _ in range(5):
        seldom.tell(logging.INFO, "late", "late")
    seldom.close()
    seldom.close()
    told = [(r.getMessage(), r.levelno, r.suppressed) for r in records]
    assert told == [("late", logging.INFO, 0), ("late: 4 more since the last time", logging.INFO, 4)]


def test_kinds_without_end_take_no_memory_without_end(records: list[Any], clock: Clock) -> None:
    seldom = Seldom(log, 60, clock)
    for i in range(10 * MOST_KINDS):
        seldom.tell(logging.WARNING, "late", "late", kind=str(i))
    assert len(seldom._kept) == MOST_KINDS + 1
    assert len(records) == MOST_KINDS + 1


def test_threads_lose_no_count(records: list[Any], clock: Clock) -> None:
    seldom = Seldom(log, 60, clock)
    threads = [threading.Thread(target=lambda: [seldom.tell(logging.WARNING, "late", "late") for _ in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seldom.close()
    assert [r.suppressed for r in records] == [0, 4 * 2000 - 1]
