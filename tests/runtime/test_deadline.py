"""A walk that ends early: what it returns, that all samples agree, and that nothing changes where there is time enough."""

from __future__ import annotations

import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffpose_edge.bundle import load_bundle
from diffpose_edge.bundle_writing import record_fitted
from diffpose_edge.export import export_bundle
from diffpose_edge.fitted import FittedSchedule
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.manifest import GRAPHS
from diffpose_edge.runtime import PoseEstimate, PoseRuntime
from diffpose_edge.runtime.backend import StoppableWalk
from diffpose_edge.runtime.budget import FixedPace
from diffpose_edge.runtime.deadline import Deadline, clean_rows, cut_short
from diffpose_edge.runtime.loop import reverse_process_until
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend
from diffpose_edge.runtime.onnxruntime_steps import OnnxRuntimeSteps
from diffpose_edge.runtime.plan import plan_of, step_plan
from diffpose_edge.skeleton import J
from diffpose_edge.tolerances import FP32_POSE_REL, FP32_STATE_REL

from .slow_steps import ENCODER_MS, MS, STEP_MS, StepClock, made_up, slow_runtime

RESULTS = ("joints", "covariance", "samples", "observed", "context")
KINDS = ["golden_bundle", "conditioned_bundle"]
# By the made-up timings this is good for five steps, and for no sixth.
FIVE_FIT = 56.0


def people_of(runtime: PoseRuntime, B: int) -> NDArray[np.float32]:
    F = runtime.bundle.manifest.shape.F
    size = (B, J, 2) if F == 1 else (B, F, J, 2)
    return np.random.default_rng(B).uniform(-0.5, 0.5, size).astype(np.float32)


def mode_of(runtime: PoseRuntime) -> str:
    """The mode in which the samples differ."""
    return "noised" if runtime.bundle.manifest.process.kind == "released" else "distribution"


def third_is_slow(steps: OnnxRuntimeSteps, k: int) -> float:
    return 25.0 if k == 2 else STEP_MS


def near(actual: NDArray[np.float32], expected: NDArray[np.float32], budget: float) -> None:
    assert np.isfinite(expected).all()
    assert np.abs(actual - expected).max() <= budget * np.abs(expected).max()


