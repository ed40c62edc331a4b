"""The samplers against theory: where the reverse process is known in closed form, DDIM errs by the step and AB2 by its square."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from diffpose_edge.errors import TimestepError
from diffpose_edge.samplers import SAMPLERS, ab2_rows, ddim_rows, even_timesteps, sampler_rows
from diffpose_edge.schedule import (
    cosine_alpha_bar,
    released_alpha_bar,
    scaled_coefficients,
    scales_of,
    step_coefficients,
    trailing_timesteps,
)

Array = NDArray[np.float64]
Rows = Callable[[Array, tuple[int, ...], str], Array]
PREDICTIONS = pytest.mark.parametrize("prediction", ["eps", "v"])
EPS64 = float(np.finfo(np.float64).eps)

# A Gaussian target on each of three axes: from as wide as the noise to a fifth of it.
VARIANCE, MEAN = np.array([1.0, 0.25, 0.04]), np.array([0.5, -1.0, 0.3])
# From 0.07 on: at the schedule's end a_t is so near 0 that errors of eps are blown up, and fewer steps show no order yet.
TABLE, FIRST = cosine_alpha_bar(3200), 2655


def _said(x: Array, a: float, prediction: str) -> Array:
    """What a perfect network answers: the mean of eps, or of v, given x_t = x (Bishop, section 2.3.3)."""
    solved = (x - np.sqrt(a) * MEAN) / (a * VARIANCE + 1.0 - a)
    eps, x0 = np.sqrt(1.0 - a) * solved, MEAN + np.sqrt(a) * VARIANCE * solved
    return eps if prediction == "eps" else np.sqrt(a) * eps - np.sqrt(1.0 - a) * x0


def _walk(rows: Array, x: Array, timesteps: tuple[int, ...], prediction: str) -> Array:
    before: Array | float = 0.0
    for t, (c0, c1, c2) in zip(timesteps, rows, strict=True):
        said = _said(x, float(TABLE[t]), prediction)
        x, before = c0 * x + c1 * said + c2 * before, said
    return x


def _uneven(K: int) -> tuple[int, ...]:
    """K timesteps from FIRST on, an even number: steps three times as long and as short as one another take turns."""
    lengths = np.tile([1.0, 3.0], K // 2)
    left = FIRST + 1 - np.append(0.0, np.cumsum(lengths)[:-1]) * (FIRST + 1) / lengths.sum()
    return tuple((left - 1).round().astype(int).tolist())


def _orders(rows_of: Rows, prediction: str) -> Array:
    """By which power of the step the error falls, for each doubling of K from 20 to 160."""
    x = np.array([1.3, -0.7, 0.4])
    a_K = float(TABLE[FIRST])
    exact = MEAN + np.sqrt(VARIANCE / (a_K * VARIANCE + 1.0 - a_K)) * (x - np.sqrt(a_K) * MEAN)
    errors = []
    for K in (20, 40, 80, 160):
        steps = _uneven(K)
        assert steps[0] == FIRST
        errors.append(np.abs(_walk(rows_of(TABLE, steps, prediction), x, steps, prediction) - exact).max())
    return np.log2(np.divide(errors[:-1], errors[1:]))


@PREDICTIONS
def test_ddim_errs_by_the_step_and_ab2_by_its_square(prediction: str) -> None:
    # Measured 0.98 to 0.99, and 1.92 to 2.03.
    np.testing.assert_allclose(_orders(ddim_rows, prediction), 1.0, atol=0.05)
    np.testing.assert_allclose(_orders(ab2_rows, prediction), 2.0, atol=0.15)


def _even_weights(alpha_bar: Array, timesteps: tuple[int, ...], prediction: str) -> Array:
    """The textbook's 3/2 and -1/2, which are for steps of one length."""
    rows = ab2_rows(alpha_bar, timesteps, prediction)
    whole = rows[1:, 1] + rows[1:, 2]
    rows[1:, 1], rows[1:, 2] = 1.5 * whole, -0.5 * whole
    return rows


def _forgetful(alpha_bar: Array, timesteps: tuple[int, ...], prediction: str) -> Array:
    rows = ab2_rows(alpha_bar, timesteps, prediction)
    rows[1:, 1] += rows[1:, 2]
    rows[1:, 2] = 0.0
    return rows


def _turned(alpha_bar: Array, timesteps: tuple[int, ...], prediction: str) -> Array:
    rows = ab2_rows(alpha_bar, timesteps, prediction)
    rows[1:, 1] += 2.0 * rows[1:, 2]
    rows[1:, 2] = -rows[1:, 2]
    return rows


@PREDICTIONS
@pytest.mark.parametrize("wrong", [_even_weights, _forgetful, _turned])
def test_planted_faults_cost_an_order(wrong: Rows, prediction: str) -> None:
    # Each still meets the solution in the end: only the order tells.
    np.testing.assert_allclose(_orders(wrong, prediction), 1.0, atol=0.1)


