"""``diffpose-edge calibrate``, and what the graphs that it makes are good for: run, evaluate, inspect."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.bundle import load_bundle
from diffpose_edge.clips import street_walk
from diffpose_edge.comparison import compare_poses
from diffpose_edge.errors import OutputError

from .conftest import Mistake, Run, contents

GRAPHS = [f"{role}.{precision}.onnx" for role in ("context", "step") for precision in ("fp16", "int8", "int8-trt8")]


@pytest.fixture
def bundle(conditioned_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(conditioned_bundle, tmp_path / "bundle"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    walk = street_walk().keypoints
    seen = np.flatnonzero((walk.confidence > 0).all(axis=1))[:6]
    np.savez(tmp_path / "clip.npz", keypoints=walk.uv[seen])
    return tmp_path / "clip.npz"


def test_calibrate_then_take_its_file(cli: Run, bundle: Path, clip: Path, conditioned_bundle: Path, tmp_path: Path) -> None:
    (bundle / "manifest.json.sig").write_bytes(bytes(64))
    shown = cli("calibrate", bundle, "--keypoints", clip, "--timesteps", "49,20", "--timesteps", "9", "--frames", 3)
    assert "its signature is removed" in shown.err
    assert not (bundle / "manifest.json.sig").exists()
    for text in ("fp16", "int8-trt8", "INT8 share", f"wrote {bundle}", "diffpose-edge verify"):
        assert text in shown.out
    files = contents(bundle)
    assert set(GRAPHS) | {"calibration.json"} <= set(files)
    told = json.loads(files["calibration.json"])["provenance"]
    assert (told["schedules"], told["poses"], told["method"], told["smoothing"]) == ([[49, 20], [9]], 6, "minmax", True)
    # On another machine, from the file, without the clip: the same graphs to the byte.
    other = Path(shutil.copytree(conditioned_bundle, tmp_path / "other"))
    shutil.copy(bundle / "calibration.json", tmp_path / "kept.json")
    clip.unlink()
    cli("calibrate", other, "--calibration", tmp_path / "kept.json")
    assert {name: contents(other)[name] for name in (*GRAPHS, "calibration.json")} == {
        name: files[name] for name in (*GRAPHS, "calibration.json")
    }
    inspected = cli("inspect", other).out
    assert all(name in inspected for name in (*GRAPHS, "calibration.json"))


def test_options_reach_the_calibration(cli: Run, bundle: Path, clip: Path) -> None:
    few = ("--keypoints", clip, "--timesteps", "20", "--frames", 2)
    cli("calibrate", bundle, *few, "--method", "mse", "--no-smooth")
    told = json.loads((bundle / "calibration.json").read_text())
    assert (told["provenance"]["method"], told["provenance"]["smoothing"]) == ("mse", False)
    assert not any(any(how["smoothing"]) for how in told["scales"]["step"].values())
    mse = contents(bundle)
    cli("calibrate", bundle, *few, "--method", "percentile", "--no-smooth")
    assert contents(bundle)["step.int8.onnx"] != mse["step.int8.onnx"]


def test_run_takes_a_precision(cli: Run, calibrated_bundle: Path, clip: Path, tmp_path: Path) -> None:
    poses = {}
    for precision in ("fp32", "fp16", "int8", "int8-trt8"):
        cli("run", calibrated_bundle, "--keypoints", clip, "--out", tmp_path / "poses.npz", "--precision", precision)
        with np.load(tmp_path / "poses.npz", allow_pickle=False) as content:
            poses[precision] = content["joints"]
    error = {p: compare_poses(p, joints, poses["fp32"], 60.0) for p, joints in poses.items()}
    assert all(comparison.passed for comparison in error.values())
    assert 0 < error["fp16"].error < error["int8"].error
    assert not np.array_equal(poses["int8"], poses["int8-trt8"])


def test_evaluate_takes_a_precision(cli: Run, calibrated_bundle: Path, tmp_path: Path) -> None:
    mpjpe = {}
    for precision in ("fp32", "fp16", "int8"):
        cli("evaluate", calibrated_bundle, "--limit", 2, "--timesteps", "49,20", "--json", tmp_path / "e.json", "--precision", precision)
        report = json.loads((tmp_path / "e.json").read_text())
        assert report["evaluation"]["precision"] == precision
        mpjpe[precision] = report["rows"][0]["mpjpe"]
    assert len(set(mpjpe.values())) == 3
    assert all(abs(value - mpjpe["fp32"]) < 20 for value in mpjpe.values())


# --- mistakes ---


def test_a_bundle_that_was_not_calibrated_has_no_other_precision(mistake: Mistake, bundle: Path, clip: Path, tmp_path: Path) -> None:
    for precision in ("fp16", "int8"):
        for command in (["run", bundle, "--keypoints", clip, "--out", tmp_path / "out.npz"], ["evaluate", bundle, "--limit", 1]):
            assert f"has no context graph in {precision}; it has: context fp32, step fp32" in mistake(*command, "--precision", precision)


def test_an_unknown_precision_is_refused(mistake: Mistake, calibrated_bundle: Path, clip: Path, tmp_path: Path) -> None:
    run = ("run", calibrated_bundle, "--keypoints", clip, "--out", tmp_path / "out.npz", "--precision")
    assert "has no context graph in int4" in mistake(*run, "int4")
    assert "int8-trt8" in mistake(*run, "")


def test_mistakes_of_calibrate(mistake: Mistake, bundle: Path, clip: Path, tmp_path: Path) -> None:
    assert "minmax, percentile, entropy, mse" in mistake("calibrate", bundle, "--method", "maximum")
    assert "does not exist" in mistake("calibrate", tmp_path / "none")
    assert "none.npz" in mistake("calibrate", bundle, "--keypoints", tmp_path / "none.npz")
    assert "none.json cannot be read" in mistake("calibrate", bundle, "--calibration", tmp_path / "none.json")
    assert "cannot be read" in mistake("calibrate", bundle, "--calibration", tmp_path)
    assert "not JSON" in mistake("calibrate", bundle, "--calibration", clip)
    for timesteps in ("50", "3,9", "a", ""):
        mistake("calibrate", bundle, "--keypoints", clip, "--timesteps", timesteps)


def test_a_file_and_a_recording_exclude_each_other(mistake: Mistake, bundle: Path, clip: Path, calibrated_bundle: Path) -> None:
    file = ("--calibration", calibrated_bundle / "calibration.json")
    assert "nothing is recorded" in mistake("calibrate", bundle, *file, "--keypoints", clip)
    assert "nothing is recorded" in mistake("calibrate", bundle, *file, "--timesteps", "9")


def test_a_calibration_of_other_weights_is_refused(mistake: Mistake, golden_bundle: Path, calibrated_bundle: Path, tmp_path: Path) -> None:
    other = shutil.copytree(golden_bundle, tmp_path / "other")
    said = mistake("calibrate", other, "--calibration", calibrated_bundle / "calibration.json")
    assert "made for other weights than the context graph" in said


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": 1e999}', '{"format": "diffpose-edge-calibration", "format_version": 1}'])
def test_a_hostile_calibration_is_refused(mistake: Mistake, bundle: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "hostile.json").write_text(text)
    mistake("calibrate", bundle, "--calibration", tmp_path / "hostile.json")


def test_a_name_that_no_terminal_shows_is_refused(mistake: Mistake, bundle: Path, calibrated_bundle: Path, tmp_path: Path) -> None:
    content = json.loads((calibrated_bundle / "calibration.json").read_text())
    content["scales"]["step"]["\ud800[/]"] = content["scales"]["step"]["layer0.conv1"]
    content["int8"]["step"].append("\ud800[/]")
    (tmp_path / "hostile.json").write_text(json.dumps(content))
    assert "which the graph does not have" in mistake("calibrate", bundle, "--calibration", tmp_path / "hostile.json")


def test_a_clip_without_poses_is_refused(mistake: Mistake, bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "nobody.npz", keypoints=np.zeros((4, 17, 3)))
    assert "calibration needs poses" in mistake("calibrate", bundle, "--keypoints", tmp_path / "nobody.npz")


def test_a_bundle_that_cannot_be_written_stays_as_it_is(
    mistake: Mistake, bundle: Path, calibrated_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OutputError("no space left")

    monkeypatch.setattr("diffpose_edge.bundle_writing.atomic_directory", full)
    assert "no space left" in mistake("calibrate", bundle, "--calibration", calibrated_bundle / "calibration.json")
    assert {entry.precision for entry in load_bundle(bundle).manifest.files.values()} == {"fp32", "fp32-cpu"}
