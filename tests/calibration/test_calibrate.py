"""Calibration of a bundle: the same twice, refused for other weights, taken to another batch, and whole on disk or not at all."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.bundle import MANIFEST, Bundle, load_bundle, sha256_of
from diffpose_edge.bundle_writing import save_bundle
from diffpose_edge.calibration.added_error import Trial
from diffpose_edge.calibration.calibrate import apply_calibration, calibrated, calibration_of, deployed_schedules
from diffpose_edge.calibration.observed import frames_to_use, observe
from diffpose_edge.calibration.scales_file import Calibration
from diffpose_edge.clips import calibration_keypoints
from diffpose_edge.errors import BundleError, CalibrationError, DiffPoseEdgeError, KeypointError
from diffpose_edge.export.int8 import LEAST_SCALE, on_fp16_grid
from diffpose_edge.export.layer_groups import taps_of
from diffpose_edge.export.precision import INT8_CPU, LOWER_PRECISIONS
from diffpose_edge.keypoints import Keypoints, load_keypoints
from diffpose_edge.manifest import FORMAT_VERSION, manifest_from_json
from diffpose_edge.reference.training import calibration_set
from diffpose_edge.tolerances import REFERENCE_ABS

FEW = {"schedules": ((49, 20),), "frames": 2}
FILES = {"calibration.json", MANIFEST} | {
    f"{r}.{p}.onnx" for r in ("context", "step") for p in ("fp32", "fp32-cpu", *LOWER_PRECISIONS, INT8_CPU)
}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def added_in_int8(bundle: Bundle, calibration: Calibration) -> float:
    """What the step in INT8 adds to a few poses, millimetres, mean."""
    altered = apply_calibration(bundle, calibration)
    trial = Trial(altered, frames_to_use(calibration_keypoints(), 1, 8), (49, 20))
    return trial.added({"step": altered.read("step", "int8")}).mean


@pytest.fixture
def copied(conditioned_bundle: Path, tmp_path: Path) -> Bundle:
    return load_bundle(shutil.copytree(conditioned_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def kept(calibrated_bundle: Path) -> Bundle:
    return load_bundle(calibrated_bundle)


def test_calibrated_twice_is_the_same_to_the_byte(copied: Bundle) -> None:
    first, second = (calibrated(copied, calibration_keypoints(), **FEW) for _ in range(2))  # type: ignore[arg-type]
    assert first.to_json() == second.to_json()
    other = calibrated(copied, calibration_keypoints(), schedules=((49, 20),), frames=3)
    assert other.scales != first.scales


def test_what_was_recorded_is_told(kept: Bundle) -> None:
    calibration = calibration_of(kept)
    told = calibration.provenance
    clip = calibration_keypoints()
    assert told["keypoints_sha256"] == sha256_of(clip.uv.tobytes() + clip.confidence.tobytes())
    assert (told["method"], told["smoothing"], told["modes"]) == ("minmax", True, ["distribution"])
    every = tuple(range(49, -1, -1))
    assert deployed_schedules(kept.manifest) == (kept.manifest.timesteps, every)
    assert told["schedules"] == [list(kept.manifest.timesteps), list(every)]
    assert told["poses"] == 8 + 1  # the schedule of 50 steps takes fewer frames


def test_scales_are_on_the_grid_and_the_borders_have_none(kept: Bundle) -> None:
    calibration = calibration_of(kept)
    assert set(calibration.scales["step"]) == set(calibration.int8["step"])
    assert len(calibration.scales["step"]) == len(calibration.scales["context"]) == 12
    assert calibration.int8["context"] == ()
    assert not [name for role in calibration.scales.values() for name in role if name.startswith(("conv_in", "eps", "output", "condition"))]
    for scales in calibration.scales.values():
        for name, how in scales.items():
            assert float(on_fp16_grid(how.scale)) == how.scale >= LEAST_SCALE
            assert len(how.smoothing) == (32 if name.endswith(".w2") else 48 if "conv" in name else 16)
    # A frame encoder's learned adjacency stays float32, a step's does not.
    assert calibration.fp32 == {"context": ("layer0.adjacency", "layer1.adjacency"), "step": ()}
    reasons = kept.manifest.provenance["precision"]["fp16"]
    assert reasons["context"]["fp32_nodes"]["kept by choice"] > 4
    assert "kept by choice" not in reasons["step"]["fp32_nodes"]


def test_a_min_max_scale_reaches_just_as_far_as_the_smoothed_activation(copied: Bundle) -> None:
    calibration = calibrated(copied, calibration_keypoints(), **FEW)  # type: ignore[arg-type]
    seen = observe(copied, calibration_keypoints(), **FEW)  # type: ignore[arg-type]
    for role, scales in calibration.scales.items():
        for name, how in scales.items():
            reach = (seen.matmuls[role, name].amax / 2.0 ** np.array(how.smoothing)).max()
            assert how.scale == float(on_fp16_grid(reach / 127)), name
    assert any(max(how.smoothing) > 0 for how in calibration.scales["step"].values())
    assert calibration.ranges == seen.ranges


def test_without_smoothing_no_channel_is_moved(copied: Bundle) -> None:
    calibration = calibrated(copied, calibration_keypoints(), smooth=False, **FEW)  # type: ignore[arg-type]
    assert not any(any(how.smoothing) for role in calibration.scales.values() for how in role.values())
    smooth = calibrated(copied, calibration_keypoints(), **FEW)  # type: ignore[arg-type]
    assert any(any(how.smoothing) for role in smooth.scales.values() for how in role.values())


@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_every_method_makes_usable_graphs(copied: Bundle, method: str) -> None:
    """Entropy as well, but ONNX Runtime's search for it takes a second for each matmul; see test_ranges.py."""
    of_minmax = calibrated(copied, calibration_keypoints(), **FEW)  # type: ignore[arg-type]
    of_method = calibrated(copied, calibration_keypoints(), method=method, schedules=((49, 20),), frames=2)
    assert of_method.scales != of_minmax.scales
    assert 0 < added_in_int8(copied, of_method) < 3 * added_in_int8(copied, of_minmax)


