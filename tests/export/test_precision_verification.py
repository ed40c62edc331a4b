"""FP16 and INT8 held against PyTorch: a report on each precision, recorded in the bundle, and planted faults found where they are."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.bundle_writing import save_bundle
from diffpose_edge.cli import main
from diffpose_edge.clips import street_walk
from diffpose_edge.comparison import AddedError, added_error, compare_relative
from diffpose_edge.export import precision_verification
from diffpose_edge.export.precision import INT8_CPU, LOWER_PRECISIONS
from diffpose_edge.export.precision_verification import PrecisionReport, compare_layers, lower_precisions_of
from diffpose_edge.export.verification import VerificationReport, verify_bundle
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.tolerances import FP16_LAYER_REL, FP16_POSE_MEAN_MM, FP16_POSE_WORST_MM, INT8_LAYER_REL, lower_pose_budget_mm

Change = Callable[[NDArray[Any]], NDArray[Any]]
Verified = Callable[[Bundle], VerificationReport]
EVERY = {*LOWER_PRECISIONS, INT8_CPU}


def clip_of(frames: int) -> Keypoints:
    clip = street_walk().keypoints
    seen = np.flatnonzero((clip.confidence > 0).all(axis=1))[:frames]
    return Keypoints(clip.uv[seen], clip.confidence[seen])


@pytest.fixture(scope="module")
def plain(calibrated_bundles: dict[str, Path]) -> Bundle:
    return load_bundle(calibrated_bundles["golden"])


@pytest.fixture(autouse=True)
def _wide_pose_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights suffer more than trained ones, which test_precision_shipped.py holds to the real budgets."""
    monkeypatch.setattr(
        precision_verification, "lower_pose_budget_mm", lambda precision, m: (10 * b for b in lower_pose_budget_mm(precision, m))
    )


@pytest.fixture
def verified(golden: SimpleNamespace) -> Verified:
    return lambda bundle: verify_bundle(bundle, golden.denoiser, golden.context, clip_of(4))


def spoilt(bundle: Bundle, out: Path, role: str, precision: str, ending: str, change: Change) -> Bundle:
    """A bundle with one constant of one graph changed, and hashes that agree with it."""
    contents = {name: (e.role, e.precision, bundle.read(e.role, e.precision)) for name, e in bundle.manifest.files.items()}
    model = onnx.load_model_from_string(bundle.read(role, precision))
    (tensor,) = (t for t in model.graph.initializer if t.name.endswith(ending))
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))
    contents[f"{role}.{precision}.onnx"] = (role, precision, model.SerializeToString())
    return save_bundle(out, bundle.manifest, contents)


def of(report: VerificationReport, precision: str) -> PrecisionReport:
    return next(p for p in report.precisions if p.precision == precision)


def failed(report: PrecisionReport) -> list[str]:
    """The layers that failed, inputs first: the report has each graph's outputs before its layers."""
    names = [c.name for c in report.layers if not c.passed]
    return sorted(names, key=lambda name: (name.split()[0], name.split()[1] in ("xyz", "x_next", "eps"), name.split()[1]))


# --- good graphs ---


def test_each_precision_is_reported(plain: Bundle, verified: Verified) -> None:
    report = verified(plain)
    assert report.passed
    assert tuple(p.precision for p in report.precisions) == lower_precisions_of(plain)
    assert set(lower_precisions_of(plain)) == EVERY
    for p in report.precisions:
        budget = FP16_LAYER_REL if p.precision == "fp16" else INT8_LAYER_REL
        assert {c.budget for c in p.layers} == {budget}
        assert {c.name for c in p.layers} >= {"context xyz", "context layer0.conv1", "step eps", "step layer1.out", "step x_next"}
        assert len(p.pose.drift) == len(report.timesteps) + 1
        assert 0 < p.pose.mean <= p.pose.p99 <= p.pose.worst
        assert (p.budget_worst == float("inf")) == (p.precision != "fp16")
    # INT8 is coarser than FP16, and its encoder is FP16's (but in the form for TensorRT 8, where it is float32).
    errors = {p.precision: {c.name: c.relative for c in p.layers} for p in report.precisions}
    assert errors["int8"]["step eps"] > 3 * errors["fp16"]["step eps"] > 0
    assert errors["int8"]["context xyz"] == errors["fp16"]["context xyz"] > 0
    assert errors["int8-trt8"]["context xyz"] == 0


