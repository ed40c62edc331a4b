"""People as a robot takes them, from an estimate."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffpose_edge.body import bodies_of
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.keypoints import Keypoints


def estimate_of(B: int, N: int = 4, K: int = 3) -> SimpleNamespace:
    rng = np.random.default_rng(B)
    samples = rng.normal(size=(B, N, 17, 3)).astype(np.float32)
    covariance = np.broadcast_to(np.eye(3, dtype=np.float32), (B, 17, 3, 3)) * np.arange(1, B + 1, dtype=np.float32)[:, None, None, None]
    timings = SimpleNamespace(steps=np.zeros(K))
    observed = rng.random((B, 17)) > 0.3
    return SimpleNamespace(
        joints=samples.mean(axis=1),
        covariance=covariance,
        samples=samples,
        observed=observed,
        timings=timings,
        truncated=False,
        walked=None,
        out_of_range=np.arange(B) == 1,
        non_finite=np.arange(B) == 2,
    )


def test_each_person_has_their_own_rows():
    estimate = estimate_of(3)
    keypoints = Keypoints(np.random.default_rng(1).random((3, 17, 2)).astype(np.float32), np.ones((3, 17), np.float32))
    keypoints.confidence[1] = 0.25
    bodies = bodies_of(estimate, [7, 3, 9], 1_500_000_000, "camera", keypoints, latency_ns=5)
    assert [(body.out_of_range, body.non_finite) for body in bodies] == [(False, False), (True, False), (False, True)]
    assert [body.body_id for body in bodies] == [7, 3, 9]
    for b, body in enumerate(bodies):
        assert (body.stamp_ns, body.frame_id, body.steps, body.truncated, body.latency_ns) == (1_500_000_000, "camera", 3, False, 5)
        for name in ("joints", "covariance", "observed", "samples"):
            np.testing.assert_array_equal(getattr(body, name), getattr(estimate, name)[b])
        assert body.keypoints is not None
        np.testing.assert_array_equal(body.keypoints[:, :2], keypoints.uv[b])
        np.testing.assert_array_equal(body.keypoints[:, 2], keypoints.confidence[b])
        np.testing.assert_array_equal(body.placed_joints, body.joints)


def test_a_person_without_a_pose_is_there_and_not_found():
    estimate = estimate_of(2)
    estimate.joints[1] = np.nan
    assert [body.found for body in bodies_of(estimate, [0, 1], 0, "camera")] == [True, False]


def test_each_person_says_how_far_they_were_walked():
    estimate = estimate_of(3)
    estimate.truncated, estimate.walked = True, np.array([3, 2, 0])
    bodies = bodies_of(estimate, [0, 1, 2], 0, "camera")
    assert [body.steps for body in bodies] == [3, 2, 0]
    assert all(body.truncated for body in bodies)


def test_numbers_that_differ_are_refused():
    with pytest.raises(DiffPoseEdgeError, match="has people, 2; got 3 body ids"):
        bodies_of(estimate_of(2), [0, 1, 2], 0, "camera")
    with pytest.raises(DiffPoseEdgeError, match="got 2 body ids and keypoints of 1 people"):
        bodies_of(estimate_of(2), [0, 1], 0, "camera", Keypoints(np.zeros((1, 17, 2), np.float32), np.ones((1, 17), np.float32)))
