"""Frames that wait for a worker: the newest few, the oldest given up first."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Frame = TypeVar("Frame")


class FrameQueue(Generic[Frame]):
    """A queue between the thread that hears messages and the one that computes poses; ``length`` 1 keeps the newest frame alone."""

    def __init__(self, length: int):
        self._frames: deque[Frame] = deque()
        self._length = length
        self._closed = False
        self._changed = threading.Condition()

    def put(self, frame: Frame) -> int:
        """Add a frame; return how many older ones were given up for it (0 or 1)."""
        with self._changed:
            self._frames.append(frame)
            given_up = int(len(self._frames) > self._length)
            if given_up:
                self._frames.popleft()
            self._changed.notify()
            return given_up

    def get(self) -> Frame | None:
        """Wait for the oldest frame and return it; None once the queue was closed, whatever still waits in it."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._frames)
            return None if self._closed else self._frames.popleft()

    def close(self) -> int:
        """Let ``get`` return None from now on; return how many frames were still waiting."""
        with self._changed:
            waiting = 0 if self._closed else len(self._frames)
            self._closed = True
            self._changed.notify_all()
            return waiting
