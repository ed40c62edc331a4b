"""The manifest: an exact round trip, and a BundleError, never another exception, for whatever is wrong with one."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpose_edge.config import MAX_BATCH, MAX_T, MAX_WIDTH, BatchShape, GraphNetworkConfig, VideoConfig
from diffpose_edge.errors import BundleError
from diffpose_edge.manifest import FORMAT_VERSION, FileEntry, Manifest, manifest_from_json
from diffpose_edge.schedule import RELEASED_TIMESTEPS, released_alpha_bar

FILES = {
    "context.fp32.onnx": FileEntry("context", "fp32", "0" * 64, 10),
    "graphs/step.fp32.onnx": FileEntry("step", "fp32", "f" * 64, 0),
}


def _manifest(video: bool = False) -> Manifest:
    return Manifest(
        denoiser=GraphNetworkConfig(96, 5, 4),
        context=VideoConfig(9, 32, 2, 4, mirror_average=False) if video else GraphNetworkConfig(32, 2, 4),
        shape=BatchShape(P=3, N=2, F=9 if video else 1),
        alpha_bar=tuple(float(a) for a in released_alpha_bar()),
        timesteps=RELEASED_TIMESTEPS,
        files=FILES,
        provenance={"note": "µ — made by hand", "versions": {"numpy": "2"}},
        verification={"context": {"layers": 3, "largest_relative_error": 1e-6}},
    )


def _content(video: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(_manifest(video).to_json())
    return content


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in the manifest whose value matters; records (provenance, verification) count as a whole."""
    paths = [path] if path else []
    if path[:1] in (("provenance",), ("verification",)):
        return paths
    if isinstance(value, dict):
        return paths + [p for key in value for p in _paths(value[key], (*path, key))]
    if isinstance(value, list):
        return paths + [p for i in range(min(2, len(value))) for p in _paths(value[i], (*path, i))]
    return paths


def _altered(path: tuple[Any, ...], value: Any, video: bool = False) -> str:
    content = _content(video)
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize("video", [False, True])
def test_a_round_trip_gives_the_same_manifest_and_alpha_bar_bit_for_bit(video: bool) -> None:
    manifest = _manifest(video)
    again = manifest_from_json(manifest.to_json())
    assert again == manifest
    assert [a.hex() for a in again.alpha_bar] == [float(a).hex() for a in released_alpha_bar()]
    assert again.alpha_bar_table.tobytes() == released_alpha_bar().tobytes()
    assert again.to_json() == manifest.to_json()
    assert again.T == 51


@given(st.lists(st.floats(0, 1, exclude_min=True), min_size=1, max_size=60))
@settings(deadline=None, max_examples=60)
def test_any_falling_table_of_floats_survives_the_round_trip_bit_for_bit(values: list[float]) -> None:
    table = tuple(sorted(values, reverse=True))
    again = manifest_from_json(_altered(("schedule",), {"alpha_bar": table, "timesteps": [0], "fitted": {}}))
    assert [a.hex() for a in again.alpha_bar] == [a.hex() for a in table]


def test_a_file_is_found_by_role_and_precision_and_a_missing_one_is_named() -> None:
    assert _manifest().file_of("step") == "graphs/step.fp32.onnx"
    with pytest.raises(BundleError, match=r"no step graph in fp16; it has: context fp32, step fp32"):
        _manifest().file_of("step", "fp16")


def test_a_newer_format_says_which_versions_are_read() -> None:
    text = _altered(("format_version",), FORMAT_VERSION + 1)
    with pytest.raises(BundleError, match=rf"version {FORMAT_VERSION + 1}.*up to {FORMAT_VERSION}.*[Uu]pdate"):
        manifest_from_json(text)


def test_another_format_is_not_a_bundle() -> None:
    with pytest.raises(BundleError, match=r"says format 'web-app'"):
        manifest_from_json(_altered(("format",), "web-app"))


@pytest.mark.parametrize("video", [False, True])
def test_every_missing_field_is_named(video: bool) -> None:
    for path in _paths(_content(video)):
        if isinstance(path[-1], str) and path[:-1] != ("files",):
            content = _content(video)
            place: Any = content
            for key in path[:-1]:
                place = place[key]
            del place[path[-1]]
            with pytest.raises(BundleError, match=f"no field '{path[-1]}'"):
                manifest_from_json(json.dumps(content))


@pytest.mark.parametrize("video", [False, True])
def test_a_value_of_the_wrong_type_is_refused_in_every_place(video: bool) -> None:
    for path in _paths(_content(video)):
        value: Any = _content(video)
        for key in path:
            value = value[key]
        for wrong in (None, True, "x", [], {}, -1, 0.5, [[]], {"a": {}}):
            # A boolean stands where one is meant, an empty list of files or records is a list of none.
            if type(wrong) is type(value) and (wrong is True or isinstance(wrong, dict)):
                continue
            if path[0] == "files" and path[-1] == "precision" and wrong == "x":
                continue
            if path[:2] == ("schedule", "alpha_bar") and len(path) == 3 and wrong == 0.5 and path[2] == 50:
                continue
            with pytest.raises(BundleError):
                manifest_from_json(_altered(path, wrong, video))


