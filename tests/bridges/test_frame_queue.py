"""The queue between hearing and computing."""

from __future__ import annotations

import threading

from diffpose_edge.runtime.bridges.frame_queue import FrameQueue


def test_the_newest_frames_stay_and_those_given_up_are_counted() -> None:
    queue = FrameQueue[int](2)
    assert [queue.put(frame) for frame in range(5)] == [0, 0, 1, 1, 1]
    assert (queue.get(), queue.get()) == (3, 4)


def test_a_closed_queue_gives_nothing_and_tells_what_was_left() -> None:
    queue = FrameQueue[int](3)
    queue.put(1)
    queue.put(2)
    assert queue.close() == 2
    assert queue.get() is None
    assert queue.close() == 0


def test_closing_wakes_who_waits() -> None:
    queue, got = FrameQueue[int](1), []
    waiting = threading.Thread(target=lambda: got.append(queue.get()))
    waiting.start()
    queue.close()
    waiting.join(10)
    assert got == [None]
