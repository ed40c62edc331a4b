"""The commands on good input: a small pair exported, inspected, run and verified as a user does it."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import diffpose_edge
from diffpose_edge.cli import doctor
from diffpose_edge.comparison import compare_poses
from diffpose_edge.extras import is_installed
from diffpose_edge.jetson import JetsonInfo, jetson_info
from diffpose_edge.keypoints import denormalise, load_keypoints
from diffpose_edge.reference.random_weights import write_random_pair
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.tolerances import FP32_STATE_REL, REFERENCE_ABS, pose_budget_mm

from .conftest import Run

DOCUMENTED = {
    "joints": (17, 3),
    "context": (17, 3),
    "samples": (3, 17, 3),
    "covariance": (17, 3, 3),
    "observed": (17,),
    "out_of_range": (),
    "non_finite": (),
}
YES_OR_NO = ("observed", "out_of_range", "non_finite")
TIMES = {"call_ms": (), "call_frames": (), "step_ms": (2,)}


@pytest.fixture
def pair(golden: Any) -> list[object]:
    return ["--denoiser", golden.denoiser, "--context", golden.context]


@pytest.fixture
def estimated(cli: Run, golden_bundle: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Write a clip, run the golden bundle on it, and return the arrays of the result."""

    def run(clip: dict[str, Any], *options: object, bundle: Path = golden_bundle) -> dict[str, Any]:
        np.savez(tmp_path / "clip.npz", **clip)
        cli("run", bundle, "--keypoints", tmp_path / "clip.npz", "--out", tmp_path / "poses.npz", *options)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.npz", "poses.npz"]
        with np.load(tmp_path / "poses.npz", allow_pickle=False) as content:
            return dict(content)

    return run


def test_export_then_inspect(cli, pair, tmp_path):
    bundle = tmp_path / "bundle"
    done = cli("export", *pair, "--out", bundle, "--persons", 1, "--samples", 2, "--timesteps", "40,20,0")
    assert f"wrote {bundle}" in done.out
    graphs = [f"{role}.{kind}.onnx" for role in ("context", "step") for kind in ("fp32", "fp32-cpu")]
    assert sorted(path.name for path in bundle.iterdir()) == sorted(["manifest.json", *graphs])
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    shown = cli("inspect", bundle).out
    manifest = json.loads((bundle / "manifest.json").read_text())
    for text in ("32 wide, 2 layers, 4 heads", "P=1", "N=2", "F=1", "T=51", "40, 20, 0", "tiny_diffpose_uvxyz.pth", "tiny_gcn_xyz.pth"):
        assert text in shown
    for name, entry in manifest["files"].items():
        assert name in shown
        assert entry["sha256"][:16] in shown
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == entry["sha256"]


