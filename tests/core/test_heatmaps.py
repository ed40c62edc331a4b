"""Heatmaps: what is rendered is fitted back, as well as scikit-learn does, whatever shape the heatmap has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffpose_edge import heatmaps as module
from diffpose_edge.errors import KeypointError
from diffpose_edge.heatmaps import EXTENT, PIXELS, fit_heatmaps, render_heatmaps

Array = NDArray[np.float64]
SIZE = (64, 48)
SIGMA = 2.0


def _centres(G: int, K: int, apart: float, seed: int = 0) -> Array:
    """Draw K centres (G, K, 2) at least ``apart`` and 7 pixels from the border."""
    rng = np.random.default_rng(seed)
    out = np.empty((G, K, 2))
    for g in range(G):
        while True:
            out[g] = rng.uniform(7, [SIZE[1] - 8, SIZE[0] - 8], (K, 2))
            distance = np.linalg.norm(out[g][:, None] - out[g], axis=-1) + 1e3 * np.eye(K)
            if distance.min() >= apart:
                break
    return out


def _moments(weight: Array, mean: Array, covariance: Array) -> tuple[Array, Array]:
    m = np.einsum("gk,gki->gi", weight, mean)
    apart = mean - m[:, None]
    return m, np.einsum("gk,gkij->gij", weight, covariance + np.einsum("gki,gkj->gkij", apart, apart))


def _moments_of_pixels(heatmaps: NDArray[Any]) -> tuple[Array, Array]:
    """Mean and covariance of heatmaps read as densities that are constant on each pixel."""
    means, covariances = [], []
    for h in np.maximum(np.asarray(heatmaps, np.float64), 0):
        row, column = np.indices(h.shape)
        share, xy = (h / h.sum()).ravel(), np.stack([column.ravel(), row.ravel()], axis=1)
        mean = share @ xy
        means.append(mean)
        covariances.append((share[:, None] * (xy - mean)).T @ (xy - mean) + np.eye(2) / 12)
    return np.array(means), np.array(covariances)


def _log_likelihood(x: Array, weight: Array, mean: Array, covariance: Array, spread: float = 0.0) -> Array:
    """Log-likelihood of points (n, 2), each blurred by ``spread`` I as the E-step blurs pixels."""
    apart = x[:, None] - mean
    precision = np.linalg.inv(covariance)
    log = -0.5 * np.einsum("nki,kij,nkj->nk", apart, precision, apart) - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    log -= 0.5 * spread * np.trace(precision, axis1=-2, axis2=-1)
    return np.log((np.exp(log) * weight).sum(axis=1))


def test_a_blob_has_its_height_at_its_centre_and_blobs_add_up() -> None:
    centres, weights = np.array([[10.0, 5.0], [12.5, 8.0]]), np.array([1.0, 0.5])
    h = render_heatmaps(centres, weights, SIGMA, SIZE)
    row, column = np.indices(SIZE)
    wanted = sum(w * np.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * SIGMA**2)) for (x, y), w in zip(centres, weights, strict=True))
    assert (h.shape, h.dtype) == (SIZE, np.float32)
    np.testing.assert_allclose(h, wanted, rtol=2e-6, atol=1e-30)
    assert render_heatmaps(centres[None, None, :1], [[[1.0]]], SIGMA, SIZE)[0, 0, 5, 10] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (np.zeros((1, 17, 2, 3)), np.ones((1, 17, 2)), 2.0, SIZE),
        (np.zeros((1, 17, 2, 2)), np.ones((1, 17, 3)), 2.0, SIZE),
        (np.zeros(2), 1.0, 2.0, SIZE),
        (np.zeros((1, 2)), np.ones(1), 0.0, SIZE),
        (np.zeros((1, 2)), np.ones(1), np.nan, SIZE),
        (np.zeros((1, 2)), np.ones(1), 2.0, (0, 48)),
    ],
)
def test_what_cannot_be_rendered_is_refused(arguments: Any) -> None:
    with pytest.raises(KeypointError, match="expected"):
        render_heatmaps(*arguments)


def test_a_blob_between_pixels_keeps_its_place() -> None:
    centres = np.array([[20.5, 30.5], [20.25, 30.1], [20.0, 30.0], [24.37, 11.81]])[:, None]
    weight, mean, covariance = fit_heatmaps(render_heatmaps(centres, np.ones((4, 1)), SIGMA, SIZE), 1)
    np.testing.assert_array_equal(weight, np.ones((4, 1)))
    assert np.abs(mean - centres).max() < 0.05  # measured: 3e-8
    # The blob's own variance and the pixel's.
    np.testing.assert_allclose(covariance[:, 0], np.broadcast_to((SIGMA**2 + 1 / 12) * np.eye(2), (4, 2, 2)), atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("K", [2, 5])
def test_blobs_apart_are_found_again(K: int, seed: int) -> None:
    centres = _centres(4, K, apart=6 * SIGMA, seed=seed)
    height = np.random.default_rng(seed).uniform(0.3, 1.0, (4, K))
    weight, mean, covariance = fit_heatmaps(render_heatmaps(centres, height, SIGMA, SIZE), K)
    distance = np.linalg.norm(centres[:, :, None] - mean[:, None], axis=-1)
    nearest = distance.argmin(axis=-1)
    assert distance.min(axis=-1).max() < 0.05
    assert (np.sort(nearest, axis=-1) == np.arange(K)).all()
    np.testing.assert_allclose(np.take_along_axis(weight, nearest, 1), height / height.sum(axis=1, keepdims=True), atol=0.005)
    np.testing.assert_allclose(covariance, np.broadcast_to((SIGMA**2 + 1 / 12) * np.eye(2), covariance.shape), atol=0.1)


def test_the_whole_mixture_has_the_moments_of_the_heatmap() -> None:
    h = render_heatmaps(_centres(6, 3, 0.0), np.random.default_rng(1).uniform(0.2, 1, (6, 3)), SIGMA, SIZE)
    h[h < 1e-3] = 0  # fewer pixels than enter the fit
    assert ((h > 0).sum(axis=(1, 2)) < PIXELS).all()
    for components in (1, 5):
        mean, covariance = _moments(*fit_heatmaps(h, components))
        wanted = _moments_of_pixels(h)
        np.testing.assert_allclose(mean, wanted[0], atol=1e-8)
        np.testing.assert_allclose(covariance, wanted[1], atol=1e-7)


@pytest.mark.parametrize(("spread", "largest"), [(2.0, 1e-3), (4.0, 0.3)])
def test_the_pixels_left_out_hardly_change_the_moments(spread: float, largest: float) -> None:
    centres = np.clip(_centres(17, 2, 10.0), 10, np.array([37, 53]))
    h = render_heatmaps(centres, np.full((17, 2), [0.5, 0.4]), spread, SIZE)
    mean, covariance = _moments(*fit_heatmaps(h, 5))
    wanted = _moments_of_pixels(h)
    assert np.abs(mean - wanted[0]).max() < largest
    deviations = [np.sqrt(np.diagonal(c, axis1=-2, axis2=-1)) for c in (covariance, wanted[1])]
    assert np.abs(deviations[0] - deviations[1]).max() < largest


@pytest.mark.parametrize("apart", [0.0, 3.0, 10.0])
def test_the_fit_is_as_good_as_scikit_learns_on_the_same_weighted_data(apart: float) -> None:
    from sklearn.mixture import GaussianMixture

    centres = np.clip(_centres(1, 1, 0.0) + np.random.default_rng(3).normal(0, apart, (4, 3, 2)), 8, [39, 55])
    # Whole numbers, which scikit-learn gets as repetitions: it knows no weights.
    h = np.rint(25 * render_heatmaps(centres, np.random.default_rng(4).uniform(0.3, 1, (4, 3)), SIGMA, SIZE))
    ours = fit_heatmaps(h, 5)
    our_moments = _moments(*ours)
    # Four points that have a pixel's own mean and variance stand for its square.
    corners = np.sqrt(EXTENT) * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    for g in range(len(h)):
        row, column = np.nonzero(h[g])
        x = (np.stack([column, row], axis=1)[:, None] + corners).reshape(-1, 2)
        x = np.repeat(x, np.repeat(h[g, row, column].astype(int), 4), axis=0)
        theirs = GaussianMixture(5, reg_covar=1e-9, random_state=0).fit(x)
        difference = (
            _log_likelihood(x, *(a[g] for a in ours)) - _log_likelihood(x, theirs.weights_, theirs.means_, theirs.covariances_)
        ).mean()
        # Both stop when an iteration gains less than 1e-3, on different paths: measured within -0.001..+0.005.
        assert difference > -0.005
        their_moments = _moments(theirs.weights_[None], theirs.means_[None], theirs.covariances_[None])
        for mine, other in zip(our_moments, their_moments, strict=True):
            np.testing.assert_allclose(mine[g], other[0], atol=1e-5)


def test_each_iteration_raises_the_likelihood_of_the_pixels_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    h = render_heatmaps(_centres(3, 4, 2.0, seed=5), np.random.default_rng(5).uniform(0.2, 1, (3, 4)), SIGMA, SIZE)
    h[h < 1e-3] = 0
    monkeypatch.setattr(module, "GAIN", 0.0)
    before = np.full(3, -np.inf)
    for iterations in range(8):
        monkeypatch.setattr(module, "ITERATIONS", iterations)
        fitted = fit_heatmaps(h, 5)
        after = np.empty(3)
        for g in range(3):
            row, column = np.nonzero(h[g])
            each = _log_likelihood(np.stack([column, row], axis=1), *(a[g] for a in fitted), spread=EXTENT)
            after[g] = np.average(each, weights=h[g, row, column])
        assert (after > before).all()
        before = after


def test_the_end_is_where_no_small_move_raises_that_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GAIN", 1e-14)
    monkeypatch.setattr(module, "ITERATIONS", 5000)
    # Blobs no larger than a pixel, where its extent matters most.
    h = render_heatmaps([[[8.3, 9.1], [9.9, 9.8]]], [[1.0, 0.6]], 0.6, (20, 18))
    row, column = np.nonzero(h[0] > 0)
    x, share = np.stack([column, row], axis=1), h[0, row, column].astype(np.float64)
    weight, mean, covariance = (a[0] for a in fit_heatmaps(h, 2))
    assert np.linalg.norm(mean[0] - mean[1]) > 1
    directions = [(np.eye(2)[i], np.zeros((2, 2))) for i in (0, 1)]
    directions += [(np.zeros(2), np.array(c)) for c in ([[1, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]])]
    for k in (0, 1):
        for of_mean, of_covariance in directions:
            likelihood = []
            for step in (-1e-4, 1e-4):
                moved = mean.copy(), covariance.copy()
                moved[0][k] += step * of_mean
                moved[1][k] += step * of_covariance
                likelihood.append(np.average(_log_likelihood(x, weight, *moved, spread=EXTENT), weights=share))
            assert abs(likelihood[1] - likelihood[0]) / 2e-4 < 1e-5


def test_a_joint_that_is_done_waits_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    fitting = []
    expected = module._expected

    def counted(mixture: Any, share: Array, powers: Array) -> Any:
        fitting.append(len(share))
        return expected(mixture, share, powers)

    monkeypatch.setattr(module, "_expected", counted)
    h = render_heatmaps(_centres(3, 3, 3.0), np.ones((3, 3)), SIGMA, SIZE)
    h[1] = 0
    h[1, 17, 17] = 1
    fit_heatmaps(h, 5)
    assert fitting[:3] == [3, 3, 2]  # the second iteration shows that the first gained nothing
    assert fitting == sorted(fitting, reverse=True)
    assert len(fitting) < 40


def test_a_single_pixel_gives_one_component_with_the_pixels_variance() -> None:
    h = np.zeros((2, *SIZE), np.float32)
    h[0, 30, 20], h[1, 0, 47] = 0.7, 1e-30
    weight, mean, covariance = fit_heatmaps(h, 5)
    np.testing.assert_array_equal(weight, [[1, 0, 0, 0, 0]] * 2)
    np.testing.assert_allclose(mean, np.repeat([[[20, 30]], [[47, 0]]], 5, axis=1), atol=1e-12)
    np.testing.assert_allclose(covariance, np.broadcast_to(np.eye(2) / 12, (2, 5, 2, 2)), atol=1e-12)


def test_fewer_pixels_than_components_get_one_each() -> None:
    h = np.zeros((1, *SIZE))
    h[0, [10, 40, 60], [5, 30, 8]] = 0.5, 0.3, 0.2
    weight, mean, covariance = fit_heatmaps(h, 5)
    order = np.argsort(-weight[0])
    np.testing.assert_allclose(weight[0, order], [0.5, 0.3, 0.2, 0, 0], atol=1e-9)
    np.testing.assert_allclose(mean[0, order[:3]], [[5, 10], [30, 40], [8, 60]], atol=1e-6)
    np.testing.assert_allclose(covariance, np.broadcast_to(np.eye(2) / 12, (1, 5, 2, 2)), atol=1e-6)


def test_two_far_peaks_share_the_components_and_none_spans_both() -> None:
    h = render_heatmaps([[[10.3, 12.6], [36.2, 50.9]]], [[0.9, 0.3]], SIGMA, SIZE)
    weight, mean, covariance = fit_heatmaps(h, 5)
    upper = mean[0, :, 1] < 32
    assert weight[0, upper].sum() == pytest.approx(0.75, abs=1e-3)
    for which, peak in ((upper, (10.3, 12.6)), (~upper, (36.2, 50.9))):
        np.testing.assert_allclose(np.average(mean[0, which], axis=0, weights=weight[0, which]), peak, atol=0.05)
    assert np.linalg.eigvalsh(covariance).max() < 2 * SIGMA**2


@pytest.mark.parametrize("size", [(64, 48), (1, 1), (1, 40), (40, 1), (7, 5), (96, 72), (37, 53)])
def test_a_flat_heatmap_has_the_moments_of_the_grid(size: tuple[int, int]) -> None:
    mean, covariance = _moments(*fit_heatmaps(np.full((1, *size), 0.2, np.float32), 5))
    H, W = size
    # Exact where all pixels enter; else those that do lie all over the grid. In one corner they would be 10 pixels away.
    exact = H * W <= PIXELS
    np.testing.assert_allclose(mean[0], [(W - 1) / 2, (H - 1) / 2], atol=1e-9 if exact else 0.3)
    np.testing.assert_allclose(covariance[0], np.diag([W**2 / 12, H**2 / 12]), atol=1e-9 if exact else 0.02 * H * W / 12)


def test_negative_values_count_as_zero() -> None:
    h = render_heatmaps(_centres(2, 2, 8.0), np.ones((2, 2)), SIGMA, SIZE)
    h[h < 1e-2] = 0
    undershot = np.where(h == 0, np.float32(-0.3), h)
    for a, b in zip(fit_heatmaps(h, 5), fit_heatmaps(undershot, 5), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_heatmap_is_fitted_alike_alone_and_among_others() -> None:
    rng = np.random.default_rng(0)
    h = render_heatmaps(_centres(6, 3, 3.0), rng.uniform(0.2, 1, (6, 3)), SIGMA, SIZE)
    h[3] = 0
    h[3, 5, 5] = 1  # is done long before the others
    h += rng.normal(0, 0.003, h.shape).astype(np.float32) * (np.arange(6)[:, None, None] % 2)
    together = fit_heatmaps(h, 5)
    for g in range(6):
        for whole, alone in zip(together, fit_heatmaps(h[g : g + 1], 5), strict=True):
            np.testing.assert_allclose(whole[g], alone[0], rtol=1e-9, atol=1e-9)
