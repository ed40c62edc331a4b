"""The noise schedule and the folded DDIM update, against the released numbers and against DDIM written out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpose_edge.errors import TimestepError
from diffpose_edge.schedule import (
    RELEASED_T,
    RELEASED_TIMESTEPS,
    alpha_bar_of,
    checked_timesteps,
    ddim_coefficients,
    linear_betas,
    released_alpha_bar,
    uniform_timesteps,
)
from diffpose_edge.tolerances import FP32_STATE_REL

DECREASING = st.sets(st.integers(0, RELEASED_T - 1), min_size=1).map(lambda steps: tuple(sorted(steps, reverse=True)))


def test_the_betas_equal_the_released_ones_bit_for_bit(golden: SimpleNamespace) -> None:
    np.testing.assert_array_equal(linear_betas(), golden.expected["betas"])


def test_alpha_bar_is_9999_in_10000_at_first_and_about_0_972_at_last() -> None:
    table = released_alpha_bar()
    assert table.shape == (RELEASED_T,)
    assert table.dtype == np.float64
    # 1 - beta is a float32 below one: its spacing bounds the difference from the decimal number.
    assert abs(table[0] - 0.9999) <= np.spacing(np.float32(0.9999))
    assert round(float(table[50]), 3) == 0.972


def test_alpha_bar_is_the_running_product_and_falls_strictly() -> None:
    betas = linear_betas()
    product = 1.0
    for beta, value in zip(betas, alpha_bar_of(betas), strict=True):
        product *= float(np.float32(1.0) - beta)
        assert value == product
    assert (np.diff(released_alpha_bar()) < 0).all()


@pytest.mark.parametrize(("T", "K"), [(24, 2), (50, 5), (50, 50), (6, 1)])
def test_the_uniform_rule_gives_the_golden_schedules(golden: SimpleNamespace, T: int, K: int) -> None:
    assert uniform_timesteps(T, K) == tuple(golden.expected[f"ddim_T{T}_K{K}_timesteps"])


def test_the_uniform_rule_gives_the_released_settings() -> None:
    assert uniform_timesteps(24, 2) == RELEASED_TIMESTEPS == (12, 0)
    assert uniform_timesteps(12, 2) == (6, 0)
    assert uniform_timesteps(6, 1) == (0,)


@given(st.integers(1, 200), st.data())
@settings(deadline=None, max_examples=60)
def test_a_uniform_schedule_is_always_one_that_is_accepted(T: int, data: st.DataObject) -> None:
    K = data.draw(st.integers(1, T))
    steps = uniform_timesteps(T, K)
    assert len(steps) >= K
    assert steps[-1] == 0
    assert checked_timesteps(steps, T) == steps


@pytest.mark.parametrize(("T", "K"), [(24, 0), (24, 25), (0, 1), (24, -2)])
def test_a_uniform_schedule_that_cannot_be_is_refused_by_name(T: int, K: int) -> None:
    with pytest.raises(TimestepError, match=rf"K={K} and T={T}"):
        uniform_timesteps(T, K)


def _ddim(alpha_bar: np.ndarray, steps: tuple[int, ...], k: int, x: Any, eps: Any) -> Any:
    """One step of DDIM with eta = 0, as the paper writes it, in float64."""
    a_t, a_s = alpha_bar[steps[k]], alpha_bar[steps[k + 1]] if k + 1 < len(steps) else 1.0
    x0 = (x - np.sqrt(1.0 - a_t) * eps) / np.sqrt(a_t)
    return np.sqrt(a_s) * x0 + np.sqrt(1.0 - a_s) * eps


@given(DECREASING)
@settings(deadline=None, max_examples=60)
def test_the_coefficients_are_ddim_rounded_once_to_float32(steps: tuple[int, ...]) -> None:
    table = released_alpha_bar()
    coefficients = ddim_coefficients(table, steps)
    assert coefficients.shape == (len(steps), 2)
    assert coefficients.dtype == np.float32
    for k, (c0, c1) in enumerate(coefficients):
        # DDIM is linear in x and eps: its answers for (1, 0) and (0, 1) are the coefficients.
        for c, direct in ((c0, _ddim(table, steps, k, 1.0, 0.0)), (c1, _ddim(table, steps, k, 0.0, 1.0))):
            assert abs(float(c) - direct) <= np.spacing(np.abs(c))


@given(DECREASING, st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_a_perfect_eps_keeps_the_state_on_its_path_and_ends_at_x0(steps: tuple[int, ...], seed: int) -> None:
    # If x_t = sqrt(a_t) x0 + sqrt(1 - a_t) eps and the network names that very eps, every step lands on
    # sqrt(a_s) x0 + sqrt(1 - a_s) eps; a_s is 1 after the last, so the walk ends at x0 whatever the timesteps.
    table = released_alpha_bar()
    x0, eps = np.random.default_rng(seed).standard_normal((2, 17, 5))
    levels = [*(table[t] for t in steps), 1.0]
    state = np.sqrt(levels[0]) * x0 + np.sqrt(1.0 - levels[0]) * eps
    for (c0, c1), a_s in zip(ddim_coefficients(table, steps).astype(np.float64), levels[1:], strict=True):
        state = c0 * state + c1 * eps
        on_path = np.sqrt(a_s) * x0 + np.sqrt(1.0 - a_s) * eps
        assert np.abs(state - on_path).max() <= FP32_STATE_REL * np.abs(on_path).max()
    assert np.abs(state - x0).max() <= FP32_STATE_REL * np.abs(x0).max()


def test_whole_numbers_of_numpy_are_timesteps_and_come_back_as_ints() -> None:
    steps = checked_timesteps(np.array([12, 0]), RELEASED_T)  # type: ignore[arg-type]
    assert steps == (12, 0)
    assert all(type(t) is int for t in steps)


BAD_TIMESTEPS = {
    "empty": ([], "got none"),
    "negative": ([12, -1], "got -1"),
    "T itself": ([RELEASED_T, 0], f"got {RELEASED_T}"),
    "repeated": ([12, 12, 0], "got 12 then 12"),
    "increasing": ([12, 3, 7], "got 3 then 7"),
    "float": ([12, 0.5], "got 0.5"),
    "whole float": ([12.0, 0], "got 12.0"),
    "float array": (np.array([12.0, 0.0]), "12.0"),
    "nan": ([float("nan")], "got nan"),
    "bool": ([12, False], "got False"),
    "numpy bool": ([12, np.False_], "False"),
    "none": ([12, None], "got None"),
    "strings": (["12", "0"], "got '12'"),
    "text": ("12", "got '1'"),
    "nested": ([[12, 0]], r"\[12, 0\]"),
    "a number": (12, "12"),
    "huge": ([10**400], "1000"),
}


@pytest.mark.parametrize("name", BAD_TIMESTEPS)
def test_bad_timesteps_are_refused_and_the_culprit_is_named(name: str) -> None:
    bad, culprit = BAD_TIMESTEPS[name]
    with pytest.raises(TimestepError, match=culprit):
        checked_timesteps(bad, RELEASED_T)


@pytest.mark.parametrize("name", BAD_TIMESTEPS)
def test_coefficients_refuse_what_the_check_refuses(name: str) -> None:
    with pytest.raises(TimestepError):
        ddim_coefficients(released_alpha_bar(), BAD_TIMESTEPS[name][0])
