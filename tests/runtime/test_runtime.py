"""The runtime as a robot uses it: right poses for any number of people, schedule, mode and thread, and clear refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffpose_edge.comparison import compare_poses, compare_relative
from diffpose_edge.errors import BundleError, DiffPoseEdgeError, KeypointError, RuntimeClosed, TimestepError
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.runtime import PoseEstimate, PoseRuntime
from diffpose_edge.runtime.backend import KEPT_SCHEDULES
from diffpose_edge.runtime.start import LEAST_OBSERVED
from diffpose_edge.skeleton import ROOT, J
from diffpose_edge.tolerances import FP32_STATE_REL, pose_budget_mm

RESULTS = ("joints", "covariance", "samples", "observed", "context")
N, FRAMES = 3, 9


@pytest.fixture
def runtime(golden_bundle: Path) -> Iterator[PoseRuntime]:
    """P=2, N=3."""
    with PoseRuntime.load(golden_bundle, threads=1) as loaded:
        yield loaded


@pytest.fixture
def video(golden_video_bundle: Path) -> Iterator[PoseRuntime]:
    """P=2, N=2, windows of 9 frames."""
    with PoseRuntime.load(golden_video_bundle, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def bundle_for(golden: SimpleNamespace, golden_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same networks exported for batches of one, two and three people."""
    from diffpose_edge.export import export_bundle

    bundles = {P: tmp_path_factory.mktemp("bundles") / f"P{P}" for P in (1, 3)}
    for P, out in bundles.items():
        export_bundle(golden.denoiser, golden.context, out, persons=P, samples=N)
    return {**bundles, 2: golden_bundle}


@pytest.fixture(scope="module")
def reference(golden: SimpleNamespace) -> Callable[..., NDArray[np.float32]]:
    """Poses of whole windows (B, 9, 17, 2) by PyTorch: (B, 9, 17, 3)."""
    import torch

    from diffpose_edge.reference.released import load_released, pose_of

    model = load_released(golden.denoiser, golden.mixste, video_heads=4)

    def poses(windows: NDArray[np.float32], timesteps: tuple[int, ...] = (12, 0)) -> NDArray[np.float32]:
        uv = torch.from_numpy(windows)
        flat = model.sample(uv.reshape(-1, J, 2), timesteps, model.context(uv).reshape(-1, J, 3))
        return pose_of(flat[-1]).reshape(*windows.shape[:3], 3).numpy()

    return poses


def _people(B: int, seed: int = 0, frames: tuple[int, ...] = ()) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (B, *frames, J, 2)).astype(np.float32)


def _same(a: PoseEstimate, b: PoseEstimate, people: Any = slice(None)) -> None:
    """The same results, bit for bit, for some people of the first and everybody in the second."""
    for name in RESULTS:
        np.testing.assert_array_equal(getattr(a, name)[people], getattr(b, name), err_msg=name)