JSON_GARBAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([10**400, -(10**400), 2**63, 1e308, "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data(), st.booleans(), JSON_GARBAGE)
@settings(deadline=None, max_examples=60)
def test_garbage_in_any_place_is_a_bundle_error_or_harmless(data: st.DataObject, video: bool, garbage: Any) -> None:
    path = data.draw(st.sampled_from(_paths(_content(video))))
    text = _altered(path, garbage, video)
    try:
        manifest = manifest_from_json(text)
    except BundleError:
        return
    # What is accepted is a manifest like any other: it can be written and read again.
    assert manifest_from_json(manifest.to_json()) == manifest


@given(st.data(), st.booleans())
@settings(deadline=None, max_examples=60)
def test_text_damaged_anywhere_is_a_bundle_error_or_harmless(data: st.DataObject, video: bool) -> None:
    text = _manifest(video).to_json()
    at, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 40))
    damaged = text[:at] + data.draw(st.text(max_size=5)) + text[at + length :]
    try:
        manifest_from_json(damaged)
    except BundleError:
        return


@given(JSON_GARBAGE)
@settings(deadline=None, max_examples=60)
def test_any_other_json_is_a_bundle_error(garbage: Any) -> None:
    with pytest.raises(BundleError):
        manifest_from_json(json.dumps(garbage))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\ufeff{}", "[" * 100_000, '{"a":' * 100_000, "NaN", "\0", "not json"])
def test_text_that_is_no_manifest_is_a_bundle_error(text: str) -> None:
    with pytest.raises(BundleError):
        manifest_from_json(text)


def test_a_number_with_more_digits_than_python_reads_is_a_bundle_error() -> None:
    with pytest.raises(BundleError):
        manifest_from_json(_manifest().to_json().replace(f'"format_version": {FORMAT_VERSION}', f'"format_version": {"1" * 5000}'))


WRONG_VALUES = {
    "nan in the table": (("schedule", "alpha_bar", 0), float("nan")),
    "infinity in the table": (("schedule", "alpha_bar", 0), float("inf")),
    "a whole number beyond float in the table": (("schedule", "alpha_bar", 0), 10**400),
    "zero in the table": (("schedule", "alpha_bar", 50), 0.0),
    "above one in the table": (("schedule", "alpha_bar", 0), 1.0000001),
    "a rising table": (("schedule", "alpha_bar"), [0.5, 0.6]),
    "an empty table": (("schedule", "alpha_bar"), []),
    "a table beyond the limit": (("schedule", "alpha_bar"), [1.0] * (MAX_T + 1)),
    "rising timesteps": (("schedule", "timesteps"), [0, 12]),
    "timesteps beyond the table": (("schedule", "timesteps"), [51]),
    "no timesteps": (("schedule", "timesteps"), []),
    "heads that do not divide the width": (("model", "denoiser", "heads"), 5),
    "a width beyond the limit": (("model", "denoiser", "hidden"), MAX_WIDTH + 1),
    "a batch beyond the limit": (("shapes", "P"), MAX_BATCH + 1),
    "a product of persons and samples beyond the limit": (("shapes",), {"P": MAX_BATCH, "N": 2, "F": 1}),
    "frames that the encoder does not take": (("shapes", "F"), 2),
    "an unknown encoder": (("model", "context", "kind"), "audio"),
    "a short hash": (("files", "context.fp32.onnx", "sha256"), "0" * 63),
    "an unknown role": (("files", "context.fp32.onnx", "role"), "optimizer"),
    "a negative size": (("files", "context.fp32.onnx", "bytes"), -1),
    "nan in the provenance": (("provenance",), {"a": float("nan")}),
    "infinity in the verification": (("verification",), {"a": {"b": float("inf")}}),
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_a_value_out_of_bounds_is_a_bundle_error(name: str) -> None:
    with pytest.raises(BundleError):
        manifest_from_json(_altered(*WRONG_VALUES[name]))


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "a/..",
        "./x",
        "a//b",
        "",
        ".",
        "..",
        "~/x",
        "a\\..\\x",
        "C:x",
        "a\0b",
        "x\n",
        "-x",
        ".hidden",
        "é",
    ],
)
def test_a_file_name_that_is_no_plain_path_within_the_bundle_is_refused(name: str) -> None:
    files = copy.deepcopy(_content()["files"])
    files[name] = files.pop("context.fp32.onnx")
    with pytest.raises(BundleError, match="not a plain path within the bundle"):
        manifest_from_json(_altered(("files",), files))
