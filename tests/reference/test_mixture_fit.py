"""Mixtures fitted to samples: what they were drawn from is found, and degenerate samples still give a valid mixture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffpose_edge import extras
from diffpose_edge.errors import DiffPoseEdgeError, KeypointError, MissingPackage
from diffpose_edge.mixtures import checked_mixture
from diffpose_edge.reference.mixture_fit import fit_mixture

Array = NDArray[np.float64]


def _samples(n: int = 4000, seed: int = 0) -> Array:
    """Draw from two Gaussians, weights 0.7 and 0.3, well apart."""
    rng = np.random.default_rng(seed)
    first = rng.multivariate_normal([0.2, -0.1], [[0.004, 0.002], [0.002, 0.003]], round(0.7 * n))
    second = rng.multivariate_normal([-0.5, 0.4], [[0.001, 0.0], [0.0, 0.002]], n - len(first))
    return np.concatenate([first, second])


def _moments(weight: Array, mean: Array, covariance: Array) -> tuple[Array, Array]:
    m = weight @ mean
    return m, np.einsum("k,kij->ij", weight, covariance + np.einsum("ki,kj->kij", mean - m, mean - m))


def _is_valid(weight: Array, mean: Array, covariance: Array, M: int = 5) -> None:
    """Raise unless these are a mixture of M components, for the device too."""
    assert (weight.shape, mean.shape, covariance.shape) == ((M,), (M, 2), (M, 2, 2))
    checked_mixture(*(np.broadcast_to(a, (1, 17, *a.shape)) for a in (weight, mean, covariance)))


def test_two_gaussians_are_found_again() -> None:
    weight, mean, covariance = fit_mixture(_samples(), components=2)
    order = np.argsort(-weight)
    np.testing.assert_allclose(weight[order], [0.7, 0.3], atol=1e-3)
    np.testing.assert_allclose(mean[order], [[0.2, -0.1], [-0.5, 0.4]], atol=0.005)
    np.testing.assert_allclose(covariance[order[0]], [[0.004, 0.002], [0.002, 0.003]], atol=3e-4)
    np.testing.assert_allclose(covariance[order[1]], [[0.001, 0.0], [0.0, 0.002]], atol=3e-4)


def test_the_mixture_has_the_samples_moments_whatever_their_units() -> None:
    x = _samples(1000)
    for scale, shift in ((1.0, 0.0), (1e-5, 0.0), (1e4, 3e4)):
        fitted = fit_mixture(x * scale + shift)
        if scale < 10:
            _is_valid(*fitted)
        mean, covariance = _moments(*fitted)
        np.testing.assert_allclose((mean - shift) / scale, x.mean(axis=0), atol=1e-8)
        # But for the regularisation, 1e-6 of the variance.
        np.testing.assert_allclose(covariance / scale**2, np.cov(x.T, bias=True), atol=1e-6)


def test_the_same_seed_gives_the_same_mixture() -> None:
    for a, b in zip(fit_mixture(_samples(500), seed=3), fit_mixture(_samples(500), seed=3), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_count_like_repetitions() -> None:
    x = _samples(400)
    weights = np.random.default_rng(1).integers(0, 4, len(x))
    weights[280:] += 2  # the second Gaussian counts for more
    weighted, repeated = fit_mixture(x, 2, weights=weights * 1e-4), fit_mixture(np.repeat(x, weights, axis=0), 2)
    orders = np.argsort(-weighted[0]), np.argsort(-repeated[0])
    # Weights are rounded to 1 in 20000.
    for a, b in zip(weighted, repeated, strict=True):
        np.testing.assert_allclose(a[orders[0]], b[orders[1]], atol=2e-4)
    # Without them the mixture is another one.
    assert np.abs(np.sort(fit_mixture(x, 2)[0]) - np.sort(weighted[0])).max() > 0.05


def test_samples_of_weight_zero_do_not_count() -> None:
    x = np.concatenate([_samples(300), np.full((50, 2), 8.0)])
    weight, mean, _ = fit_mixture(x, weights=np.repeat([1.0, 0.0], [300, 50]))
    assert np.abs(mean[weight > 0]).max() < 1


@pytest.mark.parametrize("n", [1, 50])
def test_a_point_mass_is_one_component_and_four_of_weight_zero(n: int) -> None:
    fitted = fit_mixture(np.tile([[0.25, -0.5]], (n, 1)))
    _is_valid(*fitted)
    np.testing.assert_array_equal(fitted[0], [1, 0, 0, 0, 0])
    np.testing.assert_array_equal(fitted[1], np.tile([[0.25, -0.5]], (5, 1)))
    np.testing.assert_array_equal(fitted[2], np.zeros((5, 2, 2)))


def test_fewer_distinct_samples_than_components_become_points_with_their_share() -> None:
    x = np.array([[0.1, 0.2], [0.3, 0.4], [0.3, 0.4], [0.3, 0.4]])
    fitted = fit_mixture(x)
    _is_valid(*fitted)
    np.testing.assert_array_equal(fitted[0], [0.25, 0.75, 0, 0, 0])
    np.testing.assert_array_equal(fitted[1], [[0.1, 0.2], *[[0.3, 0.4]] * 4])
    by_weight = fit_mixture(x[:2], weights=[1, 3])
    np.testing.assert_allclose(by_weight[0], fitted[0], atol=1e-4)


@pytest.mark.filterwarnings("error")
def test_six_distinct_samples_on_a_line_give_five_valid_components() -> None:
    x = np.repeat(np.stack([np.arange(6) / 10, np.zeros(6)], axis=1), 10, axis=0)
    fitted = fit_mixture(x)
    _is_valid(*fitted)
    assert (fitted[0] > 0).all()
    np.testing.assert_allclose(_moments(*fitted)[0], x.mean(axis=0), atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"samples": np.zeros((0, 2))}, r"at least one, got \(0, 2\)"),
        ({"samples": np.zeros((5, 3))}, r"got \(5, 3\)"),
        ({"samples": [[0.1, np.nan]]}, "sample 0 is"),
        ({"samples": "samples"}, "array of numbers"),
        ({"weights": np.ones(3)}, r"weights of shape \(20,\)"),
        ({"weights": np.zeros(20)}, "not all 0"),
        ({"weights": np.full(20, -1.0)}, "at least 0"),
        ({"weights": np.full(20, np.inf)}, "finite"),
    ],
)
def test_bad_samples_and_weights_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(KeypointError, match=said):
        fit_mixture(**({"samples": _samples(20)} | arguments))


@pytest.mark.parametrize("components", [0, 2.5, True])
def test_a_number_of_components_that_is_none_is_refused(components: Any) -> None:
    with pytest.raises(DiffPoseEdgeError, match="components"):
        fit_mixture(_samples(20), components)


def test_without_scikit_learn_the_pip_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda module: module != "sklearn")
    with pytest.raises(MissingPackage, match="pip install scikit-learn"):
        fit_mixture(_samples(20))
