"""What runtimes and streams count, what of it is exported, and how little of it is logged."""

from __future__ import annotations

import logging
import math
import re
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpose_edge.errors import DiffPoseEdgeError, KeypointError, TimestepError
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.metrics_endpoint import MetricsEndpoint
from diffpose_edge.readings import METRICS, known
from diffpose_edge.runtime import PoseRuntime, PoseStream
from diffpose_edge.runtime.about import bundle_digest
from diffpose_edge.runtime.bridges.node_report import NodeReport
from diffpose_edge.runtime.bridges.plain_messages import Counts, Refused
from diffpose_edge.runtime.counters import RuntimeCounters
from diffpose_edge.runtime.stamps import StreamCounters

from .walkers import PERIOD_NS, walker

STEPS = (49, 9)
PLACE = (0.0, 0.0)
DOCS = Path(__file__).resolve().parents[2] / "docs" / "observability.md"


@pytest.fixture
def runtime(conditioned_bundle: Path) -> Iterator[PoseRuntime]:
    with PoseRuntime.load(conditioned_bundle, threads=1) as loaded:
        yield loaded


@pytest.fixture
def listened() -> Iterator[list[logging.LogRecord]]:
    kept: list[logging.LogRecord] = []
    logger, handler = logging.getLogger("diffpose_edge"), logging.Handler()
    handler.emit = kept.append  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield kept
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def people(B: int) -> np.ndarray:
    return np.random.default_rng(B).uniform(-0.5, 0.5, (B, 17, 3)).astype(np.float32).clip(0.1, 1)


def durations(counters: RuntimeCounters) -> dict[str, int]:
    return {stage: sum(histogram.counts) for stage, histogram in counters.stages.items()}


def test_a_runtime_counts_its_calls(runtime: PoseRuntime) -> None:
    assert runtime.counters == RuntimeCounters()
    unseen = people(3)
    unseen[1, :, 2] = 0.0
    estimate = runtime.estimate(unseen, timesteps=STEPS)
    runtime.estimate_async(people(2), timesteps=STEPS).result()
    counters = runtime.counters
    assert (counters.estimates, counters.people, counters.without_pose, counters.truncated) == (2, 5, 1, 0)
    assert durations(counters) == {"encoder": 2, "step": 4, "aggregate": 2, "estimate": 2}
    assert counters.stages["estimate"].total_s >= estimate.timings.total
    assert counters.stages["step"].total_s >= estimate.timings.steps.sum()
    # A copy: it does not go on counting.
    runtime.estimate(people(1), timesteps=STEPS)
    assert counters.estimates == 2
    runtime.close()
    assert runtime.counters.estimates == 3


