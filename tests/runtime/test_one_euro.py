"""The One-Euro filter: the paper's equations on a number, and what they do to a body."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diffpose_edge.body import BodyEstimate
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.runtime.one_euro import OneEuro, OneEuroFilter
from diffpose_edge.skeleton import J

SECOND_NS = 1_000_000_000
PARAMETERS = OneEuro(min_cutoff=1.2, beta=0.8, d_cutoff=0.9)


def as_in_the_paper(x: list[float], t: list[float], parameters: OneEuro) -> list[float]:
    """Casiez et al. 2012, equations of section 3, on plain numbers."""

    def alpha(cutoff: float, period: float) -> float:
        return 1.0 / (1.0 + 1.0 / (2.0 * math.pi * cutoff * period))

    filtered, speed = [x[0]], 0.0
    for i in range(1, len(x)):
        period = t[i] - t[i - 1]
        a = alpha(parameters.d_cutoff, period)
        speed = a * (x[i] - filtered[-1]) / period + (1 - a) * speed
        a = alpha(parameters.min_cutoff + parameters.beta * abs(speed), period)
        filtered.append(a * x[i] + (1 - a) * filtered[-1])
    return filtered


def test_along_one_axis_it_is_the_papers_at_uneven_stamps():
    rng = np.random.default_rng(0)
    t = np.cumsum(rng.uniform(0.01, 0.08, 60))
    x = np.sin(3 * t) + rng.normal(0, 0.02, 60)
    expected = as_in_the_paper(list(x), list(t), PARAMETERS)
    filter_ = OneEuroFilter(PARAMETERS)
    for i in range(60):
        joints = np.zeros((J, 3), np.float32)
        joints[4, 1] = x[i]
        given = filter_.smoothed(joints, round(t[i] * SECOND_NS))
        assert given[4, 1] == pytest.approx(expected[i], abs=1e-6)
        # Each joint on its own.
        assert not given[np.arange(J) != 4].any()


def test_a_velocity_counts_by_its_length_whatever_the_axes():
    rng = np.random.default_rng(1)
    joints = np.cumsum(rng.normal(0, 0.05, (30, J, 3)), axis=0).astype(np.float32)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    one, other = OneEuroFilter(PARAMETERS), OneEuroFilter(PARAMETERS)
    for i in range(30):
        stamp = i * SECOND_NS // 30
        turned = other.smoothed((joints[i] @ turn).astype(np.float32), stamp)
        assert np.abs(one.smoothed(joints[i], stamp) @ turn - turned).max() < 1e-5


def body_of(joints: np.ndarray, stamp_ns: int) -> BodyEstimate:
    samples = joints + np.array([0.1, -0.1], np.float32)[:, None, None]
    return BodyEstimate(stamp_ns, "camera", 3, joints, np.zeros((J, 3, 3), np.float32), np.ones(J, bool), samples=samples)


def test_noise_goes_and_the_samples_go_with_their_mean():
    rng = np.random.default_rng(2)
    still = rng.uniform(-1, 1, (J, 3)).astype(np.float32)
    filter_, errors = OneEuroFilter(OneEuro(beta=0.0)), []
    for i in range(90):
        raw = still + rng.normal(0, 0.02, (J, 3)).astype(np.float32)
        body = filter_.body(body_of(raw, i * SECOND_NS // 30))
        errors.append(np.abs(body.joints - still).mean())
        assert np.abs(body.samples.mean(axis=0) - body.joints).max() < 1e-6
        assert np.abs((body.samples[0] - body.samples[1]) - 0.2).max() < 1e-6
        assert body.body_id == 3
    assert np.mean(errors[60:]) < errors[0] / 2


def test_a_higher_beta_lags_less():
    lags = []
    for beta in (0.0, 2.0):
        filter_ = OneEuroFilter(OneEuro(beta=beta))
        for i in range(30):
            joints = np.full((J, 3), i / 30, np.float32)  # a metre per second
            given = filter_.smoothed(joints, i * SECOND_NS // 30)
        lags.append(float((joints - given).mean()))
    assert lags[1] < lags[0] / 2


def test_a_body_without_a_pose_passes_and_leaves_no_trace():
    one, other = OneEuroFilter(PARAMETERS), OneEuroFilter(PARAMETERS)
    first, third = np.zeros((J, 3), np.float32), np.ones((J, 3), np.float32)
    for filter_ in (one, other):
        filter_.body(body_of(first, 0))
    assert not one.body(body_of(np.full((J, 3), np.nan, np.float32), SECOND_NS)).found
    stamp = 2 * SECOND_NS
    assert np.array_equal(one.body(body_of(third, stamp)).joints, other.body(body_of(third, stamp)).joints)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [({"min_cutoff": 0.0}, "min_cutoff"), ({"beta": -1}, "beta"), ({"d_cutoff": "1"}, "d_cutoff"), ({"beta": np.nan}, "beta")],
)
def test_parameters_that_are_none(arguments, told):
    with pytest.raises(DiffPoseEdgeError, match=told):
        OneEuro(**arguments)
