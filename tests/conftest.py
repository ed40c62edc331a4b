"""Shared fixtures: golden data in the released formats, and small bundles exported once for the whole run."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

try:
    import hypothesis
except ImportError:  # the GPU suite, which needs none, also runs where little is installed
    hypothesis = None

DATA = Path(__file__).parent / "data"

# What the tests break on purpose is no news for whoever's machine this is; the tests of crash reports name a folder of their own.
os.environ["DIFFPOSE_CRASH_REPORTS"] = "off"

# Each of pytest-xdist's workers keeps to a core of its own, with what it starts: two that use both cores get in each other's way.
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

# On CI the same examples every time: a change is judged by what it changed. At a desk new ones, to find what is left.
if hypothesis is not None:
    hypothesis.settings.register_profile("ci", derandomize=True)
    if os.environ.get("CI"):
        hypothesis.settings.load_profile("ci")


def shared(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return what `make` writes at the path that it is given, made once for all of pytest-xdist's workers: by the first that asks.

    Another that asks meanwhile waits. A run's folder is its own, so nothing of an earlier run is met.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / f"{name}.made").exists():  # after a failed attempt the next one says why, too
            shutil.rmtree(folder / name, ignore_errors=True)
            make(folder / name)
            (folder / f"{name}.made").touch()
    _SHARED.setdefault(folder / name, _state_of(folder / name))
    return folder / name


# What the tests share, as each worker found it.
_SHARED: dict[Path, dict[str, tuple[int, int]]] = {}


def _state_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def _what_is_shared_stays_as_it_is() -> Iterator[None]:
    """A test that writes into what others read makes them pass or fail by the order they are run in; it fails itself."""
    yield
    altered = [folder for folder, found in _SHARED.items() if _state_of(folder) != found]
    for folder in altered:
        _SHARED[folder] = _state_of(folder)
    assert not altered, f"{altered[0].name} is shared by all tests and was altered; copy it first"


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

    return shared(tmp_path_factory, "golden", lambda out: export_bundle(golden.denoiser, golden.context, out, persons=2, samples=3))


@pytest.fixture(scope="session")
def golden_video_bundle(golden: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the golden denoiser with the golden MixSTE (9 frames), P=2, N=2, mirror-averaged. Read only."""
    from diffpose_edge.export import export_bundle

    return shared(
        tmp_path_factory,
        "golden_video",
        lambda out: export_bundle(golden.denoiser, golden.mixste, out, persons=2, samples=2, video_heads=4),
    )


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

    return shared(tmp_path_factory, "conditioned", lambda out: export_bundle(*conditioned_pair, out, persons=2, samples=3))


@pytest.fixture(scope="session")
def conditioned_video_bundle(conditioned_video_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the conditioned video pair with P=2, N=3. Read only."""
    from diffpose_edge.export import export_bundle

    return shared(tmp_path_factory, "conditioned_video", lambda out: export_bundle(*conditioned_video_pair, out, persons=2, samples=3))


@pytest.fixture(scope="session")
def causal_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An untrained conditioned pair with a causal encoder: 4 frames in each of 2 layers, 16 wide."""
    from diffpose_edge.reference.random_weights import write_random_conditioned_pair

    return write_random_conditioned_pair(tmp_path_factory.mktemp("checkpoints"), seed=9, frames=4, causal=True)


@pytest.fixture(scope="session")
def causal_bundle(causal_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the causal pair with P=2, N=3. Read only."""
    from diffpose_edge.export import export_bundle

    return shared(tmp_path_factory, "causal", lambda out: export_bundle(*causal_pair, out, persons=2, samples=3))


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
    return shared(
        tmp_path_factory, "conditioned-calibrated", lambda out: _calibrated(conditioned_bundle, out, frames=8, all_timesteps=True)
    )


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

    def made(name: str, bundle: Path, frames: int) -> Path:
        return shared(tmp_path_factory, f"{name}-calibrated", lambda out: _calibrated(bundle, out, frames=frames))

    return {
        "golden": made("golden", golden_bundle, 4),
        "golden_video": made("golden_video", golden_video_bundle, 9),
        "conditioned": calibrated_bundle,
        "conditioned_video": made("conditioned_video", conditioned_video_bundle, 10),
        "causal": made("causal", causal_bundle, 12),
    }


@pytest.fixture(scope="session")
def reshaped_bundle(conditioned_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the conditioned frame pair with P=1, N=2. Read only."""
    from diffpose_edge.export import export_bundle

    return shared(tmp_path_factory, "reshaped", lambda out: export_bundle(*conditioned_pair, out, persons=1, samples=2))
