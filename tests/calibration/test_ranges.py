"""Activation ranges: what each method does with an outlier, and that the one which looks at the result errs least."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffpose_edge.calibration.ranges import METHODS, PERCENTILE, SHARES, checked_method, rounded, scale_of
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.export.int8 import LEAST_SCALE, on_fp16_grid

Array = NDArray[Any]
OUTLIER = 50.0
WIDTH = 32


@pytest.fixture(scope="module")
def rows() -> Array:
    """128,000 standard normal numbers, the largest about 4.5, and one outlier; an outlier is one number in a hundred thousand."""
    values = np.random.default_rng(0).normal(0, 1, (4000, WIDTH))
    values[17, 3] = OUTLIER
    return values


@pytest.fixture(scope="module")
def weight() -> Array:
    return np.random.default_rng(1).normal(0, 0.2, (WIDTH, 8))


def error(rows: Array, weight: Array, scale: float) -> float:
    return float(np.square(rounded(rows, scale) @ weight - rows @ weight).mean())


def test_rounding_is_to_the_nearest_of_255_multiples() -> None:
    x = np.array([0.0, 0.124, 0.126, -0.126, 31.74, 31.76, 40.0, -40.0, 1e30])
    assert rounded(x, 0.25).tolist() == [0.0, 0.0, 0.25, -0.25, 31.75, 31.75, 31.75, -31.75, 31.75]


def test_min_max_keeps_an_outlier(rows: Array, weight: Array) -> None:
    scale = scale_of("minmax", rows, OUTLIER, weight, weight)
    assert scale * 127 == pytest.approx(OUTLIER, rel=1e-3)  # FP16's grid
    assert abs(rounded(rows, scale) - rows).max() <= 0.5 * scale * (1 + 1e-9)


def test_min_max_and_mse_heed_what_the_sample_lacks(rows: Array, weight: Array) -> None:
    quiet = rows[100:]
    assert scale_of("minmax", quiet, 8.0, weight, weight) == float(on_fp16_grid(8.0 / 127))
    candidates = [float(on_fp16_grid(8.0 * share / 127)) for share in SHARES]
    assert scale_of("mse", quiet, 8.0, weight, weight) in candidates
    assert scale_of("percentile", quiet, 8.0, weight, weight) == scale_of("percentile", quiet, 800.0, weight, weight)


def test_percentile_clips_an_outlier(rows: Array, weight: Array) -> None:
    scale = scale_of("percentile", rows, OUTLIER, weight, weight)
    wanted = np.quantile(np.abs(rows), PERCENTILE / 100)
    assert wanted < 10
    # ONNX Runtime counts in a histogram of 2048 bins.
    assert scale * 127 == pytest.approx(wanted, abs=2 * OUTLIER / 2048 + 0.1)


def test_mse_errs_least_by_the_result(rows: Array, weight: Array) -> None:
    errors = {method: error(rows, weight, scale_of(method, rows, OUTLIER, weight, weight)) for method in METHODS}
    tried = [error(rows, weight, float(on_fp16_grid(OUTLIER * share / 127))) for share in SHARES]
    assert errors["mse"] == min(tried)
    assert errors["mse"] < errors["minmax"]
    # Without the outlier there is nothing to gain by clipping much, and min-max is not far from the best.
    quiet = rows[100:]
    amax = float(np.abs(quiet).max())
    assert scale_of("mse", quiet, amax, weight, weight) >= 0.6 * scale_of("minmax", quiet, amax, weight, weight)
    assert scale_of("mse", rows, OUTLIER, weight, weight) < 0.9 * scale_of("minmax", rows, OUTLIER, weight, weight)


def test_mse_looks_at_the_weights(weight: Array) -> None:
    """A loud channel that the weights ignore may be clipped, one that they heed may not."""
    rng = np.random.default_rng(3)
    rows = rng.normal(0, 1, (2000, 4))
    rows[:, 3] *= 4
    amax = float(np.abs(rows).max())
    ignored, heeded = np.ones((4, 2)), np.ones((4, 2))
    ignored[3], heeded[:3] = 0, 0
    assert scale_of("mse", rows, amax, ignored, ignored) < scale_of("mse", rows, amax, heeded, heeded)


def test_entropy_runs_and_lies_between(rows: Array, weight: Array, capsys: pytest.CaptureFixture[str]) -> None:
    scale = scale_of("entropy", rows, OUTLIER, weight, weight)
    assert 0.5 < scale * 127 <= OUTLIER * 1.001
    assert capsys.readouterr().out == ""  # the calibrator prints on its own account


@pytest.mark.parametrize("method", METHODS)
def test_silence_and_a_single_row_have_a_scale(method: str, weight: Array) -> None:
    assert scale_of(method, np.zeros((50, WIDTH)), 0.0, weight, weight) == LEAST_SCALE
    scale = scale_of(method, np.full((1, WIDTH), 2.0), 2.0, weight, weight)
    assert math.isfinite(scale)
    assert 0.4 * 2 / 127 <= scale * 1.001 <= 2.1 / 127
    assert float(on_fp16_grid(scale)) == scale


def test_an_unknown_method_is_refused() -> None:
    assert [checked_method(method) for method in METHODS] == list(METHODS)
    with pytest.raises(DiffPoseEdgeError, match=r"minmax, percentile, entropy, mse, got 'max'"):
        checked_method("max")