def test_mistakes_and_faults_are_counted_once_each(runtime: PoseRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeypointError):
        runtime.estimate(np.zeros((2, 3)))
    with pytest.raises(KeypointError):
        runtime.estimate_async(np.zeros((2, 3)))
    with pytest.raises(TimestepError):
        runtime.estimate(people(1), timesteps=(1, 2))
    monkeypatch.setattr(runtime._backend, "encode", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        runtime.estimate(people(1))
    with pytest.raises(ZeroDivisionError):
        runtime.estimate_async(people(1)).result()
    assert runtime.counters.errors == {"KeypointError": 2, "TimestepError": 1, "fault": 2}
    assert runtime.counters.estimates == 0


def test_streams_of_video_and_clips_are_counted_too(conditioned_video_bundle: Path, causal_bundle: Path) -> None:
    clip = Keypoints(*(array.copy() for array in np.split(np.stack([walker(i, PLACE) for i in range(7)]), [2], axis=-1)))
    clip = Keypoints(clip.uv, clip.confidence[..., 0])
    for path, calls in ((conditioned_video_bundle, 2), (causal_bundle, 4)):
        with PoseRuntime.load(path, threads=1) as runtime:
            frames = sum(len(each.joints) for each in runtime.estimate_clip(clip, 0, timesteps=STEPS))
            assert (runtime.counters.estimates, runtime.counters.people) == (calls, frames)
            with runtime.stream(timesteps=STEPS) as stream:
                stream.push(walker(0, PLACE))
                with pytest.raises(KeypointError):
                    stream.push(np.zeros((5, 5)))
            assert runtime.counters.estimates == calls + 1
            assert runtime.counters.errors == {"KeypointError": 1}


def test_the_masks_of_an_estimate_are_counted_and_told_of_seldom(runtime: PoseRuntime, listened: list[Any]) -> None:
    estimate = runtime.estimate(people(3), timesteps=STEPS)
    bad = replace(
        estimate,
        truncated=True,
        out_of_range=np.array([True, False, True]),
        non_finite=np.array([False, True, False]),
        timings=replace(estimate.timings, steps=np.array([0.001, 0.0])),  # the second was cut off
    )
    before = runtime.counters
    listened.clear()
    for _ in range(10_000):
        runtime._counting.answered(bad)
    counters = runtime.counters
    assert counters.truncated == 10_000
    assert counters.out_of_range - before.out_of_range == 20_000
    assert counters.non_finite - before.non_finite == 10_000
    assert counters.fallbacks == {"cpu": 0, "non_finite": 10_000}
    assert sum(counters.stages["step"].counts) == 2 + 10_000
    runtime.close()
    told = [(record.event, record.suppressed, record.levelname) for record in listened]
    events = ("truncated", "out_of_range", "non_finite")
    # Once each, and what was kept back at the close; a machine that is stopped for a minute in between tells once more.
    assert told[:3] == [(event, 0, "WARNING") for event in events]
    assert {event for event, *_ in told} == set(events)
    assert len(told) <= 9
    assert sum(kept for event, kept, _ in told if event == "truncated") == 10_000 - len([1 for e, _, _ in told if e == "truncated"]) + 1
    assert listened[0].bundle == bundle_digest(runtime.bundle.manifest)


def test_backend_auto_on_a_cpu_is_a_fallback(
    conditioned_bundle: Path, causal_bundle: Path, golden_bundle: Path, listened: list[Any]
) -> None:
    for path, backend, fell in ((golden_bundle, "auto", 1), (causal_bundle, "auto", 1), (golden_bundle, "onnxruntime", 0)):
        with PoseRuntime.load(path, backend, threads=1) as runtime:
            assert runtime.counters.fallbacks["cpu"] == fell
    fallbacks = [record for record in listened if getattr(record, "event", "") == "fallback"]
    assert [record.kind for record in fallbacks] == ["cpu", "cpu"]
    loaded = [record for record in listened if getattr(record, "event", "") == "runtime_loaded"]
    assert loaded[0].bundle == runtime.about["bundle"] != loaded[1].bundle
    assert (loaded[0].P, loaded[0].N, loaded[0].precision, loaded[0].levelname) == (2, 3, "fp32", "INFO")


def test_ten_thousand_frames_with_faults_are_a_few_lines_in_the_log(runtime: PoseRuntime, listened: list[Any]) -> None:
    nobody, one = np.zeros((0, 17, 3)), np.stack([walker(0, PLACE)])
    listened.clear()
    with PoseStream(runtime, timesteps=(49,)) as stream:
        for i in range(2500):
            stream.process(one if i % 100 == 0 else nobody, (i + 1) * PERIOD_NS)
            stream.process(nobody, (i + 1) * PERIOD_NS)
            stream.process(nobody, i * PERIOD_NS - 1)
            with pytest.raises(KeypointError):
                stream.process(np.zeros((1, 3)), i)
        counters = stream.counters
    assert (counters.frames, counters.computed, counters.duplicated, counters.malformed) == (7500, 2500, 2500, 2500)
    assert counters.out_of_order == 2500
    counts, report = Counts(), NodeReport()
    for i in range(10_000):
        counts.refuse(Refused("length", f"expected 17 poses for each person, got {i}"))
        report.refuse("length", "no")
    counts.seldom.close()
    assert len(listened) <= 10, [record.getMessage() for record in listened[:20]]
    told = {record.event: record for record in listened}
    assert set(told) == {"frame_not_in_order", "message_refused", "stream_closed"}
    assert told["frame_not_in_order"].suppressed >= 1
    assert (told["stream_closed"].frames, told["stream_closed"].duplicated) == (7500, 2500)


def test_frames_that_are_given_up_are_told_of_seldom(runtime: PoseRuntime, listened: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    estimate = runtime.estimate
    monkeypatch.setattr(runtime, "estimate", lambda *a, **o: go.wait(30) and estimate(*a, **o))
    with PoseStream(runtime, tracking=None, timesteps=(49,)) as stream:
        for i in range(1000):
            stream.push(np.stack([walker(0, PLACE)]), i * PERIOD_NS, [3])
        go.set()
        while stream.get(30)[0].stamp_ns != 999 * PERIOD_NS:
            pass
    counters = stream.counters
    assert counters.dropped == 1000 - counters.computed >= 990
    dropped = [record for record in listened if getattr(record, "event", "") == "frame_dropped"]
    assert 1 <= len(dropped) <= 4
    assert {record.levelname for record in dropped} == {"INFO"}


def scraped(url: str, accept: str = "text/plain") -> dict[str, Any]:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
    from prometheus_client.parser import text_string_to_metric_families as plain

    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=30) as answer:
        text = answer.read().decode()
    return {family.name: family for family in (openmetrics if "openmetrics" in accept else plain)(text)}


def samples(families: dict[str, Any]) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()))): sample.value
        for family in families.values()
        for sample in family.samples
    }


