"""Coverage and correlation against distributions with known answers, drawn from seeds."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpose_edge.skeleton import ROOT
from diffpose_edge.tolerances import METRIC_REL
from diffpose_edge.uncertainty import (
    LEAST_DEVIATION_M,
    chi2_3_cdf,
    chi2_3_quantile,
    coverage,
    expected_coverage,
    mahalanobis2,
    ranks,
    spearman,
    spread,
    spread_error_correlation,
)

near = functools.partial(pytest.approx, rel=METRIC_REL, abs=METRIC_REL)
BODY = np.arange(17) != ROOT
LEVELS = (0.1, 0.5, 0.9, 0.99)


def _covariances(rng: np.random.Generator, frames: int, size: float = 0.05) -> np.ndarray:
    """Full covariances with deviations of some centimetres, zero for the hip."""
    a = size * (np.eye(3) + 0.5 * rng.standard_normal((frames, 17, 3, 3)))
    c = a @ np.swapaxes(a, -1, -2) + (2 * LEAST_DEVIATION_M) ** 2 * np.eye(3)
    c[:, ROOT] = 0.0
    return c


def _truths(rng: np.random.Generator, prediction: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    root = np.linalg.cholesky(covariance + 1e-30 * np.eye(3))
    return prediction + (root @ rng.standard_normal((*prediction.shape, 1)))[..., 0]


def _standard_error(level: float, draws: int) -> float:
    return math.sqrt(level * (1 - level) / draws)


def test_the_chi_square_distribution_is_that_of_three_squared_normals() -> None:
    # The published table for 3 degrees of freedom (Pearson and Hartley), to its three decimals.
    for level, quantile in ((0.05, 0.352), (0.5, 2.366), (0.9, 6.251), (0.95, 7.815), (0.99, 11.345), (0.999, 16.266)):
        assert abs(chi2_3_quantile(level) - quantile) <= 5e-4
    draws = (np.random.default_rng(0).standard_normal((200_000, 3)) ** 2).sum(axis=1)
    for level in LEVELS:
        assert abs((draws <= chi2_3_quantile(level)).mean() - level) < 4 * _standard_error(level, len(draws))


def test_the_cdf_is_the_integral_of_the_density() -> None:
    x = np.linspace(0, 20, 20_001)
    density = np.sqrt(x / (2 * np.pi)) * np.exp(-x / 2)
    integral = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(x))])
    # The trapezoidal rule errs most at 0, where the density starts with a vertical slope.
    assert np.abs(chi2_3_cdf(x) - integral).max() < 1e-5
    assert chi2_3_cdf(0.0) == 0.0


@given(st.floats(1e-3, 1 - 1e-6))
@settings(deadline=None, max_examples=40)
def test_quantile_and_cdf_undo_each_other(level: float) -> None:
    assert float(chi2_3_cdf(chi2_3_quantile(level))) == near(level)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_level_that_is_no_probability_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        chi2_3_quantile(level)


def test_mahalanobis_is_the_distance_by_the_inverse_covariance() -> None:
    rng = np.random.default_rng(1)
    c = _covariances(rng, 3)
    p, t = rng.standard_normal((2, 3, 17, 3))
    got = mahalanobis2(p, c, t)
    for f in range(3):
        for j in range(1, 17):
            d = t[f, j] - p[f, j]
            assert got[f, j] == pytest.approx(d @ np.linalg.inv(c[f, j]) @ d, rel=METRIC_REL * np.linalg.cond(c[f, j]))
    assert np.isnan(got[:, ROOT]).all()


def test_a_singular_covariance_gets_a_millimetre_along_its_thin_axes() -> None:
    p = np.zeros((1, 17, 3))
    c = np.zeros((1, 17, 3, 3))
    c[0, 1, 0, 0] = 0.05**2
    t = p.copy()
    t[0, 1], t[0, 2] = (0.1, 0.003, 0.0), (0.0, 0.0, 0.002)
    got = mahalanobis2(p, c, t)
    assert got[0, 1] == near((0.1 / 0.05) ** 2 + (0.003 / LEAST_DEVIATION_M) ** 2)
    assert got[0, 2] == near((0.002 / LEAST_DEVIATION_M) ** 2)


def test_gaussian_truths_are_covered_at_the_level_and_overconfidence_shows() -> None:
    rng = np.random.default_rng(2)
    c = _covariances(rng, 5000)
    p = rng.standard_normal((5000, 17, 3))
    t = _truths(rng, p, c)
    for level in LEVELS:
        got = coverage(p, c, t, level)
        assert np.isnan(got[ROOT])
        assert np.abs(got[BODY] - level).max() < 4.5 * _standard_error(level, 5000)
        assert abs(got[BODY].mean() - level) < 4 * _standard_error(level, 5000 * 16)
    assert coverage(p, c / 4, t, 0.9)[BODY].max() < 0.6
    assert coverage(p, c * 4, t, 0.9)[BODY].min() > 0.97


@pytest.mark.parametrize("samples", [4, 5, 20])
def test_perfect_samples_cover_what_hotelling_expects_and_not_the_level(samples: int) -> None:
    rng = np.random.default_rng(samples)
    draws = rng.standard_normal((2000, samples, 17, 3)) * 0.1
    centred = draws - draws.mean(axis=1, keepdims=True)
    c = np.einsum("bnji,bnjk->bjik", centred, centred) / (samples - 1)
    truth = rng.standard_normal((2000, 17, 3)) * 0.1
    for level in (0.5, 0.9):
        got = coverage(draws.mean(axis=1), c, truth, level)[BODY].mean()
        # The floor of a millimetre widens nearly flat ellipsoids of four samples, by little.
        assert abs(got - expected_coverage(level, samples)) < 4 * _standard_error(0.5, 2000 * 16) + (0.01 if samples == 4 else 0.0)
        assert got < level - 0.02


def test_the_expectation_of_many_samples_is_the_level_and_of_few_is_unknown() -> None:
    assert 0 < 0.9 - expected_coverage(0.9, 100_000) < 1e-4
    assert all(math.isnan(expected_coverage(0.9, samples)) for samples in (1, 2, 3))
    assert expected_coverage(0.9, 5) < expected_coverage(0.9, 6) < expected_coverage(0.9, 50) < 0.9


def test_one_sample_or_a_blank_frame_is_unknown_and_not_outside() -> None:
    rng = np.random.default_rng(3)
    c = _covariances(rng, 4)
    p = rng.standard_normal((4, 17, 3))
    assert np.isnan(coverage(p, np.full_like(c, np.nan), p, 0.5)).all()
    c[1], p[1] = np.nan, np.nan
    truth = np.zeros_like(p)
    assert np.isnan(coverage(p, c, truth, 0.5)).all()
    valid = np.array([True, False, True, True])
    np.testing.assert_array_equal(coverage(p, c, truth, 0.5, valid), coverage(p[valid], c[valid], truth[valid], 0.5))
    assert np.isnan(coverage(p, c, truth, 0.5, np.zeros(4, bool))).all()


def test_the_spread_is_the_root_mean_square_distance_from_the_mean() -> None:
    rng = np.random.default_rng(4)
    draws = rng.standard_normal((500, 3)) @ rng.standard_normal((3, 3))
    distance2 = ((draws - draws.mean(axis=0)) ** 2).sum(axis=1)
    assert spread(np.cov(draws.T, bias=True)) == near(1000 * math.sqrt(distance2.mean()))


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    np.testing.assert_array_equal(ranks([30, 10, 20, 10]), [4, 1.5, 3, 1.5])
    np.testing.assert_array_equal(ranks([7, 7, 7]), [2, 2, 2])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
@settings(deadline=None, max_examples=60)
def test_ranks_are_one_more_than_how_many_are_less_and_half_of_the_other_equals(values: list[int]) -> None:
    expected = [1 + sum(w < v for w in values) + (values.count(v) - 1) / 2 for v in values]
    np.testing.assert_array_equal(ranks(values), expected)


def test_spearman_of_known_rows() -> None:
    # Without ties it is 1 - 6 sum d² / (n (n² - 1)) with d the differences of the ranks, here 1, -1, 0, 1, -1.
    assert spearman([1, 2, 3, 4, 5], [2, 1, 3, 6, 4]) == near(1 - 6 * (1 + 1 + 0 + 1 + 1) / (5 * 24))
    assert spearman([1, 2, 3], [10, 100, 1e9]) == near(1.0)
    assert spearman([1, 2, 3], [3, 2, 1]) == near(-1.0)
    # With ties: Pearson's correlation of the shared ranks (1.5, 1.5, 3) and (1, 2, 3).
    assert spearman([1, 1, 2], [1, 2, 3]) == near(np.corrcoef([1.5, 1.5, 3], [1, 2, 3])[0, 1])
    for a, b in (([1.0], [1.0]), ([], []), ([1, 1], [1, 2]), ([1, math.nan], [1, 2])):
        assert math.isnan(spearman(a, b))
    with pytest.raises(ValueError, match="one length"):
        spearman([1, 2], [1, 2, 3])


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_spearman_sees_order_only(seed: int) -> None:
    a, b = np.random.default_rng(seed).standard_normal((2, 12))
    assert spearman(np.exp(a), b**3) == near(spearman(a, b))


def test_a_spread_that_knows_the_error_correlates_and_one_that_does_not_does_not() -> None:
    rng = np.random.default_rng(5)
    scale = rng.uniform(0.2, 5.0, (3000, 17, 1, 1))
    c = np.eye(3) * 1e-3 * scale
    c[:, ROOT] = 0
    p = np.zeros((3000, 17, 3))
    t = _truths(rng, p, c)
    per_joint, pooled = spread_error_correlation(p, c, t)
    assert np.isnan(per_joint[ROOT])
    assert per_joint[BODY].min() > 0.5
    assert pooled > 0.5
    shuffled, unknown = spread_error_correlation(p, rng.permutation(c), t)
    # Under independence the standard deviation of Spearman's correlation is 1 / sqrt(n - 1).
    assert np.abs(shuffled[BODY]).max() < 4.5 / math.sqrt(2999)
    assert abs(unknown) < 4 / math.sqrt(2999)
    assert np.isnan(spread_error_correlation(p, np.broadcast_to(c[:1], c.shape), t)[0]).all()


def test_covariances_of_another_shape_are_refused() -> None:
    p = np.zeros((2, 17, 3))
    for bad in (np.zeros((17, 3, 3)), np.zeros((2, 17, 3)), np.zeros((2, 17, 9))):
        with pytest.raises(ValueError, match="expected covariance"):
            mahalanobis2(p, bad, p)
        with pytest.raises(ValueError, match="expected covariance"):
            spread_error_correlation(p, bad, p)
