"""Calibration of a bundle: scales for every matmul from recorded trajectories, and the FP16 and INT8 graphs made with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime

import diffpose_edge
from diffpose_edge.bundle import Bundle
from diffpose_edge.bundle_writing import exchange_contents
from diffpose_edge.calibration.observed import FRAMES, SEED, Observed, observe
from diffpose_edge.calibration.ranges import checked_method, scale_of
from diffpose_edge.calibration.scales_file import FILE, Calibration, calibration_from_json
from diffpose_edge.calibration.smoothing import smoothing_of
from diffpose_edge.config import CausalConfig, VideoConfig
from diffpose_edge.errors import CalibrationError
from diffpose_edge.export.int8 import MatMulScales, quantised_weight
from diffpose_edge.export.layer_groups import border_nodes, initialisers_of, matmul_macs, taps_of, weight_matmuls, weights_sha256
from diffpose_edge.export.precision import lowered_graphs
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.manifest import FOR_CPU, GRAPHS, Manifest
from diffpose_edge.runtime.start import MODES

# A sample of each matmul's input, of this many rows, is what scales are chosen by.
MOST_ROWS = 6144
# A schedule over more timesteps than this is thinned out.
MOST_TIMESTEPS = 64
# An encoder that is less than this of an estimate's matmul work is not worth lowering.
LITTLE_WORK = 0.02
FP32_CPU = "fp32" + FOR_CPU


def deployed_schedules(manifest: Manifest) -> tuple[tuple[int, ...], ...]:
    """Return the bundle's default timesteps, and all timesteps of its schedule, at most 64: whatever K a robot chooses."""
    every = np.unique(np.linspace(0, manifest.T - 1, min(manifest.T, MOST_TIMESTEPS)).round().astype(int))[::-1]
    return tuple(dict.fromkeys((manifest.timesteps, tuple(int(t) for t in every))))


def calibrated(
    bundle: Bundle,
    keypoints: Keypoints,
    *,
    schedules: Sequence[tuple[int, ...]] | None = None,
    method: str = "minmax",
    smooth: bool = True,
    frames: int = FRAMES,
    progress: Callable[[int], None] = lambda done: None,
) -> Calibration:
    """Record the bundle's trajectories on a clip and choose the scale, and the smoothing, of every matmul.

    In INT8 run then all matmuls of the step but its input and output layers, and none of the context encoder: what INT8
    adds to the encoder's metres goes straight into the pose. The others have scales as well, for whoever wants them
    (``diffpose-edge sensitivity``). ``method`` is one of :data:`diffpose_edge.calibration.ranges.METHODS`. ``progress`` hears
    how many denoiser steps were walked since it last heard. Raises DiffPoseEdgeError for another method, KeypointError for
    a clip without poses.
    """
    checked_method(method)
    schedules = deployed_schedules(bundle.manifest) if schedules is None else schedules
    seen = observe(bundle, keypoints, schedules, frames=frames, progress=progress)
    scales, int8, weights, work = {}, {}, {}, {}
    for role in GRAPHS:
        model, taps = onnx.load_model_from_string(bundle.read(role)), taps_of(bundle.manifest, role)
        constants, border = initialisers_of(model), border_nodes(model, taps)
        matmuls = [matmul for matmul in weight_matmuls(model, taps) if matmul.node not in border]
        scales[role] = {m.name: _scales(seen.matmuls[role, m.name], constants[m.weight], method, smooth) for m in matmuls}
        int8[role] = tuple(scales[role]) if role == "step" else ()
        weights[role], work[role] = weights_sha256(model, taps), matmul_macs(model)
    provenance: dict[str, Any] = {
        "keypoints_sha256": hashlib.sha256(keypoints.uv.tobytes() + keypoints.confidence.tobytes()).hexdigest(),
        "poses": seen.poses,
        "schedules": [list(schedule) for schedule in schedules],
        "modes": list(MODES[bundle.manifest.process.kind]),
        "method": method,
        "smoothing": smooth,
        "seed": SEED,
        "versions": {"diffpose-edge": diffpose_edge.__version__, "onnxruntime": onnxruntime.__version__},
    }
    return Calibration(scales, int8, _kept_fp32(bundle.manifest, work), seen.ranges, weights, provenance)


