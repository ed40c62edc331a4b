"""Holds the FP16 and INT8 graphs of a bundle against FP32: every layer, the drift over the steps, and the final pose."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from diffpose_edge.bundle import Bundle
from diffpose_edge.comparison import AddedError, Comparison, added_error, compare_relative
from diffpose_edge.export.cpu_graph import as_traced
from diffpose_edge.export.fp16_rounding import with_fp16_rounding
from diffpose_edge.export.layer_groups import taps_of
from diffpose_edge.export.onnx_models import with_taps_as_outputs
from diffpose_edge.export.reference_run import ReferenceRun
from diffpose_edge.extras import require
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.manifest import FOR_CPU, GRAPHS
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.integer_kernels import exact_integers
from diffpose_edge.runtime.last_finite import AS_IT_IS
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend
from diffpose_edge.tolerances import FP16_LAYER_REL, INT8_LAYER_REL, lower_pose_budget_mm

Array = NDArray[Any]


@dataclass(frozen=True)
class PrecisionReport:
    """One precision: ``layers`` against the FP32 graphs, and what it adds to PyTorch's poses, with the budgets in mm."""

    precision: str
    layers: tuple[Comparison, ...]
    pose: AddedError
    budget_mean: float
    budget_worst: float

    @property
    def passed(self) -> bool:
        """Whether every layer and the pose are within their budgets."""
        return all(c.passed for c in self.layers) and self.pose.mean <= self.budget_mean and self.pose.worst <= self.budget_worst

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values, every layer included."""
        return {**self.as_record(), "layers": [c.as_json() for c in self.layers]}

    def as_record(self) -> dict[str, Any]:
        """Return what a manifest keeps of it."""
        worst = max(self.layers, key=lambda c: c.relative)
        return {
            "passed": self.passed,
            **self.pose.as_json(),
            "budget_mean_mm": self.budget_mean,
            "largest_layer_error": worst.relative if np.isfinite(worst.relative) else None,
            "at_layer": worst.name,
        }


def lower_precisions_of(bundle: Bundle) -> tuple[str, ...]:
    """Return the precisions other than FP32 that a bundle has graphs in; "int8-cpu" is what INT8 runs on the CPU."""
    found = dict.fromkeys(entry.precision for entry in bundle.manifest.files.values() if entry.role in GRAPHS)
    return tuple(precision for precision in found if precision.removesuffix(FOR_CPU) != "fp32")


def verify_precision(
    bundle: Bundle,
    precision: str,
    clip: Keypoints,
    timesteps: tuple[int, ...],
    expected: ReferenceRun,
    feeds: Mapping[str, Sequence[dict[str, Array]]],
    seed: int,
    progress: Callable[[str], None] = lambda stage: None,
) -> PrecisionReport:
    """Run a precision on a clip, with the draws of ``seed``, and compare it with PyTorch's ``expected`` run of the same.

    FP16 is rounded after every operator (:mod:`diffpose_edge.export.fp16_rounding`), which ONNX Runtime's CPU would not do.

    ``feeds`` are inputs of the graphs, by role: the layers are compared on them.
    """
    progress(f"{precision}: layers")
    layers: list[Comparison] = []
    graphs = bundle.graphs(precision.removesuffix(FOR_CPU), for_cpu=precision.endswith(FOR_CPU))
    for role in GRAPHS:
        taps = taps_of(bundle.manifest, role)
        budget = FP16_LAYER_REL if precision == "fp16" else INT8_LAYER_REL
        layers += compare_layers(role, bundle.read(role), graphs[role], taps, feeds[role], budget)
    progress(f"{precision}: {len(timesteps)} steps on {len(clip)} frames")
    rounding = {role: with_fp16_rounding(graphs[role]) for role in GRAPHS}
    with PoseRuntime(bundle, OnnxRuntimeBackend(bundle.manifest, rounding), non_finite=AS_IT_IS) as runtime:
        estimates = list(runtime.estimate_clip(clip, seed, timesteps=timesteps, trace=True))
    joints = np.concatenate([e.joints for e in estimates])
    trajectory = np.concatenate([e.trajectory for e in estimates if e.trajectory is not None], axis=1)
    pose = added_error(joints, expected.joints, trajectory, expected.trajectory)
    return PrecisionReport(precision, tuple(layers), pose, *lower_pose_budget_mm(precision, float(np.abs(expected.joints).max())))


def compare_layers(
    role: str, exact: bytes, lowered: bytes, taps: Sequence[str], feeds: Sequence[dict[str, Array]], budget: float
) -> list[Comparison]:
    """Return a comparison of each layer's output, the worst of all feeds, by Polygraphy's Comparator over ONNX Runtime."""
    require("polygraphy")
    from polygraphy.backend.onnxrt import OnnxrtRunner
    from polygraphy.comparator import Comparator
    from polygraphy.logger import G_LOGGER

    graph, found = onnx.load_model_from_string(lowered), dict[str, list[Comparison]]()

    def compare(expected: Any, actual: Any) -> OrderedDict[str, bool]:
        for name in expected:
            wanted = np.asarray(expected[name])
            found_here = as_traced(graph, np.asarray(actual[name]), wanted.shape)
            comparison = compare_relative(f"{role} {name}", found_here, wanted, budget)
            found.setdefault(name, []).append(comparison)
        return OrderedDict((name, found[name][-1].passed) for name in found)

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        runners = [OnnxrtRunner(partial(_session, content, taps), name=name) for name, content in (("fp32", exact), ("lower", lowered))]
        Comparator.compare_accuracy(Comparator.run(runners, data_loader=list(feeds)), compare_func=compare)
    return [max(each, key=lambda c: c.relative) for each in found.values()]


def _session(content: bytes, taps: Sequence[str]) -> ort.InferenceSession:
    model = onnx.load_model_from_string(with_fp16_rounding(content))
    outputs = {value.name for value in model.graph.output}
    options = ort.SessionOptions()
    options.log_severity_level = 3
    exact_integers(options)  # INT8 is judged as the graph defines it, not as this processor's kernels saturate
    tapped = with_taps_as_outputs(model, [tap for tap in taps if tap not in outputs])
    return ort.InferenceSession(tapped.SerializeToString(), options, providers=["CPUExecutionProvider"])