@pytest.mark.parametrize("name", ["bundle", "link"])
def test_force_replaces_a_bundle_whole(cli, pair, golden_bundle, tmp_path, name):
    bundle = Path(shutil.copytree(golden_bundle, tmp_path / "bundle"))
    (bundle / "leftover.txt").write_text("of the older bundle")
    (bundle / "manifest.json.sig").write_bytes(bytes(64))
    (tmp_path / "link").symlink_to("bundle")
    told = cli("export", *pair, "--out", tmp_path / name, "--samples", 4, "--force").err
    assert "its signature is removed" in told
    assert not (bundle / "manifest.json.sig").exists()
    assert "N=4" in cli("inspect", tmp_path / name).out
    assert not (bundle / "leftover.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "link"]
    assert (tmp_path / "link").is_symlink()


def test_run_writes_the_documented_arrays_and_the_runtimes_own_numbers(estimated, golden, golden_bundle):
    uv = golden.expected["input_2d"]
    found = estimated({"keypoints": uv})
    assert {name: array.shape for name, array in found.items()} == {name: (3, *shape) for name, shape in {**DOCUMENTED, **TIMES}.items()}
    assert {name: found[name].dtype.name for name in DOCUMENTED} == {n: "bool" if n in YES_OR_NO else "float32" for n in DOCUMENTED}
    # The bundle takes two at a time: the third frame has a call of its own.
    np.testing.assert_array_equal(found["call_frames"], [2, 2, 1])
    assert found["call_ms"][0] == found["call_ms"][1] != found["call_ms"][2]
    assert (found["step_ms"] > 0).all()
    assert (found["call_ms"] >= found["step_ms"].sum(axis=1)).all()
    assert found["observed"].all()
    with PoseRuntime.load(golden_bundle) as runtime:
        own = runtime.estimate(uv)
    for name in DOCUMENTED:
        np.testing.assert_array_equal(found[name], getattr(own, name))


@pytest.mark.parametrize("schedule", ["ddim_T24_K2", "ddim_T50_K5", "ddim_T50_K50", "ddim_T6_K1"])
def test_run_gives_the_authors_poses(estimated, golden, schedule):
    timesteps = ",".join(map(str, golden.expected[f"{schedule}_timesteps"]))
    found = estimated({"keypoints": golden.expected["input_2d"]}, "--timesteps", timesteps)
    expected = golden.expected[f"{schedule}_pose"]
    # The authors' numbers are REFERENCE_ABS away from PyTorch's here, and the graphs a pose budget from those.
    budget = pose_budget_mm(float(np.abs(expected).max())) + REFERENCE_ABS * 1000
    comparison = compare_poses("joints", found["joints"], expected, budget)
    assert comparison.passed, comparison


def test_run_takes_pixels_with_the_image_size(estimated, golden):
    uv, size = golden.expected["input_2d"], (1000, 1002)
    normalised = estimated({"keypoints": uv})
    pixels = estimated({"keypoints": denormalise(uv, size), "image_size": np.array(size)})
    # Pixels are read in float64 and normalised back: equal to within one rounding to float32.
    np.testing.assert_allclose(pixels["joints"], normalised["joints"], rtol=0, atol=REFERENCE_ABS)


def test_run_reads_the_confidence_as_third_number(estimated, golden):
    keypoints = np.concatenate([golden.expected["input_2d"], np.ones((3, 17, 1), np.float32)], axis=-1)
    keypoints[1, 16] = np.nan, np.nan, 0.0
    keypoints[2, :9, 2] = 0.0
    found = estimated({"keypoints": keypoints})
    np.testing.assert_array_equal(found["observed"], keypoints[..., 2] > 0)
    np.testing.assert_array_equal(found["joints"][0], estimated({"keypoints": golden.expected["input_2d"]})["joints"][0])
    assert np.isfinite(found["joints"][1]).all()
    assert np.isnan(found["joints"][2]).all()
    separate = estimated({"keypoints": keypoints[..., :2], "confidence": keypoints[..., 2]})
    np.testing.assert_array_equal(separate["joints"], found["joints"])


def test_run_with_trace_writes_every_state(estimated, golden):
    uv = golden.expected["input_2d"]
    found = estimated({"keypoints": uv}, "--trace", "--timesteps", "12,6,0")
    trajectory = found["trajectory"]
    assert (trajectory.shape, trajectory.dtype.name) == ((3, 4, 3, 17, 5), "float32")
    np.testing.assert_array_equal(trajectory[:, 0, :, :, :2], np.broadcast_to(uv[:, None], (3, 3, 17, 2)))
    last = trajectory[:, -1, :, :, 2:]
    np.testing.assert_array_equal(last - last[..., :1, :], found["samples"])
    released = estimated({"keypoints": uv}, "--trace")["trajectory"]
    expected = np.moveaxis(golden.expected["ddim_T24_K2_x"], 0, 1)
    np.testing.assert_allclose(released[:, :, 0], expected, rtol=0, atol=REFERENCE_ABS + FP32_STATE_REL * np.abs(expected).max())


def test_noised_mode_is_reproducible_by_its_seed(estimated, golden):
    first, again, other = (estimated({"keypoints": golden.expected["input_2d"]}, "--mode", "noised", "--seed", seed) for seed in (3, 3, 4))
    for name in DOCUMENTED:
        np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first["joints"], other["joints"])
    assert first["samples"].std(axis=1).max() > 0


