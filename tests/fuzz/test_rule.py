"""The rule finds what it is there for: planted crashes, unclear errors, waste of time and of memory."""

from __future__ import annotations

import json
import time
from random import Random

import numpy as np
import pytest

from diffpose_edge.errors import BundleError, DiffPoseEdgeError
from diffpose_edge.manifest import manifest_from_json
from diffpose_edge.plain_text import MOST_CHARACTERS
from tests.fuzz.mutators import as_json, blind
from tests.fuzz.rule import outcome_of, unclear
from tests.fuzz.target import SEEDS


def test_a_clear_refusal_and_a_success_are_no_findings() -> None:
    def refuse(data: bytes) -> None:
        raise BundleError("expected a bundle, got a file")

    assert outcome_of(len, b"x").finding is None
    outcome = outcome_of(refuse, b"x")
    assert outcome.refused
    assert outcome.finding is None


def test_another_exception_is_a_crash() -> None:
    found = outcome_of(lambda data: data[7], b"x").finding
    assert found is not None
    assert found.kind == "crash"
    assert "IndexError" in found.what


@pytest.mark.parametrize(
    "message",
    [
        "",
        "  ",
        "something happened",
        "expected a name, got \x1b[2J",
        "expected x: 'int' object is not subscriptable",
        "no " + "x" * MOST_CHARACTERS,
    ],
)
def test_messages_that_do_not_help_are_told(message: str) -> None:
    assert unclear(message) is not None


def test_waste_of_time_and_of_memory_is_found() -> None:
    def slow(data: bytes) -> None:
        until = time.process_time() + 1.1
        while time.process_time() < until:
            pass

    found = outcome_of(slow, b"x").finding
    assert found is not None
    assert found.kind == "slow"
    for _ in range(2):  # what one input took does not hide what the next one takes
        found = outcome_of(lambda data: np.ones(300 << 17), b"x").finding
        assert found is not None
        assert found.kind == "memory"


def test_changing_a_manifest_comes_to_a_fault_that_is_planted_deep() -> None:
    """Where only whole JSON with one field of the wrong kind leads."""

    def planted(data: bytes) -> None:
        manifest_from_json(data.decode("utf-8", "replace"))
        if json.loads(data)["files"]["step.fp32.onnx"]["precision"] != "fp32":
            raise KeyError("planted")

    seed, random = (SEEDS / "manifest" / "frame.json").read_bytes(), Random(0)
    tries = (outcome_of(planted, as_json(seed, random, blind(random))).finding for _ in range(4000))
    assert any(found is not None and "planted" in found.what for found in tries)


def test_an_error_is_printable_short_and_tells_no_address() -> None:
    text = str(DiffPoseEdgeError("expected a name, got \x1b[2J\ud800 " + "x" * 9000 + " <object at 0x7f00aa> give another"))
    assert text.isprintable()
    assert len(text) <= MOST_CHARACTERS
    assert text.startswith("expected a name, got \\x1b[2J\\ud800")
    assert text.endswith("<object> give another")
