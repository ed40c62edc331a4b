"""A stream with its thread: what waits, what is dropped, and who hears of it when something goes wrong."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.body import BodyEstimate
from diffpose_edge.errors import DiffPoseEdgeError, RuntimeClosed
from diffpose_edge.runtime import PoseRuntime, PoseStream

from .walkers import PERIOD_NS, walker

STEPS = (49,)
PATIENCE = 30.0


@pytest.fixture(scope="module")
def loaded(conditioned_bundle: Path) -> Iterator[PoseRuntime]:
    with PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        yield runtime


class Slow:
    """A runtime that computes a frame when it is told to, and tells when it was asked."""

    def __init__(self, runtime: PoseRuntime, monkeypatch: pytest.MonkeyPatch):
        self.asked, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.calls, self.error = 0, {}
        estimate = runtime.estimate

        def slow(*arguments, **options):
            self.calls += 1
            self.asked.release()
            assert self.go.acquire(timeout=PATIENCE)
            if self.calls in self.error:
                raise self.error[self.calls]
            return estimate(*arguments, **options)

        monkeypatch.setattr(runtime, "estimate", slow)

    def wait(self) -> None:
        assert self.asked.acquire(timeout=PATIENCE)

    def finish(self, frames: int) -> None:
        for _ in range(frames):
            self.go.release()


@pytest.fixture
def slow(loaded, monkeypatch) -> Slow:
    return Slow(loaded, monkeypatch)


def push(stream: PoseStream, *frames: int) -> None:
    for i in frames:
        assert stream.push(walker(i, (0.0, 0.0))[None], i * PERIOD_NS)


def frames_of(answers: list[list[BodyEstimate]]) -> list[int]:
    return [bodies[0].stamp_ns // PERIOD_NS for bodies in answers]


def eventually(true: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until
        time.sleep(0.001)


def threads() -> int:
    return sum(thread.name == "diffpose-edge-stream" for thread in threading.enumerate())


# back-pressure


@pytest.mark.parametrize(
    ("policy", "computed"), [("latest", [0, 5]), ("queue(1)", [0, 5]), ("queue(3)", [0, 3, 4, 5]), ("queue(9)", list(range(6)))]
)
def test_the_newest_frames_wait_and_the_oldest_are_dropped(loaded, slow, policy, computed):
    with PoseStream(loaded, back_pressure=policy, timesteps=STEPS) as stream:
        push(stream, 0)
        slow.wait()
        push(stream, 1, 2, 3, 4, 5)  # returns, though nothing is computed
        slow.finish(len(computed))
        assert frames_of([stream.get(PATIENCE) for _ in computed]) == computed
    counters = stream.counters
    assert (counters.frames, counters.computed, counters.dropped) == (6, len(computed), 6 - len(computed))
    assert slow.calls == len(computed)


def test_a_frame_that_comes_too_late_displaces_none_that_waits(loaded, slow):
    with PoseStream(loaded, timesteps=STEPS) as stream:
        push(stream, 0)
        slow.wait()
        push(stream, 4)
        for late in (4, 3, 0):
            assert not stream.push(walker(9, (0.0, 0.0))[None], late * PERIOD_NS)
        slow.finish(2)
        assert frames_of([stream.get(PATIENCE), stream.get(PATIENCE)]) == [0, 4]
        assert (stream.counters.duplicated, stream.counters.out_of_order, stream.counters.dropped) == (1, 2, 0)


def test_a_slow_consumer_finds_one_old_result_and_then_the_newest(loaded, slow):
    slow.finish(10)
    with PoseStream(loaded, timesteps=STEPS) as stream:
        push(stream, 0)
        slow.wait()
        eventually(lambda: stream._worker._results)
        push(stream, 1)
        assert not slow.asked.acquire(timeout=0.2)  # nothing is computed to become old
        push(stream, 2, 3)
        assert frames_of([stream.get(PATIENCE), stream.get(PATIENCE)]) == [0, 3]
        with pytest.raises(TimeoutError, match=r"0\.01 seconds"):
            stream.get(0.01)
    assert stream.get() is None


def test_a_callback_gets_every_frame_in_order(loaded):
    told: list[tuple[int, str]] = []
    with PoseStream(
        loaded,
        back_pressure="queue(20)",
        timesteps=STEPS,
        on_bodies=lambda bodies: told.append((bodies[0].stamp_ns // PERIOD_NS, threading.current_thread().name)),
    ) as stream:
        push(stream, *range(12))
        with pytest.raises(DiffPoseEdgeError, match="callback"):
            stream.get(0)
    assert told == [(i, "diffpose-edge-stream") for i in range(12)]


def test_results_end_where_another_thread_closes(loaded):
    stream = PoseStream(loaded, back_pressure="queue(20)", timesteps=STEPS)

    def camera() -> None:
        push(stream, *range(8))
        stream.close()

    thread = threading.Thread(target=camera)
    thread.start()
    assert frames_of(list(stream.results())) == list(range(8))
    thread.join(PATIENCE)
    assert threads() == 0


def test_from_many_threads_the_answers_are_in_order(loaded):
    stamps, lock = iter(range(40)), threading.Lock()
    stream = PoseStream(loaded, back_pressure="queue(40)", timesteps=STEPS)

    def camera() -> None:
        while True:
            with lock:
                if (i := next(stamps, None)) is None:
                    return
                push(stream, i)

    cameras = [threading.Thread(target=camera) for _ in range(4)]
    for thread in cameras:
        thread.start()
    for thread in cameras:
        thread.join(PATIENCE)
    stream.close()
    assert frames_of(list(stream.results())) == list(range(40))


# the end


def test_a_drain_computes_what_waits_and_a_discard_gives_it_up(loaded, slow):
    for drain, computed in ((True, [0, 1, 2, 3]), (False, [0])):
        stream = PoseStream(loaded, back_pressure="queue(9)", timesteps=STEPS)
        push(stream, 0)
        slow.wait()
        push(stream, 1, 2, 3)
        closing = threading.Thread(target=stream.close, args=(drain,))
        closing.start()
        eventually(lambda stream=stream: stream._worker._closing)
        with pytest.raises(RuntimeClosed):
            push(stream, 9)
        slow.finish(len(computed))
        closing.join(PATIENCE)
        assert not closing.is_alive()
        for _ in computed[1:]:
            slow.wait()
        stream.close()
        assert threads() == 0
        assert frames_of(list(stream.results())) == computed
        assert stream.counters.dropped == 4 - len(computed)


def test_with_the_middle_a_drain_answers_what_is_due(conditioned_video_bundle):
    with PoseRuntime.load(conditioned_video_bundle, threads=1) as runtime:
        for drain, computed in ((True, [0, 1, 2, 3]), (False, [0, 1])):
            stream = PoseStream(runtime, output="middle", back_pressure="queue(9)", timesteps=STEPS)
            push(stream, 0, 1, 2, 3)
            answers = [stream.get(PATIENCE), stream.get(PATIENCE)]
            stream.close(drain)
            assert frames_of(answers + list(stream.results())) == computed


def test_a_callback_may_close(loaded):
    told: list[int] = []

    def once(bodies: list[BodyEstimate]) -> None:
        told.append(len(bodies))
        stream.close()

    stream = PoseStream(loaded, back_pressure="queue(9)", on_bodies=once, timesteps=STEPS)
    push(stream, 0)
    eventually(lambda: threads() == 0)
    stream.close()
    assert told == [1]


def test_a_stream_that_nobody_keeps_ends(loaded):
    stream = PoseStream(loaded, timesteps=STEPS)
    push(stream, 0)
    gone = weakref.ref(stream)
    del stream
    gc.collect()
    assert gone() is None
    eventually(lambda: threads() == 0)


def test_frames_that_were_pushed_are_the_threads(loaded):
    with PoseStream(loaded, timesteps=STEPS) as stream:
        stream.process(walker(0, (0.0, 0.0))[None], 0)
        push(stream, 1)
        for call in (lambda: stream.process([], 2), stream.flush):
            with pytest.raises(DiffPoseEdgeError, match="own thread"):
                call()


# what goes wrong


def test_an_error_in_the_thread_comes_after_the_results_before_it(loaded, slow):
    slow.error = {3: ArithmeticError("lost")}
    slow.finish(9)
    stream = PoseStream(loaded, back_pressure="queue(9)", timesteps=STEPS)
    push(stream, *range(5))
    results = stream.results()
    assert frames_of([next(results), next(results)]) == [0, 1]
    with pytest.raises(ArithmeticError, match="lost"):
        next(results)
    with pytest.raises(RuntimeClosed, match="lost") as told:
        push(stream, 9)
    assert isinstance(told.value.__cause__, ArithmeticError)
    with pytest.raises(ArithmeticError):
        stream.get()
    stream.close()
    assert (stream.counters.computed, stream.counters.dropped) == (3, 2)
    assert threads() == 0


def test_an_error_that_nobody_was_told_of_is_raised_at_the_close_once(loaded, slow):
    slow.error = {1: ArithmeticError("lost")}
    slow.finish(1)
    stream = PoseStream(loaded, timesteps=STEPS)
    push(stream, 0)
    with pytest.raises(ArithmeticError, match="lost"):
        stream.close()
    stream.close()


def test_a_callback_that_fails_ends_the_stream(loaded):
    def refuse(bodies: list[BodyEstimate]) -> None:
        raise OSError("no room")

    stream = PoseStream(loaded, on_bodies=refuse, timesteps=STEPS)
    push(stream, 0)
    eventually(lambda: threads() == 0)
    with pytest.raises(RuntimeClosed, match="no room"):
        push(stream, 1)
    stream.close()


def test_what_went_wrong_outside_goes_on_and_the_threads_error_is_logged(loaded, slow, caplog):
    slow.error = {1: ArithmeticError("lost")}
    slow.finish(1)

    def block() -> None:
        with PoseStream(loaded, timesteps=STEPS) as stream:
            push(stream, 0)
            eventually(lambda: threads() == 0)
            raise KeyError("mine")

    with caplog.at_level(logging.ERROR), pytest.raises(KeyError, match="mine"):
        block()
    assert "lost" in caplog.text
    assert threads() == 0


def test_a_runtime_that_is_closed_first_is_an_error_of_the_stream(conditioned_bundle):
    runtime = PoseRuntime.load(conditioned_bundle, threads=1)
    stream = PoseStream(runtime, timesteps=STEPS)
    runtime.close()
    push(stream, 0)
    with pytest.raises(RuntimeClosed, match="runtime was closed"):
        stream.get(PATIENCE)
    stream.close()


def test_the_pushed_arrays_may_be_filled_anew(loaded, slow):
    buffer = np.stack([walker(0, (0.0, 0.0))])
    with PoseStream(loaded, timesteps=STEPS) as stream:
        kept = buffer.copy()
        stream.push(buffer, 0)
        buffer[...] = 0.5
        slow.finish(1)
        (body,) = stream.get(PATIENCE)
        assert np.array_equal(body.keypoints, kept[0])
