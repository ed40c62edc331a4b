"""The search for few steps: what is fitted is what least squares is, nearer than DDIM, and what the runtime then walks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from diffpose_edge.bundle import load_bundle
from diffpose_edge.bundle_writing import record_fitted
from diffpose_edge.calibration.step_search import (
    SEARCH_SEED,
    Denoiser,
    Trial,
    held_out,
    plan_of_fitted,
    recorded_starts,
    search_trial,
    searched_schedule,
    searched_timesteps,
)
from diffpose_edge.cli.app import app
from diffpose_edge.clips import held_out_path, trained_pair
from diffpose_edge.errors import TimestepError
from diffpose_edge.evaluation import load_evaluation
from diffpose_edge.export import export_bundle
from diffpose_edge.fitted import FILE, schedules_of_checkpoints
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.plan import StepPlan, step_plan

KINDS = ("golden_bundle", "golden_video_bundle", "conditioned_bundle", "conditioned_video_bundle")


def clip_of(frames: int) -> Keypoints:
    """One walking person; in the third frame too few joints were seen."""
    rng = np.random.default_rng(7)
    uv = rng.uniform(-0.4, 0.4, (1, 17, 2)) + 0.02 * rng.standard_normal((frames, 17, 2)).cumsum(axis=0)
    confidence = rng.uniform(0.3, 1.0, (frames, 17))
    confidence[2, :12] = 0.0
    return Keypoints(uv.astype(np.float32), confidence.astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_a_trials_walk_is_the_runtimes(kind: str, request: pytest.FixtureRequest) -> None:
    """From recorded starts through the trial's own loop to samples: what the runtime gives for the same seed."""
    bundle = load_bundle(request.getfixturevalue(kind))
    clip = clip_of(7)
    starts, posed = recorded_starts(bundle, [clip], 3)
    trial = Trial(bundle, Denoiser(bundle), starts)
    for sampler in ("ddim", "ab2"):
        plan = step_plan(bundle.manifest, steps=3, sampler=sampler)
        rng = np.random.default_rng([3, 0])
        with PoseRuntime.load(bundle, threads=1, portable=True) as runtime:
            estimates = list(runtime.estimate_clip(clip, rng, timesteps=plan.timesteps, sampler=sampler))
        expected = np.concatenate([e.samples for e in estimates])
        assert posed.tolist() == np.isfinite(expected).all(axis=(1, 2, 3)).tolist() == [True, True, False, True, True, True, True]
        np.testing.assert_allclose(trial.samples_of(plan), expected[posed], rtol=0, atol=1e-5 * np.abs(expected[posed]).max())


def test_what_is_fitted_is_nearer_than_ddim_and_no_row_can_be_moved_for_the_better(conditioned_bundle: Path) -> None:
    bundle = load_bundle(conditioned_bundle)
    trial = search_trial(bundle, Denoiser(bundle), clip_of(20), frames=12)
    timesteps = (44, 28, 10)
    schedule, added = trial.fitted(timesteps)
    assert schedule.timesteps == timesteps
    found = trial.added_mm(trial.samples_of(plan_of_fitted(schedule)))
    assert found.mean() == pytest.approx(added, rel=1e-4), "what was fitted is not what is walked"
    for steps in (trial.samples_of(step_plan(bundle.manifest, steps=3)), trial.samples_of(step_plan(bundle.manifest, timesteps))):
        assert added < 0.5 * trial.added_mm(steps).mean()
    # The last row is the optimum of squared metres, beside a little of u, v.

    def apart(plan: StepPlan) -> float:
        off = (trial._walked(plan)[-1] - trial._states[-1]).astype(np.float64)
        return float(np.square(trial._weight() * off).sum())

    least = apart(plan_of_fitted(schedule))
    for i in range(3):
        for by in (-3e-2, 3e-2):
            rows = [list(row) for row in schedule.rows]
            rows[-1][i] += by
            moved = plan_of_fitted(type(schedule)(timesteps, tuple(tuple(row) for row in rows)))  # type: ignore[misc]
            assert apart(moved) > least
    # Walked by the same prefix again, and by another order of asking, it is the same.
    trial.fitted((44, 28, 12))
    assert trial.fitted(timesteps)[0] == schedule


def test_every_timestep_fitted_is_ddim_itself(conditioned_bundle: Path) -> None:
    bundle = load_bundle(conditioned_bundle)
    trial = search_trial(bundle, Denoiser(bundle), clip_of(8), frames=4)
    assert trial.fitted(trial.dense)[1] < 0.05
    assert trial.added_mm(trial.samples_of(step_plan(bundle.manifest, steps=50, sampler="ddim"))).max() == 0


def test_the_search_comes_nearer_than_where_it_began(conditioned_bundle: Path) -> None:
    bundle = load_bundle(conditioned_bundle)
    trial, tried = search_trial(bundle, Denoiser(bundle), clip_of(8), frames=4), []
    best = searched_timesteps(trial, 2, tried.append)
    assert trial.fitted(best)[1] <= trial.fitted((49, 25))[1]
    assert all(trial.fitted(best)[1] <= trial.fitted((best[0], best[1] + by))[1] + 2e-3 for by in (-1, 1))
    assert len(tried) > 5
    for K in (0, 51):
        with pytest.raises(TimestepError, match="1 <= K <= 50"):
            searched_timesteps(trial, K)


