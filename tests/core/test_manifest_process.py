"""What the manifest says of the process; and bundles of older versions."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpose_edge.config import BatchShape, CausalConfig, GraphNetworkConfig, VideoConfig
from diffpose_edge.distribution import StartSpread
from diffpose_edge.errors import BundleError
from diffpose_edge.manifest import Manifest, Process, manifest_from_json
from diffpose_edge.person import CHANNELS
from diffpose_edge.schedule import cosine_alpha_bar


def _spread() -> StartSpread:
    rng = np.random.default_rng(0)
    knots = np.array([0.0, 0.5, 1.0], np.float32)
    uv, xyz, residual = (rng.uniform(0.01, 0.3, shape).astype(np.float32) for shape in ((3, 17), (3, 17, 3), (3, 17, 3)))
    return StartSpread(knots, uv, xyz, residual)


def _manifest(video: bool = False) -> Manifest:
    context = VideoConfig(9, 32, 2, 4, False, CHANNELS) if video else GraphNetworkConfig(32, 2, 4, channels=CHANNELS)
    return Manifest(
        denoiser=GraphNetworkConfig(64, 5, 4, condition=32),
        context=context,
        shape=BatchShape(3, 2, 9 if video else 1),
        alpha_bar=tuple(cosine_alpha_bar(50)),
        timesteps=(49, 24),
        files={},
        process=Process("distribution", "v", _spread()),
    )


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    paths = [path] if path else []
    if isinstance(value, dict):
        return paths + [p for key in value for p in _paths(value[key], (*path, key))]
    if isinstance(value, list):
        return paths + [p for i in range(min(2, len(value))) for p in _paths(value[i], (*path, i))]
    return paths


def _with(path: tuple[Any, ...], value: Any, video: bool = False) -> str:
    content = json.loads(_manifest(video).to_json())
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize("video", [False, True])
def test_a_round_trip_gives_the_same_manifest(video: bool) -> None:
    manifest = _manifest(video)
    again = manifest_from_json(manifest.to_json())
    assert again == manifest
    assert again.to_json() == manifest.to_json()
    window = (9,) if video else ()
    assert again.context_io == ({"observation": (3, *window, 17, 6)}, {"xyz": (3, *window, 17, 3), "feature": (3, *window, 17, 32)})
    assert again.step_io[0]["feature"] == (3, 17, 32)
    assert again.step_io[0]["start"] == (6, 17, 10)
    assert again.step_io[0]["previous"] == again.step_io[1]["eps"] == (6, 17, 5)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_bundle_whose_step_cannot_remember_is_refused_with_what_to_do(version: int) -> None:
    content = json.loads(_manifest(False).to_json())
    content["format_version"] = version
    with pytest.raises(BundleError, match=rf"version {version}; .* from 4 on.*Export it again"):
        manifest_from_json(json.dumps(content))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("process", "kind"), "released", "start spread"),
        (("process", "kind"), "other", "of kind"),
        (("process", "prediction"), "x0", "predicts"),
        (("model", "denoiser", "condition"), 0, "does not go with"),
        (("model", "denoiser", "condition"), 31, "takes a feature of width 31, the encoder gives 32"),
        (("model", "context", "channels"), 2, "does not go with"),
        (("model", "context", "channels"), 5, "2 channels"),
        (("model", "denoiser", "channels"), 6, "channels only in its context encoder"),
        (("process", "start", "uv"), [["0.1"] * 17] * 3, "numbers"),
        (("process", "start", "uv"), [[True] * 17] * 3, "numbers"),
        (("process", "start", "xyz", 1, 4, 2), 1e30, "within 0..1000"),
        (("process", "start", "confidence"), [i / 999 for i in range(1000)], "at most 64"),
    ],
)
def test_what_does_not_go_together_is_refused(path: tuple[Any, ...], value: Any, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        manifest_from_json(_with(path, value))


GARBAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([10**400, 1e308, "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data(), st.booleans(), GARBAGE)
@settings(deadline=None, max_examples=60)
def test_garbage_in_any_place_is_a_bundle_error_or_harmless(data: st.DataObject, video: bool, garbage: Any) -> None:
    content = json.loads(_manifest(video).to_json())
    del content["provenance"], content["verification"]
    path = data.draw(st.sampled_from(_paths(content)))
    try:
        manifest = manifest_from_json(_with(path, garbage, video))
    except BundleError:
        return
    assert manifest_from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize("video", [False, True])
def test_every_missing_field_is_refused(video: bool) -> None:
    for path in _paths(json.loads(_manifest(video).to_json())):
        if not isinstance(path[-1], str):
            continue
        content = json.loads(_manifest(video).to_json())
        place: Any = content
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]
        with pytest.raises(BundleError):
            manifest_from_json(json.dumps(content))


def _causal() -> Manifest:
    plain = _manifest(False)
    return replace(plain, context=CausalConfig(frames=9, width=32, depth=2, heads=4))


def test_a_causal_encoder_takes_one_frame_and_its_caches() -> None:
    manifest = _causal()
    again = manifest_from_json(manifest.to_json())
    assert again == manifest
    assert (again.causal, again.stretch, again.shape.F) == (manifest.context, 9, 1)
    taken, given = again.context_io
    assert list(taken) == ["observation", "ages", "keys0", "values0", "keys1", "values1"]
    assert (taken["observation"], taken["ages"]) == ((3, 17, 6), (3, 8))
    assert (taken["keys1"], taken["values1"]) == ((3, 17, 4, 8, 8), (3, 17, 4, 8, 8))
    assert list(given) == ["xyz", "feature", "key0", "value0", "key1", "value1"]
    assert given["key0"] == given["value1"] == (3, 17, 4, 8)


@pytest.mark.parametrize(
    ("field", "value"), [("frames", 1), ("heads", 5), ("width", 0), ("channels", 2), ("depth", "2"), ("kind", "causal?")]
)
def test_a_causal_encoder_of_impossible_size_is_refused(field: str, value: Any) -> None:
    content = json.loads(_causal().to_json())
    content["model"]["context"][field] = value
    with pytest.raises(BundleError):
        manifest_from_json(json.dumps(content))