def test_a_wrong_scale_shows_in_the_pose(copied: Bundle) -> None:
    good = calibrated(copied, calibration_keypoints(), **FEW)  # type: ignore[arg-type]
    name = "layer1.conv1"
    spoilt = {**good.scales["step"], name: replace(good.scales["step"][name], scale=good.scales["step"][name].scale / 64)}
    wrong = replace(good, scales={**good.scales, "step": spoilt})
    assert added_in_int8(copied, wrong) > 3 * added_in_int8(copied, good)


def test_the_bundle_after_it_is_whole(kept: Bundle, conditioned_bundle: Path) -> None:
    assert set(snapshot(kept.path)) == FILES
    for name, entry in kept.manifest.files.items():
        assert sha256_of((kept.path / name).read_bytes()) == entry.sha256
        expected = ("calibration", "int8") if name == "calibration.json" else tuple(name.removesuffix(".onnx").split("."))
        assert (entry.role, entry.precision) == expected
    before = load_bundle(conditioned_bundle)
    for role in ("context", "step"):
        assert kept.read(role) == before.read(role)
    assert kept.manifest.process == before.manifest.process
    assert kept.manifest.verification == before.manifest.verification
    assert json.loads((kept.path / MANIFEST).read_text())["format_version"] == FORMAT_VERSION


def test_calibrated_anew_is_as_calibrated_once(copied: Bundle) -> None:
    first, other = (calibrated(copied, calibration_keypoints(), schedules=((49, 20),), frames=frames) for frames in (2, 3))
    once = apply_calibration(copied, first)
    files = snapshot(once.path)
    thrice = apply_calibration(apply_calibration(once, other), first)
    assert snapshot(thrice.path) == files


def test_a_calibration_of_other_weights_changes_nothing(
    conditioned_bundle: Path, golden_bundle: Path, kept: Bundle, tmp_path: Path
) -> None:
    calibration = calibration_of(kept)
    for victim in (golden_bundle, kept.path):
        bundle = load_bundle(shutil.copytree(victim, tmp_path / victim.name))
        before = snapshot(tmp_path)
        # Another network, and the same one after more training.
        weights = calibration.weights if victim == golden_bundle else {**calibration.weights, "step": "0" * 64}
        with pytest.raises(CalibrationError, match="other weights than the"):
            apply_calibration(bundle, replace(calibration, weights=weights))
        assert snapshot(tmp_path) == before


def test_names_that_the_graph_lacks_change_nothing(kept: Bundle, tmp_path: Path) -> None:
    calibration = calibration_of(kept)
    bundle = load_bundle(shutil.copytree(kept.path, tmp_path / "bundle"))
    before = snapshot(tmp_path)
    how = calibration.scales["step"]["layer0.conv1"]
    more = replace(
        calibration, scales={**calibration.scales, "step": {"layer9.conv1": how}}, int8={"context": (), "step": ("layer9.conv1",)}
    )
    for other in (more, replace(calibration, fp32={"context": ("layer9.conv1",), "step": ()})):
        with pytest.raises(CalibrationError, match=r"layer9\.conv1"):
            apply_calibration(bundle, other)
        assert snapshot(tmp_path) == before