@pytest.mark.parametrize("kind", ["golden_bundle", "conditioned_video_bundle"])
def test_released_weights_keep_their_first_timestep_and_every_kind_of_bundle_is_served(kind: str, request: pytest.FixtureRequest) -> None:
    bundle, clips = load_bundle(request.getfixturevalue(kind)), load_evaluation(held_out_path())[:2]
    denoiser = Denoiser(bundle)
    trial, held = search_trial(bundle, denoiser, clip_of(12), frames=3), held_out(bundle, denoiser, clips, 2)
    assert len(held.truth) == len(held.trial.starts.x) == 4
    schedule = searched_schedule(trial, held, 2)
    if kind == "golden_bundle":
        assert trial.dense == tuple(range(12, -1, -1))
        assert schedule.timesteps[0] == 12
    assert schedule.accuracy["poses_held_out"] == 4
    assert schedule.accuracy["fitted"]["sample_mm"] <= schedule.accuracy["ddim"]["sample_mm"] + 0.01


def test_the_truth_belongs_to_the_pose(conditioned_video_bundle: Path) -> None:
    """Frames are picked from windows and from what got a pose: the truth must be picked alike."""
    bundle, clips = load_bundle(conditioned_video_bundle), load_evaluation(held_out_path())[:2]
    held = held_out(bundle, Denoiser(bundle), clips, 3)
    middle = (len(clips[0]) - 5) // 2
    expected = [clip.truth[middle + i] for clip in clips for i in (0, 2, 4)]
    np.testing.assert_array_equal(held.truth, np.stack(expected))


@pytest.mark.slow
def test_the_command_writes_the_bundle_and_a_file_that_exports_take(
    conditioned_pair: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in conditioned_pair:
        shutil.copy(path, tmp_path)
    pair = [tmp_path / path.name for path in conditioned_pair]
    bundle = export_bundle(*pair, tmp_path / "bundle", persons=4, samples=3).bundle
    saved = pair[0].with_name(FILE)
    (bundle.path / "manifest.json.sig").write_bytes(bytes(64))
    asked = ["search-steps", str(bundle.path), "--steps", "2", "--frames", "4", "--each", "1", "--save", str(saved)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    (schedule,) = load_bundle(bundle.path).manifest.fitted
    assert ", ".join(map(str, schedule.timesteps)) in result.output
    assert "its signature is removed" in caplog.text
    assert not (bundle.path / "manifest.json.sig").exists()
    again = export_bundle(*pair, tmp_path / "again", samples=2)
    assert again.bundle.manifest.fitted == (schedule,)
    assert not again.warnings
    # Of other weights: left out, and said so.
    content = json.loads(saved.read_text())
    content["checkpoints"]["denoiser"] = "0" * 64
    saved.write_text(json.dumps(content))
    other = export_bundle(*pair, tmp_path / "other", samples=2)
    assert other.bundle.manifest.fitted == ()
    assert "other checkpoints and is left out" in other.warnings[0]


@pytest.mark.parametrize("pair", ["frame", "video"])
def test_the_schedules_that_ship_belong_to_the_weights_that_ship(pair: str) -> None:
    import hashlib

    denoiser, context = trained_pair(pair)
    shas = {role: hashlib.sha256(path.read_bytes()).hexdigest() for role, path in (("denoiser", denoiser), ("context", context))}
    schedules = schedules_of_checkpoints(denoiser.with_name(FILE), shas, 50)
    assert schedules is not None
    assert [len(schedule.timesteps) for schedule in schedules] == [2, 3, 4, 5, 8]
    for schedule in schedules:
        fitted, ddim = schedule.accuracy["fitted"], schedule.accuracy["ddim"]
        assert fitted["sample_mm"] < 0.5 * ddim["sample_mm"]
        assert fitted["pose_mm"] < ddim["pose_mm"]


@pytest.mark.slow
def test_three_steps_that_ship_reach_on_real_poses_what_their_record_says(tmp_path: Path) -> None:
    bundle = export_bundle(*trained_pair("frame"), tmp_path / "bundle", samples=5, persons=4).bundle
    clips = load_evaluation(held_out_path())[::3]
    held = held_out(bundle, Denoiser(bundle), clips, 2)
    three = next(schedule for schedule in bundle.manifest.fitted if len(schedule.timesteps) == 3)
    found, ddim = held.accuracy(plan_of_fitted(three)), held.accuracy(step_plan(bundle.manifest, steps=3, sampler="ddim"))
    # Eight poses of a hundred and nineteen: within a factor, and far below DDIM.
    assert found["sample_mm"] < 1.6 * three.accuracy["fitted"]["sample_mm"]
    assert found["sample_mm"] < 0.4 * ddim["sample_mm"]


def test_searching_again_gives_the_same(conditioned_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(Path(shutil.copytree(conditioned_bundle, tmp_path / "bundle")))
    trials = [search_trial(bundle, Denoiser(bundle), clip_of(8), frames=4) for _ in range(2)]
    first, second = (trial.fitted(searched_timesteps(trial, 2))[0] for trial in trials)
    assert first == second
    assert SEARCH_SEED == 0
    assert record_fitted(bundle, [first]).manifest.fitted == (first,)
