"""From checkpoints, released or trained here, to a bundle on disk."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import onnxruntime

import diffpose_edge
from diffpose_edge.bundle import Bundle, sha256_of
from diffpose_edge.bundle_writing import check_target, save_bundle
from diffpose_edge.comparison import Comparison
from diffpose_edge.config import BatchShape, VideoConfig
from diffpose_edge.errors import CheckpointError
from diffpose_edge.export.graphs import proved_graphs
from diffpose_edge.fitted import FILE as SCHEDULES
from diffpose_edge.fitted import FittedSchedule, schedules_of_checkpoints
from diffpose_edge.manifest import Manifest, Process
from diffpose_edge.reference.released import ReleasedDiffPose, load_released
from diffpose_edge.reference.trained import ConditionedDiffPose, load_conditioned
from diffpose_edge.schedule import RELEASED_TIMESTEPS, checked_timesteps, trailing_timesteps
from diffpose_edge.trained_range import FILE as RANGE
from diffpose_edge.trained_range import range_of_checkpoints


@dataclass(frozen=True)
class ExportReport:
    """A new bundle, every comparison that its graphs passed, and warnings: the exporter's that nothing explains, and fitted
    schedules that were left out.
    """

    bundle: Bundle
    comparisons: tuple[Comparison, ...]
    warnings: tuple[str, ...]


def export_bundle(
    denoiser: str | Path,
    context: str | Path,
    out: str | Path,
    *,
    heads: int = 4,
    video_heads: int = 8,
    mirror_average: bool = True,
    persons: int = 1,
    samples: int = 5,
    timesteps: Sequence[int] | None = None,
    replace_existing: bool = False,
    note: str = "",
    progress: Callable[[str], None] = lambda stage: None,
) -> ExportReport:
    """Export a pair of checkpoints, released or trained here, to the bundle ``out``, for P ``persons`` and N ``samples`` of each.

    A video encoder is exported for the number of frames that it was trained with. ``timesteps`` are the bundle's
    defaults; any others can be chosen at run time. Schedules that were fitted for these checkpoints, in a ``schedules.json``
    beside the denoiser, go with them, and so does what training showed them, in a ``range.json``. ``note`` is kept in the manifest.
    ``progress`` hears each stage.

    Raises CheckpointError, TimestepError, ExportError, VerificationError, OutputError, or BundleError for a damaged
    ``schedules.json`` or ``range.json``; then nothing is written.
    """
    check_target(out, replace_existing=replace_existing)
    progress("reading checkpoints")
    model = load_pair(denoiser, context, heads, video_heads=video_heads, mirror_average=mirror_average)
    steps = default_timesteps(model) if timesteps is None else checked_timesteps(timesteps, len(model.alpha_bar))
    config = model.context_config
    shape = BatchShape(persons, samples, config.frames if isinstance(config, VideoConfig) else 1)
    progress("tracing the context encoder and the denoiser step, checking both against PyTorch")
    graphs = proved_graphs(model, shape)
    checkpoints = {role: _origin(path) for role, path in (("denoiser", denoiser), ("context", context))}
    fitted, left_out = _fitted(Path(denoiser).with_name(SCHEDULES), checkpoints, len(model.alpha_bar))
    trained_range = range_of_checkpoints(Path(denoiser).with_name(RANGE), {role: origin["sha256"] for role, origin in checkpoints.items()})
    progress("writing the bundle")
    manifest = Manifest(
        denoiser=model.denoiser_config,
        context=config,
        shape=shape,
        alpha_bar=tuple(float(a) for a in model.alpha_bar),
        timesteps=steps,
        files={},
        provenance={
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "note": note,
            "checkpoints": checkpoints,
            "versions": {
                "diffpose-edge": diffpose_edge.__version__,
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "onnx", "onnxscript", "numpy")},
                "onnxruntime": onnxruntime.__version__,  # the package may be another that has it, onnxruntime-gpu
            },
        },
        verification={
            role if precision == "fp32" else f"{role} {precision}": {
                "layers": len(graph.comparisons),
                "largest_relative_error": max(c.relative for c in graph.comparisons),
            }
            for (role, precision), graph in graphs.items()
        },
        process=process_of(model),
        fitted=fitted,
        trained_range=None if isinstance(model, ReleasedDiffPose) else trained_range,
    )
    contents = {f"{role}.{kind}.onnx": (role, kind, graph.content) for (role, kind), graph in graphs.items()}
    bundle = save_bundle(out, manifest, contents, replace_existing=replace_existing)
    return ExportReport(
        bundle,
        tuple(c for graph in graphs.values() for c in graph.comparisons),
        (*(w for (_, kind), graph in graphs.items() if kind == "fp32" for w in graph.traced.warnings), *left_out),
    )


def load_pair(
    denoiser: str | Path, context: str | Path, heads: int = 4, *, video_heads: int = 8, mirror_average: bool = True
) -> ReleasedDiffPose | ConditionedDiffPose:
    """Load a pair of checkpoints: safetensors files are ours and carry their sizes, all others are in the released form.

    Raises CheckpointError.
    """
    ours = [Path(path).suffix == ".safetensors" for path in (denoiser, context)]
    if all(ours):
        return load_conditioned(denoiser, context)
    if any(ours):
        raise CheckpointError(
            f"{denoiser} and {context} are not a pair: one is a safetensors file of 'train', the other a released checkpoint"
        )
    return load_released(denoiser, context, heads, video_heads=video_heads, mirror_average=mirror_average)


def default_timesteps(model: ReleasedDiffPose | ConditionedDiffPose) -> tuple[int, ...]:
    """Return the timesteps that a bundle walks when nothing else is asked: the released two, or the paper's five of 50."""
    if isinstance(model, ReleasedDiffPose):
        return RELEASED_TIMESTEPS
    return trailing_timesteps(len(model.alpha_bar), min(5, len(model.alpha_bar)))


def process_of(model: ReleasedDiffPose | ConditionedDiffPose) -> Process:
    """Return what a manifest says of the model's process."""
    return Process() if isinstance(model, ReleasedDiffPose) else Process("distribution", model.prediction, model.spread)


def _fitted(path: Path, checkpoints: Mapping[str, Mapping[str, str]], T: int) -> tuple[tuple[FittedSchedule, ...], tuple[str, ...]]:
    """Return the schedules that were fitted for these checkpoints, and what there is to say of such that were not."""
    found = schedules_of_checkpoints(path, {role: origin["sha256"] for role, origin in checkpoints.items()}, T)
    if found is None:
        return (), (f"{path} was made for other checkpoints and is left out. Make it anew with: diffpose-edge search-steps",)
    return found, ()


def _origin(path: str | Path) -> dict[str, str]:
    try:
        return {"file": Path(path).name, "sha256": sha256_of(Path(path).read_bytes())}
    except OSError as err:
        raise CheckpointError(f"{path} cannot be read: {err.strerror}") from None
