"""No NaN or inf leaves the runtime unsaid: planted wherever a network gives results, it raises, or the last finite state answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.errors import DiffPoseEdgeError, NumericalError
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.deadline import cut_short
from diffpose_edge.runtime.last_finite import LARGEST
from diffpose_edge.runtime.plan import step_plan

from .device_runtime import clip_of, people_of
from .faults import assert_explained, plant_in_encoder, plant_in_step

K, N = 5, 3
Load = Callable[..., PoseRuntime]


@pytest.fixture
def load(golden_bundle: Path, conditioned_bundle: Path, causal_bundle: Path, conditioned_video_bundle: Path) -> Iterator[Load]:
    """Load a bundle by its name, on one thread where nothing else is said; all are closed in the end."""
    paths = {"golden": golden_bundle, "conditioned": conditioned_bundle, "causal": causal_bundle, "video": conditioned_video_bundle}
    opened: list[PoseRuntime] = []

    def open_one(name: str, **options: object) -> PoseRuntime:
        opened.append(PoseRuntime.load(paths[name], **{"threads": 1, **options}))
        return opened[-1]

    yield open_one
    for runtime in opened:
        runtime.close()


@pytest.mark.parametrize("name", ["golden", "conditioned"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_a_step_that_gives_no_number_raises_and_says_which(name: str, value: float, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load(name)
    uv, confidence = people_of(runtime, 2)
    plant_in_step(monkeypatch, k=2, row=N + 1, value=value)  # the second person's second sample
    timesteps = step_plan(runtime.bundle.manifest, steps=K).timesteps
    with pytest.raises(NumericalError, match=rf"step 3 of 5 \(timestep {timesteps[2]}\).*person 1, sample 1.*fp32.*verify") as caught:
        runtime.estimate(uv, confidence, seed=0, steps=K)
    assert (caught.value.person, caught.value.step, caught.value.timestep, caught.value.sample) == (1, 2, timesteps[2], 1)


@pytest.mark.parametrize("name", ["golden", "conditioned"])
@pytest.mark.parametrize("k", [0, 1, 4])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_last_finite_state_answers(name: str, k: int, threads: int, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load(name, threads=threads, non_finite="last")
    uv, confidence = people_of(runtime, 2)
    whole = runtime.estimate(uv, confidence, seed=3, steps=K)
    plan = step_plan(runtime.bundle.manifest, steps=K)
    short = None if k == 0 else cut_short(runtime.bundle.manifest, plan, k)
    if short is not None:
        monkeypatch.setattr("diffpose_edge.runtime.pose_runtime.step_plan", lambda *_: short)
        expected = runtime.estimate(uv, confidence, seed=3)
        monkeypatch.undo()
    # With three threads each has one sample of both people.
    plant_in_step(monkeypatch, k=k, row=N + 1 if threads == 1 else 1)
    found = runtime.estimate(uv, confidence, seed=3, steps=K)
    np.testing.assert_array_equal(found.non_finite, [False, True])
    np.testing.assert_array_equal(found.walked, [K, k])
    assert not found.truncated
    np.testing.assert_array_equal(found.joints[0], whole.joints[0])
    if short is None:
        np.testing.assert_allclose(found.joints[1], found.context[1], atol=2e-6)
    else:
        np.testing.assert_array_equal(found.samples[1], expected.samples[1])
        np.testing.assert_array_equal(found.covariance[1], expected.covariance[1])
    assert_explained(found)


def test_a_trace_ends_with_the_last_finite_state(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load("conditioned", non_finite="last")
    uv, confidence = people_of(runtime, 2)
    whole = runtime.estimate(uv, confidence, seed=3, steps=K, trace=True)
    plant_in_step(monkeypatch, k=2, row=0)
    found = runtime.estimate(uv, confidence, seed=3, steps=K, trace=True)
    assert whole.trajectory is not None
    assert found.trajectory is not None
    np.testing.assert_array_equal(found.trajectory[:3], whole.trajectory[:3])
    np.testing.assert_array_equal(found.trajectory[:, 1], whole.trajectory[:, 1])
    assert_explained(found)


@pytest.mark.parametrize("name", ["golden", "conditioned"])
def test_an_encoder_that_gives_no_number(name: str, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load(name, non_finite="last")
    uv, confidence = people_of(runtime, 3)
    whole = runtime.estimate(uv, confidence, seed=1)
    plant_in_encoder(monkeypatch, runtime, 1, "xyz")
    found = runtime.estimate(uv, confidence, seed=1)
    # Nothing of the person is known: there is no pose, and it is said why.
    np.testing.assert_array_equal(found.non_finite, [False, True, False])
    np.testing.assert_array_equal(found.valid, [True, False, True])
    np.testing.assert_array_equal(found.joints[[0, 2]], whole.joints[[0, 2]])
    assert_explained(found)
    runtime._non_finite = "raise"
    with pytest.raises(NumericalError, match="context encoder's answer for person 1") as caught:
        runtime.estimate(uv, confidence, seed=1)
    assert (caught.value.person, caught.value.step) == (1, None)


def test_without_a_feature_the_encoders_pose_answers(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load("conditioned", non_finite="last")
    uv, confidence = people_of(runtime, 2)
    plant_in_encoder(monkeypatch, runtime, 0, "features", np.inf)
    found = runtime.estimate(uv, confidence, seed=1)
    np.testing.assert_array_equal(found.non_finite, [True, False])
    np.testing.assert_array_equal(found.walked, [0, len(found.timings.steps)])
    np.testing.assert_allclose(found.joints[0], found.context[0], atol=2e-6)
    assert_explained(found)


def test_coefficients_that_are_no_numbers(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load("conditioned")
    uv, confidence = people_of(runtime, 1)
    plan = step_plan(runtime.bundle.manifest, steps=K)
    rows = plan.coefficients.copy()
    rows[3, 1] = np.nan
    monkeypatch.setattr("diffpose_edge.runtime.pose_runtime.step_plan", lambda *_: replace(plan, coefficients=rows))
    with pytest.raises(NumericalError, match="step 4 of 5"):
        runtime.estimate(uv, confidence)


def test_what_a_second_walk_does_not_show_was_the_machine(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load("golden")
    uv, confidence = people_of(runtime, 1)
    whole = runtime.estimate(uv, confidence)
    plant_in_step(monkeypatch, k=1, row=0, times=1)
    with pytest.raises(NumericalError, match=r"second walk.*Test its memory"):
        runtime.estimate(uv, confidence)
    monkeypatch.undo()
    runtime._non_finite = "last"
    plant_in_step(monkeypatch, k=1, row=0, times=1)
    found = runtime.estimate(uv, confidence)
    np.testing.assert_array_equal(found.joints, whole.joints)
    assert found.non_finite.all()


def test_nobody_is_asked_about_people_who_have_no_pose_anyway(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load("golden")
    uv, confidence = people_of(runtime, 2)
    confidence[1, 5:] = 0.0
    plant_in_step(monkeypatch, k=0, row=N)
    found = runtime.estimate(uv, confidence)
    np.testing.assert_array_equal(found.valid, [True, False])
    assert not found.non_finite.any()
    assert_explained(found)


def test_the_runtime_goes_on_after_an_error(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load("conditioned")
    uv, confidence = people_of(runtime, 2)
    whole = runtime.estimate(uv, confidence, seed=5, steps=K)
    plant_in_step(monkeypatch, k=3, row=0)
    future = runtime.estimate_async(uv, confidence, seed=5, steps=K)
    with pytest.raises(NumericalError, match="step 4"):
        future.result(timeout=60)
    monkeypatch.undo()
    np.testing.assert_array_equal(runtime.estimate(uv, confidence, seed=5, steps=K).samples, whole.samples)


def test_noised_starts_are_walked_again_from_the_same_noise(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load("golden", non_finite="last")
    uv, confidence = people_of(runtime, 4)  # two batches
    whole = runtime.estimate(uv, confidence, seed=8, mode="noised")
    spoiled = plant_in_step(monkeypatch, k=1, row=0)
    found = runtime.estimate(uv, confidence, seed=8, mode="noised")
    assert len(spoiled) == 4  # each batch, and each again
    np.testing.assert_array_equal(found.non_finite, [True, False, True, False])
    np.testing.assert_array_equal(found.samples[[1, 3]], whole.samples[[1, 3]])


def test_frames_of_a_clip(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load("conditioned", non_finite="last")
    clip = clip_of(runtime, 8)
    plant_in_step(monkeypatch, k=1, row=N)
    estimates = list(runtime.estimate_clip(clip, 0, steps=2))
    np.testing.assert_array_equal(np.concatenate([e.non_finite for e in estimates]), [False, True, False, False, False, False, False, True])
    for estimate in estimates:
        assert_explained(estimate)


def test_the_past_of_a_causal_encoder_takes_nothing_in_that_is_no_number(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load("causal", non_finite="last")
    clip = clip_of(runtime, 6)
    frames = np.concatenate([clip.uv, np.ones((6, 17, 1), np.float32)], axis=-1)
    backend = runtime._backend
    original = backend.encode_after  # type: ignore[union-attr]
    spoil = [False]

    def encode_after(caches: object) -> None:
        original(caches)
        if spoil[0]:
            for given in (backend.xyz, *caches.given.values()):  # type: ignore[attr-defined,union-attr]
                given[0] = np.nan

    with runtime.stream() as stream:
        monkeypatch.setattr(backend, "encode_after", encode_after)
        for f, frame in enumerate(frames):
            spoil[0] = f == 2
            found = stream.push(frame, seed=0)
            assert found.non_finite[0] == (f == 2)
            assert found.valid[0] == (f != 2)
            assert_explained(found)


def test_a_held_context_that_is_no_number_is_not_held(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load("video", non_finite="last")
    clip = clip_of(runtime, 6)
    frames = np.concatenate([clip.uv, np.ones((6, 17, 1), np.float32)], axis=-1)
    with runtime.stream(hop=3) as stream:
        plant_in_encoder(monkeypatch, runtime, 0, "features")
        assert stream.push(frames[0]).non_finite.all()
        monkeypatch.undo()
        # The encoder is due again at once, not with the third frame.
        assert not stream.push(frames[1]).non_finite.any()


def test_an_option_that_there_is_not(golden_bundle: Path) -> None:
    with pytest.raises(DiffPoseEdgeError, match="expected non_finite out of raise, last, got 'ignore'"):
        PoseRuntime.load(golden_bundle, non_finite="ignore")


def test_states_below_the_largest_give_finite_covariances() -> None:
    from diffpose_edge.runtime.estimate import aggregate

    states = np.full((2, 17, 5), LARGEST, np.float32) * np.array([1, -1], np.float32)[:, None, None]
    states[:, 0] = 0.0
    samples, joints, covariance = (np.zeros((1, *shape), np.float32) for shape in ((2, 17, 3), (17, 3), (17, 3, 3)))
    aggregate(states, samples, joints, covariance)
    assert all(np.isfinite(array).all() for array in (samples, joints, covariance))
