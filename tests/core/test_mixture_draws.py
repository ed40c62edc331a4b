"""Draws from mixtures, and their moments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpose_edge.errors import DiffPoseEdgeError, KeypointError
from diffpose_edge.mixtures import Mixture, checked_mixture, draw, mixture_from_keypoints, moments


def _mixture(B: int = 2, M: int = 5) -> Mixture:
    rng = np.random.default_rng(0)
    root = 0.1 * rng.normal(size=(B, 17, M, 2, 2))
    return checked_mixture(rng.dirichlet(np.ones(M), (B, 17)), rng.uniform(-0.9, 0.9, (B, 17, M, 2)), root @ np.swapaxes(root, -1, -2))


def _points(weight: Any, B: int = 1) -> Mixture:
    """Return a mixture of these weights (…, M) for every joint, all components being points at the middle."""
    w = np.broadcast_to(weight, (B, 17, np.shape(weight)[-1]))
    return checked_mixture(w, np.zeros((*w.shape, 2)), np.zeros((*w.shape, 2, 2)))


def test_a_draw_is_a_component_with_its_mean_and_factor() -> None:
    m = _mixture(3)
    component, mean, factor = draw(m, 7, np.random.default_rng(0))
    assert component.shape == (3, 7, 17)
    assert 0 <= component.min() < component.max() <= 4
    for b, n, j in np.ndindex(component.shape):
        np.testing.assert_array_equal(mean[b, n, j], m.mean[b, j, component[b, n, j]])
        np.testing.assert_allclose(factor[b, n, j], np.linalg.cholesky(m.covariance[b, j, component[b, n, j]]), atol=1e-9)


def test_components_come_as_often_as_their_weights_say() -> None:
    m, N = _mixture(2), 20_000
    component, _, _ = draw(m, N, np.random.default_rng(1))
    share = (component[..., None] == np.arange(5)).mean(axis=1)
    # Five standard deviations of a share, over 170 of them.
    assert (np.abs(share - m.weight) < 5 * np.sqrt(m.weight * (1 - m.weight) / N)).all()


@pytest.mark.parametrize("balanced", [False, True])
def test_points_drawn_have_the_mixtures_moments(balanced: bool) -> None:
    m, N = _mixture(1), 20_000
    rng = np.random.default_rng(2)
    _, mean, factor = draw(m, N, rng, balanced=balanced)
    points = mean + (factor @ rng.normal(size=(*mean.shape, 1)))[..., 0]
    wanted_mean, wanted_covariance = moments(m)
    apart = points - wanted_mean[:, None]
    products = apart[..., :, None] * apart[..., None, :]
    deviation = np.sqrt(np.diagonal(wanted_covariance, axis1=-2, axis2=-1) / N)
    assert (np.abs(apart.mean(axis=1)) < 5 * deviation).all()
    assert (np.abs(products.mean(axis=1) - wanted_covariance) < 5 * products.std(axis=1) / np.sqrt(N)).all()


@pytest.mark.parametrize("balanced", [False, True])
def test_draws_do_not_depend_on_the_batch_and_take_one_number_each(balanced: bool) -> None:
    m = _mixture(4)
    rng, one_by_one = np.random.default_rng(3), np.random.default_rng(3)
    together = draw(m, 6, rng, balanced=balanced)
    for b in range(4):
        person = Mixture(m.weight[b : b + 1], m.mean[b : b + 1], m.covariance[b : b + 1], m.confidence[b : b + 1])
        for whole, alone in zip(together, draw(person, 6, one_by_one, balanced=balanced), strict=True):
            np.testing.assert_array_equal(whole[b], alone[0])
    counting = np.random.default_rng(3)
    counting.random(4 * 6 * 17)
    assert rng.random() == one_by_one.random() == counting.random()


def test_the_number_for_person_sample_and_joint_is_at_its_place_in_the_stream() -> None:
    component, _, _ = draw(_points([0.5, 0.5], 2), 3, np.random.default_rng(5))
    np.testing.assert_array_equal(component.ravel(), np.random.default_rng(5).random(2 * 3 * 17) >= 0.5)


class _Extremes(np.random.Generator):
    """Draws 0 and the largest number below 1 in turns."""

    def random(self, size: Any = None, *_: Any, **__: Any) -> Any:
        return np.where(np.arange(np.prod(size)) % 2, np.nextafter(1.0, 0.0), 0.0).reshape(size)


@pytest.mark.parametrize("balanced", [False, True])
def test_a_component_of_weight_zero_is_never_drawn(balanced: bool) -> None:
    # So many that in some the running sum of the weights ends below 1 by a rounding.
    weight = np.random.default_rng(0).dirichlet(np.ones(10), (300, 17))
    weight = np.pad(weight, ((0, 0), (0, 0), (1, 1)))
    component, _, factor = draw(_points(weight, 300), 5, _Extremes(np.random.PCG64(0)), balanced=balanced)
    assert 1 <= component.min() <= component.max() <= 10
    assert (factor == 0).all()


@given(st.floats(0, 3), st.floats(0, 3), st.floats(-1, 1), st.sampled_from([1.0, 1e-6, 1e-12]))
@settings(deadline=None, max_examples=60)
def test_the_factor_times_itself_is_the_covariance(sx: float, sy: float, correlation: float, scale: float) -> None:
    covariance = scale * np.array([[sx * sx, correlation * sx * sy], [correlation * sx * sy, sy * sy]])
    m = mixture_from_keypoints(np.zeros((1, 17, 2)), np.broadcast_to(covariance, (1, 17, 2, 2)))
    _, _, factor = draw(m, 1, np.random.default_rng(0))
    assert (factor[..., 0, 1] == 0).all()
    np.testing.assert_allclose(factor @ np.swapaxes(factor, -1, -2), m.covariance[:, None, :, 0], atol=1e-14 * scale * 9)


@pytest.mark.parametrize("N", [1, 5, 8, 50])
def test_balanced_draws_come_floor_or_ceil_of_their_share(N: int) -> None:
    m = _mixture(30)
    component, _, _ = draw(m, N, np.random.default_rng(4), balanced=True)
    count = (component[..., None] == np.arange(5)).sum(axis=1)
    assert (np.abs(count - N * m.weight) < 1).all()


def test_each_balanced_draw_by_itself_follows_the_weights_and_joints_are_independent() -> None:
    B, N = 4000, 3
    component, _, _ = draw(_points([0.15, 0.85], B), N, np.random.default_rng(6), balanced=True)
    share = component.mean(axis=0)
    assert (np.abs(share - 0.85) < 5 * np.sqrt(0.15 * 0.85 / B)).all()
    for n in range(N):
        correlation = np.corrcoef(component[:, n].T) - np.eye(17)
        assert np.abs(correlation).max() < 5 / np.sqrt(B)


def test_draws_need_one_leading_axis_and_a_number() -> None:
    for N in (0, -1, 2.0, True):
        with pytest.raises(DiffPoseEdgeError, match="expected N"):
            draw(_mixture(), N, np.random.default_rng(0))  # type: ignore[arg-type]
    plain = _mixture()
    m = checked_mixture(plain.weight[None], plain.mean[None], plain.covariance[None])
    with pytest.raises(KeypointError, match=r"\(B, 17, M\)"):
        draw(m, 1, np.random.default_rng(0))


def test_moments_of_two_points() -> None:
    mean = np.zeros((1, 17, 2, 2))
    mean[:, :, 1] = (0.4, 0.8)
    m = checked_mixture(np.broadcast_to([0.75, 0.25], (1, 17, 2)), mean, np.broadcast_to(0.01 * np.eye(2), (1, 17, 2, 2, 2)))
    middle, covariance = moments(m)
    np.testing.assert_allclose(middle, np.broadcast_to([0.1, 0.2], (1, 17, 2)), rtol=1e-12)
    # Between the points: 0.75 * 0.25 times the square of their distance.
    wanted = 0.01 * np.eye(2) + 0.1875 * np.array([[0.16, 0.32], [0.32, 0.64]])
    np.testing.assert_allclose(covariance, np.broadcast_to(wanted, (1, 17, 2, 2)), rtol=1e-12)
