"""The calibration as a file: an exact round trip, one line for each matmul, and CalibrationError for whatever is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpose_edge.calibration.scales_file import MOST_EXPONENT, Calibration, calibration_from_json
from diffpose_edge.errors import CalibrationError
from diffpose_edge.export.int8 import MatMulScales

Content = dict[str, Any]
DEEP = 100_000


def some() -> Calibration:
    return Calibration(
        scales={
            "context": {"conv1": MatMulScales(0.1, (0, 0))},
            "step": {"a.w": MatMulScales(1 / 3, (0, -2, 7)), 'odd "name" µ': MatMulScales(2.0**-14, ())},
        },
        int8={"context": (), "step": ("a.w",)},
        fp32={"context": ("layer0.adjacency",), "step": ()},
        ranges={"context": {"uv": 1.0, "silent": 0.0}, "step": {"x": 1e-3}},
        weights={"context": "c" * 64, "step": "s" * 64},
        provenance={"poses": 3, "schedules": [[12, 0]], "note": "µ"},
    )


def altered(change: Callable[[Content], object]) -> str:
    content = json.loads(some().to_json())
    change(content)
    return json.dumps(content)


def test_a_round_trip_gives_the_same_calibration_and_the_same_text() -> None:
    again = calibration_from_json(some().to_json())
    assert again == some()
    assert again.to_json() == some().to_json()
    assert again.scales["step"]["a.w"].scale.hex() == (1 / 3).hex()


def test_the_plan_has_the_scales_of_what_runs_in_int8() -> None:
    plan = some().plan
    assert plan.int8 == {"context": {}, "step": {"a.w": MatMulScales(1 / 3, (0, -2, 7))}}
    assert (plan.fp32, plan.ranges) == (some().fp32, some().ranges)


def test_each_matmul_and_each_range_has_a_line_of_its_own() -> None:
    lines = some().to_json().splitlines()
    for name in ("conv1", "a.w", 'odd "name" µ'):
        assert sum(line.strip().startswith(f"{json.dumps(name)}: {{") for line in lines) == 1
    other = calibration_from_json(altered(lambda c: c["scales"]["step"]["a.w"].update(scale=0.25)))
    different = [(a, b) for a, b in zip(lines, other.to_json().splitlines(), strict=True) if a != b]
    assert len(different) == 1
    nothing: dict[str, Any] = {"context": {}, "step": {}}
    empty = Calibration(nothing, some().int8, some().fp32, nothing, some().weights)
    assert json.loads(empty.to_json())["scales"] == {"context": {}, "step": {}}


HOSTILE: list[tuple[str, Callable[[Content], object], str]] = [
    ("another format", lambda c: c.update(format="diffpose-edge-bundle"), "this is not a calibration"),
    ("no format", lambda c: c.pop("format"), "this is not a calibration"),
    ("newer", lambda c: c.update(format_version=2), "version 2"),
    ("version true", lambda c: c.update(format_version=True), "version True"),
    ("version text", lambda c: c.update(format_version="1"), "version '1'"),
    ("no role", lambda c: c["scales"].pop("step"), "lacks 'scales' for 'step'"),
    ("no ranges", lambda c: c.pop("ranges"), "lacks 'ranges'"),
    ("ranges a list", lambda c: c["ranges"].update(step=[1]), "lacks 'ranges'"),
    ("no int8", lambda c: c.pop("int8"), "'int8' must list"),
    ("int8 of a role", lambda c: c["int8"].pop("context"), "'int8' must list names for 'context'"),
    ("fp32 with numbers", lambda c: c["fp32"].update(step=[1]), "'fp32' must list"),
    ("fp32 as text", lambda c: c["fp32"].update(step="layer0"), "'fp32' must list"),
    ("int8 without scale", lambda c: c["int8"].update(step=["b.w"]), "runs b.w in INT8 without a scale"),
    ("no weights", lambda c: c.pop("weights"), "which weights"),
    ("weights of a role", lambda c: c["weights"].pop("step"), "which weights"),
    ("weights a number", lambda c: c["weights"].update(step=1), "which weights"),
    ("provenance a list", lambda c: c.update(provenance=[]), "'provenance' must be an object"),
    ("provenance with NaN", lambda c: c["provenance"].update(x=float("nan")), "'provenance' is not JSON"),
    ("provenance beyond float", lambda c: c["provenance"].update(x=[float("inf")]), "'provenance' is not JSON"),
    ("scales entry a number", lambda c: c["scales"]["step"].update({"a.w": 0.1}), "expected a scale and a list"),
    ("smoothing a number", lambda c: c["scales"]["step"]["a.w"].update(smoothing=3), "expected a scale and a list"),
    ("no smoothing", lambda c: c["scales"]["step"]["a.w"].pop("smoothing"), "expected a scale and a list"),
    ("no scale", lambda c: c["scales"]["step"]["a.w"].pop("scale"), "positive number"),
    ("negative range", lambda c: c["ranges"]["step"].update(x=-1), "range of step x"),
    ("range NaN", lambda c: c["ranges"]["step"].update(x=float("nan")), "range of step x"),
    ("range infinite", lambda c: c["ranges"]["step"].update(x=float("inf")), "range of step x"),
    ("range beyond float", lambda c: c["ranges"]["step"].update(x=10**400), "range of step x"),
]


@pytest.mark.parametrize(("change", "said"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_what_is_wrong_is_refused(change: Callable[[Content], object], said: str) -> None:
    with pytest.raises(CalibrationError, match=said):
        calibration_from_json(altered(change))


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -0.1, 0, 0.0, True, None, "0.1", [0.1], 65505.0, 1e300, 10**400])
def test_a_scale_is_a_positive_number_that_float16_holds(scale: Any) -> None:
    with pytest.raises(CalibrationError, match=r"scale of step a\.w: expected a positive number of at most 65504"):
        calibration_from_json(altered(lambda c: c["scales"]["step"]["a.w"].update(scale=scale)))


@pytest.mark.parametrize("exponent", [True, 1.0, "1", None, [0], MOST_EXPONENT + 1, -MOST_EXPONENT - 1, 10**9, 10**400])
def test_an_exponent_is_a_small_whole_number(exponent: Any) -> None:
    with pytest.raises(CalibrationError, match="whole numbers within"):
        calibration_from_json(altered(lambda c: c["scales"]["step"]["a.w"]["smoothing"].append(exponent)))
    calibration_from_json(altered(lambda c: c["scales"]["step"]["a.w"]["smoothing"].append(-MOST_EXPONENT)))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", '"text"', "[" * DEEP, '{"format": ' + "[" * DEEP, "\ud800", '{"a": 1e'])
def test_what_is_no_calibration_at_all_is_refused(text: str) -> None:
    with pytest.raises(CalibrationError):
        calibration_from_json(text)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        return found + [p for key in value for p in paths(value[key], (*path, key))]
    if isinstance(value, list):
        return found + [p for i in range(len(value)) for p in paths(value[i], (*path, i))]
    return found


GARBAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([10**400, 1e308, "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data(), GARBAGE)
@settings(deadline=None, max_examples=100)
def test_garbage_in_any_place_is_refused_or_written_again_as_it_is(data: st.DataObject, garbage: Any) -> None:
    content = json.loads(some().to_json())
    *outer, last = data.draw(st.sampled_from(paths(content)))
    place: Any = content
    for key in outer:
        place = place[key]
    place[last] = garbage
    try:
        calibration = calibration_from_json(json.dumps(content))
    except CalibrationError:
        return
    assert calibration_from_json(calibration.to_json()) == calibration
