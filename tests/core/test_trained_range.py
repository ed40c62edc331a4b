"""What training showed is measured from training views, kept in manifests, and says of whom it is passed, and by what."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.bundle import load_bundle
from diffpose_edge.clips import mocap_clips_path, trained_pair
from diffpose_edge.errors import BundleError
from diffpose_edge.manifest import manifest_from_json
from diffpose_edge.person import PersonView, person_view
from diffpose_edge.skeleton import BONES, J
from diffpose_edge.trained_range import (
    FILE,
    H36M_IMAGE,
    PERSON,
    ROUGH,
    TrainedRange,
    image_values,
    person_values,
    range_from_record,
    range_json,
    range_of_checkpoints,
)

WHOLE = TrainedRange(PERSON, np.full(54, -3, np.float32), np.full(54, 3, np.float32), 7, "made up")


def _person(seed: int = 0) -> tuple[np.ndarray, np.ndarray, PersonView]:
    rng = np.random.default_rng(seed)
    uv, confidence = rng.uniform(-0.5, 0.5, (2, J, 2)).astype(np.float32), rng.uniform(0.1, 1, (2, J)).astype(np.float32)
    confidence[0, 3] = 0.0
    uv[0, 3] = np.nan
    return uv, confidence, person_view(uv, confidence)


def test_quantities_are_what_their_names_say() -> None:
    uv, confidence, view = _person()
    values = dict(zip(PERSON, person_values(uv, confidence, view)[1], strict=True))
    own = (uv[1] - view.centre[1]) / view.scale[1]
    assert values["hip u"] == pytest.approx(own[0, 0])
    assert values["right_wrist v"] == pytest.approx(own[16, 1])
    parent, child = BONES[-1]
    assert values["right_wrist bone"] == pytest.approx(np.linalg.norm(own[child] - own[parent]), rel=1e-5)
    assert (values["centre u"], values["centre v"]) == pytest.approx(tuple(view.centre[1]))
    assert values["size"] == pytest.approx(view.scale[1])
    assert values["confidence"] == pytest.approx(confidence[1].mean())


def test_joints_that_were_not_seen_are_within() -> None:
    uv, confidence, view = _person()
    values = person_values(uv, confidence, view)
    missing = {name for name, value in zip(PERSON, values[0], strict=True) if np.isnan(value)}
    assert missing == {"right_foot u", "right_foot v", "right_foot bone"}
    assert not np.isnan(values[1]).any()
    assert not WHOLE.outside(values).any()
    assert np.isnan(image_values(uv, confidence)[0]).sum() == 2


def test_who_is_out_and_by_how_much() -> None:
    uv, confidence, view = _person()
    values = person_values(uv, confidence, view)
    values[1, PERSON.index("left_knee v")] = 3.5
    values[1, PERSON.index("size")] = 9.0
    np.testing.assert_array_equal(WHOLE.outside(values), [False, True])
    assert WHOLE.told(values[0]) == ""
    assert WHOLE.told(values[1]) == "size is 9 (training showed -3..3), left_knee v is 3.5 (training showed -3..3)"


def test_the_image_is_the_range_of_released_weights() -> None:
    uv = np.zeros((3, J, 2), np.float32)
    uv[1, 4, 0], uv[2, 4, 1] = 1.04, -1.06
    np.testing.assert_array_equal(H36M_IMAGE.outside(image_values(uv, np.ones((3, J), np.float32))), [False, False, True])


def test_records_come_back_and_manifests_keep_them(conditioned_bundle: Path) -> None:
    again = range_from_record(json.loads(json.dumps(WHOLE.as_record())))
    assert (again.views, again.source) == (7, "made up")
    np.testing.assert_array_equal(again.low, WHOLE.low)
    manifest = load_bundle(conditioned_bundle).manifest
    assert manifest.trained_range is None  # a bundle of before, or of an untrained pair
    kept = manifest_from_json(replace(manifest, trained_range=WHOLE).to_json()).trained_range
    assert kept is not None
    np.testing.assert_array_equal(kept.high, WHOLE.high)


UNIT = {name: [0, 1] for name in PERSON}


def _alter(record: dict, **changes: object) -> dict:  # type: ignore[type-arg]
    return {**record, **changes}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"bounds": {}}, "expected bounds of 17 joints"),
        ({"bounds": None}, "expected bounds of 17 joints"),
        ({"views": 0}, "views as a whole number"),
        ({"views": True}, "views as a whole number"),
        ({"source": 3}, "its source in words"),
        ({"bounds": {**UNIT, "size": [2, 1]}}, "'size' are the wrong way round"),
        ({"bounds": {**UNIT, "size": [1]}}, "two numbers for 'size'"),
        ({"bounds": {**UNIT, "size": [0, "9"]}}, "two numbers for 'size'"),
        ({"bounds": {**UNIT, "size": [0, 10**400]}}, "two numbers for 'size'"),
    ],
)
def test_records_that_are_none(changes: dict, told: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(BundleError, match=told):
        range_from_record(_alter(WHOLE.as_record(), **changes))


def test_a_file_beside_the_pair(tmp_path: Path) -> None:
    path = tmp_path / FILE
    assert range_of_checkpoints(path, {"context": "a"}) is None
    path.write_text(range_json(WHOLE, {"context": "a"}))
    found = range_of_checkpoints(path, {"context": "a"})
    assert found is not None
    assert found.views == 7
    assert range_of_checkpoints(path, {"context": "b"}) is None
    path.write_text("{}")
    with pytest.raises(BundleError, match="not a trained range of this version"):
        range_of_checkpoints(path, {"context": "a"})


@pytest.mark.parametrize("name", ["frame", "video", "causal"])
def test_pairs_that_ship_know_their_range(name: str) -> None:
    import hashlib

    denoiser, context = trained_pair(name)
    digests = {role: hashlib.sha256(path.read_bytes()).hexdigest() for role, path in (("context", context), ("denoiser", denoiser))}
    found = range_of_checkpoints(denoiser.with_name(FILE), digests)
    assert found is not None
    assert found.views > 50_000
    assert (found.low <= ROUGH.high).all()


def test_the_range_of_a_plan_is_that_of_its_views() -> None:
    from diffpose_edge.reference.training.batches import training_batch
    from diffpose_edge.reference.training.motions import load_clips
    from diffpose_edge.reference.training.plans import PLANS
    from diffpose_edge.reference.training.views_range import RANGE, measured_range, source_of, values_of

    plan = PLANS["tiny-video"]
    source = source_of(plan, load_clips(mocap_clips_path()))
    found = measured_range(plan, source)
    assert found.views >= 96
    batch = training_batch(source, plan.diffusion_stage.batch, (RANGE, plan.seed, 0))
    values = values_of(batch)
    assert not found.outside(values).any()
    # A window's own frame of reference, frame by frame.
    np.testing.assert_allclose(
        np.nan_to_num(values[:, : 2 * J].reshape(-1, J, 2)),
        batch.channels.reshape(-1, J, 6)[(batch.detections.confidence > 0).sum(-1).ravel() >= 9][..., :2],
        atol=1e-5,
    )
