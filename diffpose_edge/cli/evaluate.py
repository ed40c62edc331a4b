"""``diffpose-edge evaluate``"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from diffpose_edge.atomic import atomic_file, check_file_place
from diffpose_edge.cli.terminal import counting, out, parsed_timesteps, say, telling
from diffpose_edge.clips import held_out_path
from diffpose_edge.errors import OutputError
from diffpose_edge.evaluation import EvaluationClip, load_evaluation
from diffpose_edge.extras import require
from diffpose_edge.scoring import METRICS, JointRow, Row, Score, calibration, per_joint, score, summary, without_nan

if TYPE_CHECKING:
    from diffpose_edge.runtime import PoseRuntime

HEADINGS = {
    "mpjpe": "MPJPE\nmm",
    "p_mpjpe": "P-MPJPE\nmm",
    "n_mpjpe": "N-MPJPE\nmm",
    "mpjve": "MPJVE\nmm/frame",
    "pck_150": "PCK\n%",
    "auc": "AUC\n%",
    "coverage_50": "in 50 %\n%",
    "coverage_90": "in 90 %\n%",
    "spearman": "rank\ncorr.",
    "context_mpjpe": "encoder\nmm",
}


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A bundle made by export.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="npz of clips with '<clip>/uv', '/confidence', '/truth', '/action' and '/fps' (default: the held-out clips that ship)."
        ),
    ] = None,
    mode: Annotated[str | None, typer.Option(help="Start of the samples, as for run (default: the runtime's).")] = None,
    timesteps: Annotated[str | None, typer.Option(help="Timesteps, largest first (default: the bundle's).")] = None,
    steps: Annotated[int | None, typer.Option(help="Or how many: the bundle's fitted schedule, or even timesteps.", min=1)] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim, ab2 or fitted (default: what --steps has fitted, else ddim).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Take the first LIMIT frames of each clip only.", min=1)] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")] = None,
    plot_path: Annotated[Path | None, typer.Option("--plot", help="Draw error, spread and calibration to this PNG.")] = None,
    precision: Annotated[str, typer.Option(help="Precision of the graphs: fp32, fp16 or int8 (after 'calibrate').")] = "fp32",
    threads: Annotated[int | None, typer.Option(help="Cores to be used on the CPU (default: all).")] = None,
    backend: Annotated[str, typer.Option(help="onnxruntime, tensorrt, onnxruntime-cuda or auto.")] = "onnxruntime",
) -> None:
    """Measure a bundle's accuracy and the truth of its uncertainty on clips with known 3D. Needs no PyTorch.

    Errors are in millimetres, relative to the hip. Frames in which too few joints were seen get no pose: they are counted
    and left out. The number of samples N is the bundle's.
    """
    from diffpose_edge.runtime import PoseRuntime
    from diffpose_edge.runtime.plan import checked_sampler, step_plan
    from diffpose_edge.runtime.start import MODES, generator_of

    walked = parsed_timesteps(timesteps)
    checked_sampler(sampler)
    generator_of(seed)
    data = data or held_out_path()
    _check_places(data, json_path, plot_path)
    if plot_path is not None:
        require("matplotlib")
    clips = [clip.first(limit) for clip in load_evaluation(data)]
    # An option that was not given is not passed on either: the runtime has its own default.
    options = {"timesteps": walked, "steps": steps, "sampler": sampler, **({} if mode is None else {"mode": mode})}
    with telling(), PoseRuntime.load(bundle, backend, precision=precision, threads=threads) as runtime:
        with counting("frames", sum(map(len, clips))) as done:
            scores = [_scored(runtime, clip, [seed, index], options, done) for index, clip in enumerate(clips)]
        manifest = runtime.bundle.manifest
    rows, joints = summary(scores), per_joint(scores)
    note = str(manifest.provenance.get("note") or "")
    if note:
        say(f"note of the bundle: {note}")
    print_rows(rows)
    print_joints(joints)
    blank = rows[0].unposed
    say(f"{rows[0].clips} clips, {rows[0].frames} frames" + (f", {blank} of them without a pose (too few joints seen)" if blank else ""))
    plan = step_plan(manifest, walked, steps, sampler)
    used = {
        "bundle": str(bundle),
        "note": note,
        "data": str(data),
        "precision": precision,
        "mode": mode or MODES[manifest.process.kind][0],
        "timesteps": list(plan.timesteps),
        "sampler": plan.sampler,
        "N": manifest.shape.N,
        "seed": seed,
        "limit": limit,
    }
    if json_path is not None:
        _write_json(json_path, used, rows, joints, scores)
    if plot_path is not None:
        from diffpose_edge.evaluation_plot import plot_evaluation

        first = f"{bundle.name} on {data.name}: MPJPE {rows[0].mpjpe:.1f} mm, N = {manifest.shape.N}, K = {len(plan.timesteps)}"
        # The curve of N perfect samples is for covariances of samples alone; a trained pair's are calibrated.
        sampled = manifest.shape.N if manifest.process.kind == "released" else None
        plot_evaluation(scores, plot_path, samples=sampled, caption=f"{first}\n{note}".strip())


def _check_places(data: Path, *outputs: Path | None) -> None:
    given = [path for path in outputs if path is not None]
    for index, path in enumerate(given):
        check_file_place(path)
        if path.exists() and data.exists() and path.samefile(data):
            raise OutputError(f"{path} is the evaluation set itself: the results would replace it. Choose another name")
        if path.resolve() in [other.resolve() for other in given[:index]]:
            raise OutputError(f"--json and --plot both name {path}; choose two names")


def _scored(runtime: PoseRuntime, clip: EvaluationClip, seed: Sequence[int], options: dict[str, Any], done: Callable[[int], None]) -> Score:
    # A generator for each clip: how long the clips before it are does not change its draws.
    estimates = []
    for estimate in runtime.estimate_clip(clip.keypoints, np.random.default_rng(seed), **options):
        estimates.append(estimate)
        done(len(estimate.joints))
    contexts = [e.context for e in estimates]
    return score(
        np.concatenate([e.joints for e in estimates]),
        np.concatenate([e.covariance for e in estimates]),
        np.concatenate(contexts) if contexts else None,
        clip,
    )


def _write_json(path: Path, used: dict[str, Any], rows: Sequence[Row], joints: Sequence[JointRow], scores: Sequence[Score]) -> None:
    levels = [without_nan({"level": level, "coverage": covered}) for level, covered in calibration(scores)]
    report = {"evaluation": used, "rows": [r.as_json() for r in rows], "joints": [j.as_json() for j in joints], "calibration": levels}
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _shown(metric: str, value: float) -> str:
    if not np.isfinite(value):
        return "-"
    if metric == "spearman":
        return f"{value:.2f}"
    return f"{100 * value:.1f}" if metric.startswith("coverage") else f"{value:.1f}"


def print_rows(rows: Sequence[Row]) -> None:
    """Print the summary; columns that nothing is known for are left out."""
    known = [metric for metric in METRICS if any(np.isfinite(getattr(row, metric)) for row in rows)]
    table = Table(title="accuracy")
    table.add_column("of")
    for heading in ("frames", "no\npose", *(HEADINGS[metric] for metric in known)):
        table.add_column(heading, justify="right")
    group = rows[0].group
    for row in rows:
        if row.group != group:
            table.add_section()
        group = row.group
        figures = [_shown(metric, getattr(row, metric)) for metric in known]
        table.add_row(escape(row.name), str(row.frames), str(row.unposed or "-"), *figures)
    out.print(table)


def print_joints(joints: Sequence[JointRow]) -> None:
    """Print error, spread and calibration of each joint."""
    table = Table(title="joints")
    table.add_column("joint")
    for heading in ("MPJPE\nmm", "RMS error\nmm", "RMS spread\nmm", "in 50 %\n%", "in 90 %\n%", "rank\ncorr."):
        table.add_column(heading, justify="right")
    for row in joints:
        figures = ("mpjpe", "rms_error", "rms_spread", "coverage_50", "coverage_90", "spearman")
        table.add_row(row.joint, *(_shown(figure, getattr(row, figure)) for figure in figures))
    out.print(table)
