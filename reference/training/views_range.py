"""What the training views of a pair are like at most: the bounds beyond which its networks were never shown anybody.

``range.json`` beside a pair has them, and whose they are; export puts them into the bundle. Run for the pairs that ship:
``python -m diffpose_edge.reference.training.views_range WEIGHTS_FOLDER PLAN``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from diffpose_edge.atomic import atomic_file
from diffpose_edge.cli.script import run_script
from diffpose_edge.clips import mocap_clips_path
from diffpose_edge.config import CausalConfig
from diffpose_edge.errors import TrainingError
from diffpose_edge.person import PersonView
from diffpose_edge.reference.training.batches import Batch, training_batch
from diffpose_edge.reference.training.motions import Clip, MotionSource, load_clips
from diffpose_edge.reference.training.plans import PLANS, TrainingPlan
from diffpose_edge.runtime.start import LEAST_OBSERVED
from diffpose_edge.trained_range import FILE, PERSON, TrainedRange, person_values, range_json

Array = NDArray[np.float32]

# The first number of these batches' seeds, after those of :mod:`diffpose_edge.reference.training.pair`.
RANGE = 5
# As many single frames as this, or windows, or as many as the plan learns from if those are fewer: a bound is then passed by about one
# of as many. Frames of a window are much alike.
MOST_FRAMES, MOST_WINDOWS = 131072, 16384


def measured_range(plan: TrainingPlan, source: MotionSource) -> TrainedRange:
    """Return the extremes of fresh training views, of the people whom a runtime would give a pose (at least 9 joints seen)."""
    count = plan.diffusion_stage.batch
    wanted = min(MOST_FRAMES if plan.frames == 1 else MOST_WINDOWS, plan.diffusion_stage.total * count)
    low, high = np.full(len(PERSON), np.inf, np.float32), np.full(len(PERSON), -np.inf, np.float32)
    views = number = 0
    while number * count < wanted:
        values = values_of(training_batch(source, count, (RANGE, plan.seed, number)))
        low, high = np.fmin(low, np.fmin.reduce(values)), np.fmax(high, np.fmax.reduce(values))
        views, number = views + len(values), number + 1
    if not (np.isfinite(low) & np.isfinite(high)).all():
        raise TrainingError(f"the {views} views that the plan {plan.name} learns from show some joint of nobody: it has no trained range")
    return TrainedRange(PERSON, low, high, views, f"the extremes of {views} training views of the plan {plan.name}")


def values_of(batch: Batch) -> Array:
    """Return the quantities PERSON (n, 54) of all frames of a batch in which a runtime would give a pose."""
    found, (B, F) = batch.detections, batch.xyz.shape[:2]
    centre, scale = batch.view.centre, batch.view.scale
    if centre.ndim == 2:
        # A window's frames share its view.
        centre, scale = centre[:, None], scale[:, None]
    view = PersonView(np.broadcast_to(centre, (B, F, 2)).reshape(-1, 2), np.broadcast_to(scale, (B, F)).reshape(-1))
    uv, confidence = found.uv.reshape(B * F, -1, 2), found.confidence.reshape(B * F, -1)
    kept = (confidence > 0).sum(axis=-1) >= LEAST_OBSERVED
    return person_values(uv, confidence, view)[kept]


def write_range(plan: TrainingPlan, source: MotionSource, folder: Path) -> Path:
    """Write ``range.json`` for the pair in ``folder`` that the plan made; return its path. Raises OutputError."""
    digests = {role: hashlib.sha256((folder / f"{role}.safetensors").read_bytes()).hexdigest() for role in ("context", "denoiser")}
    path = folder / FILE
    with atomic_file(path) as temporary:
        temporary.write_text(range_json(measured_range(plan, source), digests), encoding="utf-8")
    return path


def source_of(plan: TrainingPlan, clips: list[Clip]) -> MotionSource:
    """Return what the plan draws its training motions from, of all clips."""
    learned = [clip for clip in clips if clip.name not in plan.held_out]
    return MotionSource(learned, plan.frames, plan.landmark_share, isinstance(plan.context, CausalConfig))


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the pair, in which range.json is written.")],
    plan_name: Annotated[str, typer.Argument(help="The plan that made it.")],
    data: Annotated[Path | None, typer.Option(help="Motion clips (default: those that ship).")] = None,
) -> None:
    """Measure what a plan's training views are like at most."""
    if plan_name not in PLANS:
        raise TrainingError(f"expected a plan out of {', '.join(PLANS)}; got {plan_name!r}")
    plan = PLANS[plan_name]
    print(write_range(plan, source_of(plan, load_clips(data or mocap_clips_path())), folder))


if __name__ == "__main__":
    run_script(main)