def _close(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    c = compare_poses("poses", actual, expected, pose_budget_mm(float(np.abs(expected).max())))
    assert c.passed, str(c)


@pytest.mark.parametrize("schedule", ["ddim_T24_K2", "ddim_T50_K5", "ddim_T50_K50", "ddim_T6_K1"])
def test_poses_and_every_state_are_the_authors(runtime: PoseRuntime, golden: SimpleNamespace, schedule: str) -> None:
    assert schedule in golden.schedules
    steps = golden.expected[f"{schedule}_timesteps"].tolist()
    estimate = runtime.estimate(golden.expected["input_2d"], timesteps=steps, trace=True)
    _close(estimate.joints, golden.expected[f"{schedule}_pose"])
    assert estimate.trajectory is not None
    for k, expected in enumerate(golden.expected[f"{schedule}_x"]):
        for n in range(N):
            c = compare_relative(f"state {k}", estimate.trajectory[k, :, n], expected, FP32_STATE_REL)
            assert c.passed, str(c)


@pytest.mark.parametrize("B", [1, 2, 3, 4, 5])
def test_any_number_of_people_gets_the_poses_that_each_gets_alone(runtime: PoseRuntime, B: int) -> None:
    people = _people(B)
    together = runtime.estimate(people)
    assert (together.joints.shape, together.samples.shape) == ((B, J, 3), (B, N, J, 3))
    assert (together.covariance.shape, together.observed.shape) == ((B, J, 3, 3), (B, J))
    for b in range(B):
        _same(together, runtime.estimate(people[b]), slice(b, b + 1))


def test_padding_rows_never_leak(runtime: PoseRuntime, golden_bundle: Path) -> None:
    runtime.estimate(_people(2, seed=1), mode="noised", seed=0)
    with PoseRuntime.load(golden_bundle, threads=1) as fresh:
        for mode in ("released", "noised"):
            _same(runtime.estimate(_people(1), seed=5, mode=mode), fresh.estimate(_people(1), seed=5, mode=mode))


def test_missing_joints_are_ignored_and_change_nobody_else(runtime: PoseRuntime) -> None:
    people, confidence = _people(3), np.ones((3, J))
    confidence[1, [3, 9, 12]] = 0
    estimates = []
    for junk in (np.nan, np.inf, 1e6):
        people[1, [3, 9, 12]] = junk
        estimates.append(runtime.estimate(people, confidence))
        _same(estimates[-1], estimates[0])
        _same(estimates[-1], runtime.estimate(_people(3)[[0, 2]]), [0, 2])
    assert np.isfinite(estimates[0].joints).all()
    np.testing.assert_array_equal(estimates[0].observed, confidence > 0)
    both = np.concatenate([people, confidence[..., None]], axis=-1)
    _same(runtime.estimate(both), estimates[0])


def test_a_person_with_too_few_joints_seen_gets_nan_and_nobody_else_does(runtime: PoseRuntime) -> None:
    confidence = np.ones((3, J))
    confidence[0, LEAST_OBSERVED:] = 0
    confidence[1, LEAST_OBSERVED - 1 :] = 0
    estimate = runtime.estimate(_people(3), confidence, trace=True)
    assert estimate.trajectory is not None
    for result in (estimate.joints, estimate.samples, estimate.covariance, estimate.trajectory.swapaxes(0, 1)):
        assert np.isnan(result[1]).all()
        assert np.isfinite(result[[0, 2]]).all()
    _same(estimate, runtime.estimate(_people(3)[[0, 2]], confidence[[0, 2]]), [0, 2])


def test_noised_samples_follow_the_seed_bit_for_bit(runtime: PoseRuntime) -> None:
    one = runtime.estimate(_people(3), None, 7, mode="noised")
    _same(one, runtime.estimate(_people(3), seed=7, mode="noised"))
    _same(one, runtime.estimate(_people(3), seed=np.random.default_rng(7), mode="noised"))
    other = runtime.estimate(_people(3), seed=8, mode="noised")
    assert (one.samples[:, :, 1:] != other.samples[:, :, 1:]).any(axis=(1, 2, 3)).all()
    assert (one.covariance[:, 1:] != 0).all()
    generator = np.random.default_rng(7)
    _same(one, runtime.estimate(_people(3), seed=generator, mode="noised"))
    assert not np.array_equal(one.samples, runtime.estimate(_people(3), seed=generator, mode="noised").samples)


def test_noised_samples_do_not_depend_on_the_bundles_batch(bundle_for: dict[int, Path]) -> None:
    samples = {}
    for P, bundle in bundle_for.items():
        with PoseRuntime.load(bundle, threads=1) as loaded:
            samples[P] = loaded.estimate(_people(5), seed=3, mode="noised").samples
    for P in (2, 3):
        _close(samples[P], samples[1])


def test_in_released_mode_the_seed_has_no_effect_and_samples_are_equal(runtime: PoseRuntime) -> None:
    estimate = runtime.estimate(_people(2))
    for seed in (0, 1, np.random.default_rng(2)):
        _same(estimate, runtime.estimate(_people(2), seed=seed))
    np.testing.assert_array_equal(estimate.samples, np.broadcast_to(estimate.joints[:, None], estimate.samples.shape))
    assert (estimate.covariance == 0).all()


def test_more_schedules_than_are_kept_and_then_the_first_again(runtime: PoseRuntime) -> None:
    schedules = [(40 - k, k, 0) for k in range(1, KEPT_SCHEDULES + 4)]
    estimates = [runtime.estimate(_people(3), timesteps=steps) for steps in schedules]
    assert len({e.joints.tobytes() for e in estimates}) == len(schedules)
    for steps, estimate in zip(schedules, estimates, strict=True):
        _same(runtime.estimate(_people(3), timesteps=np.array(steps)), estimate)
    _same(runtime.estimate(_people(3)), runtime.estimate(_people(3), timesteps=[12, 0]))


def test_a_trace_holds_every_state_from_the_start_to_the_samples(runtime: PoseRuntime) -> None:
    estimate = runtime.estimate(_people(3), timesteps=(20, 10, 0), trace=True)
    states = estimate.trajectory
    assert states is not None
    assert states.shape == (4, 3, N, J, 5)
    np.testing.assert_array_equal(states[0, ..., :2], np.broadcast_to(_people(3)[:, None], (3, N, J, 2)))
    assert (states[0, ..., ROOT, 2:] == 0).all()
    np.testing.assert_array_equal(states[-1, ..., 2:] - states[-1, ..., ROOT : ROOT + 1, 2:], estimate.samples)
    untraced = runtime.estimate(_people(3), timesteps=(20, 10, 0))
    assert untraced.trajectory is None
    _same(untraced, estimate)


@pytest.mark.parametrize("B", [1, 5])
def test_timings_are_positive_and_add_up_to_no_more_than_the_total(runtime: PoseRuntime, B: int) -> None:
    t = runtime.estimate(_people(B), timesteps=(20, 10, 0)).timings
    assert t.steps.shape == (3,)
    assert min(t.context, t.aggregate, *t.steps) > 0
    assert t.context + t.steps.sum() + t.aggregate <= t.total
    assert t.batches == -(-B // 2)


def test_results_are_the_callers_own(runtime: PoseRuntime) -> None:
    people = _people(3)
    first = runtime.estimate(people, trace=True)
    kept = {name: getattr(first, name).copy() for name in (*RESULTS, "trajectory")}
    people[:] = 0
    runtime.estimate(_people(3, seed=1), np.full((3, J), 0.5), timesteps=(6, 0), trace=True)
    for name, value in kept.items():
        np.testing.assert_array_equal(getattr(first, name), value, err_msg=name)
        getattr(first, name)[:] = 0
    _same(runtime.estimate(_people(3)), PoseEstimate(**{n: kept[n] for n in RESULTS}, timings=first.timings))


def test_two_threads_at_once_get_what_each_would_get_alone(runtime: PoseRuntime) -> None:
    jobs = [(_people(1 + i % 3, seed=i), (30 - i % 4, 0), "noised" if i % 2 else "released", i) for i in range(24)]

    def run(job: tuple[Any, ...]) -> PoseEstimate:
        return runtime.estimate(job[0], timesteps=job[1], mode=job[2], seed=job[3])

    alone = [run(job) for job in jobs]
    with ThreadPoolExecutor(2) as pool:
        for together, expected in zip(pool.map(run, jobs), alone, strict=True):
            _same(together, expected)


def test_a_closed_runtime_says_so_and_may_be_closed_again(golden_bundle: Path) -> None:
    with PoseRuntime.load(golden_bundle) as runtime:
        assert runtime.describe()["backend"] == "onnxruntime"
    runtime.close()
    clip = Keypoints(_people(2), np.ones((2, J), np.float32))
    for use in (lambda: runtime.estimate(_people(1)), runtime.describe, lambda: next(runtime.estimate_clip(clip))):
        with pytest.raises(RuntimeClosed, match="closed"):
            use()


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"mode": "fancy"}, DiffPoseEdgeError, "released, noised, got 'fancy'"),
        ({"timesteps": []}, TimestepError, "at least one"),
        ({"timesteps": [0, 12]}, TimestepError, "0 then 12"),
        ({"timesteps": [51]}, TimestepError, "51"),
        ({"timesteps": 12}, TimestepError, "12"),
        ({"seed": -1}, DiffPoseEdgeError, "-1"),
        ({"seed": "seven"}, DiffPoseEdgeError, "seven"),
        ({"confidence": 0.5}, KeypointError, "confidence"),
        ({"confidence": [[1.0], [1.0, 1.0]]}, KeypointError, "confidence"),
        ({"keypoints": [[0.1, 0.2], [0.1]]}, KeypointError, "numbers"),
        ({"keypoints": "people"}, KeypointError, "numbers"),
        ({"keypoints": _people(0)}, KeypointError, "nobody"),
        ({"keypoints": _people(2, frames=(FRAMES,))}, KeypointError, r"\(2, 9, 17, 2\)"),
    ],
)
def test_a_wrong_argument_is_refused_and_the_runtime_still_works(
    runtime: PoseRuntime, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    before = runtime.estimate(_people(2))
    with pytest.raises(error, match=said):
        runtime.estimate(**{"keypoints": _people(1), **options})
    _same(runtime.estimate(_people(2)), before)


def test_loading_refuses_unknown_backends_bad_thread_counts_and_what_is_no_bundle(golden_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DiffPoseEdgeError, match="out of onnxruntime, tensorrt, onnxruntime-cuda, auto, got 'tpu'"):
        PoseRuntime.load(golden_bundle, "tpu")
    for threads in (0, -1, 10**6):
        with pytest.raises(DiffPoseEdgeError, match=rf"threads .*got {threads}"):
            PoseRuntime.load(golden_bundle, threads=threads)
    with pytest.raises(BundleError, match="has no manifest"):
        PoseRuntime.load(tmp_path)


def test_a_window_gives_the_pose_of_its_newest_frame(video: PoseRuntime, reference: Callable[..., Any]) -> None:
    windows = _people(3, frames=(FRAMES,))
    estimate = video.estimate(windows)
    assert estimate.samples.shape == (3, 2, J, 3)
    _close(estimate.joints, reference(windows)[:, -1])
    for b in range(3):
        _same(estimate, video.estimate(windows[b]), slice(b, b + 1))


@pytest.mark.parametrize("frames", [1, FRAMES - 1, FRAMES + 1])
def test_a_window_of_another_length_is_refused(video: PoseRuntime, frames: int) -> None:
    with pytest.raises(KeypointError, match=rf"F={FRAMES} frames .*got {frames}"):
        video.estimate(_people(2, frames=(frames,)))


def test_only_the_newest_frame_decides_whether_a_window_has_a_pose(video: PoseRuntime) -> None:
    windows, confidence = _people(2, frames=(FRAMES,)), np.ones((2, FRAMES, J))
    confidence[0, 3], confidence[1, -1] = 0, 0
    windows[0, 3] = windows[1, -1] = np.nan
    estimate = video.estimate(windows, confidence)
    assert np.isfinite(estimate.joints[0]).all()
    assert np.isnan(estimate.joints[1]).all()
    np.testing.assert_array_equal(estimate.observed, confidence[:, -1] > 0)


@pytest.mark.parametrize("length", [1, FRAMES, FRAMES + 4])
def test_a_clip_of_any_length_gets_a_pose_for_every_frame(video: PoseRuntime, reference: Callable[..., Any], length: int) -> None:
    uv = _people(length)
    estimates = list(video.estimate_clip(Keypoints(uv, np.ones((length, J), np.float32)), trace=True))
    padded = uv[np.minimum(np.arange(-(-length // FRAMES) * FRAMES), length - 1)]
    _close(np.concatenate([e.joints for e in estimates]), reference(padded.reshape(-1, FRAMES, J, 2)).reshape(-1, J, 3)[:length])
    states = np.concatenate([e.trajectory for e in estimates if e.trajectory is not None], axis=1)
    np.testing.assert_array_equal(states[0, :, 0, :, :2], uv)


def test_a_clip_of_single_frames_is_estimated_in_order(runtime: PoseRuntime) -> None:
    confidence = np.ones((5, J), np.float32)
    confidence[2] = 0
    for mode in ("released", "noised"):
        estimates = list(runtime.estimate_clip(Keypoints(_people(5), confidence), seed=4, mode=mode))
        whole = runtime.estimate(_people(5), confidence, seed=4, mode=mode)
        for name in RESULTS:
            np.testing.assert_array_equal(np.concatenate([getattr(e, name) for e in estimates]), getattr(whole, name))