def test_a_scrape_while_estimates_run_is_consistent_and_in_the_end_exact(runtime: PoseRuntime) -> None:
    pytest.importorskip("prometheus_client", reason="prometheus_client is not installed: pip install '.[metrics]'")
    stop, failed = threading.Event(), []

    def working() -> None:
        try:
            while not stop.is_set():
                runtime.estimate(people(2), timesteps=STEPS)
        except BaseException as err:
            failed.append(err)

    with PoseStream(runtime, tracking=None, timesteps=STEPS) as stream, MetricsEndpoint({"run": runtime, "cam": stream}, 0) as endpoint:
        thread = threading.Thread(target=working)
        thread.start()
        seen = [0.0]
        for i in range(30):
            stream.process(np.stack([walker(i, PLACE)]), i * PERIOD_NS, [1])
            found = samples(scraped(endpoint.url))
            estimates = found["diffpose_estimates_total", "run"]
            # What one scrape says fits together, whatever is counted meanwhile.
            assert found["diffpose_stage_seconds_count", "run", "estimate"] == estimates
            assert found["diffpose_stage_seconds_count", "run", "step"] == 2 * estimates
            assert estimates <= found["diffpose_people_total", "run"] <= 2 * estimates
            assert found["diffpose_frames_answered_total", "cam"] == i + 1
            seen.append(estimates)
        stop.set()
        thread.join()
        stream.process(np.stack([walker(0, PLACE)]), 0, [1])
        assert seen == sorted(seen)
        assert failed == []
        for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
            found = samples(scraped(endpoint.url, accept))
            counters = runtime.counters
            assert found["diffpose_estimates_total", "run"] == counters.estimates > 30
            assert found["diffpose_people_total", "run"] == counters.people
            assert found["diffpose_frames_total", "cam"] == 31
            assert found["diffpose_frames_dropped_total", "out_of_order", "cam"] == 1
            assert found["diffpose_frame_latency_seconds_count", "cam"] == 30
            assert math.isclose(found["diffpose_stage_seconds_sum", "run", "estimate"], counters.stages["estimate"].total_s)
            digest, backend = runtime.about["bundle"], runtime.about["backend"]
            assert found["diffpose_runtime_info", backend, digest, "fp32", "run"] == 1
            if accept != "text/plain":
                continue
            below = [found["diffpose_stage_seconds_bucket", le, "run", "step"] for le in ("0.00025", "0.01", "10.0", "+Inf")]
            assert below == sorted(below)
            assert below[-1] == counters.estimates * 2


def test_the_documented_metrics_are_those_that_there_are(runtime: PoseRuntime) -> None:
    rows = re.findall(r"^\| `(diffpose_\w+)` \| (\w+) \| ([^|]*) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    documented = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert documented == {name: (metric.kind, metric.labels) for name, metric in METRICS.items()}

    pytest.importorskip("prometheus_client", reason="prometheus_client is not installed: pip install '.[metrics]'")
    runtime._counting.failed(DiffPoseEdgeError("one"))
    counts = Counts()
    sources = {"run": runtime, "cam": PoseStream(runtime), "node": NodeReport(), "dds": Bridge(counts)}
    with MetricsEndpoint(sources, 0) as endpoint:
        families = scraped(endpoint.url)
    exported = {f"{family.name}_total" if family.type == "counter" else family.name for family in families.values()}
    assert {name for name in exported if name.startswith("diffpose_")} == set(METRICS)
    assert {name for name in exported if not name.startswith(("diffpose_", "process_"))} == set()


class Bridge:
    about: dict[str, str | int] = {"bridge": "a double of none"}  # noqa: RUF012

    def __init__(self, counts: Counts):
        self.readings = counts.readings


def test_what_still_is_there_is_known_to_a_crash_report(runtime: PoseRuntime) -> None:
    stream = PoseStream(runtime)
    assert runtime._counting in known()
    assert stream._report in known()
    assert stream.counters == StreamCounters()
