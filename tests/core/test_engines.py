"""Engines in a bundle: their records, which of them fit where, and writing them whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from diffpose_edge.bundle import Bundle, load_bundle, sha256_of
from diffpose_edge.engines import (
    EngineRecord,
    Target,
    checked_flavour,
    checked_precision,
    engine_records,
    graph_precision,
    load_engine,
    save_engine,
)
from diffpose_edge.errors import DiffPoseEdgeError, OutputError

from .orin_engine import ORIN, PLAN, record_of


@pytest.fixture
def bundle(golden_bundle: Path, tmp_path: Path) -> Bundle:
    return load_bundle(Path(shutil.copytree(golden_bundle, tmp_path / "bundle")))


@pytest.fixture
def record(bundle: Bundle) -> EngineRecord:
    return record_of(bundle)


# --- records ---


def test_an_engine_and_its_record_come_back_as_they_were(bundle: Bundle, record: EngineRecord) -> None:
    path = save_engine(bundle, record, PLAN)
    assert path == bundle.path / "engines/tensorrt-10.3.0.30-sm87/step.fp32.engine"
    assert list(engine_records(bundle)) == [(path, record)]
    assert load_engine(bundle, "step", "fp32", ORIN) == (record, PLAN)
    assert sorted(p.name for p in path.parent.iterdir()) == ["step.fp32.engine", "step.fp32.json"]
    # The bundle is what it was.
    assert load_bundle(bundle.path).manifest == bundle.manifest


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "engines/tensorrt-10.3.0.30-sm87/step.fp32.engine"),
        ({"role": "context", "precision": "int8", "graph": "int8-trt8"}, "engines/tensorrt-10.3.0.30-sm87/context.int8.engine"),
        ({"flavour": "rtx", "version": "1.7.1.116", "sm": None}, "engines/rtx-1.7.1.116-any/step.fp32.engine"),
        ({"sm": 120}, "engines/tensorrt-10.3.0.30-sm120/step.fp32.engine"),
    ],
)
def test_an_engines_place_says_where_it_belongs(record: EngineRecord, changes: dict[str, Any], name: str) -> None:
    assert replace(record, **changes).name == name


def test_records_are_given_in_the_order_of_their_names(bundle: Bundle, record: EngineRecord) -> None:
    saved = [replace(record, sm=sm, role=role) for sm in (90, 75) for role in ("step", "context")]
    for each in saved:
        save_engine(bundle, each, PLAN)
    names = [found.name for _, found in engine_records(bundle)]
    assert names == sorted(names)
    assert len(names) == 4


# --- what fits ---

RTX = Target("rtx", "1.7.1.116", 120)
FITTING: list[tuple[dict[str, Any], Target]] = [
    ({}, ORIN),
    ({"flavour": "rtx", "version": "1.7.1.116", "sm": None}, RTX),
    ({"flavour": "rtx", "version": "1.7.1.116", "sm": None}, replace(RTX, sm=75)),
    ({"version_compatible": True}, replace(ORIN, version="10.3.0.31")),
    ({"version_compatible": True}, replace(ORIN, version="10.13.3")),
    ({"hardware_compatible": True}, replace(ORIN, sm=80)),
    ({"hardware_compatible": True}, replace(ORIN, sm=120)),
    ({"hardware_compatible": True, "version_compatible": True}, Target("tensorrt", "10.9.0.34", 90)),
    ({"role": "start", "onnx_sha256": "of a graph that is not in the bundle"}, ORIN),
]
MISFITS: list[tuple[dict[str, Any], Target, str]] = [
    ({"flavour": "rtx"}, ORIN, "it is an engine of TensorRT-RTX"),
    ({}, Target("rtx", "10.3.0.30", 87), "it is an engine of TensorRT"),
    ({}, replace(ORIN, version="10.3.0.31"), "it was built with TensorRT 10.3.0.30"),
    ({}, replace(ORIN, version="8.6.2.3"), "it was built with TensorRT 10.3.0.30"),
    # Older than what it was built with, or of another major version: not even when it is compatible.
    ({"version_compatible": True}, replace(ORIN, version="10.3.0.29"), "it was built with TensorRT 10.3.0.30"),
    ({"version_compatible": True}, replace(ORIN, version="10.2.9.99"), "it was built with TensorRT 10.3.0.30"),
    ({"version_compatible": True}, replace(ORIN, version="11.4.0"), "it was built with TensorRT 10.3.0.30"),
    ({"version_compatible": True, "version": "8.6.2"}, ORIN, "it was built with TensorRT 8.6.2"),
    ({}, replace(ORIN, sm=89), "it was built for SM 8.7"),
    ({"sm": 120}, ORIN, "it was built for SM 12.0"),
    ({"version_compatible": True}, replace(ORIN, sm=89), "it was built for SM 8.7"),
    ({"hardware_compatible": True}, replace(ORIN, sm=75), "it was built for SM 8.7"),
    ({"hardware_compatible": True}, replace(ORIN, version="10.4"), "it was built with TensorRT 10.3.0.30"),
    ({"onnx_sha256": "0" * 64}, ORIN, "the bundle's graph has changed since it was built"),
    ({"role": "context"}, ORIN, "the bundle's graph has changed since it was built"),
]


@pytest.mark.parametrize(("changes", "target"), FITTING)
def test_what_fits(bundle: Bundle, record: EngineRecord, changes: dict[str, Any], target: Target) -> None:
    assert replace(record, **changes).misfit(bundle, target) is None


@pytest.mark.parametrize(("changes", "target", "why"), MISFITS)
def test_what_does_not_fit_and_why(bundle: Bundle, record: EngineRecord, changes: dict[str, Any], target: Target, why: str) -> None:
    assert replace(record, **changes).misfit(bundle, target) == why


def test_versions_are_compared_as_numbers(bundle: Bundle, record: EngineRecord) -> None:
    """As texts 10.10 would come before 10.9."""
    later = replace(record, version="10.9.0", version_compatible=True)
    assert later.misfit(bundle, replace(ORIN, version="10.10.0")) is None
    assert replace(later, version="10.10.0").misfit(bundle, replace(ORIN, version="10.9.0")) is not None


@pytest.mark.parametrize(
    ("precision", "flavour", "version", "graph"),
    [
        ("int8", "tensorrt", "8.6.2.3", "int8-trt8"),
        ("int8", "tensorrt", "10.3.0", "int8"),
        ("int8", "rtx", "1.7.1.116", "int8"),
        ("fp16", "tensorrt", "8.6.2.3", "fp16"),
        ("fp32", "tensorrt", "8.6.2.3", "fp32"),
    ],
)
def test_tensorrt_8_is_given_int8_in_its_own_form(precision: str, flavour: str, version: str, graph: str) -> None:
    assert graph_precision(precision, flavour, version) == graph


@pytest.mark.parametrize(("check", "wrong"), [(checked_precision, "int8-trt8"), (checked_precision, ""), (checked_flavour, "TensorRT")])
def test_an_unknown_word_is_answered_with_the_known_ones(check: Callable[[str], str], wrong: str) -> None:
    with pytest.raises(DiffPoseEdgeError, match=rf"expected a \w+ out of (fp32, fp16, int8|tensorrt, rtx), got '{wrong}'"):
        check(wrong)


# --- writing ---


@pytest.mark.parametrize("suffix", [".engine", ".json", ".layers.txt"])
def test_a_write_that_fails_leaves_the_older_engine_whole(
    bundle: Bundle, record: EngineRecord, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path, newer, real = save_engine(bundle, record, PLAN, "what it is made of"), PLAN[::-1], os.open
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}

    def full(name: str, *arguments: int, **more: int) -> int:
        if str(name).endswith(suffix):
            raise OSError(28, "No space left on device")
        return real(name, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)  # by which a file is flushed
        with pytest.raises(OutputError, match="disk is full"):
            save_engine(bundle, replace(record, sha256=sha256_of(newer)), newer, "another")
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before
    assert [p.name for p in path.parent.parent.iterdir()] == [path.parent.name]
    assert load_engine(bundle, "step", "fp32", ORIN) == (record, PLAN)


def test_a_write_that_is_interrupted_leaves_the_older_engine(bundle: Bundle, record: EngineRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_engine(bundle, record, PLAN)

    def interrupted(self: Path, content: bytes) -> int:
        with open(self, "wb") as file:
            file.write(content[:50])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_engine(bundle, record, PLAN[::-1])
    assert load_engine(bundle, "step", "fp32", ORIN) == (record, PLAN)
    assert len(list(path.parent.iterdir())) == 2


def test_where_no_folder_can_be_made_the_place_is_named(bundle: Bundle, record: EngineRecord) -> None:
    (bundle.path / "engines").write_text("a file")
    with pytest.raises(OutputError, match=r"cannot write .*engines"):
        save_engine(bundle, record, PLAN)


def test_a_record_holds_nothing_that_json_has_no_word_for(bundle: Bundle, record: EngineRecord) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_engine(bundle, replace(record, made={"seconds": float("nan")}), PLAN)
    assert not list((bundle.path / "engines").glob("*/*.json"))


def test_a_record_says_its_format(bundle: Bundle, record: EngineRecord) -> None:
    content = json.loads(save_engine(bundle, record, PLAN).with_suffix(".json").read_text())
    assert (content.pop("format"), content.pop("format_version")) == ("diffpose-edge-engine", 1)
    assert content == asdict(record)