def test_a_bundle_without_other_precisions_has_no_reports(golden_bundle: Path, verified: Verified) -> None:
    report = verified(load_bundle(golden_bundle))
    assert report.passed
    assert report.precisions == ()
    assert "precisions" in report.as_json()


def test_a_trained_kind_of_bundle_is_reported_as_well(calibrated_bundle: Path, conditioned_pair: tuple[Path, Path]) -> None:
    """Its weights are untrained and its schedule damps nothing: layers hold, the pose need not."""
    calibrated = load_bundle(calibrated_bundle)
    report = verify_bundle(calibrated, *conditioned_pair, clip_of(3), timesteps=(49, 24))
    assert all(c.passed for section in report.sections.values() for c in section)
    assert [(p.precision, failed(p)) for p in report.precisions] == [(precision, []) for precision in lower_precisions_of(calibrated)]


# --- planted faults ---


def test_a_wrong_weight_scale_is_found_at_its_layer(plain: Bundle, verified: Verified, tmp_path: Path) -> None:
    bundle = spoilt(plain, tmp_path / "spoilt", "step", "int8", "layer1.conv1/weight_scale", lambda scale: scale * np.float32(8))
    report = verified(bundle)
    assert not report.passed
    assert failed(of(report, "int8"))[0] == "step layer1.conv1"
    assert max(c.relative for c in of(report, "int8").layers) > 5 * INT8_LAYER_REL
    assert [of(report, other).passed for other in ("fp16", "int8-trt8", "int8-cpu")] == [True, True, True]
    assert all(c.passed for section in report.sections.values() for c in section)
    assert of(report, "int8").as_record()["passed"] is False


def test_a_wrong_scale_in_the_graph_for_the_cpu_is_found(plain: Bundle, verified: Verified, tmp_path: Path) -> None:
    report = verified(
        spoilt(plain, tmp_path / "spoilt", "step", "int8-cpu", "layers.1.conv1.weight/steps", lambda steps: steps * np.float32(8))
    )
    assert failed(of(report, "int8-cpu"))[0] == "step layer1.conv1"
    assert [of(report, other).passed for other in ("fp16", "int8", "int8-trt8")] == [True, True, True]


def test_a_constant_that_is_not_a_number_is_found(plain: Bundle, verified: Verified, tmp_path: Path) -> None:
    def spoil(bias: NDArray[Any]) -> NDArray[Any]:
        assert bias.dtype == np.float16
        return np.where(np.arange(len(bias)) == 7, np.float16(np.nan), bias)

    bundle = spoilt(plain, tmp_path / "spoilt", "context", "fp16", "layers.0.conv1.bias.fp16", spoil)
    report = verified(bundle)
    found = of(report, "fp16")
    assert not report.passed
    assert failed(found)[0] == "context layer0.conv1"
    assert found.pose.mean == found.pose.worst == float("inf")
    assert [of(report, other).passed for other in ("int8", "int8-trt8")] == [True, True]
    record = json.loads(json.dumps(report.as_record(), allow_nan=False))
    assert record["fp16"]["passed"] is False
    assert record["fp16"]["worst_mm"] is record["fp16"]["largest_layer_error"] is None


def test_a_pose_beyond_its_budget_fails_though_layers_pass() -> None:
    layer = compare_relative("step eps", np.array([1.001]), np.array([1.0]), FP16_LAYER_REL)
    good = PrecisionReport("fp16", (layer,), AddedError(0.4, 1.0, 2.0, (0, 0), (0.0,)), *lower_pose_budget_mm("fp16", 1.0))
    assert good.passed
    assert not replace(good, layers=(layer, replace(layer, passed=False))).passed
    for pose in ({"mean": FP16_POSE_MEAN_MM * 1.01}, {"worst": FP16_POSE_WORST_MM * 1.01}, {"mean": float("nan")}):
        assert not replace(good, pose=replace(good.pose, **pose)).passed  # type: ignore[arg-type]


# --- its parts ---


