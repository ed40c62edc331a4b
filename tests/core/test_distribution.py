"""The start distribution: its measured spread, the components that samples start from, and the person's own frame."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from diffpose_edge.distribution import (
    LEAST_SIGMA,
    LOG_SIGMA_SHIFT,
    START_CHANNELS,
    StartSpread,
    sigma_of,
    spread_from_record,
    start_channels,
    start_parameters,
    unwhitened,
    whitened,
)
from diffpose_edge.errors import BundleError
from diffpose_edge.person import CHANNELS, LEAST_SCALE, LOG_SCALE_SHIFT, PersonView, context_channels, person_view
from diffpose_edge.skeleton import ROOT

Array = NDArray[np.float32]
KNOTS = np.array([0.0, 0.25, 0.5, 0.75, 1.0], np.float32)
EPS32 = float(np.finfo(np.float32).eps)
SEEDS = st.integers(0, 2**32 - 1)
NAN = np.float32(np.nan)


def _spread(seed: int = 0) -> StartSpread:
    """A table as training gives: the more confident, the narrower; the hip is the origin, and its x, y, z are zero."""
    rng = np.random.default_rng(seed)

    def falling(*shape: int) -> Array:
        return np.sort(rng.uniform(0.005, 0.4, (len(KNOTS), *shape)), axis=0)[::-1].astype(np.float32)

    uv, xyz, residual = falling(17), falling(17, 3), falling(17, 3)
    xyz[:, ROOT], residual[:, ROOT] = 0.0, 0.0
    return StartSpread(KNOTS, uv, xyz, residual)


def _factor(cholesky: Array) -> NDArray[np.float64]:
    """L (…, 17, 5, 5) from its entries (…, 17, 6), in float64."""
    L = np.zeros((*cholesky.shape[:-1], 5, 5))
    L[..., range(5), range(5)] = cholesky[..., [0, 2, 3, 4, 5]]
    L[..., 1, 0] = cholesky[..., 1]
    return L


def test_at_its_knots_the_spread_is_the_table_exactly() -> None:
    spread = _spread()
    for b, knot in enumerate(KNOTS):
        confidence = np.full((2, 3, 17), knot)
        for found, table in ((spread.uv_at, spread.uv), (spread.xyz_at, spread.xyz), (spread.residual_at, spread.residual)):
            values = found(confidence)
            assert values.dtype == np.float32
            np.testing.assert_array_equal(values, np.broadcast_to(table[b], (2, 3, *table.shape[1:])))


@given(SEEDS)
@settings(deadline=None, max_examples=60)
def test_between_knots_the_variance_is_interpolated_for_each_joint_by_itself(seed: int) -> None:
    spread, confidence = _spread(seed % 7), np.random.default_rng(seed).random((4, 17)).astype(np.float32)
    for found, table in ((spread.xyz_at, spread.xyz), (spread.residual_at, spread.residual), (spread.uv_at, spread.uv)):
        values, variances = found(confidence).reshape(4, 17, -1), np.square(table.astype(np.float64)).reshape(5, 17, -1)
        for b, j, i in np.ndindex(values.shape):
            # The first knot is for joints that were not found at all.
            wanted = np.interp(max(confidence[b, j], KNOTS[1]), KNOTS, variances[:, j, i])
            # Float32 throughout, and the share is a difference of confidences near 1.
            assert values[b, j, i] ** 2 == pytest.approx(wanted, rel=16 * EPS32)


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=8))
@settings(deadline=None, max_examples=60)
def test_where_the_table_falls_the_spread_falls(confidences: list[float]) -> None:
    c = np.sort(np.array(confidences, np.float32))
    values = _spread().xyz_at(np.repeat(c[:, None], 17, axis=1))
    # Up to the rounding of each interpolation.
    assert (np.diff(values, axis=0) <= 4 * EPS32 * values[:-1]).all()
    assert (values[c < 0.2].min(axis=0, initial=9.0)[1:] > values[c > 0.3].max(axis=0, initial=0.0)[1:]).all()


def test_a_record_comes_back_and_a_second_round_trip_changes_nothing() -> None:
    spread = _spread(3)
    again = spread_from_record(json.loads(json.dumps(spread.as_record())))
    for name in ("confidence", "uv", "xyz", "residual"):
        # Six digits are kept.
        np.testing.assert_allclose(getattr(again, name), getattr(spread, name), rtol=EPS32, atol=5e-7)
        np.testing.assert_array_equal(getattr(spread_from_record(again.as_record()), name), getattr(again, name))


def _changed(name: str, at: Any, value: Any) -> dict[str, Any]:
    record = {key: np.array(table, object) for key, table in _spread().as_record().items()}
    record[name][at] = value
    return {key: table.tolist() for key, table in record.items()}


MALFORMED: dict[str, tuple[Any, str]] = {
    "nothing": (None, "four tables"),
    "a list": ([], "four tables"),
    "no uv": ({k: v for k, v in _spread().as_record().items() if k != "uv"}, r"is missing, or is not what belongs there \(KeyError\)"),
    "words": (_spread().as_record() | {"xyz": "wide"}, "four tables"),
    "ragged": (_spread().as_record() | {"xyz": [[0.1], [0.1, 0.2]]}, "four tables"),
    "one joint less": (_spread().as_record() | {"uv": [[0.1] * 16] * 5}, r"uv .*\(5, 17\); got shape \(5, 16\)"),
    "two axes": (_spread().as_record() | {"residual": [[[0.1] * 2] * 17] * 5}, r"residual .*\(5, 17, 3\); got shape \(5, 17, 2\)"),
    "one knot less": (_spread().as_record() | {"confidence": [0, 0.5, 0.75, 1]}, r"uv .*\(4, 17\)"),
    "below zero": (_changed("xyz", (2, 4, 1), -0.01), "xyz as numbers within 0"),
    "nan": (_changed("uv", (2, 4), float("nan")), "uv as numbers within 0"),
    "null": (_changed("uv", (2, 4), None), "uv as numbers within 0"),
    "infinite": (_changed("residual", (2, 4, 0), float("inf")), "residual as numbers within 0"),
    "beyond float32": (_changed("uv", (2, 4), 1e39), "uv as numbers within 0"),
    "beyond float64": (_changed("uv", (2, 4), 10**400), "int too large to convert to float"),
    "does not begin at 0": (_changed("confidence", 0, 0.1), "increasing from 0 to 1"),
    "does not end at 1": (_changed("confidence", 4, 0.9), "increasing from 0 to 1"),
    "a knot twice": (_changed("confidence", 2, 0.25), "increasing from 0 to 1"),
    "falls": (_changed("confidence", 2, 0.8), "increasing from 0 to 1"),
    "a knot that is nan": (_changed("confidence", 2, float("nan")), "increasing from 0 to 1"),
    "one knot": (_spread().as_record() | {"confidence": [0]}, "increasing from 0 to 1"),
    "no knots": (_spread().as_record() | {"confidence": []}, "increasing from 0 to 1"),
    "a number for knots": (_spread().as_record() | {"confidence": 1}, "increasing from 0 to 1"),
    "a column of knots": (_spread().as_record() | {"confidence": [[c] for c in KNOTS.tolist()]}, "increasing from 0 to 1"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_records_are_refused(name: str) -> None:
    record, said = MALFORMED[name]
    with pytest.raises(BundleError, match=said):
        spread_from_record(record)


def _start(seed: int, confidence: Array) -> tuple[Array, Array, Array]:
    """Return uv (B, 17, 2), covariances of any correlation (B, 17, 2, 2), and the encoder's pose (B, 17, 3)."""
    rng = np.random.default_rng(seed)
    shape = confidence.shape
    root = rng.uniform(0.01, 0.3) * rng.normal(size=(*shape, 2, 2))
    xyz = rng.normal(0, 0.4, (*shape, 3))
    xyz[:, ROOT] = 0.0
    return (
        rng.normal(0, 1, (*shape, 2)).astype(np.float32),
        (root @ np.swapaxes(root, -1, -2)).astype(np.float32),
        xyz.astype(np.float32),
    )


