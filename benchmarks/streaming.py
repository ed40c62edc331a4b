"""Accuracy against latency of a video that is answered frame by frame, side by side with PyTorch.

Run: ``python -m diffpose_edge.benchmarks.streaming --out FOLDER``. Writes ``streaming.json`` and ``streaming.png``.

Accuracy: every frame of the held-out clips, pushed one after another, one person, N = 5. Latency: one thread, the variants by turns, a
frame of each in every round, each in a process of its own; the mean over the rounds is what a stream costs, the highest what a robot
has to wait for: a hop lowers the one and not the other. ``--full-size`` adds latencies at the released size of MixSTE, 243 frames and
512 wide, on random weights, of which there is no accuracy to tell.
"""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import Progress, track

from diffpose_edge.atomic import atomic_file
from diffpose_edge.benchmarks.bench_candidate import Candidate
from diffpose_edge.benchmarks.bench_rounds import measured
from diffpose_edge.benchmarks.machine import governor, processor, versions
from diffpose_edge.benchmarks.stream_variant import CAUSAL, TORCH_CAUSAL, TORCH_WINDOW, WINDOW, StreamCandidate, hop_of
from diffpose_edge.bundle import Bundle
from diffpose_edge.cli.script import run_script
from diffpose_edge.cli.terminal import err, out
from diffpose_edge.clips import calibration_keypoints, held_out_path, trained_pair
from diffpose_edge.evaluation import EvaluationClip, load_evaluation
from diffpose_edge.export import export_bundle
from diffpose_edge.export.fp16_rounding import with_fp16_rounding
from diffpose_edge.manifest import GRAPHS
from diffpose_edge.metrics import joint_errors, mpjpe
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend
from diffpose_edge.schedule import trailing_timesteps

HOPS = (3, 9, 27)
K = 5
# A stream has gone through all that it does after this many frames of the longest hop.
CYCLES = 20
# At the released size a frame takes seconds.
FULL_SIZE_ROUNDS = 12


@dataclass(frozen=True)
class Row:
    """A variant, its errors in millimetres (None: nothing to tell) and its latencies in milliseconds (empty: not measured)."""

    pair: str
    way: str
    precision: str
    accuracy: dict[str, float] | None
    latency: dict[str, float]

    @property
    def name(self) -> str:
        """How the row is called in tables and in the plot."""
        return self.way if self.precision == "fp32" else f"{self.way}, {self.precision}"


def accuracy(bundle: Bundle, way: str, precision: str, clips: tuple[EvaluationClip, ...]) -> dict[str, float]:
    """Return the mean joint error over all frames with a pose (mm), that of the contexts, and that of velocities (mm per frame)."""
    poses, contexts, truths, speeds = [], [], [], []
    steps = trailing_timesteps(bundle.manifest.T, K)
    # Lower precisions are computed in float32 and rounded as their graphs say, after every operator: exact, and no faster.
    graphs = {role: with_fp16_rounding(bundle.read(role, precision)) for role in GRAPHS}
    with PoseRuntime(bundle, OnnxRuntimeBackend(bundle.manifest, graphs, threads=1)) as runtime:
        for number, clip in enumerate(track(clips, description=f"{bundle.path.name}, {way}, {precision}", console=err)):
            with runtime.stream(hop=hop_of(way), seed=number, timesteps=steps) as stream:
                estimates = [stream.push(clip.uv[i], clip.confidence[i]) for i in range(len(clip))]
            joints = np.concatenate([e.joints for e in estimates])
            posed = np.isfinite(joints).all(axis=(1, 2))
            poses.append(joints[posed])
            contexts.append(np.concatenate([e.context for e in estimates])[posed])
            truths.append(clip.truth[posed])
            both = posed[1:] & posed[:-1]
            speeds.append(joint_errors(np.diff(joints, axis=0)[both], np.diff(clip.truth, axis=0)[both]).mean(axis=1))
    truth = np.concatenate(truths)
    return {
        "mpjpe_mm": float(mpjpe(np.concatenate(poses), truth)),
        "context_mpjpe_mm": float(mpjpe(np.concatenate(contexts), truth)),
        "velocity_mm": float(np.concatenate(speeds).mean()),
        "frames": float(len(truth)),
    }


