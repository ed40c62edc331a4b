"""The sampler against theory: a perfect denoiser, known in closed form, must lead from noise to the target distribution.

Statistical bounds are five standard errors (se) of the very numbers compared, so that a sound sampler fails once in a
million numbers; the seeds are fixed. What DDIM itself gets wrong at finite K is bounded separately, by theory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from diffpose_edge.distribution import StartSpread, start_parameters, unwhitened, whitened
from diffpose_edge.errors import TimestepError
from diffpose_edge.mixtures import checked_mixture, draw, moments
from diffpose_edge.schedule import checked_timesteps, cosine_alpha_bar, released_alpha_bar, step_coefficients, trailing_timesteps

Array = NDArray[np.float64]
SE = 5.0
EPS32 = float(np.finfo(np.float32).eps)
PREDICTIONS = pytest.mark.parametrize("prediction", ["eps", "v"])


@dataclass(frozen=True)
class Target:
    """A mixture of M Gaussians in d dimensions: ``weight`` (M,), ``mean`` (M, d), ``covariance`` (M, d, d)."""

    weight: Array
    mean: Array
    covariance: Array

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        m = rng.choice(len(self.weight), n, p=self.weight)
        e = rng.standard_normal((n, self.mean.shape[1]))
        return self.mean[m] + (np.linalg.cholesky(self.covariance)[m] @ e[..., None])[..., 0]

    def means_given(self, x: Array, a: float) -> tuple[Array, Array]:
        """E[x0 | x_t = x] and E[eps | x_t = x], (n, d), under x_t = sqrt(a) x0 + sqrt(1 - a) eps (Bishop, section 2.3.3)."""
        total = a * self.covariance + (1.0 - a) * np.eye(self.mean.shape[1])
        apart = x - np.sqrt(a) * self.mean[:, None]
        solved = apart @ np.linalg.inv(total)
        log = (np.log(self.weight) - 0.5 * np.linalg.slogdet(total)[1])[:, None] - 0.5 * (apart * solved).sum(axis=-1)
        share = np.exp(log - log.max(axis=0))
        share /= share.sum(axis=0)
        x0 = self.mean[:, None] + np.sqrt(a) * solved @ self.covariance
        return (share[..., None] * x0).sum(axis=0), np.sqrt(1.0 - a) * (share[..., None] * solved).sum(axis=0)

    def output(self, x: Array, a: float, prediction: str) -> Array:
        """What a perfectly trained network answers: the mean of eps, or of v, given x_t = x."""
        x0, eps = self.means_given(x, a)
        return eps if prediction == "eps" else np.sqrt(a) * eps - np.sqrt(1.0 - a) * x0


def _walk(target: Target, x: Array, alpha_bar: Array, steps: tuple[int, ...], prediction: str) -> Array:
    for t, (c0, c1) in zip(steps, step_coefficients(alpha_bar, steps, prediction).astype(np.float64), strict=True):
        x = c0 * x + c1 * target.output(x, float(alpha_bar[t]), prediction)
    return x


def _turned(angle: float, variances: list[float]) -> Array:
    axes = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return axes * variances @ axes.T


# Principal variances from nothing known (1: as wide as the start) to a fifth of its width; axes turned.
VARIANCES = np.array([1.0, 0.25, 0.04])
AXES = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
MEAN = np.array([0.5, -1.0, 0.3])
GAUSSIAN = Target(np.ones(1), MEAN[None], (AXES * VARIANCES @ AXES.T)[None])
# Three modes in u, v, two of them near each other: a limb, the other one that it is mistaken for, and a blur.
MODES = Target(
    np.array([0.5, 0.3, 0.2]),
    np.array([[-0.9, 0.2], [0.8, 0.6], [0.6, -0.7]]),
    np.stack([_turned(0.5, [0.12, 0.04]), _turned(1.2, [0.05, 0.1]), _turned(2.0, [0.3, 0.08])]),
)


def _gain(alpha_bar: Array, steps: tuple[int, ...]) -> Array:
    """What DDIM scales each principal axis by, perfect denoiser: the textbook step with E[eps | x] and E[x0 | x] put in."""
    a = np.append(alpha_bar[list(steps)], 1.0)[:, None]
    return ((np.sqrt(a[:-1] * a[1:]) * VARIANCES + np.sqrt((1 - a[:-1]) * (1 - a[1:]))) / (a[:-1] * VARIANCES + 1 - a[:-1])).prod(axis=0)


def _within(values: Array, wanted: Array, beyond: Array | float = 0.0) -> None:
    """Assert that the mean over values (n, …) is the wanted one within SE standard errors, and ``beyond``."""
    se = values.std(axis=0) / np.sqrt(len(values))
    off = np.abs(values.mean(axis=0) - wanted)
    assert (off <= SE * se + beyond).all(), f"off by {off}, of which {SE * se} may be chance and {beyond} theory"


def _products(x: Array, mean: Array) -> Array:
    return (x - mean)[..., :, None] * (x - mean)[..., None, :]


@PREDICTIONS
def test_fifty_steps_from_pure_noise_end_in_the_gaussian(prediction: str) -> None:
    table, steps = cosine_alpha_bar(50), trailing_timesteps(50, 50)
    x = _walk(GAUSSIAN, np.random.default_rng(2).standard_normal((100_000, 3)), table, steps, prediction)
    gain = AXES * _gain(table, steps) @ AXES.T
    # Starting at N(0, 1) instead of at x_K leaves this much of the mean out: sqrt(a_K) = 0.031 of it at most.
    short = np.sqrt(table[-1]) * gain @ MEAN
    # se of the means 0.003 sigma, of the variances 0.0045 sigma^2. Against the map that DDIM is, nothing but chance:
    _within(x, MEAN - short)
    _within(_products(x, MEAN - short), gain @ gain.T)
    # Against the target: a step of angle delta turns (sqrt(a s), sqrt(1 - a)) by sqrt(s) delta / (a s + 1 - a) and keeps
    # the cosine of that, all in all 1 - delta pi (1 + s) / (8 sqrt(s)) of sigma: 2 % for s = 1, 6 % for s = 0.04.
    lost = np.pi / 102 * np.pi * (1 + VARIANCES) / (8 * np.sqrt(VARIANCES))
    along = (x - MEAN) @ AXES
    _within(along, np.zeros(3), beyond=float(np.sqrt(table[-1]) * np.linalg.norm(MEAN)))
    _within(along**2, VARIANCES, beyond=2 * lost * VARIANCES)


@PREDICTIONS
def test_the_linear_map_is_the_probability_flow_up_to_first_order_in_the_step(prediction: str) -> None:
    table = cosine_alpha_bar(400)
    begin = np.arccos(np.sqrt(table[-1]))
    rows = np.concatenate([np.zeros((1, 3)), np.eye(3)])

    def speed(x: Array, angle: float) -> Array:
        # With x = cos(angle) x0 + sin(angle) eps, v is dx/dangle: the probability flow (Salimans & Ho 2022, appendix D).
        return GAUSSIAN.output(x, float(np.cos(angle) ** 2), "v")

    exact, h = rows, -begin / 400
    for angle in begin + h * np.arange(400):
        k1 = speed(exact, angle)
        k2 = speed(exact + h / 2 * k1, angle + h / 2)
        k3 = speed(exact + h / 2 * k2, angle + h / 2)
        exact = exact + h / 6 * (k1 + 2 * k2 + 2 * k3 + speed(exact + h * k3, angle + h))
    closed = AXES * np.sqrt(VARIANCES / (table[-1] * VARIANCES + 1 - table[-1])) @ AXES.T
    # Runge-Kutta errs by the order of h^4 = 2e-10; along the axis of variance s the flow keeps x / sqrt(a s + 1 - a).
    assert np.abs(exact[1:] - exact[0] - closed).max() < 1e-8

    errors = []
    for K in (25, 50, 100, 200, 400):
        steps = trailing_timesteps(400, K)
        ends = _walk(GAUSSIAN, rows, table, steps, prediction)
        # Nothing is drawn: what is left is one rounding of each step's coefficients to float32. Measured 6e-6 at K = 400.
        assert np.abs(ends[1:] - ends[0] - AXES * _gain(table, steps) @ AXES.T).max() < K * EPS32
        errors.append(np.abs(ends - exact).max())
    # Twice the steps, half the error. Measured 0.044 at K = 25, 0.0028 at 400, and ratios from 1.97.
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2.0, atol=0.1)
    assert errors[-1] < 0.005


@PREDICTIONS
def test_fifty_steps_end_in_the_mixture_and_more_steps_come_nearer(prediction: str) -> None:
    rng = np.random.default_rng(3)
    n = 20_000
    x0, e = MODES.draw(n, rng), rng.standard_normal((n, 2))
    mean = MODES.weight @ MODES.mean
    covariance = np.einsum("m,mij->ij", MODES.weight, MODES.covariance + _products(MODES.mean, mean))
    ends = {}
    for T, K in ((50, 2), (50, 5), (50, 10), (50, 25), (50, 50), (101, 101)):
        table = cosine_alpha_bar(T)
        x_K = np.sqrt(table[-1]) * x0 + np.sqrt(1 - table[-1]) * e
        ends[K] = _walk(MODES, x_K, table, trailing_timesteps(T, K), prediction)
    errors = [np.abs(_products(x, mean).mean(axis=0) - covariance).max() for x in ends.values()]
    assert (np.diff(errors) < 0).all(), errors
    # se at most 0.006 of the mean, 0.004 of the covariance. DDIM takes 3 % of the largest variance, 0.76, at K = 50.
    _within(ends[50], mean, beyond=0.002)
    _within(_products(ends[50], mean), covariance, beyond=0.025)
    # Half the angle of a step, half of that: extrapolated to none, only chance is left, and the second order.
    _within(2 * ends[101] - ends[50], mean)
    _within(2 * _products(ends[101], mean) - _products(ends[50], mean), covariance, beyond=0.002)
    # The modes keep their shares (se 0.0035): half the mass is left of zero, less a tail and more of another.
    deviations = np.sqrt(MODES.covariance[:, 0, 0])
    left = sum(w * math.erfc(m / s / 2**0.5) / 2 for w, m, s in zip(MODES.weight, MODES.mean[:, 0], deviations, strict=True))
    _within((ends[50][:, 0] < 0).astype(float), np.asarray(left))


@pytest.mark.parametrize("t", [49, 30, 10])
def test_one_step_of_v_is_the_posterior_mean(t: int) -> None:
    table, x = cosine_alpha_bar(50), np.array([[0.4, -1.1], [-0.3, 0.5]])
    ends = _walk(MODES, x, table, (t,), "v")
    # By brute force, Bayes: draws from the target, weighted by how likely they make x. se by the delta method.
    x0 = MODES.draw(400_000, np.random.default_rng(4))
    for end, at in zip(ends, x, strict=True):
        weight = np.exp(-0.5 * ((at - np.sqrt(table[t]) * x0) ** 2).sum(axis=-1) / (1 - table[t]))[:, None]
        mean = (weight * x0).sum(axis=0) / weight.sum()
        se = np.sqrt((weight**2 * (x0 - mean) ** 2).sum(axis=0)) / weight.sum()
        assert (np.abs(end - mean) <= SE * se).all()


TABLES = (released_alpha_bar(), cosine_alpha_bar(50), cosine_alpha_bar(1000), np.array([1.0, 0.5, 1e-12]))


@given(st.sampled_from(TABLES), st.data(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_eps_and_v_make_the_same_step_and_v_turns_the_state(table: Array, data: st.DataObject, seed: int) -> None:
    t = data.draw(st.integers(0, len(table) - 1))
    steps = (t, data.draw(st.integers(0, t - 1))) if t and data.draw(st.booleans()) else (t,)
    a_t, a_s = table[t], table[steps[1]] if len(steps) > 1 else 1.0
    x0, eps = np.random.default_rng(seed).standard_normal((2, 17, 5))
    x_t, v = np.sqrt(a_t) * x0 + np.sqrt(1 - a_t) * eps, np.sqrt(a_t) * eps - np.sqrt(1 - a_t) * x0
    (e0, e1), (v0, v1) = (step_coefficients(table, steps, p)[0].astype(np.float64) for p in ("eps", "v"))
    by_eps, by_v = e0 * x_t + e1 * eps, v0 * x_t + v1 * v
    # Each coefficient is rounded once; computed in float64 where 1 / sqrt(a_t) amplifies a last bit.
    assert np.abs(by_v - np.sqrt(a_s) * x0 - np.sqrt(1 - a_s) * eps).max() <= EPS32 * (np.abs(x_t) + np.abs(v)).max()
    assert np.abs(by_eps - by_v).max() <= EPS32 * ((1 + abs(e0)) * np.abs(x_t) + np.abs(v) + abs(e1) * np.abs(eps)).max()
    assert abs(v0**2 + v1**2 - 1) <= 2 * EPS32


@given(st.integers(1, 1000), st.data())
@settings(deadline=None, max_examples=60)
def test_every_cosine_schedule_falls_within_0_and_1_and_every_step_of_it_is_finite(T: int, data: st.DataObject) -> None:
    table = cosine_alpha_bar(T)
    assert table.shape == (T,)
    assert 0 < table[-1] <= table[0] < 1
    assert (np.diff(table) < 0).all()
    assert table[-1] == pytest.approx((np.pi / (2 * T + 2)) ** 2, rel=1.0 / T)
    t = data.draw(st.integers(0, T - 1))
    # Every pair (t, s) with this t: s from t - 1 to 0, then none.
    for steps in [(t, s) for s in range(t)] + [(t,)]:
        coefficients = step_coefficients(table, steps, "v")
        assert np.isfinite(coefficients).all()
        assert (np.abs(coefficients) <= 1).all()
    with pytest.raises(TimestepError):
        cosine_alpha_bar(0)


def test_trailing_timesteps_are_a_schedule_for_every_t_and_k() -> None:
    for T in [*range(1, 61), 100, 997, 1000]:
        for K in range(1, T + 1):
            steps = trailing_timesteps(T, K)
            assert checked_timesteps(steps, T) == steps
            assert (len(steps), steps[0]) == (K, T - 1)
            # Even: each within half a timestep of its place.
            assert np.abs(np.array(steps) + 1 - (T - np.arange(K) * T / K)).max() <= 0.5 + 1e-9
    for T, K in ((5, 0), (5, 6), (0, 0)):
        with pytest.raises(TimestepError, match=f"K={K} and T={T}"):
            trailing_timesteps(T, K)


def test_the_centred_process_ends_in_the_mixture_of_the_starts() -> None:
    rng = np.random.default_rng(5)
    M, N, a = 3, 20_000, float(cosine_alpha_bar(50)[-1])
    root = 0.2 * rng.normal(size=(1, 17, M, 2, 2))
    mixture = checked_mixture(rng.dirichlet(np.ones(M), (1, 17)), rng.uniform(-1, 1, (1, 17, M, 2)), root @ np.swapaxes(root, -1, -2))
    known = rng.uniform(0.02, 0.3, (17, 5)).astype(np.float32)
    spread = StartSpread(
        np.array([0, 1], np.float32), np.stack([known[:, 0]] * 2), np.stack([known[:, 2:]] * 2), np.stack([known[:, 2:]] * 2)
    )
    xyz, h0 = rng.normal(0, 0.4, (17, 3)).astype(np.float32), rng.normal(0, 0.5, (17, 5)).astype(np.float32)

    _, mean, cholesky = draw(mixture, N, rng)
    covariance = (cholesky @ np.swapaxes(cholesky, -1, -2))[0]
    mu, factor = start_parameters(mean[0], covariance, np.ones((N, 17), np.float32), np.broadcast_to(xyz, (N, 17, 3)), spread)
    r_K = np.sqrt(a) * whitened(h0, mu, factor) + np.sqrt(1 - a) * rng.standard_normal((N, 17, 5))
    h_K = unwhitened(r_K, mu, factor).astype(np.float64)

    middle, whole = np.zeros((17, 5)), np.zeros((17, 5, 5))
    middle[:, :2], middle[:, 2:] = moments(mixture)[0][0], xyz
    whole[:, :2, :2] = moments(mixture)[1][0]
    between = whole.copy()
    between[:, :2, :2] -= np.einsum("jm,jmab->jab", mixture.weight[0], mixture.covariance[0])
    whole += np.eye(5) * np.concatenate([known[:, [0, 0]], known[:, 2:]], axis=-1)[:, None].astype(np.float64) ** 2
    # h_K keeps sqrt(a) = 3 % of the way to h0. se: 0.007 sigma of means, 0.01 sigma^2 of variances.
    _within(h_K, middle, beyond=np.sqrt(a) * np.abs(h0 - middle))
    toward = middle + np.sqrt(a) * (h0 - middle)
    _within(h_K, toward)
    # The components' centres draw together by 1 - sqrt(a), and the noise lacks a of its variance.
    _within(_products(h_K, toward), whole, beyond=2 * np.sqrt(a) * np.abs(between) + a * np.abs(whole))
