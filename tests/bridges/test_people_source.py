"""The plainest source of people: an estimate for each image, identities by the order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.errors import DiffPoseEdgeError, TimestepError
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.bridges.people_source import PeopleInOrder, SourceSettings


def test_people_are_those_of_an_estimate_in_their_order(conditioned_bundle: Path) -> None:
    rng = np.random.default_rng(0)
    people = Keypoints(rng.uniform(-0.5, 0.5, (3, 17, 2)).astype(np.float32), np.ones((3, 17), np.float32))
    source = PeopleInOrder(SourceSettings(str(conditioned_bundle), threads=1, steps=2, seed=5))
    bodies = source.process(77, people)
    again = source.process(78, people)
    assert source.process(79, Keypoints(people.uv[:0], people.confidence[:0])) == []
    source.close()
    source.close()
    with PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        direct = runtime.estimate(people.uv, seed=5, steps=2)
    for b, body in enumerate(bodies):
        assert (body.body_id, body.stamp_ns, body.steps) == (b, 77, 2)
        np.testing.assert_array_equal(body.joints, direct.joints[b])
        np.testing.assert_array_equal(body.covariance, direct.covariance[b])
        np.testing.assert_array_equal(body.joints, again[b].joints)


def test_mistakes_show_before_the_first_image(conditioned_bundle: Path, conditioned_video_bundle: Path) -> None:
    with pytest.raises(DiffPoseEdgeError, match="single frames"):
        PeopleInOrder(SourceSettings(str(conditioned_video_bundle)))
    with pytest.raises(TimestepError):
        PeopleInOrder(SourceSettings(str(conditioned_bundle), steps=100_000))