def latencies(variants: list[StreamCandidate], rounds: int, warm_up: int) -> Iterator[tuple[Candidate, dict[str, float]]]:
    """Measure variants by turns; yields milliseconds per frame: mean, median, 95 %, highest, and the encoder's mean."""
    with Progress(console=err) as bar:
        task = bar.add_task("rounds", total=rounds + warm_up)
        found, refused = measured(variants, rounds, warm_up=warm_up, progress=lambda done: bar.update(task, advance=done))
    for one in refused:
        err.print(f"{one.candidate} does not run here: {one.reason}")
    for each in found:
        frame, encoder = each.stages["frame"], each.stages["encoder"]
        yield (
            each.candidate,
            {
                "mean_ms": float(frame.mean()),
                "p50_ms": float(np.median(frame)),
                "p95_ms": float(np.quantile(frame, 0.95)),
                "max_ms": float(frame.max()),
                "encoder_mean_ms": float(encoder.mean()),
                "rounds": float(len(frame)),
            },
        )


def bundle_of(pair: str, checkpoints: tuple[Path, Path], folder: Path, *, calibrate: bool) -> Bundle:
    """Export a pair (denoiser, context) into ``folder``, with its checkpoints beside it for PyTorch; with lower precisions if wanted."""
    from diffpose_edge.calibration.calibrate import apply_calibration, calibrated

    beside = folder / "checkpoints" / pair
    beside.mkdir(parents=True)
    for path, name in zip(checkpoints, ("denoiser", "context"), strict=True):
        shutil.copyfile(path, beside / f"{name}.safetensors")
    bundle = export_bundle(*checkpoints, folder / pair, samples=5).bundle
    if calibrate:
        schedules = (trailing_timesteps(bundle.manifest.T, K),)
        bundle = apply_calibration(bundle, calibrated(bundle, calibration_keypoints(), schedules=schedules))
    return bundle


def ways_of(pair: str, *, torch: bool, hops: tuple[int, ...] = HOPS) -> list[str]:
    """Return the ways to stream a pair, the runtime's first."""
    if pair.startswith("causal"):
        return [CAUSAL, *([TORCH_CAUSAL] if torch else [])]
    return [WINDOW, *(f"hop {hop}" for hop in hops), *([TORCH_WINDOW] if torch else [])]


def shipped_rows(folder: Path, limit: int | None, rounds: int, threads: int) -> list[Row]:
    """Measure the video pair and the causal pair that ship."""
    clips = tuple(clip.first(limit) for clip in load_evaluation(held_out_path()))
    rows = []
    for pair in ("video", "causal"):
        bundle = bundle_of(pair, trained_pair(pair), folder, calibrate=True)
        ways = ways_of(pair, torch=False)
        for way, precision in (*((way, "fp32") for way in ways), (ways[0], "fp16"), (ways[0], "int8")):
            rows.append(Row(pair, way, precision, accuracy(bundle, way, precision, clips), {}))
    return with_latencies(rows, folder, ("video", "causal"), rounds, max(HOPS), threads)


def with_latencies(
    rows: list[Row], folder: Path, pairs: tuple[str, ...], rounds: int, warm_up: int, threads: int, hops: tuple[int, ...] = HOPS
) -> list[Row]:
    """Add latencies to the rows in FP32, and a row for each way of PyTorch, whose poses are those of the row of the same graph."""
    ways = [(pair, way) for pair in pairs for way in ways_of(pair, torch=True, hops=hops)]
    variants = [StreamCandidate(str(folder / pair), way, "fp32", K, threads) for pair, way in ways]
    same_poses = {TORCH_WINDOW: WINDOW, TORCH_CAUSAL: CAUSAL}
    known = {(row.pair, row.way, row.precision): row for row in rows}
    for variant, latency in latencies(variants, rounds, warm_up):
        pair, way = Path(variant.bundle).name, variant.backend
        equal = known.get((pair, same_poses.get(way, way), "fp32"))
        known[pair, way, "fp32"] = Row(pair, way, "fp32", None if equal is None else equal.accuracy, latency)
    return list(known.values())


