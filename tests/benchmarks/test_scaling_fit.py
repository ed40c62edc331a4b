"""Lines and what is none: planted costs are told apart, in points and in reports."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diffpose_edge.benchmarks.scaling_fit import ABOVE, BELOW, FEW, LINE, NOISY, fit_line, median_noise, said, scalings

SAMPLES = np.array([1.0, 5.0, 20.0])


def noisy(rng: np.random.Generator, y: np.ndarray[Any, Any], share: float = 0.01) -> np.ndarray[Any, Any]:
    return y * (1 + share * rng.standard_normal(y.shape))


def test_a_planted_line_is_found_with_its_coefficients() -> None:
    fit = fit_line(SAMPLES, 0.5 + 0.25 * SAMPLES)
    assert (fit.a, fit.b) == (pytest.approx(0.5), pytest.approx(0.25))
    assert fit.residual < 1e-9
    assert fit.verdict == LINE


@pytest.mark.parametrize("seed", range(20))
def test_planted_lines_and_squares_are_told_apart_in_noise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    line = 0.5 + 0.25 * SAMPLES
    assert fit_line(SAMPLES, noisy(rng, line)).verdict == LINE
    # A third of the cost at N = 20 is quadratic: 2.75 of 8.25 ms.
    assert fit_line(SAMPLES, noisy(rng, line + 2.75 * (SAMPLES / 20) ** 2)).verdict == ABOVE
    assert fit_line(SAMPLES, noisy(rng, 2 * np.sqrt(SAMPLES))).verdict == BELOW


def test_what_is_hidden_in_the_noise_is_no_finding() -> None:
    square = 0.5 + 0.25 * SAMPLES + 2.75 * (SAMPLES / 20) ** 2
    assert fit_line(SAMPLES, square, noise=0.5).verdict == NOISY
    slight = 0.5 + 0.25 * SAMPLES + 1.2 * (SAMPLES / 20) ** 2
    assert 0.05 < fit_line(SAMPLES, slight).residual < 0.09
    assert (fit_line(SAMPLES, slight).verdict, fit_line(SAMPLES, slight, noise=0.09).verdict) == (ABOVE, LINE)


def test_two_points_prove_nothing() -> None:
    assert fit_line([1, 20], [1.0, 400.0]).verdict == FEW
    for x, y in (([3], [1.0]), ([3, 3], [1.0, 1.1]), ([1, 2], [1.0, 0.0])):
        with pytest.raises(ValueError, match="two or more different x"):
            fit_line(x, y)


def test_a_median_is_known_the_better_the_quieter_the_samples_are() -> None:
    rng = np.random.default_rng(0)
    quiet, loud = (median_noise(5 * (1 + share * rng.standard_normal(120))) for share in (0.01, 0.1))
    assert 0.001 < quiet < 0.02 < loud < 0.2
    assert median_noise([1.0]) == 0.0


def row(ms: float, **names: Any) -> dict[str, Any]:
    values = {"bundle": "b", "backend": "onnxruntime", "precision": "fp32", "K": 2, "threads": 1, "N": 5, "P": 1, "F": 1, **names}
    samples = {"frame": [ms] * 12, "steps": [[ms / values["K"]] * values["K"]] * 12}
    return {**values, "samples_ms": samples}


def test_rows_of_a_report_that_differ_in_one_thing_make_a_fit() -> None:
    same = {"described": {"weights": "frame pair"}}
    rows = [row(2 * (1.0 + 0.5 * N), N=N, bundle=f"n{N}", **same) for N in (1, 5, 20)]
    rows += [row(3.0 + 1.75 * K, K=K, bundle="n5", **same) for K in (5, 10)]
    rows.append(row(7.0, N=20, bundle="n20", precision="int8", **same))
    rows.append(row(70.0, N=1, bundle="another"))
    found = {(one.axis, one.stage): one for one in scalings({"rows": rows})}
    assert set(found) == {("N", "step"), ("K", "frame")}
    over_n, over_k = found["N", "step"].fit, found["K", "frame"].fit
    assert (over_n.x, over_n.a, over_n.b, over_n.verdict) == ((1, 5, 20), pytest.approx(1.0), pytest.approx(0.5), LINE)
    assert (over_k.x, over_k.verdict) == ((2, 5, 10), LINE)
    assert "+0.500 N ms, points off by up to 0.0%" in said(found["N", "step"].as_json())


def test_threads_are_fitted_over_their_inverse() -> None:
    [found] = scalings({"rows": [row(2 * (1.0 + 4.0 / threads), threads=threads) for threads in (1, 2, 4)]})
    assert (found.fit.a, found.fit.b, found.fit.verdict) == (pytest.approx(1.0), pytest.approx(4.0), LINE)
    assert "1/threads" in said(found.as_json())


def test_a_stage_that_is_not_told_makes_no_fit() -> None:
    rows = [row(1.0, N=N) for N in (1, 2, 3)]
    for one in rows:
        one["samples_ms"]["steps"] = [[None, None]] * 12
    assert scalings({"rows": rows}) == []
