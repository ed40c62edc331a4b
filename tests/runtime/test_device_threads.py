"""Several threads: one runtime takes their calls in turn, two runtimes do not disturb each other."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diffpose_edge.runtime import PoseEstimate, PoseRuntime

from .device_runtime import KINDS, assert_same, on_device, people_of

THREADS, CALLS = 4, 6
SCHEDULES = ((30,), (40, 12))


@pytest.fixture(autouse=True)
def _in_small_slices() -> Iterator[None]:
    """Change threads often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def estimates(runtime: PoseRuntime, first: int, start: threading.Barrier | None = None) -> list[PoseEstimate]:
    if start is not None:
        start.wait()
    return [runtime.estimate(*people_of(runtime, 3, first + i), first + i, timesteps=SCHEDULES[i % 2]) for i in range(CALLS)]


@pytest.mark.parametrize("kind", KINDS)
def test_calls_from_several_threads_are_taken_in_turn(request: pytest.FixtureRequest, kind: str) -> None:
    path = request.getfixturevalue(kind)
    device, start = on_device(path), threading.Barrier(THREADS)
    with device.runtime as runtime, PoseRuntime.load(path, threads=1, portable=True) as cpu, ThreadPoolExecutor(THREADS) as pool:
        jobs = [pool.submit(estimates, runtime, 10 * i, start) for i in range(THREADS)]
        for i, job in enumerate(jobs):
            for found, expected in zip(job.result(), estimates(cpu, 10 * i), strict=True):
                assert_same(found, expected)
    assert device.cuda.most_threads == 1


def test_two_runtimes_in_two_threads_do_not_disturb_each_other(golden_bundle: Path, conditioned_bundle: Path) -> None:
    start = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        devices = [on_device(path) for path in (golden_bundle, conditioned_bundle)]
        jobs = [pool.submit(estimates, device.runtime, 0, start) for device in devices]
        for path, device, job in zip((golden_bundle, conditioned_bundle), devices, jobs, strict=True):
            with PoseRuntime.load(path, threads=1, portable=True) as cpu, device.runtime:
                for found, expected in zip(job.result(), estimates(cpu, 0), strict=True):
                    assert_same(found, expected)


def test_a_runtime_made_in_one_thread_is_used_and_closed_in_another(golden_bundle: Path) -> None:
    device = on_device(golden_bundle)
    for _ in range(2):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(estimates, device.runtime, 0).result()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(device.runtime.close).result()
    assert device.cuda.alive == {}


def test_closing_waits_for_the_frame_that_runs(golden_bundle: Path) -> None:
    device = on_device(golden_bundle)
    device.runtime.estimate(*people_of(device.runtime, 2))
    running, go_on = threading.Event(), threading.Event()
    real = device.engines["step"]._run

    def slow(bound: dict[str, int]) -> None:
        running.set()
        assert go_on.wait(10)
        real(bound)

    device.engines["step"]._run = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        frame = pool.submit(device.runtime.estimate, *people_of(device.runtime, 2))
        assert running.wait(10)
        closing = pool.submit(device.runtime.close)
        assert not closing.done()
        assert device.cuda.closed == 0
        go_on.set()
        assert frame.result().joints.shape == (2, 17, 3)
        closing.result()
    assert device.cuda.alive == {}