def full_size_rows(folder: Path, threads: int) -> list[Row]:
    """Measure latencies at the released size of MixSTE, on random weights; no hops, whose means would need many rounds of seconds."""
    from diffpose_edge.reference.random_weights import write_random_conditioned_pair

    pairs = ("video at full size", "causal at full size")
    for pair in pairs:
        checkpoints = write_random_conditioned_pair(
            folder / f"{pair} made", frames=243, hidden=96, layers=5, encoder=(512, 8, 8), causal=pair.startswith("causal")
        )
        bundle_of(pair, checkpoints, folder, calibrate=False)
    return with_latencies([], folder, pairs, FULL_SIZE_ROUNDS, 2, threads, hops=())


def plot(rows: list[Row], path: Path, caption: str) -> None:
    """Draw MPJPE against the mean latency of a frame, with a whisker up to the highest. Raises OutputError, MissingPackage."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.accuracy is not None and row.latency]
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.subplots()
    for pair, colour, marker in (("video", "#1f5fa8", "o"), ("causal", "#c1440e", "s")):
        for torch in (False, True):
            own = [row for row in shown if row.pair == pair and row.way.startswith("PyTorch") == torch]
            if not own:
                continue
            mean = np.array([row.latency["mean_ms"] for row in own])
            highest = np.array([row.latency["p95_ms"] for row in own])
            error = [row.accuracy["mpjpe_mm"] for row in own if row.accuracy is not None]
            label = f"{pair} pair, {'PyTorch eager' if torch else 'this runtime'}"
            axes.errorbar(
                mean,
                error,
                xerr=[np.zeros_like(mean), np.maximum(highest - mean, 0.0)],
                fmt=marker,
                color=colour,
                mfc="white" if torch else colour,
                capsize=3,
                label=label,
            )
            for x, y, row in zip(mean, error, own, strict=True):
                axes.annotate(row.way.removeprefix("PyTorch, "), (x, y), textcoords="offset points", xytext=(6, 5), fontsize=8)
    axes.set_xscale("log")
    for axis_formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis_formatter("{x:g}")
    axes.margins(x=0.12, y=0.1)
    axes.set_xlabel("milliseconds per frame: mean, and up to the 95th percentile")
    axes.set_ylabel("MPJPE on the held-out clips, mm")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.suptitle(caption, fontsize=9)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def main(
    folder: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("benchmarks/results"),
    limit: Annotated[int | None, typer.Option(help="Only the first frames of each held-out clip.", min=2)] = None,
    cycles: Annotated[int, typer.Option(help=f"Rounds of {max(HOPS)} frames each.", min=1)] = CYCLES,
    threads: Annotated[int, typer.Option(help="Threads of the runtime, and of PyTorch.", min=1)] = 1,
    full_size: Annotated[bool, typer.Option("--full-size", help="Also latencies of 243 frames, 512 wide, on random weights.")] = False,
) -> None:
    """Measure streams: accuracy and latency."""
    with tempfile.TemporaryDirectory() as temporary:
        rows = shipped_rows(Path(temporary), limit, cycles * max(HOPS), threads)
        if full_size:
            rows += full_size_rows(Path(temporary), threads)
    record = {
        "what": "a video answered frame by frame, one person, N = 5, on the CPU: held-out errors (mm) and milliseconds per frame",
        "K": K,
        "threads": threads,
        "frames_of_each_clip": limit,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": processor(),
        "governor": governor(),
        "platform": platform.platform(),
        "versions": versions(("onnxruntime", "numpy", "torch")),
        "rows": [
            {"pair": r.pair, "way": r.way, "precision": r.precision, "accuracy": r.accuracy, "latency": r.latency or None} for r in rows
        ],
    }
    with atomic_file(folder / "streaming.json") as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    plot(rows, folder / "streaming.png", f"one person, N = 5, K = {K}, {threads} thread, {record['processor']}")
    for row in rows:
        errors = "" if row.accuracy is None else f"{row.accuracy['mpjpe_mm']:6.1f} mm (encoder {row.accuracy['context_mpjpe_mm']:.1f})"
        spent = "" if not row.latency else f"{row.latency['mean_ms']:8.2f} ms mean, {row.latency['max_ms']:.2f} at most"
        out.print(f"{row.pair:20s} {row.name:26s} {errors:30s} {spent}")


if __name__ == "__main__":
    run_script(main)
