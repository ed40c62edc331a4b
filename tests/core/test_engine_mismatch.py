"""What is said when no engine of a bundle fits, or one is not what was written: always with the command that helps."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.engines import EngineRecord, build_command, load_engine, save_engine
from diffpose_edge.errors import BundleError

from .orin_engine import ORIN, PLAN, mismatch, record_of


@pytest.fixture
def bundle(golden_bundle: Path, tmp_path: Path) -> Bundle:
    return load_bundle(Path(shutil.copytree(golden_bundle, tmp_path / "bundle")))


@pytest.fixture
def record(bundle: Bundle) -> EngineRecord:
    return record_of(bundle)


def test_none_yet(bundle: Bundle, record: EngineRecord) -> None:
    expected = "no engine of the step graph in fp32 fits this machine (TensorRT 10.3.0.30, SM 8.7): there is none yet. Build it with:"
    assert expected in mismatch(bundle)
    # Those of other roles and precisions are not worth a word.
    save_engine(bundle, replace(record, role="context"), PLAN)
    save_engine(bundle, replace(record, precision="fp16"), PLAN)
    assert "there is none yet" in mismatch(bundle)


def test_every_misfit_is_listed_with_its_folder(bundle: Bundle, record: EngineRecord) -> None:
    for changes in ({"sm": 89}, {"version": "10.13.3"}, {"flavour": "rtx", "version": "1.7.1.116", "sm": None}, {"onnx_sha256": "0" * 64}):
        save_engine(bundle, replace(record, **changes), PLAN)
    text = mismatch(bundle)
    assert (
        "rtx-1.7.1.116-any: it is an engine of TensorRT-RTX; tensorrt-10.13.3-sm87: it was built with TensorRT 10.13.3; "
        "tensorrt-10.3.0.30-sm87: the bundle's graph has changed since it was built; tensorrt-10.3.0.30-sm89: it was built for SM 8.9. "
        "Build it with:"
    ) in text


def test_the_one_that_fits_is_found_among_others(bundle: Bundle, record: EngineRecord) -> None:
    for sm in (75, 87, 89):
        save_engine(bundle, replace(record, sm=sm), PLAN)
    assert load_engine(bundle, "step", "fp32", ORIN)[0].sm == 87


def test_the_start_has_one_precision_for_all(bundle: Bundle, record: EngineRecord) -> None:
    save_engine(bundle, replace(record, role="start", onnx_sha256="0" * 64), PLAN)
    for precision in ("fp32", "fp16", "int8"):
        assert load_engine(bundle, "start", precision, ORIN)[1] == PLAN


@pytest.mark.parametrize(
    ("altered", "said"),
    [
        (PLAN[:100], "has 100 bytes, its record says 204"),
        (b"", "has 0 bytes"),
        (PLAN[:50] + b"!" + PLAN[51:], "was altered: its SHA-256 is not the one in its record"),
    ],
)
def test_an_engine_that_is_not_what_was_written_is_refused(bundle: Bundle, record: EngineRecord, altered: bytes, said: str) -> None:
    path = save_engine(bundle, record, PLAN)
    path.write_bytes(altered)
    text = mismatch(bundle)
    assert f"{path} {said}" in text


@pytest.mark.parametrize("instead", ["nothing", "a folder", "a link that leads nowhere"])
def test_an_engine_that_cannot_be_read_is_named(bundle: Bundle, record: EngineRecord, instead: str) -> None:
    path = save_engine(bundle, record, PLAN)
    path.unlink()
    if instead == "a folder":
        path.mkdir()
    elif instead == "a link that leads nowhere":
        path.symlink_to("nowhere")
    assert f"{path} cannot be read (" in mismatch(bundle)


def damaged(content: dict[str, Any], how: str) -> bytes:
    """A record's file after something happened to it."""
    if how in UNREADABLE:
        return UNREADABLE[how]
    if how == "a field too few":
        content.pop("sha256")
    value = {"a list": [content], "null": None, "a text": "record"}.get(how, {**content, **ALTERED.get(how, {})})
    return json.dumps(value).encode()


UNREADABLE = {"no JSON": b"{", "empty": b"", "not UTF-8": b"\xff\xfe", "nested without end": b"[" * 100_000}
ALTERED: dict[str, dict[str, Any]] = {
    "another format": {"format": "diffpose-edge-bundle"},
    "a newer format": {"format_version": 2},
    "a field of which nobody knows": {"speed": 1},
    "an unknown flavour": {"flavour": "openvino"},
    "another role": {"role": "context"},
    "another GPU": {"sm": 89},
    "the GPU as a text": {"sm": "87"},
    "the GPU as a truth": {"sm": True},
    "the size as a text": {"bytes": "204"},
    "the hash as a number": {"onnx_sha256": 3},
    "the graph as a list": {"graph": ["fp32"]},
    "compatibility as a text": {"version_compatible": "no"},
    "how it was made as a list": {"made": []},
}


@pytest.mark.parametrize("how", [*UNREADABLE, *ALTERED, "a field too few", "a list", "null", "a text"])
def test_a_damaged_record_is_named_with_what_to_do(bundle: Bundle, record: EngineRecord, how: str) -> None:
    path = save_engine(bundle, record, PLAN).with_suffix(".json")
    path.write_bytes(damaged(json.loads(path.read_text()), how))
    for target in (ORIN, replace(ORIN, sm=89), replace(ORIN, version="11.0")):
        text = mismatch(bundle, target)
        assert f"{path} is not an engine's record (" in text
        assert "Remove its folder" in text


def test_a_record_that_was_moved_is_not_believed(bundle: Bundle, record: EngineRecord) -> None:
    path = save_engine(bundle, record, PLAN)
    path.parent.rename(path.parent.with_name("tensorrt-10.3.0.30-sm89"))
    assert f"it is the record of {record.name}" in mismatch(bundle, replace(ORIN, sm=89))


def test_an_engine_without_a_record_is_none(bundle: Bundle, record: EngineRecord) -> None:
    save_engine(bundle, record, PLAN).with_suffix(".json").unlink()
    assert "there is none yet" in mismatch(bundle)


def test_the_command_can_be_pasted_whatever_the_folder_is_called(bundle: Bundle) -> None:
    odd = Bundle(bundle.path.with_name("my bundle; echo"), bundle.manifest)
    assert build_command(odd, "fp16", "rtx") == f"diffpose-edge build '{odd.path}' --precision fp16 --flavour rtx"


def test_a_precision_that_the_bundle_no_longer_has_is_made_by_calibrate_first(bundle: Bundle, record: EngineRecord) -> None:
    save_engine(bundle, replace(record, precision="int8", graph="int8"), PLAN)
    with pytest.raises(BundleError, match=r"the bundle has no step graph in int8.*diffpose-edge calibrate"):
        load_engine(bundle, "step", "int8", ORIN)
