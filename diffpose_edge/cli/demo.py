"""``diffpose-edge demo``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from diffpose_edge.atomic import atomic_file, output_error
from diffpose_edge.bones import bone_length_variation
from diffpose_edge.cli.call_times import call_times
from diffpose_edge.cli.terminal import counting, say, stages
from diffpose_edge.cli.verify import print_comparisons
from diffpose_edge.clips import Clip, street_walk, trained_pair
from diffpose_edge.drawing import ClipPoses, draw_gif, draw_png
from diffpose_edge.extras import require
from diffpose_edge.viewer import ClipResult, save_view
from diffpose_edge.viewer.clip_result import times_of

SEED = 0
GIF_STRIDE = 5
PAIRS = ("frame", "video")


def demo(
    folder: Annotated[Path, typer.Option("--out", help="Folder for the bundles, the results and the pictures.")] = Path("demo"),
) -> None:
    """Do the main job on a real clip: trained weights, export, verify, run, pictures, a page to look at.

    The clip is 230 frames of a person walking in a street, the weights are those that ship: a frame pair and a video pair,
    both trained on synthetic views of motion capture alone.
    """
    require("torch", "safetensors", "onnx", "onnxscript", "onnxruntime", "matplotlib", "PIL", "jinja2")
    clip = street_walk()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise output_error(folder, err) from err
    passed = [_one_pair(pair, clip, folder) for pair in PAIRS]
    if not all(passed):
        raise typer.Exit(1)


def _one_pair(pair: str, clip: Clip, folder: Path) -> bool:
    from diffpose_edge.export import export_bundle
    from diffpose_edge.export.verification import verify_bundle
    from diffpose_edge.runtime import PoseRuntime

    denoiser, context = trained_pair(pair)
    with stages(f"{pair}: export", 3) as stage:
        bundle = export_bundle(denoiser, context, folder / f"{pair}-bundle", samples=5, replace_existing=True, progress=stage).bundle
    d = bundle.manifest.denoiser
    say(f"1. {pair}: exported the trained pair (denoiser {d.hidden} wide, {d.layers} layers) to {bundle.path}")

    with stages(f"{pair}: verify", 5) as stage:
        report = verify_bundle(bundle, denoiser, context, clip.keypoints, progress=stage)
    say(f"2. {pair}: every layer, every step and the pose, ONNX Runtime against PyTorch:")
    print_comparisons(report.sections)

    with PoseRuntime.load(bundle) as runtime, counting("frames", len(clip.keypoints)) as done:
        estimates = []
        for estimate in runtime.estimate_clip(clip.keypoints, SEED):
            estimates.append(estimate)
            done(len(estimate.joints))
    names = ("joints", "context", "samples", "covariance", "observed")
    results: dict[str, Any] = {name: np.concatenate([getattr(e, name) for e in estimates]) for name in names}
    results.update(call_times(estimates))
    with atomic_file(folder / f"{pair}-poses.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, **results)
    joints = results["joints"]
    posed = np.flatnonzero(np.isfinite(joints).all(axis=(1, 2)))
    step_ms = np.median([e.timings.steps.mean() / e.timings.batches for e in estimates]) * 1000
    say(
        f"3. {pair}: {len(posed)} of {len(joints)} frames posed (in the others nobody was found), {step_ms:.2f} ms per diffusion step; "
        f"bone lengths vary by {100 * bone_length_variation(joints[posed]).mean():.1f} % over the clip"
    )
    caption = f"{pair} pair, N = {bundle.manifest.shape.N} samples, K = {len(bundle.manifest.timesteps)} steps"
    drawn = ClipPoses(clip.keypoints, joints, results["samples"], clip.image_size, clip.fps, caption)
    draw_png(drawn, [int(posed[i]) for i in np.linspace(0, len(posed) - 1, 4).astype(int)], folder / f"{pair}-poses.png")
    frames = list(range(0, len(joints), GIF_STRIDE))
    with counting("drawing", len(frames)) as done:
        draw_gif(drawn, frames, folder / f"{pair}-poses.gif", lambda: done(1))
    times = times_of(len(joints), clip.fps)
    shown = ClipResult(**results, times_s=times, keypoints=clip.keypoints, image_size=clip.image_size)
    save_view(shown, folder / f"{pair}-poses.html", f"A walk in a street: {caption}")
    say(f"4. {pair}: {', '.join(str(folder / f'{pair}-poses.{kind}') for kind in ('png', 'gif', 'html'))}")
    return report.passed