def test_verify_passes_and_reports(cli, pair, golden_bundle, tmp_path):
    bundle = Path(shutil.copytree(golden_bundle, tmp_path / "bundle"))
    done = cli("verify", bundle, *pair, "--json", tmp_path / "report.json")
    assert "PASSED" in done.out
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["passed"], report["same_checkpoints"], report["timesteps"]) == (True, True, [12, 0])
    kinds = ("context graph", "step graph", "steps", "pose")
    assert set(report["sections"]) == {f"{kind}{which}" for kind in kinds for which in ("", " for the CPU")}
    comparisons = [c for section in report["sections"].values() for c in section]
    assert all(c["passed"] and 0 <= c["measured"] <= c["budget"] for c in comparisons)
    everything = cli("verify", bundle, *pair, "--all").out
    missing = [c["name"] for c in comparisons if c["name"] not in everything]
    assert not missing
    assert len(everything.splitlines()) > len(done.out.splitlines())


def test_verify_against_other_weights_fails(cli, golden_bundle, tmp_path):
    bundle = Path(shutil.copytree(golden_bundle, tmp_path / "bundle"))
    denoiser, context = write_random_pair(tmp_path, seed=1, hidden=32, layers=2)
    done = cli("verify", bundle, "--denoiser", denoiser, "--context", context, "--json", tmp_path / "report.json", status=1)
    assert "FAILED" in done.out
    assert "PASSED" not in done.out
    assert "not the checkpoint files" in done.err
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["passed"], report["same_checkpoints"]) == (False, False)


