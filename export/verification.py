"""Holds a bundle against the PyTorch reference: every layer, every step, and the final pose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from diffpose_edge.bundle import Bundle, load_bundle, sha256_of
from diffpose_edge.comparison import Comparison, compare_poses, compare_relative
from diffpose_edge.config import VideoConfig
from diffpose_edge.errors import BundleError, KeypointError
from diffpose_edge.export.bundle_export import load_pair
from diffpose_edge.export.causal_comparison import streamed
from diffpose_edge.export.folded import tap_names
from diffpose_edge.export.graphs import DiffPose, compare_context, compare_step, context_taps, session_of
from diffpose_edge.export.precision_verification import PrecisionReport, lower_precisions_of, verify_precision
from diffpose_edge.export.reference_run import expected_run
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.manifest import GRAPHS, Manifest
from diffpose_edge.reference.trained import ConditionedDiffPose
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.frame_caches import FrameCaches
from diffpose_edge.runtime.plan import plan_of
from diffpose_edge.runtime.start import LEAST_OBSERVED
from diffpose_edge.schedule import checked_timesteps
from diffpose_edge.tolerances import FP32_STATE_REL, pose_budget_mm
from diffpose_edge.tracks import tracks_of

Array = NDArray[Any]

# How many frames are compared end to end, and at how many timesteps every layer is: enough to meet real variety, and
# still seconds at full size.
MOST_FRAMES = 64
MOST_LAYER_TIMESTEPS = 4
# Of the starts' draws; any other does as well.
SEED = 0
FOR_THE_CPU = " for the CPU"


@dataclass(frozen=True)
class VerificationReport:
    """All comparisons of the FP32 graphs by section ("context graph", "step graph", "steps", "pose", and the same of the graphs for
    the CPU, where there are any), on ``frames`` frames, and a report on each lower precision that the bundle has.

    ``same_checkpoints`` tells whether the reference was loaded from the very files that the bundle was exported from.
    """

    sections: dict[str, tuple[Comparison, ...]]
    precisions: tuple[PrecisionReport, ...]
    frames: int
    timesteps: tuple[int, ...]
    same_checkpoints: bool

    @property
    def passed(self) -> bool:
        """Whether every comparison is within its budget."""
        return all(c.passed for section in self.sections.values() for c in section) and all(p.passed for p in self.precisions)

    def as_json(self) -> dict[str, Any]:
        """Return the whole report as plain values."""
        return {
            "passed": self.passed,
            "frames": self.frames,
            "timesteps": list(self.timesteps),
            "same_checkpoints": self.same_checkpoints,
            "sections": {name: [c.as_json() for c in section] for name, section in self.sections.items()},
            "precisions": {p.precision: p.as_json() for p in self.precisions},
        }

    def as_record(self) -> dict[str, Any]:
        """Return what a manifest keeps of the report: a few numbers of each precision."""
        pose = max((c for name, section in self.sections.items() if name.startswith("pose") for c in section), key=lambda c: c.error)
        layers = [c for name, section in self.sections.items() if " graph" in name for c in section]
        worst = max(layers, key=lambda c: c.relative)
        fp32 = {
            "passed": all(c.passed for section in self.sections.values() for c in section),
            "worst_mm": pose.error if np.isfinite(pose.error) else None,
            "largest_layer_error": worst.relative if np.isfinite(worst.relative) else None,
            "at_layer": worst.name,
        }
        of = {"frames": self.frames, "timesteps": list(self.timesteps), "same_checkpoints": self.same_checkpoints}
        return {**of, "fp32": fp32, **{p.precision: p.as_record() for p in self.precisions}}


def verify_bundle(
    bundle: str | Path | Bundle,
    denoiser: str | Path,
    context: str | Path,
    keypoints: Keypoints,
    *,
    timesteps: Sequence[int] | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> VerificationReport:
    """Compare a bundle, in every precision that it has, run by the runtime in its default mode, with PyTorch on real keypoints
    (frames, 17, 2). The layers of lower precisions are held against the FP32 graphs, which are held against PyTorch.

    Frames in which too few joints were seen are left out; up to 64 of the others, evenly spread, are used (for a video
    bundle: the first window; for a causal one the first 64). Both sides get the same keypoints and the same draws.

    Raises BundleError when the checkpoints are of another size than the bundle, CheckpointError, KeypointError,
    TimestepError.
    """
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    manifest = loaded.manifest
    steps = manifest.timesteps if timesteps is None else checked_timesteps(timesteps, manifest.T)
    progress("loading the PyTorch reference")
    model = _reference(loaded, denoiser, context)
    clip = _frames_to_compare(keypoints, manifest.shape.F, causal=manifest.causal is not None)

    progress(f"runtime: {len(steps)} steps on {len(clip)} frames")
    for_cpu = any(manifest.cpu_precision(role, "fp32") != "fp32" for role in GRAPHS)
    walked = {}
    for which, portable in (("", True), (FOR_THE_CPU, False)) if for_cpu else (("", True),):
        with PoseRuntime.load(loaded, portable=portable) as runtime:
            estimates = list(runtime.estimate_clip(clip, SEED, timesteps=steps, trace=True))
        states = np.concatenate([e.trajectory for e in estimates if e.trajectory is not None], axis=1)
        walked[which] = states, np.concatenate([e.joints for e in estimates])

    progress(f"PyTorch: {len(steps)} steps on {len(clip)} frames")
    expected = expected_run(model, clip, steps, manifest.shape, SEED)

    sections: dict[str, tuple[Comparison, ...]] = {}
    progress("comparing the context graphs layer by layer")
    observed = _observed(expected.observation, manifest)
    taps = tuple(context_taps(model.context_network, isinstance(model, ConditionedDiffPose)))
    for name, graph in _fp32_graphs(loaded, "context"):
        sections[name] = tuple(compare_context(model, graph, taps, observed))

    progress("comparing the step graphs layer by layer")
    taps = tuple(tap_names(manifest.denoiser.layers))
    chosen = tuple(dict.fromkeys(steps[i] for i in np.linspace(0, len(steps) - 1, MOST_LAYER_TIMESTEPS).round().astype(int)))
    shapes = manifest.step_io[0]
    told = [_batch(rows, shapes[name]) for name, rows in expected.told.items()]
    x = _batch(expected.network_start, manifest.shape.state)
    for name, graph in _fp32_graphs(loaded, "step"):
        sections[name] = tuple(compare_step(model, graph, taps, x, chosen, *told))

    largest = float(np.abs(expected.joints).max())
    names = ["start", *(f"after t={t}" for t in steps)]
    for which, (trajectory, joints) in walked.items():
        pairs = zip(names, trajectory, expected.trajectory, strict=True)
        sections[f"steps{which}"] = tuple(compare_relative(name, actual, value, FP32_STATE_REL) for name, actual, value in pairs)
        sections[f"pose{which}"] = (compare_poses("joints", joints, expected.joints, pose_budget_mm(largest)),)

    seen = _context_feeds(loaded, observed)
    feeds = {"context": seen, "step": _step_feeds(manifest, x, chosen, expected.told, steps)}
    precisions = tuple(
        verify_precision(loaded, precision, clip, steps, expected, feeds, SEED, progress) for precision in lower_precisions_of(loaded)
    )
    return VerificationReport(sections, precisions, len(clip), steps, _same_checkpoints(loaded, denoiser, context))


def _fp32_graphs(bundle: Bundle, role: str) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield the portable graph of a role and the one for the CPU, where there is one, with the name of the section on it."""
    yield f"{role} graph", onnx.load_model_from_string(bundle.read(role))
    if (kind := bundle.manifest.cpu_precision(role, "fp32")) != "fp32":
        yield f"{role} graph{FOR_THE_CPU}", onnx.load_model_from_string(bundle.read(role, kind))