@PREDICTIONS
def test_ab2_is_exact_for_outputs_that_change_evenly_along_the_arc(prediction: str) -> None:
    table = cosine_alpha_bar(50)
    steps = (45, 30, 28, 11, 0)
    phi = np.append(np.arccos(np.sqrt(table[list(steps)])), 0.0)
    said = 0.7 - 1.9 * phi

    def speed(x: float, angle: float) -> float:
        value = 0.7 - 1.9 * angle
        return value if prediction == "v" else (value - x * np.sin(angle)) / np.cos(angle)  # x0 = (x - sin eps) / cos; v from both

    rows, x, expected = ab2_rows(table, steps, prediction), 0.4, 0.4
    for k, (c0, c1, c2) in enumerate(rows):
        if k == 0:
            x = expected = c0 * x + c1 * said[0]  # DDIM's step is only for what stays as it is
            continue
        x = c0 * x + c1 * said[k] + c2 * said[k - 1]
        n = 200
        h = (phi[k + 1] - phi[k]) / n
        for angle in phi[k] + h * np.arange(n):
            k1 = speed(expected, angle)
            k2 = speed(expected + h / 2 * k1, angle + h / 2)
            k3 = speed(expected + h / 2 * k2, angle + h / 2)
            expected += h / 6 * (k1 + 2 * k2 + 2 * k3 + speed(expected + h * k3, angle + h))
        assert x == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    "table", [released_alpha_bar(), cosine_alpha_bar(50), np.array([1.0, 0.5, 1e-12])], ids=["released", "cosine", "edge"]
)
def test_for_an_eps_that_stays_ab2_is_ddim(table: Array) -> None:
    steps = tuple(range(len(table) - 1, -1, -max(1, len(table) // 7)))
    ddim, ab2 = ddim_rows(table, steps, "eps"), ab2_rows(table, steps, "eps")
    assert np.isfinite(ab2).all()
    np.testing.assert_allclose(ab2[:, 0], ddim[:, 0], rtol=1e-12)
    np.testing.assert_allclose(ab2[:, 1] + ab2[:, 2], ddim[:, 1], atol=1e-12 * np.abs(ddim).max())


@PREDICTIONS
def test_ddim_is_the_special_case_without_memory_bit_for_bit(prediction: str) -> None:
    for table in (released_alpha_bar(), cosine_alpha_bar(50)):
        steps = trailing_timesteps(len(table), 7)
        for scaled, of in ((False, step_coefficients), (True, scaled_coefficients)):
            rows = sampler_rows("ddim", table, steps, prediction, scaled=scaled)
            assert rows.dtype == np.float32
            assert rows[:, :2].tobytes() == np.ascontiguousarray(of(table, steps, prediction)).tobytes()
            assert not rows[:, 2].any()


@PREDICTIONS
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_scaled_rows_walk_the_scaled_state(sampler: str, prediction: str) -> None:
    steps = (3199, 2500, 1400, 900, 10)
    rows = {"ddim": ddim_rows, "ab2": ab2_rows}[sampler](TABLE, steps, prediction)
    x = np.array([1.3, -0.7, 0.4])
    expected = _walk(rows, x, steps, prediction)
    s, before = np.sqrt(TABLE[steps[0]]) * x, np.zeros(3)
    for t, (c0, c1, c2) in zip(steps, rows * scales_of(TABLE, steps), strict=True):
        said = _said(s / np.sqrt(TABLE[t]), float(TABLE[t]), prediction)
        s, before = c0 * s + c1 * said + c2 * before, said
    np.testing.assert_allclose(s, expected, rtol=0, atol=1e3 * EPS64 / np.sqrt(TABLE[-1]))


@PREDICTIONS
def test_two_timesteps_of_one_noise_level_leave_no_slope_to_go_by(prediction: str) -> None:
    table = np.array([0.9, 0.5, 0.5, 0.1])
    rows = ab2_rows(table, (3, 2, 1, 0), prediction)
    assert np.isfinite(rows).all()
    np.testing.assert_array_equal(rows[2], ddim_rows(table, (3, 2, 1, 0), prediction)[2])


def test_even_timesteps_lead_from_the_first_to_the_clean_pose() -> None:
    assert even_timesteps(50, 5) == trailing_timesteps(50, 5)
    assert even_timesteps(51, 2, 12) == (12, 0)
    assert even_timesteps(51, 1, 12) == (12,)
    assert even_timesteps(51, 13, 12) == tuple(range(12, -1, -1))
    for first, K in itertools.product(range(51), range(1, 52)):
        if first + 1 >= K:
            steps = even_timesteps(51, K, first)
            assert (len(steps), steps[0]) == (K, first)
            assert all(before > after for before, after in itertools.pairwise(steps))
        else:
            with pytest.raises(TimestepError, match=rf"1 <= K <= {first + 1}"):
                even_timesteps(51, K, first)


def test_what_is_no_sampler_no_prediction_or_no_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="ddim, ab2"):
        sampler_rows("heun", released_alpha_bar(), (12, 0), "eps", scaled=False)
    for rows_of in (ddim_rows, ab2_rows):
        with pytest.raises(ValueError, match="'eps' or 'v'"):
            rows_of(released_alpha_bar(), (12, 0), "x0")
        with pytest.raises(TimestepError):
            rows_of(released_alpha_bar(), (0, 12), "eps")
