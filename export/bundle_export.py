"""From released checkpoints to a bundle on disk."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import diffpose_edge
from diffpose_edge.bundle import Bundle, check_target, save_bundle, sha256_of
from diffpose_edge.comparison import Comparison
from diffpose_edge.config import BatchShape, VideoConfig
from diffpose_edge.errors import CheckpointError
from diffpose_edge.export.graphs import proved_graphs
from diffpose_edge.manifest import Manifest
from diffpose_edge.reference.released import load_released
from diffpose_edge.schedule import RELEASED_TIMESTEPS, checked_timesteps


@dataclass(frozen=True)
class ExportReport:
    """A new bundle, every comparison that its graphs passed, and the exporter's warnings that nothing explains."""

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
    timesteps: Sequence[int] = RELEASED_TIMESTEPS,
    replace_existing: bool = False,
    note: str = "",
    progress: Callable[[str], None] = lambda stage: None,
) -> ExportReport:
    """Export a released pair of checkpoints to the bundle ``out``, for P ``persons`` and N ``samples`` of each.

    A video encoder is exported for the number of frames that it was trained with. ``timesteps`` are the bundle's
    defaults; any others can be chosen at run time. ``note`` is kept in the manifest. ``progress`` hears each stage.

    Raises CheckpointError, TimestepError, ExportError, VerificationError or OutputError; then nothing is written.
    """
    check_target(out, replace_existing=replace_existing)
    progress("reading checkpoints")
    model = load_released(denoiser, context, heads, video_heads=video_heads, mirror_average=mirror_average)
    steps = checked_timesteps(timesteps, len(model.alpha_bar))
    config = model.context_config
    shape = BatchShape(persons, samples, config.frames if isinstance(config, VideoConfig) else 1)
    progress("tracing the context encoder and the denoiser step, checking both against PyTorch")
    graphs = proved_graphs(model, shape)
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
            "checkpoints": {role: _origin(path) for role, path in (("denoiser", denoiser), ("context", context))},
            "versions": {
                "diffpose-edge": diffpose_edge.__version__,
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "onnx", "onnxruntime", "onnxscript", "numpy")},
            },
        },
        verification={
            role: {"layers": len(graph.comparisons), "largest_relative_error": max(c.relative for c in graph.comparisons)}
            for role, graph in graphs.items()
        },
    )
    contents = {f"{role}.fp32.onnx": (role, "fp32", graph.content) for role, graph in graphs.items()}
    bundle = save_bundle(out, manifest, contents, replace_existing=replace_existing)
    return ExportReport(
        bundle,
        tuple(c for graph in graphs.values() for c in graph.comparisons),
        tuple(w for graph in graphs.values() for w in graph.traced.warnings),
    )


def _origin(path: str | Path) -> dict[str, str]:
    try:
        return {"file": Path(path).name, "sha256": sha256_of(Path(path).read_bytes())}
    except OSError as err:
        raise CheckpointError(f"{path} cannot be read: {err.strerror}") from None
