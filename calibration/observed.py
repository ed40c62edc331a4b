"""What calibration needs to know of a bundle's tensors: a sample of what enters each matmul, and how large each value gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from diffpose_edge.bundle import Bundle
from diffpose_edge.calibration.recording import RecordingBackend
from diffpose_edge.errors import KeypointError
from diffpose_edge.export.layer_groups import WeightMatMul, taps_of, weight_matmuls
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.manifest import GRAPHS
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.start import LEAST_OBSERVED, MODES

Array = NDArray[Any]

# Rows kept of each matmul's input for each run of a graph. A step runs hundreds of times, a video encoder a few.
ROWS_PER_RUN = {"context": 512, "step": 8}
# Frames that are walked, evenly spread over those that can be used; a schedule of more steps than 10 takes fewer of them.
FRAMES = 96
MOST_STEPS = 10
SEED = 0


@dataclass
class Observed:
    """What entered one matmul: ``rows`` (n, c_in), the ``timesteps`` they came at (n,), and ``amax`` (c_in,) over everything."""

    rows: Array
    timesteps: Array
    amax: Array


@dataclass
class Observations:
    """``matmuls`` by (role, matmul's name); ``ranges``: the largest magnitude of every float value of a graph, by role."""

    matmuls: dict[tuple[str, str], Observed] = field(default_factory=dict)
    ranges: dict[str, dict[str, float]] = field(default_factory=lambda: {role: {} for role in GRAPHS})
    poses: int = 0


def frames_to_use(keypoints: Keypoints, F: int, most: int) -> Keypoints:
    """Return at most ``most`` frames in which enough joints were seen: evenly spread, or whole windows of F for a video
    encoder, a causal one included.

    Raises KeypointError when there is none.
    """
    usable = np.flatnonzero((keypoints.confidence > 0).sum(axis=-1) >= LEAST_OBSERVED)
    if len(usable) == 0:
        raise KeypointError(f"no frame of the keypoints has the {LEAST_OBSERVED} joints seen that a pose needs; calibration needs poses")
    if F == 1:
        chosen = usable[np.unique(np.linspace(0, len(usable) - 1, min(most, len(usable))).round().astype(int))]
    else:
        # Windows with a pose in them; the last one of a clip may be short, and is taken when there is no other.
        windows = np.unique(usable // F)
        whole = windows[(windows + 1) * F <= len(keypoints)]
        windows = whole if len(whole) else windows
        kept = windows[np.unique(np.linspace(0, len(windows) - 1, max(1, min(len(windows), most // F))).round().astype(int))]
        chosen = np.concatenate([np.arange(w * F, min((w + 1) * F, len(keypoints))) for w in kept])
    return Keypoints(keypoints.uv[chosen], keypoints.confidence[chosen])


def _frames_of(schedule: tuple[int, ...], F: int, frames: int) -> int:
    return frames if len(schedule) <= MOST_STEPS else max(F, frames * MOST_STEPS // len(schedule))


def steps_to_walk(bundle: Bundle, keypoints: Keypoints, schedules: Sequence[tuple[int, ...]], frames: int = FRAMES) -> int:
    """Return how many steps :func:`observe` will walk, each frame's counted. Raises KeypointError for a clip without poses."""
    F, modes = bundle.manifest.stretch, MODES[bundle.manifest.process.kind]
    return sum(len(frames_to_use(keypoints, F, _frames_of(s, F, frames))) * len(s) for s in schedules) * len(modes)


def observe(
    bundle: Bundle,
    keypoints: Keypoints,
    schedules: Sequence[tuple[int, ...]],
    *,
    frames: int = FRAMES,
    progress: Callable[[int], None] = lambda done: None,
) -> Observations:
    """Walk every schedule in every mode of the bundle and return what flowed through its FP32 graphs.

    ``progress`` hears how many steps were walked since it last heard, for each frame. Raises KeypointError for a clip without poses.
    """
    models = {role: onnx.load_model_from_string(bundle.read(role)) for role in GRAPHS}
    matmuls = {role: weight_matmuls(model, taps_of(bundle.manifest, role)) for role, model in models.items()}
    F, modes = bundle.manifest.stretch, MODES[bundle.manifest.process.kind]
    collector = _Collector(matmuls)
    # One thread: the graphs are small, and a second one waits more than it works.
    backend = RecordingBackend(bundle, {role: _float_values(model) for role, model in models.items()}, collector, threads=1)
    with PoseRuntime(bundle, backend) as runtime:
        for schedule in schedules:
            clip = frames_to_use(keypoints, F, _frames_of(schedule, F, frames))
            for mode in modes:
                for estimate in runtime.estimate_clip(clip, SEED, timesteps=schedule, mode=mode):
                    progress(len(estimate.joints) * len(schedule))
                    collector.observations.poses += len(estimate.joints)
    return collector.observations


class _Collector:
    def __init__(self, matmuls: Mapping[str, Sequence[WeightMatMul]]):
        self.matmuls = matmuls
        self.observations = Observations()
        self.rng = np.random.default_rng(SEED)

    def __call__(self, role: str, timestep: int | None, values: dict[str, Array]) -> None:
        ranges = self.observations.ranges[role]
        for name, value in values.items():
            ranges[name] = max(ranges.get(name, 0.0), float(np.abs(value).max(initial=0.0)))
        for matmul in self.matmuls[role]:
            entered = values[matmul.activation].reshape(-1, values[matmul.activation].shape[-1])
            some = entered[self.rng.choice(len(entered), min(ROWS_PER_RUN[role], len(entered)), replace=False)]
            at = np.full(len(some), -1 if timestep is None else timestep)
            amax = np.abs(entered).max(axis=0)
            seen = self.observations.matmuls.get((role, matmul.name))
            if seen is None:
                self.observations.matmuls[(role, matmul.name)] = Observed(some, at, amax)
            else:
                seen.rows, seen.timesteps = np.concatenate([seen.rows, some]), np.concatenate([seen.timesteps, at])
                seen.amax = np.maximum(seen.amax, amax)


def _float_values(model: onnx.ModelProto) -> list[str]:
    typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    inner = [v.name for v in typed.graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    return [*(value.name for value in (*typed.graph.input, *typed.graph.output)), *inner]
