"""Fitted schedules: an exact round trip through a manifest and a file of their own, and a BundleError for whatever is wrong."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpose_edge.errors import BundleError
from diffpose_edge.fitted import FittedSchedule, fitted_from_records, records_of, schedules_json, schedules_of_checkpoints

ROWS = ((3.1771234567890123, -0.389, 0.0), (1.5, -0.78, 1 / 3))
TWO = FittedSchedule((40, 18), ROWS, {"against": "ddim", "fitted": {"sample_mm": 10.9}})
ONE = FittedSchedule((30,), ((0.5, 1.0, 0.0),))
CHECKPOINTS = {"denoiser": "a" * 64, "context": "b" * 64}


def test_a_round_trip_keeps_every_bit() -> None:
    assert fitted_from_records(json.loads(json.dumps(records_of((ONE, TWO)))), 50) == (ONE, TWO)
    assert TWO.coefficients.shape == (2, 3)


def test_a_file_is_for_the_checkpoints_that_it_was_made_for(tmp_path: Path) -> None:
    path = tmp_path / "schedules.json"
    assert schedules_of_checkpoints(path, CHECKPOINTS, 50) == ()
    path.write_text(schedules_json((ONE, TWO), CHECKPOINTS), encoding="utf-8")
    assert schedules_of_checkpoints(path, CHECKPOINTS, 50) == (ONE, TWO)
    for role in CHECKPOINTS:
        assert schedules_of_checkpoints(path, CHECKPOINTS | {role: "c" * 64}, 50) is None
    with pytest.raises(BundleError, match=r"schedules\.json: .*within 0\.\.39.*search-steps"):
        schedules_of_checkpoints(path, CHECKPOINTS, 40)
    for damage in ("", "[]", "{", "[" * 100_000, '{"format": "diffpose-edge-schedules", "format_version": 2}', " " * 2**20 + "{}"):
        path.write_text(damage, encoding="utf-8")
        with pytest.raises(BundleError, match="Remove it, or make it again"):
            schedules_of_checkpoints(path, CHECKPOINTS, 50)


def _altered(path: tuple[Any, ...], value: Any) -> Any:
    records: Any = copy.deepcopy(records_of((TWO,)))
    place = records
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return records


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("2", "timesteps"), [18, 40], "strictly decreasing"),
        (("2", "timesteps"), [50, 18], "within 0..49"),
        (("2", "timesteps"), [18], "has 1 steps"),
        (("2", "timesteps"), None, "lacks a list"),
        (("2", "coefficients"), [[1.0, 1.0, 0.0]], "three coefficients for each of its 2"),
        (("2", "coefficients", 0), [1.0, 1.0], "three coefficients"),
        (("2", "coefficients", 0), "abc", "not rows"),
        (("2", "coefficients", 1, 1), "1.0", "numbers within"),
        (("2", "coefficients", 1, 1), True, "numbers within"),
        (("2", "coefficients", 1, 1), float("nan"), "numbers within"),
        (("2", "coefficients", 1, 1), 1e30, "numbers within"),
        (("2", "coefficients", 0, 2), 0.1, "nothing to remember"),
        (("2", "accuracy"), [], "lacks its accuracy"),
        (("3",), {"timesteps": [4], "coefficients": [[1.0, 1.0, 0.0]], "accuracy": {}}, "'3' has 1 steps"),
        (("2",), [], "lacks a list"),
    ],
)
def test_what_is_no_schedule_is_refused(path: tuple[Any, ...], value: Any, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        fitted_from_records(_altered(path, value), 50)


GARBAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([10**400, "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([(), ("2",), ("2", "timesteps"), ("2", "coefficients"), ("2", "coefficients", 1), ("2", "accuracy")]), GARBAGE)
@settings(deadline=None, max_examples=80)
def test_garbage_is_a_bundle_error_or_harmless(path: tuple[Any, ...], garbage: Any) -> None:
    try:
        found = fitted_from_records(_altered(path, garbage) if path else garbage, 50)
    except BundleError:
        return
    assert fitted_from_records(records_of(found), 50) == found or "nan" in repr(found)
