"""``diffpose-edge run``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from diffpose_edge.atomic import atomic_file, check_file_place
from diffpose_edge.camera_files import load_camera
from diffpose_edge.cli.call_times import call_times
from diffpose_edge.cli.metrics import LOOPBACK, MetricsAddress, MetricsPort, metrics_at
from diffpose_edge.cli.results import results_of
from diffpose_edge.cli.terminal import counting, parsed_size, parsed_timesteps, say, telling
from diffpose_edge.errors import OutputError
from diffpose_edge.facing import facing
from diffpose_edge.formats.person_clip import open_clip
from diffpose_edge.formats.pose_files import NPZ, check_rate, pose_format
from diffpose_edge.formats.results import put_results
from diffpose_edge.placed_clip import check_camera_options, placed_clip, turned_back


def run(
    bundle: Annotated[Path, typer.Argument(help="A bundle made by export.")],
    keypoints: Annotated[
        Path,
        typer.Option(
            help="Keypoints: a file or folder in one of the formats that 'diffpose-edge formats' lists, of which the first is an npz with "
            "'keypoints' (frames,17,2|3) in Human3.6M order: normalised, or pixels together with 'image_size' (w,h). "
            "The third number is a confidence; 0 means not seen."
        ),
    ],
    out_path: Annotated[
        Path,
        typer.Option("--out", help="File to write: npz (joints, context, samples, covariance, observed), or .jsonl, .csv, .bvh, .trc."),
    ],
    format_name: Annotated[str | None, typer.Option("--format", help="Format of the keypoints, by name (default: recognised).")] = None,
    image_size: Annotated[str | None, typer.Option(help="Size of the image in pixels, WxH, where the keypoints do not tell.")] = None,
    person: Annotated[str | None, typer.Option(help="Whom: a track's name, a number, or 'best' (default: the only one).")] = None,
    fps: Annotated[float | None, typer.Option(help="Frame rate, where the keypoints do not tell; bvh and trc need it.")] = None,
    out_format: Annotated[str | None, typer.Option(help="npz, jsonl, csv, bvh or trc (default: by the suffix of --out, else npz).")] = None,
    timesteps: Annotated[str | None, typer.Option(help="Timesteps, largest first (default: the bundle's).")] = None,
    steps: Annotated[int | None, typer.Option(help="Or how many: the bundle's fitted schedule, or even timesteps.", min=1)] = None,
    budget_ms: Annotated[
        float | None, typer.Option(help="Or how long an estimate may take, milliseconds: the largest schedule that fits (after 'time').")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim, ab2 or fitted (default: what --steps has fitted, else ddim).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the N draws.")] = 0,
    mode: Annotated[
        str | None,
        typer.Option(
            help="Start of the samples (default: the bundle's). Trained pairs: 'distribution' (N draws of the start distribution). "
            "Released weights: 'released' (the detected pose, no noise) or 'noised' (N draws around it)."
        ),
    ] = None,
    non_finite: Annotated[
        str, typer.Option(help="What a result that is no number does: 'raise' an error, or 'last': the last finite state's pose.")
    ] = "raise",
    trace: Annotated[bool, typer.Option(help="Also write 'trajectory' (frames,K+1,N,17,5): every state.")] = False,
    precision: Annotated[str, typer.Option(help="Precision of the graphs: fp32, fp16 or int8 (after 'calibrate').")] = "fp32",
    threads: Annotated[int | None, typer.Option(help="Cores to be used on the CPU (default: all).")] = None,
    backend: Annotated[str, typer.Option(help="onnxruntime, tensorrt, onnxruntime-cuda or auto.")] = "onnxruntime",
    trusted_key: Annotated[
        list[Path] | None,
        typer.Option(help="Run the bundle only if signed by one of these public keys (PEM; default: DIFFPOSE_TRUSTED_KEY, or any)."),
    ] = None,
    trusted_hash: Annotated[str | None, typer.Option(help="Run it only if it has this digest, sha256:…, as 'sign' prints it.")] = None,
    unsigned_engines: Annotated[
        bool, typer.Option("--unsigned-engines", help="With these: run TensorRT engines all the same, which no signature covers.")
    ] = False,
    camera: Annotated[
        Path | None, typer.Option(help="The camera's intrinsics (yaml, json): also write 'root', 'root_covariance', 'joints_camera'.")
    ] = None,
    stature: Annotated[float | None, typer.Option(help="With --camera: the person's height in metres (default: an adult's).")] = None,
    metrics_port: MetricsPort = None,
    metrics_address: MetricsAddress = LOOPBACK,
    faced: Annotated[bool, typer.Option("--facing", help="With --camera: show the network the person head-on, for wide lenses.")] = False,
) -> None:
    """Estimate the 3D poses of one person's clip. Needs no PyTorch.

    OUT holds joints (frames,17,3) in metres relative to the hip, context (frames,17,3) the encoder's own pose, samples
    (frames,N,17,3), covariance (frames,17,3,3) and observed (frames,17). Frames in which too few joints were seen are NaN.
    out_of_range (frames) marks those that are unlike all that training showed, non_finite (frames) those with the pose of a last
    finite state.
    With --camera also root (frames,3), where the hip is in the camera's frame, root_covariance (frames,3,3) and joints_camera
    (frames,17,3), the pose put there.
    call_ms (frames), step_ms (frames,K) and call_frames (frames) tell of the call that each frame came from.
    The other formats hold less: 'diffpose-edge formats'.
    """
    from diffpose_edge.runtime import PoseRuntime
    from diffpose_edge.runtime.plan import checked_sampler
    from diffpose_edge.runtime.start import checked_mode, generator_of

    walked = parsed_timesteps(timesteps)
    checked_sampler(sampler)
    checked_mode(mode)
    generator_of(seed)
    written = pose_format(out_path, out_format)
    if trace and written != NPZ:
        raise OutputError(f"--trace writes states, which {written} has no place for; write an npz")
    check_file_place(out_path)
    check_camera_options(camera, stature, faced)
    taken_by = None if camera is None else load_camera(camera)
    clip = open_clip(keypoints, format_name, person=person, image_size=parsed_size(image_size), fps=fps)
    check_rate(written, clip.fps, out_path)
    if out_path.exists() and out_path.samefile(keypoints):
        raise OutputError(f"--out and --keypoints both name {out_path}: the results would replace the input. Choose another name")
    # The output is opened first: a place that cannot be written to should show before the work, not after it.
    trust: dict[str, Any] = {"trusted_key": trusted_key or None, "trusted_hash": trusted_hash, "unsigned_engines": unsigned_engines}
    with atomic_file(out_path) as temporary:
        with (
            telling(),
            PoseRuntime.load(bundle, backend, precision=precision, threads=threads, timed=True, non_finite=non_finite, **trust) as runtime,
            metrics_at(metrics_port, metrics_address, {"runtime": runtime}),
            counting("frames", len(clip.keypoints)) as done,
        ):
            estimates = []
            asked: dict[str, Any] = {"timesteps": walked, "steps": steps, "sampler": sampler, "budget_ms": budget_ms}
            together = runtime.bundle.manifest.shape.F > 1 or runtime.bundle.manifest.causal is not None
            view = facing(taken_by, clip.keypoints, together=together) if taken_by is not None and faced else None
            shown = clip.keypoints if view is None else view.keypoints
            unlike = [told for told in runtime.range_report(shown.uv, shown.confidence) if told]
            for estimate in runtime.estimate_clip(shown, seed, **asked, mode=mode, trace=trace):
                estimates.append(estimate)
                done(len(estimate.joints))
        results = results_of(estimates)
        if view is not None:
            results.update(turned_back(results, view))
        if taken_by is not None:
            results.update(placed_clip(results, clip.keypoints, taken_by, stature))
        put_results(temporary, results | call_times(estimates), clip, written, out_path.name)
    blank = int(np.isnan(results["joints"]).any(axis=(1, 2)).sum())
    # A step that a budget cut off has taken no time.
    step_ms = np.concatenate([e.timings.steps / e.timings.batches for e in estimates]) * 1000
    step_ms = step_ms[step_ms != 0]
    whose = "" if clip.person is None else f" of person {clip.person}"
    say(
        f"wrote {out_path}: {len(clip.frames)} frames{whose}{f', {blank} of them without a pose (too few joints seen)' if blank else ''}; "
        + (f"median {np.median(step_ms):.2f} ms per diffusion step" if len(step_ms) else "no diffusion step was walked")
    )
    outside, last = int(results["out_of_range"].sum()), int(results["non_finite"].sum())
    if outside:
        say(f"{outside} frames are unlike all that training showed{f': {unlike[0]}' if unlike else ''}; trust their poses less")
    if last:
        say(f"{last} frames met a result that is no number, and have the pose of the last finite state; see docs/reliability.md")
    if budget_ms is not None:
        late, K = sum(e.truncated for e in estimates), len(estimates[0].timings.steps)
        say(f"{budget_ms:g} ms are good for K = {K} here; {late} of {len(estimates)} estimates were cut short")