def test_a_calibration_goes_with_the_weights_to_another_batch(kept: Bundle, reshaped_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(shutil.copytree(reshaped_bundle, tmp_path / "bundle"))
    altered = apply_calibration(bundle, calibration_of(kept))
    assert calibration_of(altered) == calibration_of(kept)
    trial = Trial(altered, frames_to_use(calibration_keypoints(), 1, 8), (49, 20))
    added = {p: trial.added({role: altered.read(role, p) for role in ("context", "step")}).mean for p in LOWER_PRECISIONS}
    assert 0 < added["fp16"] < added["int8"] < 5  # untrained weights: INT8 costs them more than trained ones


def test_manifests_of_other_versions_are_refused(kept: Bundle) -> None:
    content = json.loads((kept.path / MANIFEST).read_text())
    for version in (1, FORMAT_VERSION - 1, FORMAT_VERSION + 1):
        content["format_version"] = version
        with pytest.raises(BundleError, match=f"format version {version}"):
            manifest_from_json(json.dumps(content))
    content["format_version"] = FORMAT_VERSION
    content["files"]["calibration.json"]["role"] = "calibrations"
    with pytest.raises(BundleError, match="unknown role"):
        manifest_from_json(json.dumps(content))


def test_a_damaged_calibration_is_found(kept: Bundle, copied: Bundle, tmp_path: Path) -> None:
    path = Path(shutil.copytree(kept.path, tmp_path / "damaged"))
    file = path / "calibration.json"
    file.write_bytes(file.read_bytes().replace(b'"scale": 0.0', b'"scale": 0.1', 1))
    with pytest.raises(BundleError, match=r"calibration\.json was altered"):
        load_bundle(path)
    file.unlink()
    with pytest.raises(BundleError, match=r"lacks the file calibration\.json"):
        load_bundle(path)
    with pytest.raises(CalibrationError, match="not calibrated yet"):
        calibration_of(copied)
    contents = {name: (e.role, e.precision, kept.read(e.role, e.precision)) for name, e in kept.manifest.files.items()}
    contents["calibration.json"] = ("calibration", "int8", b'{"format": "diffpose-edge-calibration", \xff}')
    with pytest.raises(CalibrationError, match="not JSON"):
        calibration_of(save_bundle(tmp_path / "hostile", kept.manifest, contents))


def test_a_video_encoder_keeps_its_last_temporal_block(calibrated_bundles: dict[str, Path]) -> None:
    for name in ("golden_video", "conditioned_video"):
        bundle = load_bundle(calibrated_bundles[name])
        assert calibration_of(bundle).fp32 == {"context": ("temporal1",), "step": ()}
        assert bundle.manifest.provenance["precision"]["fp16"]["context"]["fp32_nodes"]["kept by choice"] > 4


def test_an_encoder_of_next_to_no_work_stays_float32_as_a_whole(copied: Bundle) -> None:
    """Which it is once the default is to walk all fifty steps."""
    often = Bundle(copied.path, replace(copied.manifest, timesteps=tuple(range(49, -1, -1))))
    calibration = calibrated(often, calibration_keypoints(), **FEW)  # type: ignore[arg-type]
    altered = apply_calibration(often, calibration)
    assert calibration.fp32 == {"context": taps_of(copied.manifest, "context"), "step": ()}
    trial = Trial(altered, frames_to_use(calibration_keypoints(), 1, 4), (49,))
    context = trial.added({"context": altered.read("context", "fp16")}).mean
    assert 10 * context < trial.added({"step": altered.read("step", "fp16")}).mean


def test_the_shipped_keypoints_are_those_of_their_program(tmp_path: Path) -> None:
    calibration_set.main(tmp_path / "made.npz")
    made, shipped = load_keypoints(tmp_path / "made.npz"), calibration_keypoints()
    assert (len(made), len(shipped)) == (432, 662)
    np.testing.assert_allclose(shipped.uv[:432], made.uv, rtol=0, atol=REFERENCE_ABS)
    np.testing.assert_array_equal(shipped.confidence[:432] > 0, made.confidence > 0)


def test_mistakes_are_told(copied: Bundle) -> None:
    with pytest.raises(DiffPoseEdgeError, match="calibration method"):
        calibrated(copied, calibration_keypoints(), method="maximum")
    nobody = Keypoints(np.zeros((3, 17, 2), np.float32), np.zeros((3, 17), np.float32))
    with pytest.raises(KeypointError, match="no frame"):
        calibrated(copied, nobody)