def model_of(nodes: list[onnx.NodeProto], constants: dict[str, float]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (3,))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (3,))],
        [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_layers_are_judged_by_their_worst_feed(order: tuple[int, ...]) -> None:
    exact = model_of([helper.make_node("Mul", ["x", "one"], ["h"]), helper.make_node("Neg", ["h"], ["y"])], {"one": 1})
    clip = model_of([helper.make_node("Clip", ["x", "low", "high"], ["h"]), helper.make_node("Neg", ["h"], ["y"])], {"low": -1, "high": 2})
    feeds = [{"x": np.array(values, np.float32)} for values in ([0.5, 0.25, 1.0], [0.0, -1.0, 8.0], [1.0, 2.0, 4.0])]
    found = {c.name: c for c in compare_layers("step", exact, clip, ("h",), [feeds[i] for i in order], 0.1)}
    assert set(found) == {"step h", "step y"}
    for comparison in found.values():
        assert (comparison.relative, comparison.where, comparison.passed) == (0.75, (2,), False)
    harmless = compare_layers("step", exact, clip, ("h",), feeds[:1], 0.1)
    assert [(c.relative, c.passed) for c in harmless] == [(0.0, True)] * 2


def test_added_error_by_hand() -> None:
    exact = np.zeros((3, 17, 3))
    exact[1] = np.nan  # nobody seen
    joints = exact.copy()
    joints[2, 4] = [0.003, 0.0, 0.004]
    states = np.zeros((2, 3, 2, 17, 5))
    moved = states.copy()
    moved[1, 0, ..., 2] = 0.002
    moved[1, :, ..., :2] = 9.0  # u and v are not metres
    moved[1, 1] = 5.0  # nor does it count where there is no pose
    error = added_error(joints, exact, moved, states)
    assert (error.worst, error.where) == (pytest.approx(5.0), (2, 4))
    assert error.mean == pytest.approx(5.0 / 34)
    assert error.p99 == pytest.approx(5.0)
    assert error.drift == (0.0, pytest.approx(1.0))
    joints[0, 0] = np.nan  # a pose that is missing where there should be one
    assert added_error(joints, exact, moved, states).worst == float("inf")
    assert added_error(joints, exact, moved, states).where == (0, 0)


# --- on the command line ---


def verify(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["diffpose-edge", "verify", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_verify_prints_and_records_every_precision(
    plain: Bundle,
    golden_bundle: Path,
    golden: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = Path(shutil.copytree(plain.path, tmp_path / "bundle"))
    np.savez(tmp_path / "clip.npz", keypoints=clip_of(3).uv)
    pair = ["--denoiser", golden.denoiser, "--context", golden.context, "--keypoints", tmp_path / "clip.npz"]
    assert verify(monkeypatch, bundle, *pair, "--json", tmp_path / "all.json") == 0
    shown = capsys.readouterr().out
    assert all(precision in shown for precision in EVERY)
    report = json.loads((tmp_path / "all.json").read_text())
    assert set(report["precisions"]) == EVERY
    loaded = load_bundle(bundle)
    recorded = loaded.manifest.verification["verify"]
    assert recorded["frames"] == 3
    for precision in EVERY:
        assert recorded[precision]["passed"] is True
        assert recorded[precision]["mean_mm"] == report["precisions"][precision]["mean_mm"] > 0
    assert replace(loaded.manifest, verification={}) == replace(plain.manifest, verification={})
    unrecorded = Path(shutil.copytree(golden_bundle, tmp_path / "unrecorded"))
    before = (unrecorded / "manifest.json").read_bytes()
    assert verify(monkeypatch, unrecorded, *pair, "--no-record") == 0
    assert (unrecorded / "manifest.json").read_bytes() == before
    # A bundle that is wrong exits with 1, and keeps that on record.
    wrong = spoilt(loaded, tmp_path / "wrong", "step", "int8", "layer0.conv1/weight_scale", lambda scale: scale * np.float32(8))
    assert verify(monkeypatch, wrong.path, *pair) == 1
    recorded = load_bundle(wrong.path).manifest.verification["verify"]
    assert (recorded["int8"]["passed"], recorded["int8"]["at_layer"], recorded["fp16"]["passed"]) == (False, "step layer0.conv1", True)
