"""What a robot does not need is not loaded: no PyTorch, no onnx, no command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import diffpose_edge

CHECKOUT = Path(diffpose_edge.__file__).resolve().parent.parent

UNWANTED = (
    "torch",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "typer",
    "rich",
    "matplotlib",
    "PIL",
    "safetensors",
    "sklearn",
    "scipy",
    "diffpose_edge.cli",
    "diffpose_edge.drawing",
    "diffpose_edge.export",
    "diffpose_edge.reference",
    "diffpose_edge.calibration",
    "diffpose_edge.benchmarks",
)

RUN_A_BUNDLE = """
import sys, json
import numpy as np
from diffpose_edge.runtime import PoseRuntime, PoseStream
with PoseRuntime.load(sys.argv[1], threads=1) as runtime:
    shape = runtime.bundle.manifest.shape
    window = (17, 2) if shape.F == 1 else (shape.F, 17, 2)
    modes = ("released", "noised") if runtime.bundle.manifest.process.kind == "released" else ("distribution",)
    for mode in modes:
        keypoints = np.random.default_rng(0).uniform(-1, 1, (3, *window))
        estimate = runtime.estimate(keypoints, seed=0, timesteps=(6, 0), mode=mode, trace=True)
        assert np.isfinite(estimate.joints).all()
    if shape.F > 1 or runtime.bundle.manifest.causal is not None:
        with runtime.stream(seed=0) as stream:
            assert np.isfinite(stream.push(np.random.default_rng(0).uniform(-1, 1, (17, 2))).joints).all()
    with PoseStream(runtime, tracking=None) as stream:
        stream.push(np.random.default_rng(0).uniform(-1, 1, (1, 17, 2)), 0, [5])
        assert stream.get(60)[0].found
print(json.dumps(sorted(sys.modules)))
"""


def _python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60).stdout


def _unwanted(modules: list[str]) -> list[str]:
    return [name for name in UNWANTED if name in modules]


def test_importing_the_runtime_loads_neither_tools_nor_a_backend() -> None:
    modules = json.loads(_python("import sys, json, diffpose_edge.runtime; print(json.dumps(sorted(sys.modules)))"))
    assert "diffpose_edge.runtime.pose_runtime" in modules
    assert _unwanted(modules) == []
    assert "onnxruntime" not in modules


def test_importing_the_shared_vocabulary_needs_numpy_alone() -> None:
    names = (
        "atomic", "bones", "bundle", "causal_io", "clips", "comparison", "distribution", "evaluation", "heatmaps", "keypoints", "layouts",
        "manifest", "metrics", "mixtures", "person", "schedule", "scoring", "skeleton", "tolerances", "uncertainty",
    )  # fmt: skip
    code = f"import sys, json; [__import__('diffpose_edge.' + name) for name in {names}]; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(_python(code))
    assert [name for name in (*UNWANTED, "onnxruntime", "diffpose_edge.runtime") if name in modules] == []


def test_loading_and_running_a_frame_bundle_loads_no_tools(golden_bundle: Path) -> None:
    modules = json.loads(_python(RUN_A_BUNDLE, str(golden_bundle)))
    assert "onnxruntime" in modules
    assert _unwanted(modules) == []


def test_loading_and_running_a_video_bundle_loads_no_tools(golden_video_bundle: Path) -> None:
    assert _unwanted(json.loads(_python(RUN_A_BUNDLE, str(golden_video_bundle)))) == []


def test_the_distribution_mode_loads_no_tools(conditioned_bundle: Path) -> None:
    assert _unwanted(json.loads(_python(RUN_A_BUNDLE, str(conditioned_bundle)))) == []


def test_a_causal_encoder_loads_no_tools(causal_bundle: Path) -> None:
    assert _unwanted(json.loads(_python(RUN_A_BUNDLE, str(causal_bundle)))) == []


NO_PYTORCH = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnxscript", "onnx_ir", "safetensors"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
"""


def test_the_gpu_backend_loads_no_other_backend_and_initialises_nothing() -> None:
    modules = "device_backend, tensorrt_backend, tensorrt_engine, cuda, cuda_bindings"
    code = f"import sys, json; from diffpose_edge.runtime import {modules}; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(_python(code))
    assert not _unwanted(loaded)
    assert not {"onnxruntime", "tensorrt", "tensorrt_rtx", "polygraphy"} & set(loaded)


def test_engines_are_built_without_pytorch(calibrated_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(calibrated_bundle, tmp_path / "bundle")
    code = f"{NO_PYTORCH}\nfrom diffpose_edge.cli import main\nmain()"
    out = _python(code, "build", str(bundle), "--precision", "fp16", "--flavour", "rtx")
    assert "step.fp16.engine" in out
    assert len(list((bundle / "engines").rglob("*.engine"))) == 3
