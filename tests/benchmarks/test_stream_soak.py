"""The soak of a stream: what it reports is what happened."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.benchmarks.stream_soak import Camera, growth, resident_mib, share_taken, soak
from diffpose_edge.runtime import PoseRuntime, PoseStream


def test_a_short_soak_tells_of_every_frame(conditioned_bundle: Path) -> None:
    with PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        stream = PoseStream(runtime, timesteps=(49,), back_pressure="queue(40)")
        report = soak(stream, Camera(3, 20.0), seconds=2.0, row_seconds=1.0)
    assert [row["answered"] for row in report["rows"]] == [20, 20]
    assert [row["dropped"] for row in report["rows"]] == [0, 0]
    for row in report["rows"]:
        latency = row["latency_ms"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
        assert row["rss_mib"] > 10
        assert 0 <= row["camera_late_ms"]["p99"] <= row["camera_late_ms"]["max"]
        assert row["stolen_percent"] is None or 0 <= row["stolen_percent"] <= 100
    assert report["counters"]["frames"] == report["counters"]["computed"] == 40
    assert (report["frames_of_steps"], report["truncated"]) == ({1: 40}, 0)
    assert (report["counters"]["entered"], report["frames_with_exchanged_people"], report["not_later_than_the_one_before"]) == (3, 0, 0)


def test_drops_and_latency_are_seen(conditioned_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        estimate = runtime.estimate
        monkeypatch.setattr(runtime, "estimate", lambda *given, **options: time.sleep(0.12) or estimate(*given, **options))
        report = soak(PoseStream(runtime, timesteps=(49,)), Camera(1, 30.0), seconds=1.0, row_seconds=0.5)
    counters = report["counters"]
    assert counters["dropped"] == sum(row["dropped"] for row in report["rows"]) > 10
    assert counters["computed"] == sum(row["answered"] for row in report["rows"]) == 30 - counters["dropped"]
    assert report["rows"][0]["latency_ms"]["p50"] > 100


def test_a_camera_that_was_held_up_is_seen(conditioned_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        stream = PoseStream(runtime, timesteps=(49,), back_pressure="queue(40)")
        push = stream.push

        def held_up(people: np.ndarray, stamp: int) -> None:
            push(people, stamp)
            if stamp == 0:
                time.sleep(0.4)

        monkeypatch.setattr(stream, "push", held_up)
        rows = soak(stream, Camera(1, 20.0), seconds=1.5, row_seconds=0.5)["rows"]
    # The next frame was due 50 ms after the one that took 400, and later ones catch up.
    assert rows[0]["camera_late_ms"]["max"] >= 349


def test_the_share_that_was_taken() -> None:
    assert share_taken((5, 100), (7, 200)) == pytest.approx(2.0)
    assert share_taken(None, (7, 200)) is share_taken((5, 100), (5, 100)) is None


def test_the_people_meet_and_are_who_they_are() -> None:
    camera = Camera(3, 30.0)
    centres = []
    for i in range(360):
        people, order = camera.frame(i)
        assert sorted(order) == [0, 1, 2]
        centres.append(people[np.argsort(order), 0, 0])
    signs = np.sign(np.diff(np.array(centres), axis=1))
    assert (np.diff(signs, axis=0) != 0).any(axis=0).all()


def test_growth_is_a_slope_and_memory_is_resident() -> None:
    assert growth([5.0, 7.0, 9.0]) == pytest.approx(2.0)
    assert growth([5.0]) is None
    before = resident_mib()
    held = np.ones(8 * 2**20)
    assert before is None or 50 < resident_mib() - before < 80
    del held
