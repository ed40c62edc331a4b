"""Records of measured machines, and the model held against them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from diffpose_edge.benchmarks import plan_check
from diffpose_edge.benchmarks.machine_peaks import Peaks
from diffpose_edge.benchmarks.plan_check import (
    Check,
    check_record,
    checks_of,
    combined_peaks,
    committed_records,
    doc_row,
    load_records,
    save_records,
)
from diffpose_edge.benchmarks.planner import Range
from diffpose_edge.bundle import load_bundle
from diffpose_edge.errors import DiffPoseEdgeError


@pytest.fixture(scope="module")
def record(golden_bundle: Path) -> dict[str, Any]:
    return check_record(load_bundle(golden_bundle), rounds=1)


def test_a_record_holds_what_was_measured_and_what_predicts_it(record: dict[str, Any]) -> None:
    assert set(record["ms"]) == {"step", "frame"}
    assert set(record["loads"]) == {"context", "step"}
    assert record["clock"] == "thread_time"
    assert 0 < record["ms"]["step"]["p50"] < record["ms"]["frame"]["p50"]
    assert 0 < record["ms"]["frame"]["p10"] <= record["ms"]["frame"]["p50"]
    assert record["loads"]["step"]["nodes"] > 50
    assert record["shapes"] == {"P": 2, "N": 3, "F": 1}
    step, frame = checks_of(record)
    assert step.what == "golden fp32 P=2 N=3 F=1: step"
    assert frame.what.endswith("frame of 5 steps")
    assert frame.predicted.typical > 5 * step.predicted.typical
    assert step.measured == record["ms"]["step"]["p10"]
    assert "1 thread" in step.where


def test_a_step_is_what_frames_of_one_and_of_five_differ_by(golden_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of our own, on which a frame takes 3 ms and each step 2 ms more."""
    now, K = [0.0], [0]

    class Runtime:
        def __enter__(self) -> Runtime:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def estimate(self, people: object, seed: int, timesteps: tuple[int, ...]) -> None:
            now[0] += 0.003 + 0.002 * len(timesteps)
            K[0] = max(K[0], len(timesteps))

    monkeypatch.setattr(plan_check.PoseRuntime, "load", lambda *_, **__: Runtime())
    monkeypatch.setattr(plan_check, "measured_peaks", lambda threads, seconds: Peaks(threads, 100.0, 5.0, 50.0, 0.5))
    monkeypatch.setattr(plan_check, "perf_counter", type("clock", (), {"__call__": lambda _: now[0], "__name__": "perf_counter"})())
    found = check_record(load_bundle(golden_bundle), threads=2, rounds=2)
    assert found["clock"] == "perf_counter"
    assert found["ms"] == {"step": {"p10": 2.0, "p50": 2.0}, "frame": {"p10": 13.0, "p50": 13.0}}
    assert K == [5]


def test_the_error_is_of_the_typical_prediction() -> None:
    check = Check("here", "step", Range(1.0, 2.4, 4.0), 2.0, False)
    assert check.error == pytest.approx(0.2)
    assert check.within
    assert not Check("here", "step", Range(1.0, 2.4, 4.0), 4.1, False).within
    assert not Check("here", "step", Range(1.0, 2.4, 4.0), 0.9, False).within


def test_a_fault_in_the_figures_is_seen_as_an_error(record: dict[str, Any]) -> None:
    """Peaks a thousand times too low, a slip of units, put every prediction outside its range."""
    fault = copy.deepcopy(record)
    fault["peaks"] |= {name: record["peaks"][name] / 1000 for name in ("sgemm_gflops", "memory_gb_per_s", "cache_gb_per_s")}
    fault["peaks"]["node_us"] *= 1000
    for check, wrong in zip(checks_of(record), checks_of(fault), strict=True):
        assert wrong.predicted.fast > 100 * check.predicted.fast
        assert wrong.error > 10


def test_a_busy_machine_is_told(record: dict[str, Any]) -> None:
    for load, busy in ((0.1, False), (100.0, True)):
        other = copy.deepcopy(record)
        other["machine"] |= {"load_1min": load, "cores": 4}
        assert {check.busy for check in checks_of(other)} == {busy}


def test_the_best_of_several_measurements() -> None:
    a, b = Peaks(2, 100.0, 4.0, 50.0, 0.5), Peaks(2, 90.0, 6.0, 40.0, 0.4)
    assert combined_peaks([a, b]) == Peaks(2, 100.0, 6.0, 50.0, 0.4)


def test_records_are_added_to_a_file(record: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "plan_check.json"
    save_records([record], path)
    save_records([record], path)
    assert load_records(path) == [record, record]
    assert committed_records(tmp_path) == [record, record]
    assert committed_records(tmp_path / "nothing here") == []


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '[{"format": "other", "format_version": 1}]', '[{"format": "diffpose-edge-plan-check"}]']
)
def test_what_is_no_record(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan_check.json"
    path.write_text(text)
    if text == "{}":
        path.write_text('{"a": 1}')
    with pytest.raises(DiffPoseEdgeError, match="is not a file of 'diffpose-edge plan --check'"):
        load_records(path)
    with pytest.raises(DiffPoseEdgeError, match="cannot be read"):
        load_records(tmp_path / "none.json")


def test_a_record_without_a_field_is_refused(record: dict[str, Any], tmp_path: Path) -> None:
    for name in ("peaks", "loads", "ms", "machine"):
        broken = {key: value for key, value in record.items() if key != name}
        (tmp_path / "plan_check.json").write_text(json.dumps([broken]))
        with pytest.raises(DiffPoseEdgeError, match=name):
            load_records(tmp_path / "plan_check.json")


def test_what_is_committed_is_predicted_within_a_factor_of_two_and_the_page_says_how_well() -> None:
    records = committed_records()
    assert records
    page = (Path(__file__).parents[2] / "docs" / "plan.md").read_text(encoding="utf-8")
    for check in (check for record in records for check in checks_of(record)):
        assert -0.5 < check.error < 1, f"{check.where} {check.what}: {check.error:+.0%}"
        assert doc_row(check) in page
