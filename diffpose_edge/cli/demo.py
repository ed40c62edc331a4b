"""``diffpose-edge demo``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from diffpose_edge.atomic import atomic_file, output_error
from diffpose_edge.cli.terminal import counting, say, stages
from diffpose_edge.cli.verify import print_comparisons
from diffpose_edge.clips import street_walk
from diffpose_edge.drawing import ClipPoses, draw_gif, draw_png
from diffpose_edge.extras import require

UNTRAINED = "UNTRAINED seeded random weights: the input is real, the 3D poses mean nothing yet"
SEED = 0
GIF_STRIDE = 3


def demo(
    folder: Annotated[Path, typer.Option("--out", help="Folder for the bundle, the results and the pictures.")] = Path("demo"),
) -> None:
    """Do the main job on a real clip: checkpoint, export, verify, run, picture.

    The clip is 230 frames of a person walking in a street. Trained weights do not ship yet: the checkpoints are written
    here from a seed, in the released format and size, so the poses are meaningless while everything else is real.
    """
    require("torch", "onnx", "onnxscript", "onnxruntime", "matplotlib", "PIL")
    from diffpose_edge.export import export_bundle
    from diffpose_edge.export.verification import verify_bundle
    from diffpose_edge.reference.random_weights import write_random_pair
    from diffpose_edge.runtime import PoseRuntime

    clip = street_walk()
    keypoints = clip.keypoints
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise output_error(folder, err) from err
    with stages("checkpoints and export", 4) as stage:
        stage("writing seeded checkpoints in the released format")
        denoiser, context = write_random_pair(folder / "checkpoints", SEED)
        bundle = export_bundle(
            denoiser, context, folder / "bundle", samples=5, replace_existing=True, note=UNTRAINED, progress=stage
        ).bundle
    say(f"1. exported {denoiser.name} and {context.name} (96 wide, 5 layers) to {bundle.path}")

    with stages("verify", 5) as stage:
        report = verify_bundle(bundle, denoiser, context, keypoints, progress=stage)
    say("2. every layer, every step and the pose, ONNX Runtime against PyTorch:")
    print_comparisons(report.sections)

    with PoseRuntime.load(bundle) as runtime, counting("frames", len(keypoints)) as done:
        estimates = []
        for estimate in runtime.estimate_clip(keypoints, SEED, mode="noised"):
            estimates.append(estimate)
            done(len(estimate.joints))
    joints, samples = (np.concatenate([getattr(e, name) for e in estimates]) for name in ("joints", "samples"))
    with atomic_file(folder / "poses.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, joints=joints, samples=samples)
    found = int(np.isfinite(joints).all(axis=(1, 2)).sum())
    step_ms = np.median([e.timings.steps.mean() for e in estimates]) * 1000
    say(f"3. {found} of {len(joints)} frames posed (in the others nobody was found), {step_ms:.2f} ms per diffusion step")

    drawn = ClipPoses(keypoints, joints, samples, clip.image_size, clip.fps, UNTRAINED)
    posed = np.flatnonzero(np.isfinite(joints).all(axis=(1, 2)))
    draw_png(drawn, [int(posed[i]) for i in np.linspace(0, len(posed) - 1, 4).astype(int)], folder / "poses.png")
    frames = list(range(0, len(joints), GIF_STRIDE))
    with counting("drawing", len(frames)) as done:
        draw_gif(drawn, frames, folder / "poses.gif", lambda: done(1))
    say(f"4. {folder / 'poses.png'} and {folder / 'poses.gif'}: {UNTRAINED}")
    if not report.passed:
        raise typer.Exit(1)
