"""``diffpose-edge sensitivity``: what it prints and writes, what it refuses, and what --apply changes in the bundle."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pytest

from diffpose_edge.bundle import load_bundle
from diffpose_edge.calibration.calibrate import calibration_of

from .conftest import Run

QUICK = ("--frames", "1", "--timesteps", "30,8")


@pytest.fixture
def cli(cli: Run) -> Run:
    """Run ``sensitivity``; check its exit status; return what it printed."""
    return functools.partial(cli, "sensitivity")


@pytest.fixture
def bundle(calibrated_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(calibrated_bundle, tmp_path / "bundle"))


def test_a_budget_is_found_and_applied(cli: Run, bundle: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    scales = calibration_of(load_bundle(bundle)).scales
    quick = (bundle, "--by", "layer", *QUICK)
    printed = cli(*quick, "--json", tmp_path / "first.json", "--plot", tmp_path / "first.png")
    first = json.loads((tmp_path / "first.json").read_text())
    assert (tmp_path / "first.png").read_bytes().startswith(b"\x89PNG")
    assert first["search"] is None
    assert first["sensitivity"]["timesteps"] == [30, 8]
    assert {group["role"] for group in first["groups"]} == {"context", "step"}
    assert all(group["name"] in printed.out for group in first["groups"])
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before

    budget = 0.8 * first["together"]["mean_mm"]
    printed = cli(*quick, "--budget-mm", budget, "--apply", "--json", tmp_path / "second.json")
    second = json.loads((tmp_path / "second.json").read_text())
    # The same figures for the same frames.
    assert second["groups"] == first["groups"]
    search = second["search"]
    kept = {(role, name) for role, names in search["kept"].items() for name in names}
    assert kept
    assert "stay FP16" in printed.out
    assert search["added"]["mean_mm"] <= budget
    assert search["share_after"] < search["share_before"]
    calibration = calibration_of(load_bundle(bundle))
    # What was taken out of INT8 still has its scales, so that a larger budget can give it back.
    assert calibration.scales == scales
    members = {
        (group["role"], member) for group in first["groups"] if (group["role"], group["name"]) in kept for member in group["members"]
    }
    everything = {(role, name) for role, scales in calibration.scales.items() for name in scales}
    assert {(role, name) for role, names in calibration.int8.items() for name in names} == everything - members
    assert calibration.provenance["budget"]["int8"]["budget_mm"] == pytest.approx(budget)
    after = {file.name: file.read_bytes() for file in bundle.iterdir()}
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} >= {"context.int8.onnx", "calibration.json", "manifest.json"}


def test_fp16_needs_no_calibration_to_look_at(cli: Run, conditioned_bundle: Path, tmp_path: Path) -> None:
    printed = cli(conditioned_bundle, "--precision", "fp16", *QUICK, "--budget-mm", 1000, "--json", tmp_path / "out.json")
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["search"]["kept"] == {"context": [], "step": []}
    assert "nothing needs to be kept" in printed.out
    assert "in any" in printed.out
    assert [group["added"] for group in report["groups"] if group["name"] == "eps"] == [None]
    for options in (("--precision", "int8"), ("--precision", "fp16", "--budget-mm", "1", "--apply")):
        refused = cli(conditioned_bundle, *options, *QUICK, status=2)
        assert f"diffpose-edge calibrate {conditioned_bundle}" in refused.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--apply",), "--apply goes with --budget-mm"),
        (("--worst-mm", "3"), "--worst-mm goes with --budget-mm"),
        (("--budget-mm", "0"), "--budget-mm: expected millimetres above zero"),
        (("--budget-mm", "1", "--worst-mm", "nan"), "--worst-mm: expected millimetres above zero"),
        (("--precision", "int4"), "got 'int4'"),
        (("--precision", "fp16", "--by", "matmul"), "--by layer"),
        (("--by", "block"), "'block'"),
        (("--timesteps", "8,30"), "8"),
        (("--json", "nowhere/out.json"), "nowhere"),
        (("--json", "same", "--plot", "same"), "--json and --plot both name same"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(cli: Run, calibrated_bundle: Path, options: tuple[str, ...], words: str) -> None:
    refused = cli(calibrated_bundle, *options, status=2)
    assert words in " ".join(refused.err.split())
    assert "at a time" not in refused.err


def test_a_budget_out_of_reach_changes_nothing(cli: Run, bundle: Path) -> None:
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    refused = cli(bundle, "--by", "layer", *QUICK, "--budget-mm", "1e-6", "--apply", status=2)
    assert "out of reach" in refused.err
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before
