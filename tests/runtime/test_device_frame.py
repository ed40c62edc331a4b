"""What a frame asks of the GPU, call by call: the order, the addresses that the steps take turns with, and what is never copied."""

from __future__ import annotations

import ctypes
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.cuda import ALIGNMENT
from diffpose_edge.runtime.plan import plan_of

from .device_runtime import KINDS, KINDS_AND_MODES, OnDevice, assert_same, clip_of, on_device, people_of

FIVE = (49, 39, 29, 19, 9)
every_kind = pytest.mark.parametrize("kind", KINDS)


def floats_at(address: int, count: int) -> list[float]:
    return list((ctypes.c_float * count).from_address(address))


def steps_of(device: OnDevice) -> list[dict[str, int]]:
    """What every enqueued step was bound to, in their order, by name."""
    return [entry[1] for entry in device.cuda.log if entry[0] == "step"]


@pytest.fixture
def path(request: pytest.FixtureRequest, kind: str) -> Path:
    found: Path = request.getfixturevalue(kind)
    return found


def frame_order(device: OnDevice, K: int) -> list[str]:
    """What one frame is made of: the newest frames of a video encoder are picked for each of P = 2 people."""
    manifest = device.runtime.bundle.manifest
    picked = 0 if manifest.shape.F == 1 else manifest.shape.P * len(manifest.context_io[1])
    return ["copy_to_device", "context", *["copy"] * picked, "start", *["step"] * K, "copy_to_host"]


@every_kind
def test_a_first_frame_runs_is_waited_for_and_then_captured_a_second_is_one_launch(path: Path) -> None:
    device = on_device(path)
    with device.runtime as runtime:
        people = people_of(runtime, 2)
        order = frame_order(device, 5)
        prepared = ["allocate_host", "allocate", "copy_to_device", "synchronize"]  # the schedule's rows
        expected = [*prepared, *order, "synchronize", "begin_capture", *order, "end_capture"]
        assert device.calls(runtime.estimate, *people, timesteps=FIVE) == expected
        assert device.calls(runtime.estimate, *people, timesteps=FIVE) == ["launch", "synchronize"]
        # A batch is a launch.
        assert device.calls(runtime.estimate, *people_of(runtime, 5), timesteps=FIVE) == ["launch", "synchronize"] * 3


@every_kind
def test_a_clips_frames_are_captured_too(path: Path) -> None:
    device = on_device(path)
    with device.runtime as runtime:
        frame_encoder = runtime.bundle.manifest.shape.F == 1
        clip = clip_of(runtime, 1)
        device.calls(lambda: list(runtime.estimate_clip(clip, timesteps=FIVE)))
        again = device.calls(lambda: list(runtime.estimate_clip(clip, timesteps=FIVE)))
    if frame_encoder:
        assert again == ["launch", "synchronize"]
    else:
        # The encoder is asked once for all frames of a window, then the steps are run for P of them at a time.
        assert again == ["copy_to_device", "context", "copy_to_host", "synchronize", "launch", "synchronize"]


@every_kind
def test_steps_alone_take_the_start_from_the_host(path: Path) -> None:
    """The way of a window's other frames. A conditioned start is told apart from the state, which makes a second copy."""
    device = on_device(path, capture=False)
    with device.runtime as runtime:
        backend, conditioned = device.backend, runtime.bundle.manifest.process.kind == "distribution"
        backend.begin((20, 3), np.ones((2, 3), np.float32))
        found = device.calls(backend.walk, np.zeros(2), None)
    assert found == ["copy_to_device"] * (2 if conditioned else 1) + ["step", "step", "copy_to_host", "synchronize"]


@every_kind
@pytest.mark.parametrize("K", [1, 2, 5])
def test_two_states_take_turns_and_the_last_step_writes_the_result(path: Path, K: int) -> None:
    device = on_device(path)
    with device.runtime as runtime:
        runtime.estimate(*people_of(runtime, 2), timesteps=FIVE[:K])
        steps = steps_of(device)
        size = device.backend.x.nbytes
        *_, (_, results, length) = (entry for entry in device.cuda.log if entry[0] == "copy_to_host")
    assert steps[:K] == steps[K:], "what was captured is not what had run"
    steps = steps[:K]
    for step, following in pairwise(steps):
        assert following["x"] == step["x_next"]
    outputs = [step["x_next"] for step in steps[:-1]]
    assert len(set(outputs)) == min(K - 1, 2)
    assert len(set(outputs[::2])) <= 1
    assert len(set(outputs[1::2])) <= 1
    assert results <= steps[-1]["x_next"] <= results + length - size
    # What is told of the person is the same memory for all of them.
    assert len({tuple(sorted((k, v) for k, v in step.items() if k in ("feature", "start"))) for step in steps}) == 1


