"""Smoothing: a loud channel's error goes down, and nothing odd in the data breaks it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffpose_edge.calibration.ranges import rounded
from diffpose_edge.calibration.smoothing import ALPHAS, MOST, WORTHWHILE, exponents, smoothing_of
from diffpose_edge.export.int8 import on_fp16_grid, quantised_weight

Array = NDArray[Any]
C_IN, C_OUT = 16, 12


def case(loud: float = 1.0, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 1, (800, C_IN))
    rows[:, 5] *= loud
    return rows, rng.normal(0, 0.2, (C_IN, C_OUT))


def error(rows: Array, weight: Array, smoothing: tuple[int, ...]) -> float:
    """The error of the matmul's result, worked out anew: both sides in 8 bits, ranges min-max."""
    factor = 2.0 ** np.array(smoothing)
    integers, steps = quantised_weight(weight, smoothing)
    scale = float(on_fp16_grid(np.abs(rows / factor).max() / 127))
    return float(np.power(np.abs(rounded(rows / factor, scale) @ (integers * steps) - rows @ weight), 2).mean())


@pytest.mark.parametrize("loud", [20.0, 100.0])
def test_a_loud_channel_is_made_quiet(loud: float) -> None:
    rows, weight = case(loud)
    found = smoothing_of(rows, np.abs(rows).max(axis=0), weight)
    none = (0,) * C_IN
    assert found[5] == max(found) >= 2
    assert error(rows, weight, found) < 0.2 * error(rows, weight, none)
    # The other way round is worse than nothing: the measure can tell.
    assert error(rows, weight, tuple(-e for e in found)) > error(rows, weight, none)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("loud", "worthwhile"), [(1.0, False), (1.3, False), (20.0, True), (100.0, True)])
def test_the_best_candidate_is_taken_where_it_is_worthwhile(seed: int, loud: float, worthwhile: bool) -> None:
    rows, weight = case(loud, seed)
    amax = np.abs(rows).max(axis=0)
    found = smoothing_of(rows, amax, weight)
    best, none = min(error(rows, weight, exponents(amax, weight, alpha)) for alpha in ALPHAS), error(rows, weight, (0,) * C_IN)
    assert (best < WORTHWHILE * none) == worthwhile, "the case is not the one that its name says"
    assert error(rows, weight, found) == pytest.approx(best if worthwhile else none, rel=1e-9)
    assert any(found) == worthwhile


def test_exponents_are_those_of_the_formula() -> None:
    amax = np.array([1.0, 4.0, 64.0, 1.0, 0.25])
    weight = np.ones((5, 3))
    assert exponents(amax, weight, 1.0) == (0, 2, 6, 0, -2)
    assert exponents(amax, weight, 0.5) == (0, 1, 3, 0, -1)
    assert exponents(amax, weight, 0.0) == (0, 0, 0, 0, 0)
    # A row with small weights may be divided less of, at alpha = 0: its activation has room.
    assert exponents(np.ones(5), np.array([1.0, 0.25, 1, 1, 4])[:, None] * weight, 0.0) == (0, 2, 0, 0, -2)


def test_exponents_stay_within_what_float16_holds() -> None:
    amax = 10.0 ** np.linspace(-9, 9, 19)
    for alpha in ALPHAS:
        found = exponents(amax, np.ones((19, 2)), alpha)
        assert all(type(e) is int and abs(e) <= MOST for e in found)
    assert max(exponents(amax, np.ones((19, 2)), 1.0)) == MOST


def test_silent_channels_and_unused_weights_are_nothing_special() -> None:
    rows, weight = case(30.0)
    silent = rows.copy()
    silent[:, [0, 7]] = 0
    unused = weight.copy()
    unused[3], unused[:, 2] = 0, 0
    for some_rows, some_weight in ((silent, weight), (rows, unused), (0 * rows, weight), (rows, 0 * weight), (0 * rows, 0 * weight)):
        found = smoothing_of(some_rows, np.abs(some_rows).max(axis=0), some_weight)
        assert len(found) == C_IN
        assert all(abs(e) <= MOST for e in found)
        assert error(some_rows, some_weight, found) <= error(some_rows, some_weight, (0,) * C_IN)
