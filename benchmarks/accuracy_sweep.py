"""Accuracy against latency over the number of samples N and of steps K, on the held-out clips.

Run: ``python -m diffpose_edge.benchmarks.accuracy_sweep --out FOLDER`` (or ``make sweep``). Writes ``<pair>_sweep.json`` and
``<pair>_sweep.png``. One thread, one person at a time; every (N, K) sees the same frames, and the schedules take turns frame
by frame, so that a drift of the machine's speed touches all alike.
"""

from __future__ import annotations

import json
import platform
import tempfile
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

from diffpose_edge.atomic import atomic_file
from diffpose_edge.benchmarks.machine import processor
from diffpose_edge.cli.script import run_script
from diffpose_edge.cli.terminal import err, out
from diffpose_edge.clips import held_out_path, trained_pair
from diffpose_edge.evaluation import EvaluationClip, load_evaluation
from diffpose_edge.evaluation_plot import SweepRow, plot_sweep
from diffpose_edge.export import export_bundle
from diffpose_edge.metrics import mpjpe
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.start import LEAST_OBSERVED
from diffpose_edge.schedule import trailing_timesteps

SAMPLES = (1, 5, 20, 50)
STEPS = (1, 2, 5, 10, 50)


def windows_of(clips: tuple[EvaluationClip, ...], F: int, each: int) -> tuple[Any, Any, Any]:
    """Return ``each`` frames of every clip, evenly spread: keypoints and confidence (windows for F > 1), and the truth."""
    uv, confidence, truth = [], [], []
    for clip in clips:
        for last in np.linspace(F - 1, len(clip) - 1, each).round().astype(int):
            if (clip.confidence[last] > 0).sum() < LEAST_OBSERVED:
                continue
            part = slice(last - F + 1, last + 1) if F > 1 else last
            uv.append(clip.uv[part])
            confidence.append(clip.confidence[part])
            truth.append(clip.truth[last])
    return np.stack(uv), np.stack(confidence), np.stack(truth)


def measure(pair: str, N: int, frames: int, folder: Path) -> dict[str, Any]:
    """Return the error (mm) and the latency (ms) of every K for N samples, and the encoder's own error."""
    denoiser, context = trained_pair(pair)
    bundle = export_bundle(denoiser, context, folder / f"{pair}-{N}", samples=N).bundle
    T, F = bundle.manifest.T, bundle.manifest.shape.F
    uv, confidence, truth = windows_of(load_evaluation(held_out_path()), F, frames)
    schedules = {K: trailing_timesteps(T, K) for K in STEPS}
    joints = {K: np.empty_like(truth) for K in STEPS}
    totals = {K: np.empty(len(uv)) for K in STEPS}
    per_step = {K: np.empty(len(uv)) for K in STEPS}
    encoder = np.empty_like(truth)
    with PoseRuntime.load(bundle, threads=1) as runtime:
        for schedule in schedules.values():
            runtime.estimate(uv[:1], confidence[:1], 0, timesteps=schedule)
        for i in track(range(len(uv)), description=f"{pair}, N={N}", console=err):
            for K, schedule in schedules.items():
                estimate = runtime.estimate(uv[i : i + 1], confidence[i : i + 1], i, timesteps=schedule)
                joints[K][i], encoder[i] = estimate.joints[0], estimate.context[0]
                totals[K][i], per_step[K][i] = 1000 * estimate.timings.total, 1000 * estimate.timings.steps.mean()
    return {
        "N": N,
        "frames": len(uv),
        "encoder_mpjpe_mm": float(mpjpe(encoder, truth)),
        "rows": [
            {
                "K": K,
                "mpjpe_mm": float(mpjpe(joints[K], truth)),
                "total_ms_p50": float(np.median(totals[K])),
                "total_ms_p95": float(np.quantile(totals[K], 0.95)),
                "step_ms_p50": float(np.median(per_step[K])),
            }
            for K in STEPS
        ],
    }


def main(
    folder: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("benchmarks/results"),
    pair: Annotated[str, typer.Option(help="The pair that ships: frame or video.")] = "frame",
    frames: Annotated[int, typer.Option(help="Frames of each of the twelve held-out clips.", min=1)] = 10,
) -> None:
    """Measure accuracy and latency over N and K."""
    with tempfile.TemporaryDirectory() as temporary:
        results = [measure(pair, N, frames, Path(temporary)) for N in SAMPLES]
    record = {
        "what": "held-out MPJPE (mm) and latency of one person's frame (ms), one thread, ONNX Runtime on the CPU",
        "pair": pair,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": processor(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in ("onnxruntime", "numpy")},
        "results": results,
    }
    with atomic_file(folder / f"{pair}_sweep.json") as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    rows = [SweepRow(r["N"], row["K"], row["total_ms_p50"], row["mpjpe_mm"]) for r in results for row in r["rows"]]
    encoder = float(np.mean([r["encoder_mpjpe_mm"] for r in results]))
    plot_sweep(rows, folder / f"{pair}_sweep.png", context_mpjpe=encoder, caption=f"{pair} pair, one thread, {record['processor']}")
    for row in rows:
        out.print(f"N={row.N:3d} K={row.K:3d}  {row.mpjpe:6.1f} mm  {row.latency_ms:8.2f} ms   (encoder alone {encoder:.1f} mm)")


if __name__ == "__main__":
    run_script(main)
