"""The poses of the device's backend are the CPU backend's, to the bit: eager, captured, in every mode and batch, with a trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from diffpose_edge.mixtures import Mixture, checked_mixture
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.skeleton import J

from .device_runtime import KINDS, KINDS_AND_MODES, OnDevice, assert_same, clip_of, on_device, people_of

# By K: one step, two, and five.
SCHEDULES = {1: (30,), 2: (40, 12), 5: (49, 39, 29, 19, 9)}


class Both(NamedTuple):
    """The same bundle on the CPU and on the device's double."""

    cpu: PoseRuntime
    device: OnDevice


@pytest.fixture
def both(request: pytest.FixtureRequest) -> Iterator[Both]:
    path: Path = request.getfixturevalue(request.param)
    device = on_device(path)
    with PoseRuntime.load(path, threads=1, portable=True) as cpu, device.runtime:
        yield Both(cpu, device)


every_kind = pytest.mark.parametrize("both", KINDS, indirect=True)
every_mode = pytest.mark.parametrize(("both", "mode"), KINDS_AND_MODES, indirect=["both"])
conditioned = pytest.mark.parametrize("both", ["conditioned_bundle", "conditioned_video_bundle"], indirect=True)


@every_mode
@pytest.mark.parametrize("B", [1, 2, 5], ids=["one person", "P people", "more than P"])
def test_poses_are_the_cpus_eager_captured_and_after_other_schedules(both: Both, mode: str, B: int) -> None:
    cpu, device = both
    for seed, K in enumerate((1, 2, 5, 2, 1, 5, 5)):
        uv, confidence = people_of(cpu, B, seed)
        options = {"timesteps": SCHEDULES[K], "mode": mode}
        assert_same(device.runtime.estimate(uv, confidence, seed, **options), cpu.estimate(uv, confidence, seed, **options))
    # What was compared were replays, too.
    assert device.cuda.names.count("launch") >= 4


@pytest.mark.parametrize("both", ["golden_video_bundle", "conditioned_video_bundle"], indirect=True)
@pytest.mark.parametrize("hop", [1, 3])
def test_a_stream_is_the_cpus(both: Both, hop: int) -> None:
    cpu, device = both
    clip = clip_of(cpu, 7, 1)
    with cpu.stream(people=3, hop=hop, seed=2) as expected, device.runtime.stream(people=3, hop=hop, seed=2) as found:
        for i in range(len(clip)):
            frame = np.repeat(clip.uv[i][None], 3, axis=0), np.repeat(clip.confidence[i][None], 3, axis=0)
            assert_same(found.push(*frame), expected.push(*frame))


@every_mode
def test_a_clip_is_the_cpus(both: Both, mode: str) -> None:
    cpu, device = both
    for seed, frames in enumerate((11, 1, 11)):
        clip = clip_of(cpu, frames, seed)
        expected = list(cpu.estimate_clip(clip, seed, mode=mode))
        found = list(device.runtime.estimate_clip(clip, seed, mode=mode))
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    assert "launch" in device.cuda.names


@every_mode
def test_a_trace_has_the_cpus_states_and_leaves_the_replay_as_it_was(both: Both, mode: str) -> None:
    cpu, device = both
    uv, confidence = people_of(cpu, 3)
    for trace in (True, False, False, True, False):
        for K in (1, 2, 5):
            options = {"timesteps": SCHEDULES[K], "mode": mode, "trace": trace}
            assert_same(device.runtime.estimate(uv, confidence, 4, **options), cpu.estimate(uv, confidence, 4, **options))


@every_mode
def test_a_traced_clip_has_the_cpus_states(both: Both, mode: str) -> None:
    cpu, device = both
    clip = clip_of(cpu, 10)
    expected = list(cpu.estimate_clip(clip, 1, mode=mode, trace=True))
    for one, other in zip(device.runtime.estimate_clip(clip, 1, mode=mode, trace=True), expected, strict=True):
        assert_same(one, other)


def mixture_of(runtime: PoseRuntime, B: int) -> Mixture:
    """Two components for each joint; the mixture has no opinion about the first person's head."""
    uv, confidence = people_of(runtime, B)
    newest, seen = (uv, confidence) if uv.ndim == 3 else (uv[:, -1], confidence[:, -1])
    seen[0, 10] = 0.0
    mean = np.stack([newest, newest + np.float32(0.2)], axis=2)
    weight = np.broadcast_to([0.7, 0.3], (B, J, 2))
    covariance = np.broadcast_to([[0.02, 0.005], [0.005, 0.01]], (B, J, 2, 2, 2))
    return checked_mixture(weight, mean, covariance, seen)


@conditioned
@pytest.mark.parametrize("B", [1, 2, 5], ids=["one person", "P people", "more than P"])
def test_starts_drawn_from_a_mixture_are_the_cpus(both: Both, B: int) -> None:
    cpu, device = both
    uv, confidence = people_of(cpu, B)
    mixture = mixture_of(cpu, B)
    for seed in (0, 1, 2):
        found, expected = (r.estimate(uv, confidence, seed, mixture=mixture) for r in (device.runtime, cpu))
        assert_same(found, expected)
    plain = cpu.estimate(uv, confidence, 2)
    assert not np.array_equal(plain.samples, expected.samples, equal_nan=True), "the mixture changed nothing: it proves nothing"


@pytest.mark.parametrize("both", ["conditioned_bundle"], indirect=True)
def test_a_mixture_alone_is_the_cpus(both: Both) -> None:
    mixture = mixture_of(both.cpu, 3)
    for _ in range(2):
        assert_same(both.device.runtime.estimate(mixture=mixture, seed=5), both.cpu.estimate(mixture=mixture, seed=5))


@every_kind
def test_who_was_hardly_seen_has_no_pose_and_disturbs_nobody(both: Both) -> None:
    cpu, device = both
    uv, confidence = people_of(cpu, 3)
    confidence[1, ..., :10] = 0.0
    for _ in range(2):
        found = device.runtime.estimate(uv, confidence, 0)
        assert np.isnan(found.joints[1]).all()
        assert np.isfinite(found.joints[[0, 2]]).all()
        assert_same(found, cpu.estimate(uv, confidence, 0))


@every_kind
def test_what_an_estimate_holds_stays_when_the_buffers_are_used_again(both: Both) -> None:
    runtime = both.device.runtime
    uv, confidence = people_of(runtime, 2)
    first = runtime.estimate(uv, confidence, 0, trace=True)
    kept = {name: getattr(first, name).copy() for name in ("joints", "covariance", "samples", "context", "trajectory")}
    other = people_of(runtime, 2, seed=9)
    runtime.estimate(*other, 1)
    runtime.estimate(*other, 1, trace=True)
    for name, value in kept.items():
        np.testing.assert_array_equal(getattr(first, name), value, err_msg=name)
