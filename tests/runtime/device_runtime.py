"""A runtime whose backend is the device's, over the test double of CUDA; and how its answers are compared with the CPU's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.export.start_graph import start_graph
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.runtime import PoseEstimate, PoseRuntime
from diffpose_edge.runtime.device_backend import DeviceBackend
from diffpose_edge.skeleton import J

from .cuda_double import RecordingCuda
from .engine_double import OnnxRuntimeEngine

RESULTS = ("joints", "covariance", "samples", "observed", "context", "trajectory")
# Every kind of bundle by the fixture that makes it, with every mode that it has.
KINDS = {
    "golden_bundle": ("released", "noised"),
    "golden_video_bundle": ("released", "noised"),
    "conditioned_bundle": ("distribution",),
    "conditioned_video_bundle": ("distribution",),
}
KINDS_AND_MODES = [(kind, mode) for kind, modes in KINDS.items() for mode in modes]


class OnDevice(NamedTuple):
    """A runtime, and what is below it."""

    runtime: PoseRuntime
    backend: DeviceBackend
    cuda: RecordingCuda
    engines: dict[str, OnnxRuntimeEngine]

    def calls(self, call: Any, *arguments: Any, **options: Any) -> list[str]:
        """The names of what ``call`` asked of CUDA and of the engines, in their order."""
        before = len(self.cuda.log)
        call(*arguments, **options)
        return self.cuda.names[before:]


def engines_of(bundle: Bundle, cuda: RecordingCuda, failing: dict[str, str] | None = None) -> dict[str, OnnxRuntimeEngine]:
    """A double of every engine; ``failing``: when those of some roles refuse."""
    contents = {role: bundle.read(role) for role in ("context", "step")}
    contents["start"] = start_graph(bundle.manifest).SerializeToString()
    return {role: OnnxRuntimeEngine(cuda, role, content, failing=(failing or {}).get(role, "")) for role, content in contents.items()}


def on_device(path: Path, *, failing: dict[str, str] | None = None, timed: bool = False, capture: bool = True, **double: Any) -> OnDevice:
    """Load a bundle into a runtime over a double of CUDA, made with the options ``double``."""
    bundle, cuda = load_bundle(path), RecordingCuda(**double)
    engines = engines_of(bundle, cuda, failing)
    backend = DeviceBackend(bundle.manifest, cuda, engines, timed=timed, capture=capture)
    return OnDevice(PoseRuntime(bundle, backend), backend, cuda, engines)


def people_of(runtime: PoseRuntime, B: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Keypoints of B people, or windows of them where the bundle takes windows, and confidences with some joints missing."""
    rng, F = np.random.default_rng(seed), runtime.bundle.manifest.shape.F
    frames = (B,) if F == 1 else (B, F)
    uv = rng.uniform(-0.5, 0.5, (B, *(1,) * (F > 1), J, 2)) + 0.02 * rng.standard_normal((*frames, J, 2))
    confidence = rng.uniform(0.2, 1.0, (*frames, J))
    confidence[rng.random((*frames, J)) < 0.1] = 0.0
    return uv.astype(np.float32), confidence.astype(np.float32)


def clip_of(runtime: PoseRuntime, frames: int, seed: int = 0) -> Keypoints:
    """One person walking through ``frames`` frames; in the fourth nobody was found, in the sixth too little."""
    rng = np.random.default_rng(seed)
    uv = rng.uniform(-0.3, 0.3, (1, J, 2)) + 0.01 * rng.standard_normal((frames, J, 2)).cumsum(axis=0)
    confidence = rng.uniform(0.2, 1.0, (frames, J))
    confidence[3:4] = 0.0
    confidence[5:6, :12] = 0.0
    return Keypoints(uv.astype(np.float32), confidence.astype(np.float32))


def assert_same(found: PoseEstimate, expected: PoseEstimate) -> None:
    """Every result is the same to the bit; a joint that has no pose has none in both."""
    for name in RESULTS:
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None), name
        if one is not None and other is not None:
            np.testing.assert_array_equal(one, other, err_msg=name)
            assert one.dtype == other.dtype, name
