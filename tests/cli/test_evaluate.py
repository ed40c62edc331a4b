"""``diffpose-edge evaluate`` on the golden bundles: the truth is made from what they estimate, so the errors are known."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diffpose_edge.clips import street_walk
from diffpose_edge.evaluation import EvaluationClip, save_evaluation
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.scoring import METRICS
from diffpose_edge.tolerances import FP32_POSE_MM

from .conftest import Run

OFF, OFF_MM = np.array([0.02, 0.0, 0.048], np.float32), 52.0
BLANK = 3
near = functools.partial(pytest.approx, rel=0, abs=FP32_POSE_MM)


@pytest.fixture
def cli(cli: Run) -> Run:
    """Run ``evaluate``; check its exit status; return what it printed."""
    return functools.partial(cli, "evaluate")


def _clips(bundle: Path) -> list[EvaluationClip]:
    """Two clips whose truth is the estimate itself: exactly for one, 52 mm away for every joint but the hip for the other.

    The first has a frame in which nobody is seen.
    """
    walk = street_walk().keypoints
    seen = np.flatnonzero(walk.confidence.min(axis=1) > 0)
    clips = []
    with PoseRuntime.load(bundle, threads=1) as runtime:
        for index, (name, action, frames) in enumerate((("S9/Walking 1", "Walking 1", 7), ("S9/[b]Sitting", "Sitting", 12))):
            at = seen[:frames] + index
            uv, confidence = walk.uv[at].copy(), np.ones((frames, 17), np.float32)
            if index == 0:
                confidence[BLANK] = 0
            estimates = list(runtime.estimate_clip(Keypoints(uv, confidence), 0, mode="released"))
            truth = np.nan_to_num(np.concatenate([e.joints for e in estimates]))
            truth[:, 1:] += index * OFF
            clips.append(EvaluationClip(name, action, 50.0, uv, confidence, truth))
    return clips


@pytest.fixture
def data(golden_bundle: Path, tmp_path: Path) -> Path:
    save_evaluation(tmp_path / "set.npz", _clips(golden_bundle))
    return tmp_path / "set.npz"


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}


def test_known_errors_are_found(cli: Run, golden_bundle: Path, data: Path, tmp_path: Path) -> None:
    printed = cli(golden_bundle, "--data", data, "--json", tmp_path / "out.json", "--plot", tmp_path / "out.png", "--mode", "released")
    rows = _rows(tmp_path / "out.json")
    assert list(rows) == ["all frames", "mean of 2 actions", "Sitting", "Walking", "S9/Walking 1", "S9/[b]Sitting"]
    walking, sitting = rows["S9/Walking 1"], rows["S9/[b]Sitting"]
    assert (walking["frames"], walking["unposed"], walking["mpjpe"], walking["pck_150"]) == (7, 1, 0.0, 100.0)
    # Of 17 joints all but the hip are off, by as much in every frame; the truth is float32 in the file.
    assert sitting["mpjpe"] == near(OFF_MM * 16 / 17)
    assert sitting["mpjve"] == near(0)
    # Less than 55, 60, …, 150.
    assert sitting["auc"] == near(100 * 20 / 31)
    assert rows["mean of 2 actions"]["mpjpe"] == near(sitting["mpjpe"] / 2)
    assert rows["all frames"]["mpjpe"] == near(sitting["mpjpe"] * 12 / 18)
    # Equal samples claim to be certain: right for the clip that is exact, wrong for the other.
    assert (walking["coverage_50"], sitting["coverage_90"]) == (1.0, 0.0)
    assert sitting["spearman"] is None
    for text in ("all frames", "S9/[b]Sitting", "P-MPJPE", "2 clips, 19 frames, 1 of them without a pose", "left_wrist"):
        assert text in printed.out
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"set.npz", "out.json", "out.png"}


def test_the_file_says_what_was_measured_and_how(cli: Run, golden_bundle: Path, data: Path, tmp_path: Path) -> None:
    cli(golden_bundle, "--data", data, "--json", tmp_path / "a.json", "--mode", "noised", "--timesteps", "12,0", "--seed", 3, "--limit", 5)
    report = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    used = report["evaluation"]
    assert {key: used[key] for key in ("mode", "timesteps", "N", "seed", "limit")} == {
        "mode": "noised", "timesteps": [12, 0], "N": 3, "seed": 3, "limit": 5,
    }  # fmt: skip
    assert [row["frames"] for row in report["rows"]] == [10, 10, 5, 5, 5, 5]
    assert set(METRICS) < set(report["rows"][0])
    assert len(report["joints"]) == 17
    assert [point["level"] for point in report["calibration"]] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert report["rows"][0]["mpjpe"] > 0
    # The same seed gives the same file; another does not.
    cli(golden_bundle, "--data", data, "--json", tmp_path / "b.json", "--mode", "noised", "--timesteps", "12,0", "--seed", 3, "--limit", 5)
    cli(golden_bundle, "--data", data, "--json", tmp_path / "c.json", "--mode", "noised", "--timesteps", "12,0", "--seed", 4, "--limit", 5)
    a, b, c = ((tmp_path / f"{name}.json").read_text(encoding="utf-8") for name in "abc")
    assert a == b
    assert json.loads(a)["rows"] != json.loads(c)["rows"]


def test_without_a_mode_none_is_passed_on(
    cli: Run, golden_bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []
    original = PoseRuntime.estimate_clip

    def spy(self: PoseRuntime, *arguments: Any, **options: Any) -> Any:
        given.append(options)
        return original(self, *arguments, **options)

    monkeypatch.setattr(PoseRuntime, "estimate_clip", spy)
    cli(golden_bundle, "--data", data)
    cli(golden_bundle, "--data", data, "--mode", "noised")
    steps = {"timesteps": None, "steps": None, "sampler": None}
    assert given == [steps] * 2 + [{**steps, "mode": "noised"}] * 2


def test_a_video_bundle_is_evaluated_window_by_window(cli: Run, golden_video_bundle: Path, tmp_path: Path) -> None:
    save_evaluation(tmp_path / "set.npz", _clips(golden_video_bundle))
    cli(golden_video_bundle, "--data", tmp_path / "set.npz", "--json", tmp_path / "out.json", "--mode", "released")
    rows = _rows(tmp_path / "out.json")
    assert (rows["S9/Walking 1"]["mpjpe"], rows["S9/Walking 1"]["unposed"]) == (0.0, 1)
    assert rows["Sitting"]["mpjpe"] == near(OFF_MM * 16 / 17)


def test_the_encoder_s_own_error_is_measured_where_the_estimate_has_it(
    cli: Run, golden_bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PoseRuntime.estimate_clip

    def with_context(self: PoseRuntime, *arguments: Any, **options: Any) -> Any:
        for estimate in original(self, *arguments, **options):
            yield SimpleNamespace(**{**vars(estimate), "context": estimate.joints + np.float32(0.01)})

    monkeypatch.setattr(PoseRuntime, "estimate_clip", with_context)
    printed = cli(golden_bundle, "--data", data, "--json", tmp_path / "out.json", "--mode", "released")
    assert _rows(tmp_path / "out.json")["Walking"]["context_mpjpe"] == near(10 * 3**0.5)
    assert "encoder" in printed.out


def test_mistakes_are_told_and_nothing_is_written(cli: Run, golden_bundle: Path, data: Path, tmp_path: Path) -> None:
    before = data.read_bytes()
    folder = tmp_path / "missing"
    for arguments, message in (
        (("--data", tmp_path / "none.npz"), "no evaluation set at"),
        (("--data", golden_bundle / "manifest.json"), "cannot be read"),
        (("--data", data, "--mode", "dreamed"), "dreamed"),
        (("--data", data, "--timesteps", "0,12"), "timesteps"),
        (("--data", data, "--seed", -1), "seed"),
        (("--data", data, "--json", data), "the evaluation set itself"),
        (("--data", data, "--json", tmp_path / "a", "--plot", tmp_path / "a"), "choose two names"),
        (("--data", data, "--plot", folder / "a.png"), "parent folder does not exist"),
    ):
        error = cli(golden_bundle, *arguments, status=2).err
        assert message in error
        assert "Traceback" not in error
    assert data.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["set.npz"]
