"""Tests that need an NVIDIA GPU. Without one they are skipped; with DIFFPOSE_REQUIRE_GPU=1 they fail instead.

``make test-gpu`` runs them alone; ``benchmarks/gpu.sh`` does so on a bare machine, and measures latency there. Set besides:

- DIFFPOSE_GPU_BUNDLES: a folder with bundles by :mod:`diffpose_edge.benchmarks.shipped_bundles`, which keeps those it lacks;
- DIFFPOSE_FLAVOUR: which TensorRT is tested, tensorrt or rtx, where both are installed (the first that the GPU takes);
- DIFFPOSE_ENGINES_REFUSED=known: that every TensorRT refuses this GPU is known, and no failure. Its words are told all the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.engines import FLAVOURS
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.extras import is_installed
from diffpose_edge.runtime.cuda import PROVIDERS, Cuda, open_cuda

REQUIRED = os.environ.get("DIFFPOSE_REQUIRE_GPU") == "1"
BUNDLES = os.environ.get("DIFFPOSE_GPU_BUNDLES")
FLAVOUR = os.environ.get("DIFFPOSE_FLAVOUR")
REFUSAL_KNOWN = os.environ.get("DIFFPOSE_ENGINES_REFUSED") == "known"
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("gpu")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """A file that is skipped as a whole, for want of a package, proves nothing either: where a GPU is required, it fails."""
    report = yield
    if REQUIRED and report.outcome == "skipped":
        report.outcome, report.longrepr = "failed", f"DIFFPOSE_REQUIRE_GPU=1, but {report.longrepr[2]}"
    return report


def missing(what: str) -> NoReturn:
    """Skip, or fail where a GPU is required: a skipped test proves nothing."""
    if REQUIRED:
        pytest.fail(f"DIFFPOSE_REQUIRE_GPU=1, but {what}", pytrace=False)
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
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def gpu() -> str:
    """The GPU's name; whatever needs a GPU asks for this."""
    try:
        opened = open_cuda()
    except DiffPoseEdgeError as err:
        missing(str(err))
    opened.close()
    return opened.device.name


@pytest.fixture(scope="session")
def bundles(gpu: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that bundles are taken from, and kept in."""
    return Path(BUNDLES) if BUNDLES else tmp_path_factory.mktemp("gpu")


@pytest.fixture(scope="session")
def frame_bundle(bundles: Path) -> Bundle:
    """The frame pair that ships, P=1, N=5, in every precision."""
    from diffpose_edge.benchmarks.shipped_bundles import shipped_bundle

    return shipped_bundle("frame", 5, bundles)


@pytest.fixture(scope="session")
def video_bundle(bundles: Path) -> Bundle:
    """The video pair that ships, P=1, N=5, in every precision."""
    from diffpose_edge.benchmarks.shipped_bundles import shipped_bundle

    return shipped_bundle("video", 5, bundles)


@pytest.fixture(scope="session")
def flavour(gpu: str) -> str:
    """The TensorRT whose engines are tested. That the GPU takes none of those installed is told in their own words."""
    from diffpose_edge.benchmarks.engine_probe import refusals

    try:
        found = refusals()
    except DiffPoseEdgeError as err:
        missing(str(err))
    if not found:
        missing("neither TensorRT nor TensorRT-RTX is installed")
    if FLAVOUR is not None:
        if FLAVOUR not in found:
            missing(f"DIFFPOSE_FLAVOUR={FLAVOUR} is not installed")
        found = {FLAVOUR: found[FLAVOUR]}
    for name, refusal in found.items():
        if refusal is None:
            return name
    told = "; ".join(f"{FLAVOURS[name][1]} refuses {gpu}: {refusal}" for name, refusal in found.items())
    if REFUSAL_KNOWN:
        pytest.skip(f"engines: NOT TESTED: {told}")
    missing(f"engines: NOT TESTED: {told}")


@pytest.fixture(scope="session")
def frame_engines(flavour: str, frame_bundle: Bundle) -> Bundle:
    """The frame pair with engines in every precision. From here on a refusal is an error: the GPU takes this flavour."""
    return _with_engines(frame_bundle, flavour)


@pytest.fixture(scope="session")
def video_engines(flavour: str, video_bundle: Bundle) -> Bundle:
    """The video pair with engines in every precision."""
    return _with_engines(video_bundle, flavour)


def _with_engines(bundle: Bundle, flavour: str) -> Bundle:
    from diffpose_edge.export.bundle_engines import build_engines

    for precision in ("fp32", "fp16", "int8"):
        build_engines(bundle, precision, flavour)
    return load_bundle(bundle.path)
