"""Timings of a machine: an exact round trip, what frames stay within by them, and nothing of another machine, bundle or setting."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.errors import BudgetError, OutputError
from diffpose_edge.machine import this_machine
from diffpose_edge.timings import (
    FOLDER,
    MachineTimings,
    Spread,
    all_timings,
    named_key,
    save_timings,
    timings_here,
    timings_key,
    timings_of,
)

MACHINE = {"processor": "Made-up 1", "board": None, "power_mode": None}
CPU = {"backend": "onnxruntime", "version": "1.31.1", "threads": 2, "sessions": 2}
GRAPHS = {"context": "fp32-cpu", "step": "fp32-cpu"}


@pytest.fixture
def bundle(conditioned_bundle: Path, tmp_path: Path) -> Bundle:
    return load_bundle(Path(shutil.copytree(conditioned_bundle, tmp_path / "bundle")))


def timings(key: dict[str, Any], **others: Any) -> MachineTimings:
    frame, walk = {1: Spread(3.0, 4.0), 5: Spread(11.0, 13.0)}, {1: Spread(2.0, 2.5), 5: Spread(10.0, 11.0)}
    return replace(MachineTimings(key, frame, walk, Spread(1.0, 1.5), Spread(2.0, 2.25), Spread(0.5, 0.75), {"rounds": 100}), **others)


@pytest.mark.parametrize("others", [{}, {"step": None, "after": None}])
def test_a_round_trip_keeps_every_bit_and_leaves_nothing_else(bundle: Bundle, others: dict[str, Any]) -> None:
    key = timings_key(bundle, MACHINE, CPU, "fp32", GRAPHS)
    assert timings_of(bundle, key) is None
    kept = timings(key, **others)
    path = save_timings(bundle, kept)
    assert timings_of(bundle, key) == kept
    save_timings(bundle, replace(kept, encoder=Spread(0.1, 0.2)))
    found = timings_of(bundle, key)
    assert found is not None
    assert found.encoder == Spread(0.1, 0.2)
    assert [each.name for each in (bundle.path / FOLDER).iterdir()] == [path.name]
    assert load_bundle(bundle.path).manifest == bundle.manifest, "the bundle is as it was"


@pytest.mark.parametrize(
    "other",
    [
        {"machine": {**MACHINE, "processor": "Made-up 2"}},
        {"machine": {**MACHINE, "power_mode": 1}},
        {"backend": {**CPU, "threads": 1}},
        {"backend": {**CPU, "version": "1.31.2"}},
        {"precision": "fp16"},
        {"graphs": {"context": "fp32", "step": "fp32-cpu"}},
    ],
)
def test_what_was_measured_otherwise_is_not_used(bundle: Bundle, other: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"machine": MACHINE, "backend": CPU, "precision": "fp32", "graphs": GRAPHS}
    key, another = timings_key(bundle, **asked), timings_key(bundle, **{**asked, **other})
    path = save_timings(bundle, timings(another))
    assert timings_of(bundle, key) is None
    # Not even under the name that the right one would have.
    path.rename(save_timings(bundle, timings(key)))
    assert timings_of(bundle, key) is None


def test_timings_of_other_graphs_are_not_used(bundle: Bundle, reshaped_bundle: Path) -> None:
    key = timings_key(bundle, this_machine(), CPU, "fp32", GRAPHS)
    save_timings(bundle, timings(key))
    assert [each.key for each in timings_here(bundle, this_machine())] == [json.loads(json.dumps(key))]
    assert not list(timings_here(bundle, MACHINE))
    other = load_bundle(Path(shutil.copytree(reshaped_bundle, bundle.path.parent / "other")))
    shutil.copytree(bundle.path / FOLDER, other.path / FOLDER)
    assert len(list(all_timings(other))) == 1
    assert not list(timings_here(other, this_machine()))
    assert timings_of(other, timings_key(other, this_machine(), CPU, "fp32", GRAPHS)) is None


def test_what_passes_is_not_in_the_key(bundle: Bundle) -> None:
    eager = {**CPU, "one_launch": False, "eager_because": "not asked for", "one_graph_per_step": False}
    assert timings_key(bundle, MACHINE, eager, "fp32", GRAPHS) == timings_key(bundle, MACHINE, CPU, "fp32", GRAPHS)


def test_a_key_is_told_in_words(bundle: Bundle) -> None:
    key = timings_key(bundle, MACHINE, CPU, "fp32", GRAPHS)
    assert named_key(key) == "Made-up 1, onnxruntime, 1.31.1, fp32, threads 2"
    assert named_key(key, machine=False) == "onnxruntime, 1.31.1, fp32, threads 2"
    assert named_key({"machine": 3, "backend": None}) == ""


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), "another"),
        (("format_version",), 2),
        (("frame_ms",), {}),
        (("frame_ms", "0"), {"p50": 1.0, "p99": 2.0}),
        (("frame_ms", "5"), {"p50": 3.0, "p99": 2.0}),
        (("frame_ms", "1"), None),
        (("walk_ms", "7"), {"p50": 1.0, "p99": 2.0}),
        (("encoder_ms",), None),
        (("encoder_ms", "p50"), -1.0),
        (("encoder_ms", "p99"), "1"),
        (("step_ms", "more"), 1.0),
        (("step_ms", "p99"), 1e999),
        (("key",), "key"),
        (("made",), None),
    ],
)
def test_a_damaged_file_is_told(bundle: Bundle, path: tuple[str, ...], value: Any) -> None:
    key = timings_key(bundle, MACHINE, CPU, "fp32", GRAPHS)
    file = save_timings(bundle, timings(key))
    content = place = json.loads(file.read_text())
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    file.write_text(json.dumps(content))
    with pytest.raises(BudgetError, match="measure again: diffpose-edge time"):
        timings_of(bundle, key)
    with pytest.raises(BudgetError, match=file.name):
        list(all_timings(bundle))


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, " " * 2**20 + "{}"])
def test_what_is_no_file_of_timings_is_told(bundle: Bundle, content: str) -> None:
    key = timings_key(bundle, MACHINE, CPU, "fp32", GRAPHS)
    save_timings(bundle, timings(key)).write_text(content)
    with pytest.raises(BudgetError, match="Remove it"):
        timings_of(bundle, key)


def test_a_place_that_cannot_be_written_to_is_told(bundle: Bundle) -> None:
    (bundle.path / FOLDER).write_text("a file")
    with pytest.raises(OutputError, match="nothing was written"):
        save_timings(bundle, timings(timings_key(bundle, MACHINE, CPU, "fp32", GRAPHS)))


def test_what_frames_stay_within() -> None:
    known = timings({})
    assert known.p99_ms(1) == 4.0
    assert known.p99_ms(5) == 13.0
    assert known.p99_ms(3) == 13.0, "what was not measured takes as long as the next larger"
    assert known.p99_ms(6) == math.inf
    assert known.p99_ms(1, batches=3) == 12.0
    assert known.p99_ms(1, batches=3, encoders=1) == 4.0 + 2 * 2.5
    assert known.p99_ms(1, batches=1, encoders=3) == 4.0 + 2 * 1.5


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4))
def test_more_work_never_takes_less(K: int, batches: int, encoders: int) -> None:
    known = timings({})
    assert known.p99_ms(K, batches, encoders) <= known.p99_ms(K + 1, batches, encoders)
    assert known.p99_ms(K, batches, encoders) <= known.p99_ms(K, batches + 1, encoders)
    assert known.p99_ms(K, batches, encoders) <= known.p99_ms(K, batches, encoders + 1)
