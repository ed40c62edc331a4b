"""Comparisons of whole tensors: what passes, what fails, where, and that nothing slips through as NaN."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffpose_edge.comparison import Comparison, compare_poses, compare_relative

NOT_FINITE = (np.nan, np.inf, -np.inf)


def _poses() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 17, 3)).astype(np.float32)


def test_equal_tensors_pass_with_no_error_at_all() -> None:
    for c in (compare_relative("x", _poses(), _poses(), 0.0), compare_poses("x", _poses(), _poses(), 0.0)):
        assert c.passed
        assert c.error == c.relative == c.measured == 0.0


def test_the_largest_error_is_found_with_its_index_and_divided_by_the_largest_magnitude() -> None:
    expected = np.zeros((3, 4))
    expected[0, 0] = -8.0
    actual = expected.copy()
    actual[2, 1] += 0.5
    actual[1, 3] -= 0.25
    c = compare_relative("x", actual, expected, 0.1)
    assert (c.error, c.where, c.scale, c.relative, c.passed) == (0.5, (2, 1), 8.0, 0.0625, True)
    assert all(type(i) is int for i in c.where)


def test_a_budget_is_inclusive_and_a_hair_less_fails() -> None:
    expected, actual = np.array([4.0]), np.array([5.0])
    assert compare_relative("x", actual, expected, 0.25).passed
    assert not compare_relative("x", actual, expected, np.nextafter(0.25, 0.0).item()).passed
    assert compare_poses("x", np.array([0.0, 0.0, 0.5]), np.zeros(3), 500.0).passed
    assert not compare_poses("x", np.array([0.0, 0.0, 0.5]), np.zeros(3), 499.0).passed


def test_a_difference_that_float32_cannot_hold_is_still_measured() -> None:
    # In float32, 3e38 - -3e38 is infinite; the comparison is made in float64.
    c = compare_relative("x", np.array([3e38], np.float32), np.array([-3e38], np.float32), 1.0)
    assert np.isfinite(c.error)
    assert not c.passed


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("side", ["actual", "expected", "both"])
def test_a_value_that_is_not_finite_fails_at_its_own_index_under_any_budget(value: float, side: str) -> None:
    actual, expected = _poses(), _poses()
    for name, tensor in (("actual", actual), ("expected", expected)):
        if side in (name, "both"):
            tensor[1, 5, 2] = value
    relative, poses = compare_relative("x", actual, expected, 1e30), compare_poses("x", actual, expected, 1e30)
    assert not relative.passed
    assert not poses.passed
    assert (relative.where, poses.where) == ((1, 5, 2), (1, 5))
    assert relative.error == poses.error == np.inf


def test_an_infinite_budget_does_not_pass_nan() -> None:
    actual = _poses()
    actual[0, 0, 0] = np.nan
    for compare in (compare_relative, compare_poses):
        assert not compare("x", actual, _poses(), float("inf")).passed


def test_empty_tensors_are_refused_not_passed() -> None:
    for shape in ((0,), (0, 17, 3), (2, 0, 3), (2, 17, 0)):
        with pytest.raises(ValueError, match="empty"):
            compare_relative("x", np.zeros(shape), np.zeros(shape), 1.0)
    for shape in ((0, 17, 3), (2, 0, 3), (2, 17, 0)):
        with pytest.raises(ValueError, match="empty"):
            compare_poses("x", np.zeros(shape), np.zeros(shape), 1.0)


def test_mismatched_shapes_are_refused_even_where_numpy_would_broadcast() -> None:
    for compare in (compare_relative, compare_poses):
        with pytest.raises(ValueError, match=r"pose: expected shape \(17, 3\), got \(1, 3\)"):
            compare("pose", np.zeros((1, 3)), np.zeros((17, 3)), 1.0)


def test_a_zero_reference_passes_only_zero() -> None:
    zero = np.zeros((17, 3))
    off = np.full((17, 3), 1e-6)
    assert compare_relative("x", zero, zero, 0.0).passed
    c = compare_relative("x", off, zero, 1e30)
    assert not c.passed
    assert c.relative == np.inf
    # Poses are judged in millimetres, so a zero reference is nothing special.
    assert compare_poses("x", off, zero, 0.01).passed
    assert not compare_poses("x", off, zero, 0.001).passed


def test_poses_are_measured_as_distances_in_millimetres() -> None:
    expected = np.zeros((2, 17, 3))
    expected[0, 3, 0] = 2.0
    actual = expected.copy()
    actual[1, 9] = (0.375, 0.5, 0.0)
    c = compare_poses("pose", actual, expected, 625.0)
    assert c.passed
    assert (c.where, c.scale, c.unit) == ((1, 9), 2.0, "mm")
    assert c.error == c.measured == 625.0
    assert c.relative == 0.3125


@pytest.mark.parametrize("value", [1.0, *NOT_FINITE])
def test_as_json_is_strict_json_whatever_was_compared(value: float) -> None:
    actual = _poses()
    actual[0, 1, 2] = value
    for compare in (compare_relative, compare_poses):
        for expected in (_poses(), np.zeros((2, 17, 3)), np.full((2, 17, 3), np.nan)):
            content = json.loads(json.dumps(compare("x", actual, expected, 0.5).as_json(), allow_nan=False))
            assert set(content) == set(Comparison.__dataclass_fields__)


def test_as_json_writes_numbers_that_are_not_finite_as_none() -> None:
    c = compare_relative("x", np.array([np.nan]), np.array([1.0]), 0.5)
    content = c.as_json()
    assert content["error"] is None
    assert content["passed"] is False
    assert content["where"] == [0]


def test_the_text_says_name_verdict_error_place_and_budget() -> None:
    text = str(compare_poses("joints", np.full((17, 3), 1.0), np.zeros((17, 3)), 0.01))
    for part in ("joints", "FAILED", "mm", "[0]", "0.01"):
        assert part in text
    assert "ok" in str(compare_relative("x", np.ones(1), np.ones(1), 0.1))