def _observed(observation: Array, manifest: Manifest) -> Array:
    """Return what a context graph is compared on: a batch of its shape, or, for a causal one, a clip (S, P, 17, 6) of P equal people."""
    shape = next(iter(manifest.context_io[0].values()))
    return _batch(observation, shape) if manifest.causal is None else np.repeat(observation[:, None], manifest.shape.P, axis=1)


def _context_feeds(bundle: Bundle, observed: Array) -> list[dict[str, Array]]:
    """Return the context graph's inputs; of a causal one those of the last frame of the clip, with what the frames before left."""
    name, causal = next(iter(bundle.manifest.context_io[0])), bundle.manifest.causal
    if causal is None:
        return [{name: observed}]
    caches = FrameCaches(causal, bundle.manifest.shape.P)
    streamed(session_of(onnx.load_model_from_string(bundle.read("context"))), observed[:-1], caches)
    return [{name: observed[-1], **caches.taken}]


def _step_feeds(
    manifest: Manifest, x: Array, timesteps: tuple[int, ...], told: Mapping[str, Array], steps: tuple[int, ...]
) -> list[dict[str, Array]]:
    """Return the step graph's inputs at each of some ``timesteps`` of a schedule, all from the state x."""
    rows = plan_of(manifest, "ddim", steps).coefficients
    shapes = manifest.step_io[0]
    conditions = {name: _batch(values, shapes[name]) for name, values in told.items()}
    return [
        {"x": x, "timestep": np.array([t], np.float32), "coefficients": rows[steps.index(t)], "previous": x, **conditions}
        for t in timesteps
    ]


