"""Shared fixtures: golden data in the released formats, and small bundles exported once for the whole run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

try:
    import hypothesis
except ImportError:  # the GPU suite, which needs none, also runs where little is installed
    hypothesis = None

DATA = Path(__file__).parent / "data"

# Each of pytest-xdist's workers keeps to a core of its own, with what it starts: two that use both cores get in each other's way.
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

# On CI the same examples every time: a change is judged by what it changed. At a desk new ones, to find what is left.
if hypothesis is not None:
    hypothesis.settings.register_profile("ci", derandomize=True)
    if os.environ.get("CI"):
        hypothesis.settings.load_profile("ci")


@pytest.fixture(scope="session")
def golden() -> SimpleNamespace:
    """Checkpoints 32 wide, 2 layers, and what the authors' implementation computes from them; see tests/data/README.md."""
    return SimpleNamespace(
        denoiser=DATA / "tiny_diffpose_uvxyz.pth",
        context=DATA / "tiny_gcn_xyz.pth",
        mixste=DATA / "tiny_mixste.bin",
        expected=dict(np.load(DATA / "tiny_expected.npz")),
        mixste_expected=dict(np.load(DATA / "tiny_mixste_expected.npz")),
        schedules=("ddim_T24_K2", "ddim_T50_K5", "ddim_T50_K50", "ddim_T6_K1"),
    )


@pytest.fixture(scope="session")
def golden_bundle(golden: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the golden frame pair with P=2, N=3. Read only: copy it before altering it."""
    from diffpose_edge.export import export_bundle

    out = tmp_path_factory.mktemp("bundles") / "golden"
    export_bundle(golden.denoiser, golden.context, out, persons=2, samples=3)
    return out


@pytest.fixture(scope="session")
def golden_video_bundle(golden: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the golden denoiser with the golden MixSTE (9 frames), P=2, N=2, mirror-averaged. Read only."""
    from diffpose_edge.export import export_bundle

    out = tmp_path_factory.mktemp("bundles") / "golden_video"
    export_bundle(golden.denoiser, golden.mixste, out, persons=2, samples=2, video_heads=4)
    return out


@pytest.fixture(scope="session")
def random_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An untrained pair of the released size, 96 wide and 5 layers, every parameter drawn anew."""
    from diffpose_edge.reference.random_weights import write_random_pair

    return write_random_pair(tmp_path_factory.mktemp("checkpoints"), seed=7)


@pytest.fixture(scope="session")
def conditioned_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An untrained conditioned frame pair, 16 wide: denoiser and context encoder."""
    from diffpose_edge.reference.random_weights import write_random_conditioned_pair

    return write_random_conditioned_pair(tmp_path_factory.mktemp("checkpoints"), seed=3)


@pytest.fixture(scope="session")
def conditioned_video_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An untrained conditioned video pair over 5 frames, 16 wide."""
    from diffpose_edge.reference.random_weights import write_random_conditioned_pair

    return write_random_conditioned_pair(tmp_path_factory.mktemp("checkpoints"), seed=5, frames=5)


@pytest.fixture(scope="session")
def conditioned_bundle(conditioned_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the conditioned frame pair with P=2, N=3. Read only."""
    from diffpose_edge.export import export_bundle

    out = tmp_path_factory.mktemp("bundles") / "conditioned"
    export_bundle(*conditioned_pair, out, persons=2, samples=3)
    return out


@pytest.fixture(scope="session")
def conditioned_video_bundle(conditioned_video_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the conditioned video pair with P=2, N=3. Read only."""
    from diffpose_edge.export import export_bundle

    out = tmp_path_factory.mktemp("bundles") / "conditioned_video"
    export_bundle(*conditioned_video_pair, out, persons=2, samples=3)
    return out


@pytest.fixture(scope="session")
def causal_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An untrained conditioned pair with a causal encoder: 4 frames in each of 2 layers, 16 wide."""
    from diffpose_edge.reference.random_weights import write_random_conditioned_pair

    return write_random_conditioned_pair(tmp_path_factory.mktemp("checkpoints"), seed=9, frames=4, causal=True)


@pytest.fixture(scope="session")
def causal_bundle(causal_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the causal pair with P=2, N=3. Read only."""
    from diffpose_edge.export import export_bundle

    out = tmp_path_factory.mktemp("bundles") / "causal"
    export_bundle(*causal_pair, out, persons=2, samples=3)
    return out


def _calibrated(bundle: Path, out: Path, frames: int, *, all_timesteps: bool = False) -> Path:
    from diffpose_edge.bundle import load_bundle
    from diffpose_edge.calibration.calibrate import apply_calibration, calibrated
    from diffpose_edge.clips import calibration_keypoints

    loaded = load_bundle(Path(shutil.copytree(bundle, out)))
    schedules = None if all_timesteps else (loaded.manifest.timesteps,)
    apply_calibration(loaded, calibrated(loaded, calibration_keypoints(), schedules=schedules, frames=frames))
    return out


@pytest.fixture(scope="session")
def calibrated_bundle(conditioned_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The conditioned bundle with FP16 and INT8 graphs, calibrated on 8 frames that ship, over all timesteps. Read only."""
    return _calibrated(conditioned_bundle, tmp_path_factory.mktemp("calibrated") / "conditioned", frames=8, all_timesteps=True)


@pytest.fixture(scope="session")
def calibrated_bundles(
    calibrated_bundle: Path,
    golden_bundle: Path,
    golden_video_bundle: Path,
    conditioned_video_bundle: Path,
    causal_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Every kind of bundle with FP16 and INT8 graphs, calibrated on a few frames, by name. Read only."""
    out = tmp_path_factory.mktemp("calibrated")
    return {
        "golden": _calibrated(golden_bundle, out / "golden", frames=4),
        "golden_video": _calibrated(golden_video_bundle, out / "golden_video", frames=9),
        "conditioned": calibrated_bundle,
        "conditioned_video": _calibrated(conditioned_video_bundle, out / "conditioned_video", frames=10),
        "causal": _calibrated(causal_bundle, out / "causal", frames=12),
    }


@pytest.fixture(scope="session")
def reshaped_bundle(conditioned_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the conditioned frame pair with P=1, N=2. Read only."""
    from diffpose_edge.export import export_bundle

    out = tmp_path_factory.mktemp("bundles") / "reshaped"
    export_bundle(*conditioned_pair, out, persons=1, samples=2)
    return out