def same(a: PoseEstimate, b: PoseEstimate) -> None:
    for name in RESULTS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_with_time_enough_it_is_the_plain_schedule_bit_for_bit(
    kind: str, threads: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with slow_runtime(request.getfixturevalue(kind), monkeypatch, threads=threads) as runtime:
        people, mode = people_of(runtime, 2), mode_of(runtime)
        found = runtime.estimate(people, seed=4, budget_ms=FIVE_FIT, mode=mode, trace=True)
        plain = runtime.estimate(people, seed=4, steps=5, mode=mode, trace=True)
        same(found, plain)
        np.testing.assert_array_equal(found.trajectory, plain.trajectory)
        for estimate in (found, plain):
            assert not estimate.truncated
            assert estimate.walked.tolist() == [5, 5]
            assert estimate.timings.steps.shape == (5,)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_what_ends_early_is_the_shorter_schedule(
    kind: str, threads: int, m: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DDIM's last step is the one straight to the clean pose, so a truncated walk is the walk of its first m timesteps."""

    def durations(steps: OnnxRuntimeSteps, k: int) -> float:
        return FIVE_FIT if k == m - 1 else STEP_MS

    with slow_runtime(request.getfixturevalue(kind), monkeypatch, durations, threads=threads) as runtime:
        people, mode = people_of(runtime, 2), mode_of(runtime)
        found = runtime.estimate(people, seed=m, budget_ms=FIVE_FIT, mode=mode)
        assert found.truncated
        assert found.walked.tolist() == [m, m]
        assert (found.timings.steps[:m] > 0).all()
        assert not found.timings.steps[m:].any()
        five = runtime.estimate(people, seed=m, steps=5, mode=mode, trace=True)
        timesteps = step_plan(runtime.bundle.manifest, steps=5).timesteps
        shorter = runtime.estimate(people, seed=m, timesteps=timesteps[:m], mode=mode)
        for name in ("samples", "joints", "covariance"):
            near(getattr(found, name), getattr(shorter, name), FP32_POSE_REL)
        # And no other: neither the noisy state that the walk stood at nor the whole walk would pass.
        for other in (five.trajectory[m][..., 2:], five.samples):
            assert np.abs(other - shorter.samples).max() > 10 * FP32_POSE_REL * np.abs(shorter.samples).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["ddim", "ab2"])
def test_the_clean_state_is_that_of_the_formula(kind: str, sampler: str, request: pytest.FixtureRequest) -> None:
    bundle = load_bundle(request.getfixturevalue(kind))
    manifest, timesteps = bundle.manifest, (44, 30, 12, 3)
    backend = OnnxRuntimeBackend(manifest, {role: bundle.read(role) for role in GRAPHS}, 1)
    plan, rng = plan_of(manifest, sampler, timesteps), np.random.default_rng(2)
    start = rng.normal(size=backend.x.shape).astype(np.float32)
    backend.begin(timesteps, plan.coefficients)
    clock = StepClock()
    original = backend.steps.step

    def step(k: int) -> None:
        original(k)
        clock.pass_ms(STEP_MS)

    backend.steps.step = step  # type: ignore[method-assign]
    for m in (1, 2, 3):
        backend.x[...], trajectory = start, np.zeros((5, *start.shape), np.float32)
        clock.set_ms(0)
        deadline = Deadline(m * STEP_MS * MS, STEP_MS * MS, 0.0, clean_rows(manifest, timesteps), clock)
        found, walked = backend.walk_until(np.zeros(4), trajectory, deadline)
        assert walked == m
        x_t, out = trajectory[m - 1].astype(np.float64), backend.steps.previous(m).astype(np.float64)
        a_t = manifest.alpha_bar[timesteps[m - 1]]
        if manifest.process.kind == "distribution":
            x_t /= np.sqrt(a_t)  # the network is shown sqrt(a_t) x_t
        x0 = {"eps": (x_t - np.sqrt(1 - a_t) * out) / np.sqrt(a_t), "v": np.sqrt(a_t) * x_t - np.sqrt(1 - a_t) * out}
        near(found, x0[manifest.process.prediction].astype(np.float32), FP32_STATE_REL)
        other = x0["v" if manifest.process.prediction == "eps" else "eps"]
        assert np.abs(other - found).max() > 10 * FP32_STATE_REL * np.abs(found).max(), "a wrong formula would be seen"
    backend.close()


def test_any_schedule_cut_short_is_a_schedule_of_its_own(conditioned_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the last step is no plain shorter walk: rows that remember, rows that were fitted."""
    bundle = load_bundle(Path(shutil.copytree(conditioned_bundle, tmp_path / "bundle")))
    record_fitted(bundle, (FittedSchedule((46, 36, 20, 5), ((3.6, -0.2, 0.0), (1.7, -0.6, 0.3), (1.2, -0.5, 0.2), (1.0, -0.2, 0.1))),))
    slow_at = [0]

    def durations(steps: OnnxRuntimeSteps, k: int) -> float:
        return FIVE_FIT if k == slow_at[0] else STEP_MS

    with slow_runtime(bundle.path, monkeypatch, durations, threads=2) as runtime:
        people, manifest = people_of(runtime, 2), runtime.bundle.manifest
        for sampler, K in (("fitted", 4), ("ab2", 5)):
            plan = step_plan(manifest, steps=K, sampler=sampler)
            for m in (1, 2, 3):
                slow_at[0] = m - 1
                found = runtime.estimate(people, seed=2, budget_ms=FIVE_FIT, sampler=sampler)
                assert found.walked.tolist() == [m, m]
                slow_at[0] = K
                short = cut_short(manifest, plan, m)
                assert short.timesteps == plan.timesteps[:m]
                wanted = runtime._estimate(
                    *(Keypoints(people, np.ones((2, J), np.float32)), None, FixedPace(short), 0, "distribution"),
                    np.random.default_rng(2),
                    trace=False,
                )
                near(found.samples, wanted.samples, FP32_POSE_REL)


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("kind", KINDS)
def test_clean_rows_give_back_the_pose_that_noise_was_added_to(kind: str, prediction: str, request: pytest.FixtureRequest) -> None:
    manifest = load_bundle(request.getfixturevalue(kind)).manifest
    manifest = replace(manifest, process=replace(manifest.process, prediction=prediction))
    x0, eps = np.random.default_rng(0).normal(size=(2, 100))
    timesteps = (40, 20, 0)
    for (c0, c1), t in zip(clean_rows(manifest, timesteps).astype(np.float64), timesteps, strict=True):
        a = manifest.alpha_bar[t]
        x_t, v = np.sqrt(a) * x0 + np.sqrt(1 - a) * eps, np.sqrt(a) * eps - np.sqrt(1 - a) * x0
        seen = np.sqrt(a) * x_t if manifest.process.kind == "distribution" else x_t
        np.testing.assert_allclose(c0 * seen + c1 * {"eps": eps, "v": v}[prediction], x0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_without_time_for_a_step_the_answer_is_the_encoders(
    kind: str, threads: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with slow_runtime(request.getfixturevalue(kind), monkeypatch, threads=threads) as runtime:
        people, mode = people_of(runtime, 2), mode_of(runtime)
        original = runtime._backend.encode
        monkeypatch.setattr(runtime._backend, "encode", lambda: (original(), runtime._clock.pass_ms(FIVE_FIT)))
        found = runtime.estimate(people, seed=1, budget_ms=FIVE_FIT, mode=mode, trace=True)
        assert found.truncated
        assert found.walked.tolist() == [0, 0]
        assert not found.timings.steps.any()
        near(found.joints, found.context, FP32_POSE_REL)
        assert np.isnan(found.trajectory[1:]).all()
        plain = runtime.estimate(people, seed=1, steps=5, mode=mode, trace=True)
        np.testing.assert_array_equal(found.context, plain.context)
        np.testing.assert_array_equal(found.trajectory[0], plain.trajectory[0])
        if mode == "distribution":
            # Draws of the start, and so they differ; trajectories are in the image, samples are not, but x, y, z are the same.
            assert found.samples.std(axis=1).max() > 0.01
            assert (np.linalg.eigvalsh(found.covariance[:, 1:]) > 0).all()


def test_a_single_sample_that_was_not_walked_is_the_encoders_pose(
    conditioned_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_bundle(*conditioned_pair, tmp_path / "one", persons=1, samples=1)
    with slow_runtime(tmp_path / "one", monkeypatch) as runtime:
        original = runtime._backend.encode
        monkeypatch.setattr(runtime._backend, "encode", lambda: (original(), runtime._clock.pass_ms(100)))
        found = runtime.estimate(people_of(runtime, 1), seed=1, budget_ms=FIVE_FIT)
        assert found.walked.tolist() == [0]
        near(found.samples[:, 0], found.context, FP32_POSE_REL)


def test_the_part_that_came_least_far_decides_for_all(conditioned_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behind: list[Any] = []

    def durations(steps: OnnxRuntimeSteps, k: int) -> float:
        return 40.0 if k == 1 and behind and steps is behind[0] else STEP_MS

    with slow_runtime(conditioned_bundle, monkeypatch, durations, threads=3) as runtime:
        people, alone = people_of(runtime, 2), {}
        for part in range(3):
            behind[:] = [runtime._backend._steps._parts[part]]
            found = runtime.estimate(people, seed=6, budget_ms=FIVE_FIT)
            assert found.walked.tolist() == [2, 2], f"part {part} was at its second step when the time was up"
            alone[part] = found
        behind.clear()
        shorter = runtime.estimate(people, seed=6, timesteps=(49, 39))
        for found in alone.values():
            same(found, alone[0])
            near(found.samples, shorter.samples, FP32_POSE_REL)


def test_a_step_that_was_slow_is_expected_to_be_so_again(golden_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with slow_runtime(golden_bundle, monkeypatch, third_is_slow) as runtime:
        # 10 + 10 + 25 ms are gone: one of 10 would still end in time, one of 25 would not.
        assert runtime.estimate(people_of(runtime, 1), budget_ms=FIVE_FIT).walked.tolist() == [3]


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_share_the_time_that_is_left(conditioned_bundle: Path, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch: list[int] = []

    def durations(steps: OnnxRuntimeSteps, k: int) -> float:
        return 3 * STEP_MS if len(batch) == 1 else STEP_MS

    with slow_runtime(conditioned_bundle, monkeypatch, durations, threads=threads) as runtime:
        original = runtime._backend.encode
        monkeypatch.setattr(runtime._backend, "encode", lambda: (batch.append(0), original()))
        found = runtime.estimate(people_of(runtime, 5), seed=0, budget_ms=3 * FIVE_FIT)
        # A share of 56 ms: one step of 30 and no other. What was left over (in one thread, by its clock) is the others' as well.
        assert found.walked.tolist() == [1, 1, 5, 5, 5]
        assert found.truncated
        plain = runtime.estimate(people_of(runtime, 5), seed=0, steps=5)
        np.testing.assert_array_equal(found.samples[2:], plain.samples[2:])


def test_streams_and_clips_end_early_too(
    causal_bundle: Path, conditioned_video_bundle: Path, golden_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.random.default_rng(1).uniform(-0.5, 0.5, (5, J, 2)).astype(np.float32)
    clip = Keypoints(frames, np.ones((5, J), np.float32))
    # An estimate of a clip is of P = 2 frames, each shown to the causal encoder, or of a window of 5 frames in three batches.
    for path, clip_ms in ((causal_bundle, FIVE_FIT + ENCODER_MS), (conditioned_video_bundle, 3 * FIVE_FIT)):
        with slow_runtime(path, monkeypatch, third_is_slow) as runtime:
            with runtime.stream(2, seed=0, budget_ms=FIVE_FIT) as stream:
                found = stream.push(np.stack([frames[0], frames[1]]))
                assert (found.walked.tolist(), found.truncated) == ([3, 3], True)
            with runtime.stream(3, seed=0, budget_ms=2 * FIVE_FIT) as stream:
                assert stream.push(frames[:3]).truncated
            for estimate in runtime.estimate_clip(clip, seed=0, budget_ms=clip_ms):
                assert estimate.truncated
        monkeypatch.undo()
    with slow_runtime(golden_bundle, monkeypatch, third_is_slow) as runtime:
        # 56 ms for each estimate, not for the whole clip.
        walked = [e.walked.tolist() for e in runtime.estimate_clip(clip, seed=0, budget_ms=FIVE_FIT)]
        assert walked == [[3, 3], [3, 3], [3]]


def test_time_in_the_queue_counts(golden_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with slow_runtime(golden_bundle, monkeypatch) as runtime:
        clock = runtime._clock
        assert isinstance(clock, StepClock)
        # By this clock time passes in the pool's thread alone, in which each estimate takes 50 ms.
        waiting = [runtime.estimate_async(people_of(runtime, 1), budget_ms=FIVE_FIT) for _ in range(3)]
        assert [future.result().walked.tolist() for future in waiting] == [[5], [0], [0]]


def test_a_backend_that_shows_no_steps_is_not_cut_short(golden_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with slow_runtime(golden_bundle, monkeypatch, third_is_slow) as runtime:
        runtime._budgets.keep(replace(made_up(runtime._budgets.key), step=None, after=None))
        found = runtime.estimate(people_of(runtime, 1), budget_ms=FIVE_FIT)
        assert (found.walked.tolist(), found.truncated) == ([5], False)
    assert issubclass(OnnxRuntimeBackend, StoppableWalk)


@pytest.mark.parametrize("clean", [False, True])
def test_the_loop_allocates_nothing_that_depends_on_its_length(golden_bundle: Path, clean: bool) -> None:
    bundle = load_bundle(golden_bundle)
    backend = OnnxRuntimeBackend(bundle.manifest, {role: bundle.read(role) for role in GRAPHS}, 1)
    timesteps = tuple(range(49, -1, -1))
    backend.begin(timesteps, plan_of(bundle.manifest, "ddim", timesteps).coefficients)
    deadline = Deadline(np.inf, 1.0, 0.0, clean_rows(bundle.manifest, timesteps))
    step_ns, kept = np.zeros(50), np.zeros((50, *backend.x.shape), np.float32) if clean else None

    def grown() -> tuple[int, int]:
        """Bytes still held, and held at most, after 50 steps."""
        tracemalloc.start()
        try:
            assert reverse_process_until(backend.steps, 50, step_ns, deadline, None, kept) == 50
            return tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    held, most = (min(values) for values in zip(*(grown() for _ in range(5)), strict=True))
    assert held < 500
    assert most < backend.x.nbytes
    backend.close()
