"""People unlike all that training showed are marked, in every way in which a runtime is asked, and their neighbours are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from diffpose_edge.body import bodies_of
from diffpose_edge.bundle import load_bundle
from diffpose_edge.clips import mocap_clips_path
from diffpose_edge.errors import KeypointError
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.mixtures import checked_mixture
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.trained_range import PERSON, TrainedRange

from .walkers import walker

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def measured() -> TrainedRange:
    """The range of the smallest plan's few views, with a margin: those of a walker are within."""
    from diffpose_edge.reference.training.motions import load_clips
    from diffpose_edge.reference.training.plans import PLANS
    from diffpose_edge.reference.training.views_range import measured_range, source_of

    plan = PLANS["tiny"]
    found = measured_range(plan, source_of(plan, load_clips(mocap_clips_path())))
    margin = (found.high - found.low) / 4
    margin[PERSON.index("size")] = 0.0
    return replace(found, low=found.low - margin, high=found.high + margin)


@pytest.fixture
def runtime(conditioned_bundle: Path, measured: TrainedRange) -> Iterator[PoseRuntime]:
    """P=2, N=3, and knows what it was trained on."""
    bundle = load_bundle(conditioned_bundle)
    with PoseRuntime.load(replace(bundle, manifest=replace(bundle.manifest, trained_range=measured)), threads=1) as loaded:
        yield loaded


def _people() -> Array:
    """A walker, one who is tiny, one whose wrist is far away, and one who was hardly seen (4, 17, 3)."""
    people = np.stack([walker(i, (0.1, 0.0)) for i in range(4)])
    people[1, :, :2] *= 0.002
    people[2, 16, :2] = (4.0, -4.0)
    people[3, 4:, 2] = 0.0
    return people


def test_who_is_marked(runtime: PoseRuntime) -> None:
    people = _people()
    found = runtime.estimate(people, seed=0)
    np.testing.assert_array_equal(found.out_of_range, [False, True, True, False])
    np.testing.assert_array_equal(found.valid, [True, True, True, False])
    told = runtime.range_report(people)
    assert (told[0], told[3]) == ("", "")
    assert "size is 0.001" in told[1]
    assert told[2].startswith("right_wrist")
    bodies = bodies_of(found, range(4), 0, "camera")
    assert [body.out_of_range for body in bodies] == [False, True, True, False]


@pytest.mark.parametrize("uv", [1e30, np.inf, np.nan])
def test_what_no_detector_means_is_refused(uv: float, runtime: PoseRuntime) -> None:
    people = _people()
    people[0, 2, 0] = uv
    with pytest.raises(KeypointError):
        runtime.estimate(people)
    with pytest.raises(KeypointError):
        runtime.range_report(people)


@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-10, 0.0])
def test_the_smallest_numbers_that_there_are(size: float, runtime: PoseRuntime) -> None:
    people = _people()[:1]
    people[..., :2] = np.sign(people[..., :2]) * np.float32(size)
    people[..., 2] = max(size, 1e-45)
    found = runtime.estimate(people, seed=0)
    assert found.out_of_range.all()
    assert np.isfinite(found.joints).all()
    assert np.isfinite(found.covariance).all()


def test_joints_that_were_not_seen_may_be_anything(runtime: PoseRuntime) -> None:
    people = np.repeat(_people()[:1], 3, axis=0)
    people[:, 16, 2] = 0.0
    people[1, 16, :2], people[2, 16, :2] = 1e30, np.nan
    found = runtime.estimate(people, seed=0)
    assert not found.out_of_range.any()


def test_components_of_a_mixture(runtime: PoseRuntime) -> None:
    people = np.repeat(_people()[:1], 3, axis=0)
    mean = np.repeat(people[:, :, None, :2], 2, axis=2).astype(np.float64)
    covariance = np.broadcast_to(1e-5 * np.eye(2), (3, 17, 2, 2, 2)).copy()
    mean[1, 7, 1] = (6.0, 6.0)  # a second guess, far away
    covariance[2, 7, 1] = 9.0 * np.eye(2)
    mixture = checked_mixture(np.full((3, 17, 2), 0.5), mean, covariance)
    found = runtime.estimate(people[..., :2], seed=0, mixture=mixture)
    np.testing.assert_array_equal(found.out_of_range, [False, True, True])
    assert np.isfinite(found.covariance).all()


def test_frames_of_a_clip(runtime: PoseRuntime) -> None:
    people = _people()
    clip = Keypoints(people[..., :2], people[..., 2])
    marked = np.concatenate([estimate.out_of_range for estimate in runtime.estimate_clip(clip, 0)])
    np.testing.assert_array_equal(marked, [False, True, True, False])


def test_bundles_that_were_not_measured(conditioned_bundle: Path, golden_bundle: Path, causal_bundle: Path) -> None:
    people = _people()
    with PoseRuntime.load(conditioned_bundle, threads=1) as rough:
        np.testing.assert_array_equal(rough.estimate(people, seed=0).out_of_range, [False, True, False, False])
        assert "not measured" in rough._range.range.source
    with PoseRuntime.load(golden_bundle, threads=1) as released:
        np.testing.assert_array_equal(released.estimate(people).out_of_range, [False, False, True, False])
        assert (
            released.range_report(people)[2]
            == "right_wrist u is 4 (training showed -1.05..1.05), right_wrist v is -4 (training showed -1.05..1.05)"
        )
    with PoseRuntime.load(causal_bundle, threads=1) as causal, causal.stream(people=4) as stream:
        np.testing.assert_array_equal(stream.push(people, seed=0).out_of_range, [False, True, False, False])