def _kept_fp32(manifest: Manifest, work: dict[str, int]) -> dict[str, tuple[str, ...]]:
    """Return the layers that stay float32: those of the context encoder that cost the pose most and are small beside the rest.

    ``work``: multiply-accumulates of one run of each graph. An encoder below LITTLE_WORK of an estimate stays float32 as a
    whole: FP16 would save nothing there, and moved the worst joint of the shipped frame pair by 5.9 mm, which is 3.2 mm
    without (K = 50). Of larger ones a frame encoder's learned adjacency, and a video encoder's last temporal block (0.53 mm
    and 0.32 mm on average). Every FP16 value rounded; ``diffpose-edge sensitivity --precision fp16`` tells of the others.
    """
    taps = taps_of(manifest, "context")
    if work["context"] < LITTLE_WORK * (work["context"] + len(manifest.timesteps) * work["step"]):
        kept = taps
    elif isinstance(manifest.context, CausalConfig):
        kept = taps[-1:]
    elif isinstance(manifest.context, VideoConfig):
        kept = tuple(tap for tap in taps if tap.startswith("temporal"))[-1:]
    else:
        kept = tuple(tap for tap in taps if tap.endswith(".adjacency"))
    return {"context": kept, "step": ()}


def _scales(seen: Observed, weight: Any, method: str, smooth: bool) -> MatMulScales:
    rows, exact = seen.rows.astype(np.float64), weight.astype(np.float64)
    if len(rows) > MOST_ROWS:
        rows = rows[np.random.default_rng(SEED).choice(len(rows), MOST_ROWS, replace=False)]
    smoothing = smoothing_of(rows, seen.amax, exact) if smooth else (0,) * len(exact)
    factor = 2.0 ** np.array(smoothing, np.float64)
    integers, steps = quantised_weight(exact, smoothing)
    largest = float((seen.amax / factor).max())
    scale = scale_of(method, rows / factor, largest, exact * factor[:, None], integers * steps.astype(np.float64))
    return MatMulScales(scale, smoothing)


def calibration_of(bundle: Bundle) -> Calibration:
    """Return the calibration that a bundle holds. Raises CalibrationError when it has none, or a damaged one."""
    if not any(entry.role == "calibration" for entry in bundle.manifest.files.values()):
        raise CalibrationError(f"{bundle.path} was not calibrated yet. Run: diffpose-edge calibrate {bundle.path}")
    return calibration_from_json(bundle.read("calibration", "int8").decode("utf-8", errors="replace"))


def apply_calibration(bundle: Bundle, calibration: Calibration, progress: Callable[[int], None] = lambda done: None) -> Bundle:
    """Make the graphs of every lower precision and put them and the calibration into the bundle, replacing older ones.

    The bundle on disk is exchanged as a whole; what was recorded in it meanwhile, engines and timings stay. ``progress`` hears of each
    graph. Raises CalibrationError when the calibration was made for other weights, BundleError when another process has put other
    weights there since, OutputError when the bundle cannot be written; then it is as it was.
    """
    manifest = bundle.manifest
    fp32 = {role: bundle.read(role) for role in GRAPHS}
    for role in GRAPHS:
        found = weights_sha256(onnx.load_model_from_string(fp32[role]), taps_of(manifest, role))
        if found != calibration.weights[role]:
            raise CalibrationError(
                f"the calibration was made for other weights than the {role} graph of {bundle.path} has. "
                f"Run: diffpose-edge calibrate {bundle.path}"
            )
    of_cpu = {entry.role: bundle.read(entry.role, FP32_CPU) for entry in manifest.files.values() if entry.precision == FP32_CPU}
    lowered = lowered_graphs(fp32, manifest, calibration.plan, progress, of_cpu)
    contents = {f"{role}.{precision}.onnx": (role, precision, graph.content) for (role, precision), graph in lowered.items()}
    contents[FILE] = ("calibration", "int8", calibration.to_json().encode())
    made: dict[str, dict[str, Any]] = {}
    for (role, precision), graph in lowered.items():
        made.setdefault(precision, {})[role] = {"int8_share": round(graph.int8_share, 4), "fp32_nodes": dict(graph.fp32_nodes)}

    def altered(now: Manifest) -> Manifest:
        # What was verified in an older state of these graphs says nothing of the new ones.
        verification = {key: value for key, value in now.verification.items() if key.split()[0] in GRAPHS}
        return replace(now, provenance={**now.provenance, "precision": made}, verification=verification)

    return exchange_contents(bundle, contents, altered)
