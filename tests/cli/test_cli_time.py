"""``diffpose-edge time``, ``run --budget-ms`` and what ``inspect`` shows of both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.bundle import load_bundle
from diffpose_edge.bundle_writing import record_fitted
from diffpose_edge.fitted import FittedSchedule
from diffpose_edge.runtime import PoseRuntime

from .conftest import Mistake, Run

REACHED = {"sample_mm": 10.94, "pose_mm": 7.04, "pose_p99_mm": 28.24, "mpjpe_mm": 79.54}
TWO = FittedSchedule((40, 18), ((3.1, -0.4, 0.0), (1.5, -0.8, 0.3)), {"fitted": REACHED, "ddim": {}, "dense_mpjpe_mm": 78.53})
# A schedule whose record somebody has altered: shown as far as it goes.
THREE = FittedSchedule((44, 28, 10), ((3.1, -0.4, 0.0), (1.5, -0.8, 0.3), (1.1, -0.4, 0.1)), {"fitted": {"sample_mm": "6"}})


@pytest.fixture
def bundle(conditioned_bundle: Path, tmp_path: Path) -> Path:
    """A bundle with fitted schedules, to be altered."""
    path = Path(shutil.copytree(conditioned_bundle, tmp_path / "bundle"))
    record_fitted(load_bundle(path), (TWO, THREE))
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.npz"
    np.savez(path, keypoints=np.random.default_rng(0).uniform(-0.5, 0.5, (5, 17, 2)))
    return path


def test_a_bundle_is_timed_shown_and_run_within_a_budget(cli: Run, bundle: Path, clip: Path, tmp_path: Path) -> None:
    untimed = cli("inspect", bundle).out
    for text in ("fitted: 40, 18", "10.9", "28.2", "79.5", "78.5", "ddim: 49"):
        assert text in untimed
    assert "p50 / p99" not in untimed

    manifest = (bundle / "manifest.json").read_bytes()
    timed = cli("time", bundle, "--threads", 1, "--steps", 2, "--steps", 3, "--rounds", 100, "--pause-ms", 0).out
    assert "fitted: 44, 28, 10" in timed
    assert "after the last step" in timed
    assert (bundle / "manifest.json").read_bytes() == manifest
    (record,) = (bundle / "timings").iterdir()
    content = json.loads(record.read_text())
    assert sorted(content["frame_ms"]) == ["2", "3"]
    assert (content["key"]["backend"]["threads"], content["key"]["precision"]) == (1, "fp32")
    assert "threads 1" in cli("inspect", bundle).out.replace("\n", " ")

    poses = tmp_path / "poses.npz"
    said = cli("run", bundle, "--keypoints", clip, "--out", poses, "--threads", 1, "--budget-ms", 1e6, "--seed", 3).out
    assert "are good for K = 3 here; 0 of 3 estimates were cut short" in said
    with PoseRuntime.load(bundle, threads=1) as runtime, np.load(clip) as given, np.load(poses) as found:
        first = runtime.estimate(given["keypoints"][:2], seed=3, steps=3)
        np.testing.assert_array_equal(found["joints"][:2], first.joints)


def test_a_bundle_without_fitted_schedules_or_timings_has_no_such_table(cli: Run, conditioned_bundle: Path) -> None:
    assert "on offer for a budget" not in cli("inspect", conditioned_bundle).out


def test_a_budget_without_timings_and_one_that_is_too_little(mistake: Mistake, cli: Run, bundle: Path, clip: Path, tmp_path: Path) -> None:
    asked = ("run", bundle, "--keypoints", clip, "--out", tmp_path / "poses.npz", "--threads", 1)
    assert "Measure it: runtime.measure(), or diffpose-edge time" in mistake(*asked, "--budget-ms", 50)
    cli("time", bundle, "--threads", 1, "--steps", 1, "--rounds", 100, "--pause-ms", 0)
    assert "a budget of 0.001 ms is too little" in mistake(*asked, "--budget-ms", 0.001)
    assert "Leave one out" in mistake(*asked, "--budget-ms", 50, "--steps", 2)
    assert "number above 0" in mistake(*asked, "--budget-ms", -1)
    (record,) = (bundle / "timings").iterdir()
    record.write_text("{}")
    for command in (("inspect", bundle), (*asked, "--budget-ms", 50)):
        assert "is not a file of timings" in mistake(*command)