def test_verify_names_the_first_layer_that_is_off(cli, pair, golden, golden_bundle, tmp_path):
    bundle = Path(shutil.copytree(golden_bundle, tmp_path / "bundle"))
    model = onnx.load(bundle / "step.fp32.onnx")
    [weight] = [tensor for tensor in model.graph.initializer if tensor.name.endswith("layers.1.adjacency.w2")]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.001), weight.name))
    content = model.SerializeToString()
    (bundle / "step.fp32.onnx").write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["step.fp32.onnx"].update(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    done = cli("verify", bundle, *pair, "--json", tmp_path / "report.json", status=1)
    steps = json.loads((tmp_path / "report.json").read_text())["sections"]["step graph"]
    assert next(c["name"] for c in steps if not c["passed"]) == "step t=12 layer1.adjacency"
    [first, *_] = [line for line in done.out.splitlines() if "FAILED" in line]
    assert "step t=12 layer1.adjacency" in first


def test_video_encoder_through_export_run_and_verify(cli, golden, estimated, tmp_path_factory):
    bundle = tmp_path_factory.mktemp("video") / "bundle"
    pair = ["--denoiser", golden.denoiser, "--context", golden.mixste]
    cli("export", *pair, "--out", bundle, "--video-heads", 4, "--persons", 2, "--samples", 3)
    assert "video: 9 frames, 32 wide, depth 2, 4 heads, mirror-averaged" in cli("inspect", bundle).out
    # 13 frames: one window and a part of a second.
    uv = np.concatenate([golden.mixste_expected["input_2d"][0], golden.mixste_expected["input_2d"][1, :4]])
    found = estimated({"keypoints": uv}, bundle=bundle)
    assert {name: found[name].shape for name in DOCUMENTED} == {name: (13, *shape) for name, shape in DOCUMENTED.items()}
    np.savez(bundle.parent / "clip.npz", keypoints=uv)
    with PoseRuntime.load(bundle) as runtime:
        own = list(runtime.estimate_clip(load_keypoints(bundle.parent / "clip.npz")))
    np.testing.assert_array_equal(found["joints"], np.concatenate([estimate.joints for estimate in own]))
    assert "PASSED" in cli("verify", bundle, *pair, "--keypoints", bundle.parent / "clip.npz").out


def test_doctor_says_what_this_machine_can_do(cli):
    shown = cli("doctor").out
    for text in (diffpose_edge.__version__, "onnxruntime", "torch", "run bundles on the CPU", "export and verify", "TensorRT"):
        assert text in shown
    for module in ("tensorrt", "tensorrt_rtx", "cuda.bindings", "pycuda"):
        assert f" {module} " in shown
    assert ("power mode" in shown) == (jetson_info() is not None)


@pytest.mark.parametrize(
    ("found", "run", "build"),
    [
        ("", "NVIDIA driver, tensorrt or tensorrt_rtx, cuda.bindings or pycuda", "tensorrt or tensorrt_rtx, NVIDIA driver or tensorrt_rtx"),
        ("tensorrt cuda.bindings", "NVIDIA driver", "NVIDIA driver or tensorrt_rtx"),
        ("tensorrt_rtx pycuda", "NVIDIA driver", None),
        ("driver tensorrt", "cuda.bindings or pycuda", None),
        ("driver tensorrt_rtx cuda.bindings", None, None),
        ("driver tensorrt pycuda", None, None),
        ("driver cuda.bindings", "tensorrt or tensorrt_rtx", "tensorrt or tensorrt_rtx"),
    ],
)
def test_doctor_says_whether_engines_can_be_run_and_built(cli, monkeypatch, found, run, build):
    """``run`` and ``build``: what doctor says is missing, None when nothing is. onnx and polygraphy are there in all cases."""
    monkeypatch.setattr(doctor, "is_installed", lambda module: module in [*found.split(), "onnx", "polygraphy"])
    monkeypatch.setattr(doctor, "driver_found", lambda: "driver" in found.split())
    lines = cli("doctor").out.splitlines()
    for ability, missing in (("run TensorRT engines", run), ("build TensorRT engines", build)):
        [line] = [line for line in lines if line[4:].startswith(ability)]
        assert line == (f"yes {ability}" if missing is None else f"no  {ability} (missing: {missing})")


def test_doctor_says_yes_to_building_without_pytorch_but_not_without_the_builders_packages(cli, monkeypatch):
    monkeypatch.setattr(doctor, "is_installed", lambda module: module not in ("torch", "polygraphy"))
    monkeypatch.setattr(doctor, "driver_found", lambda: True)
    shown = cli("doctor").out
    assert "yes run TensorRT engines" in shown
    assert "no  build TensorRT engines (missing: polygraphy)" in shown


def test_doctor_imports_nothing_of_cuda_or_tensorrt(cli, monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx", "cuda.bindings.driver", "cuda.bindings.runtime", "pycuda.driver", "pycuda.autoinit"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    cli("doctor")
    assert not {"tensorrt", "tensorrt_rtx", "cuda.bindings.driver", "cuda.bindings.runtime", "pycuda.driver"} & set(sys.modules)


@pytest.mark.parametrize("parent", [None, SimpleNamespace()])
def test_a_part_of_a_package_that_is_not_there_is_not_installed(monkeypatch, parent):
    """Python refuses to look for cuda.bindings where there is no cuda, or where cuda is a module of somebody else's."""
    monkeypatch.delitem(sys.modules, "cuda.bindings", raising=False)
    monkeypatch.setitem(sys.modules, "cuda", parent)
    assert not is_installed("cuda.bindings")
    assert not is_installed("no_such_package.bindings")


ORIN = JetsonInfo("NVIDIA Jetson Orin Nano [Super]", "36.4.3", "6.2", 0, "15W", (2, "MAXN_SUPER"), True, False)


def test_doctor_on_a_jetson_shows_its_power_and_clocks_with_the_commands(cli, monkeypatch):
    monkeypatch.setattr(doctor, "jetson_info", lambda: ORIN)
    shown = cli("doctor").out
    for text in ("NVIDIA Jetson Orin Nano [Super]", "36.4.3 (JetPack 6.2)", "0 (15W)", "sudo nvpmodel -m 2 (MAXN_SUPER, the fastest)"):
        assert text in shown
    assert "CPU locked, GPU not locked" in shown
    assert "sudo jetson_clocks" in shown


def test_doctor_on_a_jetson_that_runs_at_its_fastest_has_nothing_to_change(cli, monkeypatch):
    fastest = replace(ORIN, power_mode=2, power_name="MAXN_SUPER", gpu_locked=True)
    monkeypatch.setattr(doctor, "jetson_info", lambda: fastest)
    shown = cli("doctor").out
    assert "2 (MAXN_SUPER)" in shown
    assert "CPU locked, GPU locked" in shown
    assert "sudo nvpmodel" not in shown
    assert "sudo jetson_clocks" not in shown


def test_doctor_on_a_jetson_of_which_nothing_can_be_read(cli, monkeypatch):
    monkeypatch.setattr(doctor, "jetson_info", lambda: JetsonInfo(None, "99.1.0", None, None, None, None, None, None))
    monkeypatch.setattr(doctor, "is_installed", lambda module: False)
    shown = cli("doctor").out
    for text in ("99.1.0 (JetPack unknown)", "sudo nvpmodel -q", "CPU unknown, GPU unknown", "pip install cuda-bindings "):
        assert text in shown


@pytest.mark.parametrize(("jetpack", "wanted"), [("5.1.3", "11"), ("6.2", "12"), ("7", "13")])
def test_doctor_on_a_jetson_names_the_packages_that_fit_jetpack(cli, monkeypatch, jetpack, wanted):
    monkeypatch.setattr(doctor, "jetson_info", lambda: replace(ORIN, jetpack=jetpack))
    monkeypatch.setattr(doctor, "is_installed", lambda module: False)
    shown = cli("doctor").out
    assert f"pip install 'cuda-bindings=={wanted}.*'" in shown
    assert "apt install python3-libnvinfer" in shown
    assert "pip install tensorrt" not in shown


@pytest.mark.parametrize(
    ("installed", "fits"), [("12.9.10", True), ("11.8.7", True), ("13.0.0", False), ("installed under another name", True)]
)
def test_doctor_on_a_jetson_warns_of_bindings_that_are_newer_than_the_driver(cli, monkeypatch, installed, fits):
    monkeypatch.setattr(doctor, "jetson_info", lambda: ORIN)
    monkeypatch.setattr(doctor, "is_installed", lambda module: True)
    monkeypatch.setattr(doctor, "_version_of", lambda distribution: installed)
    assert ("driver is of CUDA 12" not in cli("doctor").out) == fits


def test_version(cli):
    assert cli("--version").out == f"diffpose-edge {diffpose_edge.__version__}\n"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("export", "denoiser context out heads video-heads mirror no-mirror persons samples timesteps force"),
        ("run", "keypoints out timesteps seed mode trace threads backend"),
        ("verify", "denoiser context keypoints timesteps json all"),
        ("inspect", ""),
        ("doctor", ""),
        ("demo", "out"),
    ],
)
def test_help_mentions_every_option(cli, monkeypatch, command, options):
    monkeypatch.setenv("COLUMNS", "200")
    assert command in cli("--help").out
    shown = re.sub(r"\x1b\[[0-9;]*m", "", cli(command, "--help").out)
    assert f"diffpose-edge {command}" in shown
    missing = [option for option in options.split() if f"--{option}" not in shown]
    assert not missing


def test_python_m_works(golden_bundle):
    done = subprocess.run([sys.executable, "-m", "diffpose_edge", "inspect", golden_bundle], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "32 wide" in done.stdout


def test_backend_auto_tells_why_it_runs_on_the_cpu(cli: Run, golden_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffpose_edge.runtime.cuda.driver_found", lambda: False)
    np.savez(tmp_path / "clip.npz", keypoints=np.random.default_rng(0).uniform(-0.5, 0.5, (3, 17, 2)))
    arguments = ("run", golden_bundle, "--keypoints", tmp_path / "clip.npz", "--out", tmp_path / "poses.npz")
    told = cli(*arguments, "--backend", "auto").err
    assert "info: running on the CPU: no NVIDIA driver found" in " ".join(told.split())
    assert "running on the CPU" not in cli(*arguments).err
    assert not logging.getLogger("diffpose_edge").handlers, "what was put there for a command is gone after it"