@every_kind
def test_every_step_finds_its_timestep_and_coefficients_in_rows_of_their_own(path: Path) -> None:
    device = on_device(path)
    with device.runtime as runtime:
        runtime.estimate(*people_of(runtime, 2), timesteps=FIVE)
        manifest = runtime.bundle.manifest
        expected = plan_of(manifest, "ddim", FIVE).coefficients
        rows = set()
        for step, timestep, coefficients in zip(steps_of(device)[:5], FIVE, expected, strict=True):
            assert floats_at(step["timestep"], 1) == [timestep]
            assert floats_at(step["coefficients"], 3) == coefficients.tolist()
            rows |= {step["timestep"], step["coefficients"]}
        assert len(rows) == 10
        assert all(row % ALIGNMENT == 0 for row in rows)


@every_kind
def test_nothing_that_a_frame_touches_lies_in_the_same_memory(path: Path) -> None:
    """Every array of every engine, the host's, and the rows of two schedules: the same place or one apart from the other."""
    device = on_device(path)
    places: set[tuple[int, int]] = set()
    with device.runtime as runtime:
        for timesteps in (FIVE, (40,)):
            runtime.estimate(*people_of(runtime, 2), timesteps=timesteps)
        for name, *rest in device.cuda.log:
            if name in device.engines:
                places |= {(address, address + device.engines[name].size_of(what)) for what, address in rest[0].items()}
        backend = device.backend
        held: list[Any] = [backend.observation, backend.base, backend.scale, backend.x, backend.newest, backend.feature, backend.start]
        places |= {(array.ctypes.data, array.ctypes.data + array.nbytes) for array in held if array is not None}
    for (_, end), (start, _) in pairwise(sorted(places)):
        assert end <= start
    assert len(places) > 15


@pytest.mark.parametrize(("kind", "mode"), KINDS_AND_MODES)
def test_where_the_gpu_reads_the_hosts_memory_a_frame_copies_nothing(path: Path, mode: str) -> None:
    device = on_device(path, integrated=True)
    with device.runtime as runtime, PoseRuntime.load(path, threads=1, portable=True) as cpu:
        for seed in (0, 1):
            options = {"timesteps": FIVE, "mode": mode}
            before = len(device.cuda.log)
            assert_same(
                runtime.estimate(*people_of(runtime, 5, seed), seed, **options), cpu.estimate(*people_of(runtime, 5, seed), seed, **options)
            )
            frames = device.cuda.names[before:]
            if seed == 0:
                frames = frames[frames.index("synchronize") + 1 :]  # the schedule's rows are copied, once
            assert not {"copy_to_device", "copy_to_host"} & set(frames)
        clip = clip_of(runtime, 5)
        for found, expected in zip(runtime.estimate_clip(clip, 0, mode=mode), cpu.estimate_clip(clip, 0, mode=mode), strict=True):
            assert_same(found, expected)
        options["trace"] = True
        assert_same(runtime.estimate(*people_of(runtime, 3), 2, **options), cpu.estimate(*people_of(runtime, 3), 2, **options))


@pytest.mark.parametrize("kind", ["conditioned_bundle"])
def test_what_every_step_reads_again_is_never_the_hosts_memory(path: Path) -> None:
    device = on_device(path, integrated=True)
    with device.runtime as runtime:
        runtime.estimate(*people_of(runtime, 2), timesteps=FIVE)
        device_memory = {(number, number + len(what)) for number, (kind, what) in device.cuda.alive.items() if kind == "memory"}
        for step in steps_of(device):
            for name in ("feature", "start", "timestep", "coefficients"):
                assert any(start <= step[name] < end for start, end in device_memory), name


@pytest.mark.parametrize("kind", ["golden_bundle"])
def test_memory_that_is_shared_but_cannot_be_mapped_is_copied(path: Path) -> None:
    device = on_device(path, integrated=True, maps_host=False)
    with device.runtime as runtime, PoseRuntime.load(path, threads=1, portable=True) as cpu:
        assert_same(runtime.estimate(*people_of(runtime, 2)), cpu.estimate(*people_of(runtime, 2)))
    assert "copy_to_host" in device.cuda.names
    assert {entry[2] for entry in device.cuda.log if entry[0] == "allocate_host"} == {False}