@given(SEEDS, st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_components_covariance_is_added_to_what_the_detector_errs_by(seed: int, mixture: bool) -> None:
    confidence = np.random.default_rng(seed).uniform(0.01, 1, (3, 17)).astype(np.float32)
    spread = _spread()
    uv, own, xyz = _start(seed, confidence)
    mu, cholesky = start_parameters(uv, own if mixture else None, confidence, xyz, spread)
    assert (mu.shape, cholesky.shape) == ((3, 17, 5), (3, 17, 6))
    assert mu.dtype == cholesky.dtype == np.float32
    np.testing.assert_array_equal(mu, np.concatenate([uv, xyz], axis=-1))
    L = _factor(cholesky)
    wanted = np.square(spread.uv_at(confidence).astype(np.float64))[..., None, None] * np.eye(2) + mixture * own
    # Float32; v's own part is a difference of variances.
    rounding = 16 * EPS32 * np.trace(wanted, axis1=-2, axis2=-1)[..., None, None]
    assert (np.abs((L @ np.swapaxes(L, -1, -2))[..., :2, :2] - wanted) <= rounding).all()
    np.testing.assert_array_equal(cholesky[..., 3:], np.maximum(spread.xyz_at(confidence), LEAST_SIGMA))
    np.testing.assert_allclose(sigma_of(cholesky), np.sqrt(np.square(L).sum(axis=-1)), rtol=4 * EPS32)


def test_a_joint_that_was_not_seen_is_somewhere_on_the_person() -> None:
    confidence = np.random.default_rng(1).uniform(0.1, 1, (2, 17)).astype(np.float32)
    confidence[0, 5] = confidence[1, 16] = 0.0
    unseen, spread = confidence == 0, _spread()
    uv, own, xyz = _start(1, confidence)
    plain = start_parameters(uv, own, confidence, xyz, spread)
    for array in (uv, own):
        array[unseen] = NAN
    mu, cholesky = start_parameters(uv, own, confidence, xyz, spread)
    for now, before in zip((mu, cholesky), plain, strict=True):
        np.testing.assert_array_equal(now, before)
    assert (mu[unseen][:, :2] == 0).all()
    np.testing.assert_array_equal(mu[unseen][:, 2:], xyz[unseen])
    widest = spread.uv[0][[5, 16]]
    np.testing.assert_allclose(cholesky[unseen][:, :3], np.stack([widest, 0 * widest, widest], axis=-1), rtol=EPS32)
    np.testing.assert_array_equal(cholesky[unseen][:, 3:], spread.xyz[0][[5, 16]])


def test_the_less_confident_the_wider_a_sample_starts() -> None:
    # Not found, and from the second knot up: between the two nothing was measured apart.
    confidence = np.repeat(np.concatenate([[0.0], np.linspace(0.25, 1, 16)]).astype(np.float32)[:, None], 17, axis=1)
    uv, own, xyz = (np.repeat(array[:1], 17, axis=0) for array in _start(2, confidence))
    wide = sigma_of(start_parameters(uv, None, confidence, xyz, _spread())[1])
    # The hip's x, y, z are known at any confidence.
    assert (np.diff(np.delete(wide.reshape(17, -1), [2, 3, 4], axis=1), axis=0) < 0).all()
    # With a covariance of its own too, among the joints that were seen.
    assert (np.diff(sigma_of(start_parameters(uv, own, confidence, xyz, _spread())[1])[1:, :, :2], axis=0) < 0).all()


def test_no_coordinate_is_known_better_than_the_least_sigma() -> None:
    none = StartSpread(KNOTS, np.zeros((5, 17), np.float32), *np.zeros((2, 5, 17, 3), np.float32))
    confidence = np.ones((1, 17), np.float32)
    uv, own, xyz = _start(4, confidence)
    # A line: no variance across it.
    line = np.einsum("bji,bjk->bjik", own[..., 0], own[..., 0])
    for covariance in (None, np.zeros_like(own), line):
        _, cholesky = start_parameters(uv, covariance, confidence, xyz, none)
        assert (cholesky[..., [0, 2, 3, 4, 5]] >= np.float32(LEAST_SIGMA)).all()
        assert np.isfinite(whitened(np.zeros((1, 17, 5), np.float32), np.zeros((1, 17, 5), np.float32), cholesky)).all()
    _, cholesky = start_parameters(uv, own, confidence, xyz, _spread())
    np.testing.assert_array_equal(cholesky[:, ROOT, 3:], np.full((1, 3), LEAST_SIGMA, np.float32))
    assert (cholesky[:, ROOT + 1 :, 3:] > LEAST_SIGMA).all()


def test_the_denoiser_is_told_mu_and_log_sigma_in_numbers_of_about_one() -> None:
    mu = np.random.default_rng(0).normal(size=(2, 4, 17, 5)).astype(np.float32)
    sigma = np.broadcast_to(np.array([0.01, 0.03, 0.1, 0.3, 1.0], np.float32), mu.shape)
    told = start_channels(mu, sigma)
    assert told.dtype == np.float32
    assert told.shape == (2, 4, 17, START_CHANNELS)
    np.testing.assert_array_equal(told[..., :5], mu)
    np.testing.assert_allclose(np.exp(told[..., 5:] - LOG_SIGMA_SHIFT), sigma, rtol=1e-5)
    assert np.abs(told[..., 5:]).max() <= LOG_SIGMA_SHIFT


@given(SEEDS, st.floats(-3, 0), st.floats(-0.99, 0.99))
@settings(deadline=None, max_examples=60)
def test_whitening_undoes_unwhitening(seed: int, log_sigma: float, correlation: float) -> None:
    rng = np.random.default_rng(seed)
    mu, r = rng.normal(0, 1, (4, 17, 5)).astype(np.float32), rng.standard_normal((4, 17, 5)).astype(np.float32)
    sigma = (10**log_sigma * rng.uniform(0.5, 2, (4, 17, 5))).astype(np.float32)
    vu, vv = correlation * sigma[..., 1], np.sqrt(1 - correlation**2) * sigma[..., 1]
    factor = np.concatenate([np.stack([sigma[..., 0], vu, vv], axis=-1), sigma[..., 2:]], axis=-1).astype(np.float32)
    h = unwhitened(r, mu, factor)
    L = _factor(factor)
    # Draws lie within five standard deviations.
    rounding = 4 * EPS32 * (np.abs(mu) + 5 * np.abs(L).sum(axis=-1))
    assert (np.abs(h - mu - (L @ r[..., None])[..., 0]) <= rounding).all()
    # Rounding h to float32 costs r the inverse of L times that.
    assert (np.abs(whitened(h, mu, factor) - r) <= (np.abs(np.linalg.inv(L)) @ rounding[..., None])[..., 0] + 8 * EPS32).all()


@given(SEEDS, st.floats(0.2, 4), st.floats(-1, 1), st.floats(-1, 1), st.sampled_from([(3, 17), (2, 5, 17)]))
@settings(deadline=None, max_examples=60)
def test_a_person_elsewhere_and_of_another_size_is_the_same_person(seed: int, s: float, u: float, v: float, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    uv = (rng.uniform(-0.5, 0.5, 2) + rng.uniform(0.05, 0.3) * rng.normal(size=(*shape, 2))).astype(np.float32)
    confidence = (rng.random(shape) * (rng.random(shape) < 0.8)).astype(np.float32)
    confidence[..., :2] = 0.5
    view = person_view(uv, confidence)
    own = view.to_person(uv)
    # What rounds are coordinates of the image, and in the person's frame their roundings are divided by the scale.
    rounding = float(16 * EPS32 * max(1.0, np.abs(uv).max()) / view.scale.min())
    np.testing.assert_allclose(view.to_image(own), uv, atol=16 * EPS32 * max(1.0, np.abs(uv).max()))
    seen = (confidence > 0)[..., None]
    axes = tuple(range(1, len(shape)))
    count = seen.sum(axis=axes)
    assert np.abs((own * seen).sum(axis=axes) / count).max() <= rounding
    np.testing.assert_allclose((np.square(own) * seen).sum(axis=(*axes, -1)) / count[:, 0], 1.0, atol=4 * rounding)

    moved = (s * uv + np.array([u, v])).astype(np.float32)
    there = person_view(moved, confidence)
    rounding += float(16 * EPS32 * np.abs(moved).max() / there.scale.min())
    np.testing.assert_allclose(there.centre, s * view.centre + np.array([u, v]), atol=rounding)
    np.testing.assert_allclose(there.scale, s * view.scale, rtol=2 * rounding)
    np.testing.assert_allclose(there.to_person(moved), own, atol=rounding * (1 + np.abs(own).max()))

    # What was not seen does not count, whatever it says.
    noise = np.where(seen, uv, NAN)
    for a, b in zip((view.centre, view.scale), (person_view(noise, confidence).centre, person_view(noise, confidence).scale), strict=True):
        np.testing.assert_array_equal(a, b)
    channels = context_channels(noise, confidence, view)
    assert channels.shape == (*shape, CHANNELS)
    np.testing.assert_array_equal(channels[..., :2], np.where(seen, own, 0.0))
    np.testing.assert_array_equal(channels[..., 2], confidence)
    place = np.concatenate([view.centre, np.log(view.scale)[:, None] + LOG_SCALE_SHIFT], axis=-1)
    np.testing.assert_array_equal(channels[..., 3:], np.broadcast_to(place.reshape(-1, *(1,) * len(axes), 3), (*shape, 3)))


def test_a_person_of_one_point_or_of_nothing_has_a_view_still() -> None:
    uv = np.full((2, 17, 2), 0.3, np.float32)
    view = person_view(uv, np.stack([np.ones(17), np.zeros(17)]).astype(np.float32))
    np.testing.assert_allclose(view.centre, [[0.3, 0.3], [0.0, 0.0]], atol=EPS32)
    np.testing.assert_array_equal(view.scale, np.array([LEAST_SCALE, 1.0], np.float32))
    assert np.isfinite(PersonView(view.centre, view.scale).to_person(uv)).all()
