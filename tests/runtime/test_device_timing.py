"""Where a frame's time goes, by the device's own events: the double's clock goes on by what each piece of work costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .cuda_double import COST_MS
from .device_runtime import KINDS, clip_of, on_device, people_of

MS = 1e-3
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def path(request: pytest.FixtureRequest, kind: str) -> Path:
    found: Path = request.getfixturevalue(kind)
    return found


@every_kind
@pytest.mark.parametrize("B", [1, 2, 5])
def test_encoder_steps_and_the_rest_are_timed_apart_and_summed_over_batches(path: Path, B: int) -> None:
    device = on_device(path, timed=True)
    with device.runtime as runtime:
        manifest = runtime.bundle.manifest
        picked = 0 if manifest.shape.F == 1 else manifest.shape.P * len(manifest.context_io[1])
        rest = COST_MS["copy_to_device"] + COST_MS["start"] + picked * COST_MS["copy"] + COST_MS["copy_to_host"]
        batches = -(-B // manifest.shape.P)
        for K in (1, 5, 5):  # eager, eager, replayed
            timings = runtime.estimate(*people_of(runtime, B), timesteps=(49, 39, 29, 19, 9)[:K]).timings
            assert timings.batches == batches
            assert timings.context == pytest.approx(batches * COST_MS["context"] * MS)
            np.testing.assert_allclose(timings.steps, np.full(K, batches * COST_MS["step"] * MS))
            assert timings.copies == pytest.approx(batches * rest * MS)
            assert 0 < timings.aggregate < timings.total
    assert "launch" in device.cuda.names


@every_kind
def test_untimed_there_is_no_event_and_no_time(path: Path) -> None:
    device = on_device(path)
    with device.runtime as runtime:
        for _ in range(2):
            timings = runtime.estimate(*people_of(runtime, 3), timesteps=(30, 10)).timings
            assert np.isnan([timings.context, timings.copies, *timings.steps]).all()
            assert len(timings.steps) == 2
            assert 0 < timings.aggregate < timings.total
    assert not {"create_event", "record", "elapsed_ms"} & set(device.cuda.names)


@pytest.mark.parametrize("kind", ["golden_video_bundle", "conditioned_video_bundle"])
@pytest.mark.parametrize("timed", [True, False])
def test_of_a_window_the_steps_are_timed_by_the_device_and_the_encoder_by_the_wall(path: Path, timed: bool) -> None:
    device = on_device(path, timed=timed)
    with device.runtime as runtime:
        for _ in range(2):
            for estimate in runtime.estimate_clip(clip_of(runtime, 5), timesteps=(30, 10)):
                timings = estimate.timings
                assert 0 < timings.context < timings.total
                expected = timings.batches * COST_MS["step"] * MS if timed else np.nan
                np.testing.assert_allclose(timings.steps, np.full(2, expected))
                # Copies of steps that run without their encoder are not taken apart.
                assert np.isnan(timings.copies)


@every_kind
def test_of_a_trace_encoder_and_steps_are_timed_by_the_wall(path: Path) -> None:
    with on_device(path).runtime as runtime:
        timings = runtime.estimate(*people_of(runtime, 2), timesteps=(30, 10), trace=True).timings
        assert 0 < timings.context < timings.total
        assert (timings.steps > 0).all()
        assert np.isnan(timings.copies)


def test_each_replay_has_times_of_its_own(golden_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = on_device(golden_bundle, timed=True)
    with device.runtime as runtime:
        people = people_of(runtime, 2)
        runtime.estimate(*people)
        monkeypatch.setitem(COST_MS, "context", 3 * COST_MS["context"])
        assert runtime.estimate(*people).timings.context == pytest.approx(COST_MS["context"] * MS)
    assert device.cuda.names.count("launch") == 1
