"""One bad frame in a stream: marked, and nothing of it is left in the frames after it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from diffpose_edge.errors import NumericalError
from diffpose_edge.runtime import OneEuro, PoseRuntime, PoseStream

from .faults import plant_in_step
from .walkers import PERIOD_NS, walker

FRAMES, BAD, SEED, STEPS = 8, 4, 11, (49, 9)


@pytest.fixture(params=["conditioned_bundle", "conditioned_video_bundle", "causal_bundle"])
def runtime(request: pytest.FixtureRequest) -> Iterator[PoseRuntime]:
    """P=2, N=3, of each kind of encoder."""
    with PoseRuntime.load(request.getfixturevalue(request.param), threads=1, non_finite="last") as loaded:
        yield loaded


def people_at(i: int) -> np.ndarray:
    return np.stack([walker(i, (-0.4, 0.0)), walker(i, (0.4, 0.0), phase=30)])


def test_a_result_that_is_no_number_bends_its_own_frame_alone(runtime: PoseRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    def walked(spoil: bool) -> list[list]:  # type: ignore[type-arg]
        frames = []
        with PoseStream(runtime, seed=SEED, timesteps=STEPS) as stream:
            for i in range(FRAMES):
                with monkeypatch.context() as patch:
                    if spoil and i == BAD:
                        plant_in_step(patch, k=1, row=0)
                    frames.append(stream.process(people_at(i), i * PERIOD_NS))
        return frames

    clean, spoiled = walked(False), walked(True)
    for i, (before, after) in enumerate(zip(clean, spoiled, strict=True)):
        assert [body.body_id for body in after] == [0, 1]
        assert [body.non_finite for body in after] == [i == BAD, False]
        for b in range(2):
            same = np.array_equal(before[b].joints, after[b].joints)
            assert same != (i == BAD and b == 0)
            assert np.isfinite(after[b].joints).all()
            assert np.isfinite(after[b].covariance).all()


def test_a_stream_whose_runtime_raises_ends_with_the_error(runtime: PoseRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime._non_finite = "raise"
    plant_in_step(monkeypatch, k=0, row=0)
    stream = PoseStream(runtime, seed=SEED, timesteps=STEPS)
    stream.push(people_at(0), 0)
    with pytest.raises(NumericalError, match="step 1 of 2"):
        stream.get(timeout=60)
    stream.close()


def test_a_wild_pose_does_not_bend_a_filtered_stream(runtime: PoseRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[float, list[np.ndarray]] = {0.0: [], 1e10: []}
    for wild, joints in found.items():
        with PoseStream(runtime, seed=SEED, timesteps=STEPS, smoothing=OneEuro()) as stream:
            for i in range(FRAMES):
                with monkeypatch.context() as patch:
                    if wild and i == BAD:
                        plant_in_step(patch, k=1, row=0, value=wild)
                    joints.append(stream.process(people_at(i), i * PERIOD_NS)[0].joints)
    assert np.abs(found[1e10][BAD]).max() > 1e6
    after = np.abs(np.stack(found[1e10][BAD + 1 :]) - np.stack(found[0.0][BAD + 1 :])).max()
    reach = max(np.abs(joints).max() for joints in found[0.0])
    assert after <= reach


def test_keypoints_flung_away_for_a_frame_are_marked_and_forgotten(runtime: PoseRuntime) -> None:
    with PoseStream(runtime, seed=SEED, timesteps=STEPS, max_missed=5) as stream:
        for i in range(FRAMES):
            people = people_at(i)
            if i == BAD:
                people[0, :, :2] *= 10.0
            bodies = stream.process(people, i * PERIOD_NS)
            assert all(np.isfinite(body.joints).all() for body in bodies)
            if i == BAD:
                assert [body.out_of_range for body in bodies] == [True, False]
            else:
                assert [body.body_id for body in bodies] == [0, 1]
            if i > BAD + 4:
                assert not any(body.out_of_range for body in bodies)
