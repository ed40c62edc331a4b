"""A thread between frames and results: frames wait for it, as many as they may, and it waits for its results to be taken.

It begins no frame before the last result was taken. So a consumer who is slow finds at most one result that has become old; the one
after it is of the newest frame there was when they came for the first ("latest"), or of the oldest that still waits ("queue(n)").
"""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from diffpose_edge.errors import DiffPoseEdgeError, RuntimeClosed
from diffpose_edge.events import tell_fault
from diffpose_edge.runtime.own_process import Home

MOST_WAITING = 100_000
Frame = TypeVar("Frame")
Result = TypeVar("Result")
log = logging.getLogger(__name__)


def waiting_frames(back_pressure: str) -> int:
    """Return how many frames may wait: 1 for "latest", n for "queue(n)". Raises DiffPoseEdgeError for anything else."""
    found = re.fullmatch(r"queue\((\d{1,6})\)", back_pressure) if isinstance(back_pressure, str) else None
    count = 1 if back_pressure == "latest" else int(found[1]) if found else 0
    if not 1 <= count <= MOST_WAITING:
        raise DiffPoseEdgeError(f"expected back_pressure 'latest' or 'queue(n)' with n within 1..{MOST_WAITING}, got {back_pressure!r}")
    return count


class StreamWorker(Generic[Frame, Result]):
    """Owns the thread, from the first frame to ``close()``.

    ``work``: what is made of a frame, any number of results; ``end``: what is still to come after the last; ``dropped``: told how many
    frames are given up; ``deliver``: takes each result in the thread, instead of ``get``. The first thing that goes wrong in any of them
    ends the thread, and is raised once more where results are taken.
    """

    def __init__(
        self,
        work: Callable[[Frame], list[Result]],
        end: Callable[[], list[Result]],
        dropped: Callable[[int], None],
        waiting: int,
        deliver: Callable[[Result], object] | None,
    ):
        self._work, self._end, self._dropped, self._deliver, self._most = work, end, dropped, deliver, waiting
        self._changed = threading.Condition()
        self._frames: deque[Frame] = deque()
        self._results: deque[Result] = deque()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._told = self._closing = self._ended = False
        self._drain = True
        self.home = Home("stream", "begin another there, over a runtime that was loaded there")

    @property
    def begun(self) -> bool:
        """Whether there was a frame."""
        return self._thread is not None

    def put(self, frame: Frame) -> None:
        """Let a frame wait, and give up the oldest if too many do. Never waits. Raises RuntimeClosed, after an error too."""
        self.home.check()
        with self._changed:
            self.check_open()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="diffpose-edge-stream", daemon=True)
                self._thread.start()
            self._frames.append(frame)
            if len(self._frames) > self._most:
                self._frames.popleft()
                self._dropped(1)
            self._changed.notify_all()

    def check_open(self) -> None:
        """Raise RuntimeClosed where no frame is taken any more, WrongProcess in a forked process."""
        self.home.check()
        if self._error is not None:
            self._told = True
            raise RuntimeClosed(f"this stream ended with an error ({self._error}); begin another") from self._error
        if self._closing:
            raise RuntimeClosed("this stream was closed; begin another")

    def get(self, timeout: float | None = None) -> Result | None:
        """Return the next result, None after the last. Raises TimeoutError where none came within ``timeout`` seconds, and what went
        wrong in the thread, after the results of the frames before.
        """
        if self._deliver is not None:
            raise DiffPoseEdgeError("expected nobody to ask for results: this stream delivers them to its callback")
        self.home.check()
        with self._changed:
            came = self._changed.wait_for(lambda: self._results or self._ended or (self._closing and self._thread is None), timeout)
            if not came:
                raise TimeoutError(f"no result within {timeout} seconds")
            if self._results:
                self._changed.notify_all()
                return self._results.popleft()
            if self._error is not None:
                self._told = True
                raise self._error
            return None

    def close(self, drain: bool = True) -> None:
        """Take no more frames, compute those that wait (``drain``) or give them up, and join the thread. Results that were not taken can
        still be. A second call waits for the first; a call by the thread itself gives up and waits for nothing. Raises what went
        wrong in the thread where nobody has been told. In a forked process, where there is no thread, it does nothing.
        """
        if not self.home.here:
            return
        own = threading.current_thread() is self._thread
        with self._changed:
            self._closing = True
            self._drain = self._drain and drain and not own
            if not self._drain:
                self._give_up()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and not own:
            thread.join()
        if self._error is not None and not self._told:
            self._told = True
            raise self._error

    def discard(self) -> None:
        """Close without a drain; an error that nobody was told of is logged, but for a runtime that went first, or the program's end."""
        try:
            self.close(drain=False)
        except RuntimeClosed:
            pass
        except BaseException as err:
            log.error("a stream ended with an error that nobody asked for: %s", err, exc_info=err, extra={"event": "stream_fault"})

    def _run(self) -> None:
        try:
            while (frame := self._next()) is not None:
                for result in self._work(frame):
                    self._give(result)
            if self._drain:
                for result in self._end():
                    self._give(result)
        except BaseException as err:
            self._error = err
            tell_fault(err, "stream")
        finally:
            with self._changed:
                self._ended = True
                self._give_up()
                self._changed.notify_all()

    def _next(self) -> Frame | None:
        """Wait for a frame, and for the result before it to be taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or (self._frames and not self._results))
            return self._frames.popleft() if self._frames else None

    def _give(self, result: Result) -> None:
        if self._deliver is not None:
            self._deliver(result)
            return
        with self._changed:
            self._changed.wait_for(lambda: self._closing or not self._results)
            self._results.append(result)
            self._changed.notify_all()

    def _give_up(self) -> None:
        if self._frames:
            self._dropped(len(self._frames))
            self._frames.clear()
