"""Capture: once for each schedule and kind of work, given back with its schedule, and never the reason why there are no poses."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpose_edge.errors import CudaError, EngineError
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.backend import KEPT_SCHEDULES

from .device_runtime import KINDS, OnDevice, assert_same, clip_of, on_device, people_of

# Whoever is asked to capture, and refuses: how the double is made, and what is said of it.
REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "driver at the end": ({"refuse_capture": "CUDA_ERROR_STREAM_CAPTURE_UNJOINED"}, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED"),
    "driver at the beginning": ({"refuse_begin": "CUDA_ERROR_NOT_SUPPORTED"}, "CUDA_ERROR_NOT_SUPPORTED"),
    "context engine": ({"failing": {"context": "capture"}}, "the context engine refuses"),
    "step engine": ({"failing": {"step": "capture"}}, "the step engine refuses"),
    "no graphs": ({"graphs": False}, "has no graphs"),
}


def graphs_alive(device: OnDevice) -> int:
    return sum(kind == "graph" for kind, _ in device.cuda.alive.values())


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = [record for record in caplog.records if record.name.startswith("diffpose_edge")]
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


def test_each_schedule_is_captured_once(golden_bundle: Path) -> None:
    device = on_device(golden_bundle)
    with device.runtime as runtime:
        for timesteps in ((12, 0), (30,), (12, 0), (30,), (12, 0)):
            runtime.estimate(*people_of(runtime, 3), timesteps=timesteps)
        assert device.cuda.names.count("begin_capture") == graphs_alive(device) == 2
        # Two batches in each of five calls, of which the first batch of a schedule ran piece by piece.
        assert device.cuda.names.count("launch") == 8


def test_whole_frames_and_steps_alone_are_captured_apart(golden_video_bundle: Path) -> None:
    device = on_device(golden_video_bundle)
    with device.runtime as runtime:
        for _ in range(2):
            runtime.estimate(*people_of(runtime, 1))
            list(runtime.estimate_clip(clip_of(runtime, 9)))
        assert device.cuda.names.count("begin_capture") == graphs_alive(device) == 2


def test_a_trace_captures_nothing(golden_bundle: Path) -> None:
    device = on_device(golden_bundle)
    with device.runtime as runtime:
        calls = device.calls(runtime.estimate, *people_of(runtime, 2), trace=True)
    assert "begin_capture" not in calls


@pytest.mark.parametrize("kind", KINDS)
def test_a_replay_computes_what_is_in_the_buffers_then(request: pytest.FixtureRequest, kind: str) -> None:
    path = request.getfixturevalue(kind)
    device = on_device(path)
    with device.runtime as runtime, PoseRuntime.load(path, threads=1, portable=True) as cpu:
        first = runtime.estimate(*people_of(runtime, 2, 0), 0)
        second = runtime.estimate(*people_of(runtime, 2, 1), 1)
        assert device.cuda.names.count("launch") == 1
        assert not np.array_equal(first.joints, second.joints)
        assert_same(second, cpu.estimate(*people_of(runtime, 2, 1), 1))


def test_capturing_itself_computes_nothing(golden_bundle: Path) -> None:
    """What a frame gave stays in the buffers while the same work is captured."""
    device = on_device(golden_bundle)
    with device.runtime as runtime:
        runs = []
        session = device.engines["context"]
        real = session._run
        session._run = lambda bound: (runs.append(1), real(bound))[1]  # type: ignore[method-assign]
        runtime.estimate(*people_of(runtime, 2))
    assert len(runs) == 1


def test_graphs_of_schedules_that_are_not_kept_are_given_back(golden_bundle: Path) -> None:
    device = on_device(golden_bundle, timed=True)
    with device.runtime as runtime, PoseRuntime.load(golden_bundle, threads=1, portable=True) as cpu:
        people = people_of(runtime, 2)
        runtime.estimate(*people, timesteps=(50,))
        alive = len(device.cuda.alive)
        for t in range(KEPT_SCHEDULES + 3):
            runtime.estimate(*people, timesteps=(t,))
            # The oldest goes, unless it was used meanwhile.
            runtime.estimate(*people, timesteps=(50,))
        assert device.cuda.names.count("begin_capture") == KEPT_SCHEDULES + 4
        assert graphs_alive(device) == KEPT_SCHEDULES
        each = alive - (len(device.cuda.alive) - alive) // (KEPT_SCHEDULES - 1)
        assert len(device.cuda.alive) == each + KEPT_SCHEDULES * (alive - each), "something of an old schedule is kept"
        # One that went comes back right.
        before = len(device.cuda.log)
        assert_same(runtime.estimate(*people, timesteps=(0,)), cpu.estimate(*people, timesteps=(0,)))
        assert "begin_capture" in device.cuda.names[before:]
        assert_same(runtime.estimate(*people, timesteps=(0,)), cpu.estimate(*people, timesteps=(0,)))


@pytest.mark.parametrize("who", REFUSALS)
def test_who_refuses_a_capture_is_named_once_and_frames_go_on_piece_by_piece(
    golden_bundle: Path, caplog: pytest.LogCaptureFixture, who: str
) -> None:
    options, reason = REFUSALS[who]
    device = on_device(golden_bundle, **options)
    with device.runtime as runtime, PoseRuntime.load(golden_bundle, threads=1, portable=True) as cpu:
        for timesteps in ((12, 0), (30,), (12, 0)):
            found, expected = (each.estimate(*people_of(cpu, 3), timesteps=timesteps) for each in (runtime, cpu))
            assert_same(found, expected)
        assert "launch" not in device.cuda.names
        assert device.cuda.names.count("begin_capture") == (0 if who == "no graphs" else 1), "it was tried again"
        assert device.cuda.captured is None, "the stream was left in a capture"
        [warning] = warnings_in(caplog)
        assert reason in warning
        assert "piece by piece" in warning
        described = runtime.describe()
        assert described["one_launch"] is False
        assert reason in described["eager_because"]


def test_a_clip_goes_on_when_a_capture_is_refused(golden_video_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    device = on_device(golden_video_bundle, refuse_capture="no")
    with device.runtime as runtime, PoseRuntime.load(golden_video_bundle, threads=1, portable=True) as cpu:
        clip = clip_of(runtime, 12)
        for found, expected in zip(runtime.estimate_clip(clip, 0), cpu.estimate_clip(clip, 0), strict=True):
            assert_same(found, expected)
    assert len(warnings_in(caplog)) == 1


def test_what_was_captured_before_a_refusal_is_still_replayed(golden_bundle: Path) -> None:
    device = on_device(golden_bundle)
    with device.runtime as runtime, PoseRuntime.load(golden_bundle, threads=1, portable=True) as cpu:
        people = people_of(runtime, 2)
        runtime.estimate(*people, timesteps=(12, 0))
        device.engines["start"].failing = "capture"
        runtime.estimate(*people, timesteps=(30,))
        assert runtime.describe()["one_launch"] is False
        assert device.calls(runtime.estimate, *people, timesteps=(12, 0)) == ["launch", "synchronize"]
        assert_same(runtime.estimate(*people, timesteps=(30,)), cpu.estimate(*people, timesteps=(30,)))


def test_nobody_is_warned_of_what_was_not_asked_for(golden_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    device = on_device(golden_bundle, capture=False)
    with device.runtime as runtime:
        for _ in range(2):
            assert "begin_capture" not in device.calls(runtime.estimate, *people_of(runtime, 2))
        assert runtime.describe()["eager_because"] == "not asked for"
    assert warnings_in(caplog) == []


def test_a_captured_runtime_says_so(golden_bundle: Path) -> None:
    with on_device(golden_bundle).runtime as runtime:
        runtime.estimate(*people_of(runtime, 2))
        described = runtime.describe()
    assert described["one_launch"] is True
    assert "eager_because" not in described
    assert (described["device"], described["sm"], described["driver"], described["provider"]) == ("no GPU", 87, 13020, "recording double")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_capture_is_not_left_open(golden_bundle: Path, interruption: type[BaseException]) -> None:
    device = on_device(golden_bundle)
    with device.runtime as runtime, PoseRuntime.load(golden_bundle, threads=1, portable=True) as cpu:
        people, engine = people_of(runtime, 2), device.engines["step"]
        real = engine.enqueue

        def interrupted(stream: int) -> None:
            if device.cuda.captured is not None:
                raise interruption
            real(stream)

        engine.enqueue = interrupted  # type: ignore[method-assign]
        with pytest.raises(interruption):
            runtime.estimate(*people)
        engine.enqueue = real  # type: ignore[method-assign]
        # The next call takes it up again.
        assert_same(runtime.estimate(*people), cpu.estimate(*people))
        assert device.calls(runtime.estimate, *people) == ["launch", "synchronize"]


def test_an_error_in_a_launch_is_told_and_does_not_end_in_poses(golden_bundle: Path) -> None:
    device = on_device(golden_bundle)
    with device.runtime as runtime:
        runtime.estimate(*people_of(runtime, 2))
        device.cuda.fail_at = device.cuda.calls + 1
        with pytest.raises(CudaError, match=r"launch, fails in this test"):
            runtime.estimate(*people_of(runtime, 2))
        device.engines["step"].failing = "always"
        with pytest.raises(EngineError, match="the step engine refuses"):
            runtime.estimate(*people_of(runtime, 2), timesteps=(7,))
