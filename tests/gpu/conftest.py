"""Tests that need an NVIDIA GPU. Without one they are skipped; with DIFFPOSE_REQUIRE_GPU=1 they fail instead.

``make test-gpu`` runs them alone; ``benchmarks/gpu.sh`` does so on a bare machine, and measures latency there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.engines import FLAVOURS
from diffpose_edge.errors import DiffPoseEdgeError, EngineError, ExportError
from diffpose_edge.extras import is_installed
from diffpose_edge.runtime.cuda import PROVIDERS, Cuda, open_cuda

REQUIRED = os.environ.get("DIFFPOSE_REQUIRE_GPU") == "1"
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("gpu")


def missing(what: str) -> None:
    """Skip, or fail where a GPU is required: a skipped test proves nothing."""
    if REQUIRED:
        pytest.fail(f"DIFFPOSE_REQUIRE_GPU=1, but {what}")
    pytest.skip(what)


@pytest.fixture(params=PROVIDERS)
def cuda(request: pytest.FixtureRequest) -> Iterator[Cuda]:
    """GPU 0 by each provider that is installed."""
    module = {"cuda-bindings": "cuda.bindings", "pycuda": "pycuda"}[request.param]
    if not is_installed(module) and request.param == "pycuda":
        pytest.skip("pycuda is not installed: it is a source package, and the other provider")
    try:
        opened = open_cuda(request.param)
    except DiffPoseEdgeError as err:
        missing(str(err))
        raise
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def gpu() -> str:
    """The GPU's name; whatever needs a GPU asks for this."""
    try:
        opened = open_cuda()
    except DiffPoseEdgeError as err:
        missing(str(err))
        raise
    opened.close()
    return opened.device.name


@pytest.fixture(scope="session")
def pair_bundle(gpu: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The frame pair that ships, P=1, N=5, in every precision."""
    return _calibrated("frame", tmp_path_factory.mktemp("gpu"))


@pytest.fixture(scope="session")
def video_bundle(gpu: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The video pair that ships, P=1, N=5, in every precision."""
    return _calibrated("video", tmp_path_factory.mktemp("gpu"))


def _calibrated(pair: str, folder: Path) -> Bundle:
    from diffpose_edge.calibration.calibrate import apply_calibration, calibrated
    from diffpose_edge.clips import calibration_keypoints, trained_pair
    from diffpose_edge.export import export_bundle

    bundle = export_bundle(*trained_pair(pair), folder / pair, samples=5).bundle
    # A few frames: how exact INT8 is, others tests say; here an engine has to agree with its own graph.
    frames = 8 * bundle.manifest.shape.F
    return apply_calibration(bundle, calibrated(bundle, calibration_keypoints(), schedules=(bundle.manifest.timesteps,), frames=frames))


@pytest.fixture(scope="session", params=list(FLAVOURS))
def flavour(request: pytest.FixtureRequest, gpu: str) -> str:
    """Each TensorRT that is installed. At least one has to be where a GPU is required."""
    name = str(request.param)
    if is_installed(FLAVOURS[name][0]):
        return name
    if any(is_installed(module) for module, _ in FLAVOURS.values()):
        pytest.skip(f"{FLAVOURS[name][1]} is not installed, another one is")
    missing("neither TensorRT nor TensorRT-RTX is installed")
    raise AssertionError


@pytest.fixture(scope="session")
def engines(pair_bundle: Bundle, video_bundle: Bundle, flavour: str, gpu: str) -> dict[str, Bundle]:
    """Both pairs with engines in every precision. A GPU that the flavour does not support is told with its own words."""
    from diffpose_edge.export.bundle_engines import build_engines
    from diffpose_edge.runtime.tensorrt_backend import tensorrt_backend

    bundles = {"frame": pair_bundle, "video": video_bundle}
    try:
        for bundle in bundles.values():
            for precision in ("fp32", "fp16", "int8"):
                build_engines(bundle, precision, flavour)
        tensorrt_backend(pair_bundle, "fp32", flavour=flavour).close()
    except (EngineError, ExportError) as refused:
        pytest.skip(f"{FLAVOURS[flavour][1]} refuses {gpu}: {refused}")
    return {name: load_bundle(bundle.path) for name, bundle in bundles.items()}
