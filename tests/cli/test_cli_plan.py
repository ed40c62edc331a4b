"""``diffpose-edge plan``: what it prints, its JSON, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffpose_edge.benchmarks import launches, plan_check
from diffpose_edge.benchmarks.devices import DEVICES
from diffpose_edge.benchmarks.plan_check import load_records

from .conftest import Mistake, Run


@pytest.fixture(autouse=True)
def _without_tensorrt_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches are estimated: counting them takes seconds for each graph."""
    monkeypatch.setattr(launches, "is_installed", lambda module: False)


def test_every_device_is_a_row(cli: Run, golden_bundle: Path) -> None:
    result = cli("plan", golden_bundle, "--fps", 30)
    for name in DEVICES:
        assert name in result.out
    assert "No GPU has confirmed any of this" in result.out
    assert "largest K" in result.out
    assert "~" in result.out  # launches were estimated


def test_json_has_ranges_for_every_quantity(cli: Run, golden_bundle: Path) -> None:
    content = json.loads(cli("plan", golden_bundle, "--device", "thor", "--device", "l4", "--steps", 3, "--fps", 60, "--json").out)
    assert content["shapes"] == {"P": 2, "N": 3, "F": 1}
    assert "No GPU" in content["note"]
    assert [one["device"] for one in content["plans"]] == ["thor", "l4"]
    for one in content["plans"]:
        assert (one["K"], one["precision"], one["fps"], one["launches_counted"]) == (3, "fp32", 60.0, False)
        for name in ("step_ms", "encoder_ms", "around_ms", "frame_ms", "memory_mb"):
            assert 0 < one[name]["fast"] <= one[name]["typical"] <= one[name]["slow"]
        assert one["largest_k"]["slow"] <= one["largest_k"]["typical"] <= one["largest_k"]["fast"]
        assert set(one["limits"]) == {"launches", "operations", "bytes"}
        assert one["fits"] is True


def test_without_a_rate_there_is_no_largest_k(cli: Run, golden_bundle: Path) -> None:
    result = cli("plan", golden_bundle, "--device", "orin-nx-16gb")
    assert "largest K" not in result.out
    assert json.loads(cli("plan", golden_bundle, "--device", "thor", "--json").out)["plans"][0]["largest_k"] is None


def test_lower_precisions_are_planned_where_the_bundle_has_them(
    cli: Run, mistake: Mistake, calibrated_bundle: Path, golden_bundle: Path
) -> None:
    for precision in ("fp16", "int8"):
        content = json.loads(cli("plan", calibrated_bundle, "--device", "l4", "--precision", precision, "--json").out)
        assert content["plans"][0]["precision"] == precision
    assert "diffpose-edge calibrate" in mistake("plan", golden_bundle, "--precision", "fp16")


def test_this_machine_is_measured(cli: Run, golden_bundle: Path) -> None:
    result = cli("plan", golden_bundle, "--device", "this-cpu")
    assert "this-cpu" in result.out
    assert "No GPU" not in result.out  # nothing was said about one


def test_the_list_has_every_figures_source(cli: Run) -> None:
    result = cli("plan", "--list")
    assert "assumed" in result.out
    content = json.loads(cli("plan", "--list", "--json").out)
    assert [device["name"] for device in content["devices"]] == list(DEVICES)
    for device in content["devices"]:
        assert device["launch_us"]["low"] < device["launch_us"]["high"]
        assert device["fp16"]["source"] in content["sources"]


def test_a_check_prints_the_error_and_keeps_the_record(
    cli: Run, golden_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan_check.json"
    result = cli("plan", golden_bundle, "--check", "--out", path)
    assert "%" in result.out
    assert "golden fp32 P=2 N=3 F=1: step" in result.out
    (record,) = load_records(path)
    assert record["bundle"] == "golden"
    rows = json.loads(cli("plan", golden_bundle, "--check", "--json").out)["checks"]
    assert [row["what"].split(": ")[1] for row in rows] == ["step", "frame of 5 steps"]
    for row in rows:
        assert row["error"] == pytest.approx(row["predicted_ms"]["typical"] / row["measured_ms"] - 1, abs=1e-3)
    # Without a bundle it is about what was measured before.
    monkeypatch.setattr(plan_check.committed_records, "__defaults__", (tmp_path,))
    assert "golden fp32" in cli("plan", "--check").out


def test_where_nothing_was_measured_a_check_says_so(mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_check.committed_records, "__defaults__", (tmp_path,))
    assert "no record of a measured machine" in mistake("plan", "--check")


def test_mistakes(mistake: Mistake, golden_bundle: Path, tmp_path: Path) -> None:
    assert "orin-nano-8gb, orin-nano-super" in mistake("plan", golden_bundle, "--device", "nano")
    assert "expected a bundle to plan for" in mistake("plan")
    assert "expected a bundle folder" in mistake("plan", tmp_path / "none")
    assert "expected K within 1.." in mistake("plan", golden_bundle, "--steps", 0)
    assert "expected K within 1.." in mistake("plan", golden_bundle, "--steps", 999)
    assert "frames a second above 0" in mistake("plan", golden_bundle, "--fps", -1)
    assert "give both" in mistake("plan", golden_bundle, "--out", tmp_path / "a.json")
    assert "cannot write" in mistake("plan", golden_bundle, "--check", "--out", tmp_path / "no folder" / "a.json")