def _reference(bundle: Bundle, denoiser: str | Path, context: str | Path) -> DiffPose:
    manifest = bundle.manifest
    video = manifest.context if isinstance(manifest.context, VideoConfig) else None
    model = load_pair(
        denoiser,
        context,
        manifest.denoiser.heads,
        video_heads=video.heads if video else 8,
        mirror_average=video.mirror_average if video else True,
    )
    for what, wanted, found in (
        ("denoiser", manifest.denoiser, model.denoiser_config),
        ("context encoder", manifest.context, model.context_config),
    ):
        if wanted != found:
            raise BundleError(
                f"the bundle's {what} is {wanted}, the checkpoint's is {found}: the bundle was exported from other checkpoints. "
                f"Verify it with the ones that manifest.json names under provenance"
            )
    return model


def _frames_to_compare(keypoints: Keypoints, F: int, *, causal: bool = False) -> Keypoints:
    observed = keypoints.confidence > 0
    usable = np.flatnonzero(observed.sum(axis=-1) >= LEAST_OBSERVED)
    if len(usable) == 0:
        raise KeypointError("no frame of the keypoints has enough joints seen to compare poses on")
    if F > 1 or causal:
        # Of one person, one frame after another.
        longest = max(tracks_of(keypoints), key=lambda track: int(np.isin(usable, np.arange(track.start, track.stop)).sum()))
        usable = usable[np.isin(usable, np.arange(longest.start, longest.stop))]
        # A window is filled with the last frame repeated.
        usable = usable[:MOST_FRAMES] if causal else usable[np.minimum(np.arange(F), len(usable) - 1)]
    elif len(usable) > MOST_FRAMES:
        usable = usable[np.linspace(0, len(usable) - 1, MOST_FRAMES).round().astype(int)]
    return Keypoints(keypoints.uv[usable], keypoints.confidence[usable])


def _batch(rows: Array, shape: tuple[int, ...]) -> Array:
    """Repeat or cut rows (…, 17, C) to a graph's fixed input shape."""
    return np.resize(rows, shape).astype(np.float32)


def _same_checkpoints(bundle: Bundle, denoiser: str | Path, context: str | Path) -> bool:
    recorded = bundle.manifest.provenance.get("checkpoints", {})
    return all(
        isinstance(recorded.get(role), dict) and recorded[role].get("sha256") == sha256_of(Path(path).read_bytes())
        for role, path in (("denoiser", denoiser), ("context", context))
    )
