"""From the samples' final states to a pose: mean and covariance against plain numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from diffpose_edge.runtime.estimate import aggregate
from diffpose_edge.skeleton import ROOT, J
from diffpose_edge.tolerances import AGGREGATE_ABS_M

Array = NDArray[np.float32]


def _aggregated(states: Array, B: int, N: int) -> tuple[Array, Array, Array]:
    """Aggregate into buffers that hold junk before; return samples, joints and covariance."""
    samples = np.full((B, N, J, 3), 1e9, np.float32)
    joints = np.full((B, J, 3), 1e9, np.float32)
    covariance = np.full((B, J, 3, 3), 1e9, np.float32)
    aggregate(states, samples, joints, covariance)
    return samples, joints, covariance


def _states(B: int, N: int, seed: int = 0, spread: float = 0.1) -> Array:
    """States of B people of metres' size, N samples of each, scattered by ``spread`` metres."""
    rng = np.random.default_rng(seed)
    people = rng.uniform(-1, 1, (B, 1, J, 5)) + spread * rng.standard_normal((B, N, J, 5))
    return people.reshape(B * N, J, 5).astype(np.float32)


@given(st.integers(1, 4), st.integers(2, 12), st.integers(0, 2**32 - 1), st.sampled_from([0.001, 0.1, 0.2]))
@settings(deadline=None, max_examples=60)
def test_mean_and_covariance_are_those_of_numpy_in_float64(B: int, N: int, seed: int, spread: float) -> None:
    states = _states(B, N, seed, spread)
    samples, joints, covariance = _aggregated(states, B, N)
    xyz = states.reshape(B, N, J, 5)[..., 2:].astype(np.float64)
    plain = xyz - xyz[:, :, ROOT : ROOT + 1]
    assert np.abs(samples - plain).max() <= AGGREGATE_ABS_M
    assert np.abs(joints - plain.mean(axis=1)).max() <= AGGREGATE_ABS_M
    for b in range(B):
        for j in range(J):
            assert np.abs(covariance[b, j] - np.cov(plain[b, :, j], rowvar=False, ddof=1)).max() <= AGGREGATE_ABS_M


def test_the_covariance_of_a_case_by_hand_is_exact() -> None:
    states = np.zeros((2, J, 5), np.float32)
    states[0, 5, 2:] = (1.0, 2.0, 0.0)
    states[1, 5, 2:] = (3.0, -2.0, 0.0)
    samples, joints, covariance = _aggregated(states, 1, 2)
    np.testing.assert_array_equal(samples[0, :, 5], [[1, 2, 0], [3, -2, 0]])
    np.testing.assert_array_equal(joints[0, 5], [2, 0, 0])
    # Unbiased: divided by N - 1, which is one here.
    np.testing.assert_array_equal(covariance[0, 5], [[2, -4, 0], [-4, 8, 0], [0, 0, 0]])


def test_the_covariance_is_symmetric_and_zero_at_the_root() -> None:
    _, joints, covariance = _aggregated(_states(3, 5), 3, 5)
    np.testing.assert_array_equal(covariance, covariance.swapaxes(-1, -2))
    assert (covariance[:, ROOT] == 0).all()
    assert (joints[:, ROOT] == 0).all()


def test_one_sample_is_the_pose_and_has_no_covariance() -> None:
    states = _states(2, 1)
    samples, joints, covariance = _aggregated(states, 2, 1)
    np.testing.assert_array_equal(joints, samples[:, 0])
    np.testing.assert_array_equal(joints, states[..., 2:] - states[:, ROOT : ROOT + 1, 2:])
    assert np.isnan(covariance).all()


@pytest.mark.parametrize("N", [2, 3, 5, 7, 49, 1000])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_equal_samples_have_exactly_zero_covariance_and_their_own_value_as_mean(N: int, scale: float) -> None:
    one = _states(2, 1) * np.float32(scale)
    samples, joints, covariance = _aggregated(np.repeat(one, N, axis=0), 2, N)
    np.testing.assert_array_equal(joints, samples[:, 0])
    np.testing.assert_array_equal(joints, one[..., 2:] - one[:, ROOT : ROOT + 1, 2:])
    assert (covariance == 0).all()


def test_people_do_not_mix_even_if_one_of_them_is_nan() -> None:
    states = _states(3, 4)
    alone = _aggregated(states[:4], 1, 4)
    states[4:8] = np.nan
    for result, expected in zip(_aggregated(states, 3, 4), alone, strict=True):
        np.testing.assert_array_equal(result[:1], expected)
        assert np.isfinite(result[2]).all()


def test_the_states_are_left_as_they_are() -> None:
    states = _states(2, 3)
    _aggregated(states, 2, 3)
    np.testing.assert_array_equal(states, _states(2, 3))
