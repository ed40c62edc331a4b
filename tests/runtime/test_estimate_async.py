"""Estimates in the background: the same poses, in order, from arrays that the caller may fill anew."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.errors import KeypointError, RuntimeClosed, TimestepError
from diffpose_edge.mixtures import checked_mixture
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.skeleton import J

from .device_runtime import KINDS, assert_same, on_device, people_of


@pytest.mark.parametrize("kind", KINDS)
def test_poses_are_those_of_estimate(request: pytest.FixtureRequest, kind: str) -> None:
    path = request.getfixturevalue(kind)
    device = on_device(path)
    with PoseRuntime.load(path, threads=1, portable=True) as cpu, device.runtime as gpu:
        people = [people_of(cpu, 3, seed) for seed in range(6)]
        for runtime in (cpu, gpu):
            futures = [runtime.estimate_async(*each, seed) for seed, each in enumerate(people)]
            for seed, (each, future) in enumerate(zip(people, futures, strict=True)):
                assert_same(future.result(), cpu.estimate(*each, seed))


def test_the_callers_arrays_may_be_filled_anew(conditioned_bundle: Path) -> None:
    with PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        uv, confidence = people_of(runtime, 2)
        expected = runtime.estimate(uv, confidence, 0)
        with runtime._lock:  # what was asked for waits
            future = runtime.estimate_async(uv, confidence, 0)
            uv[...], confidence[...] = 0.3, 0.0
        assert_same(future.result(), expected)


def test_the_callers_mixture_may_be_filled_anew(conditioned_bundle: Path) -> None:
    with PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        uv, confidence = people_of(runtime, 2)
        mixture = checked_mixture(np.ones((2, J, 1)), uv[:, :, None], np.tile(0.01 * np.eye(2), (2, J, 1, 1, 1)), confidence)
        expected = runtime.estimate(mixture=mixture, seed=0)
        with runtime._lock:
            future = runtime.estimate_async(mixture=mixture, seed=0)
            mixture.mean[...] = 0.3
        assert_same(future.result(), expected)


def test_nonsense_is_told_as_by_estimate(conditioned_bundle: Path) -> None:
    with PoseRuntime.load(conditioned_bundle, threads=1) as runtime, pytest.raises(KeypointError):
        runtime.estimate_async([[1.0], [1.0, 2.0]])


def test_one_generator_gives_its_draws_in_the_order_of_the_calls(conditioned_bundle: Path) -> None:
    with PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        people = people_of(runtime, 2)
        rng = np.random.default_rng(3)
        expected = [runtime.estimate(*people, rng) for _ in range(5)]
        rng = np.random.default_rng(3)
        futures = [runtime.estimate_async(*people, rng) for _ in range(5)]
        for one, other in zip(futures, expected, strict=True):
            assert_same(one.result(), other)


def test_mistakes_are_raised_where_they_are_made(conditioned_bundle: Path) -> None:
    with PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        uv, confidence = people_of(runtime, 1)
        with pytest.raises(KeypointError):
            runtime.estimate_async(uv[..., :1], confidence)
        with pytest.raises(TimestepError):
            runtime.estimate_async(uv, confidence, timesteps=(3, 5))


def test_what_goes_wrong_later_is_in_the_result_and_the_next_estimate_is_well(conditioned_bundle: Path) -> None:
    device = on_device(conditioned_bundle)
    with device.runtime as runtime:
        people = people_of(runtime, 2)
        expected = runtime.estimate(*people, 0)
        real = device.backend.frame

        def broken(spent: object) -> None:
            raise ArithmeticError("lost")

        device.backend.frame = broken  # type: ignore[assignment, method-assign]
        lost = runtime.estimate_async(*people, 0)
        with pytest.raises(ArithmeticError, match="lost"):
            lost.result()
        device.backend.frame = real  # type: ignore[method-assign]
        assert_same(runtime.estimate_async(*people, 0).result(), expected)


def test_it_returns_before_the_pose_is_made_and_close_waits_for_it(golden_bundle: Path) -> None:
    device = on_device(golden_bundle)
    runtime = device.runtime
    running, go_on = threading.Event(), threading.Event()
    real = device.engines["step"]._run

    def slow(bound: dict[str, int]) -> None:
        running.set()
        assert go_on.wait(10)
        real(bound)

    device.engines["step"]._run = slow  # type: ignore[method-assign]
    futures = [runtime.estimate_async(*people_of(runtime, 2)) for _ in range(3)]
    assert running.wait(10)
    assert not any(future.done() for future in futures)
    closing = threading.Thread(target=runtime.close)
    closing.start()
    assert device.cuda.closed == 0
    go_on.set()
    closing.join(10)
    assert not closing.is_alive()
    assert all(future.result().joints.shape == (2, 17, 3) for future in futures)
    assert device.cuda.alive == {}
    with pytest.raises(RuntimeClosed):
        runtime.estimate_async(*people_of(runtime, 2))


def test_no_thread_is_left(golden_bundle: Path) -> None:
    before = threading.active_count()
    for _ in range(3):
        with PoseRuntime.load(golden_bundle, threads=1) as runtime:
            runtime.estimate_async(*people_of(runtime, 1)).result()
            runtime.close()
    assert threading.active_count() == before


def test_closing_while_others_begin_estimates_ends_each_of_them(golden_bundle: Path) -> None:
    for _ in range(10):
        runtime = PoseRuntime.load(golden_bundle, threads=1)
        people, told = people_of(runtime, 1), []
        before = threading.active_count()

        def ask(runtime: PoseRuntime = runtime, people: tuple[object, ...] = people, told: list[str] = told) -> None:
            try:
                while True:
                    runtime.estimate_async(*people).result(10)
            except RuntimeClosed:
                told.append("closed")

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        runtime.close()
        for thread in threads:
            thread.join(10)
        assert told == ["closed"] * 3
        assert threading.active_count() <= before
