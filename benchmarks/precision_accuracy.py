"""What FP16 and INT8 cost in accuracy: the shipped pairs on held-out clips, every precision beside PyTorch in FP32.

Run: ``python -m diffpose_edge.benchmarks.precision_accuracy --out FOLDER`` (or ``make precision``). Writes ``precision.json`` and
``precision.md``. Every precision sees the same frames and the same draws. Calibration is the default one, on frames of which
none is of a held-out clip.
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
from diffpose_edge.bundle import Bundle
from diffpose_edge.calibration.calibrate import apply_calibration, calibrated
from diffpose_edge.cli.script import run_script
from diffpose_edge.cli.terminal import err, out
from diffpose_edge.clips import calibration_keypoints, held_out_path, trained_pair
from diffpose_edge.comparison import added_error
from diffpose_edge.evaluation import EvaluationClip, load_evaluation
from diffpose_edge.export import export_bundle
from diffpose_edge.export.bundle_export import load_pair
from diffpose_edge.export.fp16_rounding import with_fp16_rounding
from diffpose_edge.export.layer_groups import matmul_macs
from diffpose_edge.export.precision import INT8_CPU
from diffpose_edge.export.reference_run import expected_run
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.manifest import FOR_CPU, GRAPHS
from diffpose_edge.metrics import joint_errors
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend
from diffpose_edge.runtime.start import LEAST_OBSERVED
from diffpose_edge.schedule import trailing_timesteps

PAIRS = ("frame", "video")
STEPS = (5, 50)
PRECISIONS = ("fp32", "fp16", "int8", "int8-trt8", INT8_CPU)


def part_of(clip: EvaluationClip, F: int, frames: int) -> tuple[Keypoints, Any]:
    """Return some frames of a clip and their truth: evenly spread, or the middle window for a video encoder."""
    if F > 1:
        first = (len(clip) - F) // 2
        chosen = np.arange(first, first + F)
    else:
        usable = np.flatnonzero((clip.confidence > 0).sum(axis=-1) >= LEAST_OBSERVED)
        chosen = usable[np.unique(np.linspace(0, len(usable) - 1, frames).round().astype(int))]
    return Keypoints(clip.uv[chosen], clip.confidence[chosen]), clip.truth[chosen]


def int8_shares(bundle: Bundle, K: int) -> dict[str, float]:
    """Return the share of one estimate's matmul work that runs in INT8 (one pass of the encoder, K steps), by precision."""
    import onnx

    work = {role: matmul_macs(onnx.load_model_from_string(bundle.read(role))) * (K if role == "step" else 1) for role in GRAPHS}
    made = bundle.manifest.provenance["precision"]
    # A video encoder has no form for the CPU: there the one in INT8 runs.
    shares = {p: {role: made[p].get(role, made["int8"][role])["int8_share"] for role in GRAPHS} for p in PRECISIONS if p != "fp32"}
    return {p: sum(work[role] * share[role] for role in GRAPHS) / sum(work.values()) for p, share in shares.items()}


def measure(pair: str, frames: int, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each K and precision of a shipped pair."""
    denoiser, context = trained_pair(pair)
    bundle = export_bundle(denoiser, context, folder / pair, samples=5).bundle
    out.print(f"{pair}: calibrating")
    bundle = apply_calibration(bundle, calibrated(bundle, calibration_keypoints()))
    model, manifest = load_pair(denoiser, context), bundle.manifest
    parts = [part_of(clip, manifest.stretch, frames) for clip in load_evaluation(held_out_path())]
    # FP16 rounded after every operator: ONNX Runtime's CPU would round constants only.
    shipped = {p: bundle.graphs(p.removesuffix(FOR_CPU), for_cpu=p.endswith(FOR_CPU)) for p in PRECISIONS}
    graphs = {p: {role: with_fp16_rounding(content) for role, content in of.items()} for p, of in shipped.items()}
    rows = []
    for K in STEPS:
        steps = trailing_timesteps(manifest.T, K)
        results: dict[str, list[Any]] = {precision: [] for precision in ("pytorch", *PRECISIONS)}
        for number, (clip, truth) in enumerate(track(parts, description=f"{pair}, K={K}", console=err)):
            expected = expected_run(model, clip, steps, manifest.shape, number)
            seen = (clip.confidence > 0).sum(axis=-1) >= LEAST_OBSERVED
            joints = np.where(seen[:, None, None], expected.joints, np.nan)
            results["pytorch"].append((joints, expected.trajectory, truth))
            for precision in PRECISIONS:
                with PoseRuntime(bundle, OnnxRuntimeBackend(manifest, graphs[precision], threads=1)) as runtime:
                    estimates = list(runtime.estimate_clip(clip, number, timesteps=steps, trace=True))
                trajectory = np.concatenate([e.trajectory for e in estimates if e.trajectory is not None], axis=1)
                results[precision].append((np.concatenate([e.joints for e in estimates]), trajectory, truth))
        joined = {p: (np.concatenate([r[0] for r in rs]), np.concatenate([r[1] for r in rs], axis=1)) for p, rs in results.items()}
        truth = np.concatenate([truth for _, truth in parts])
        posed = np.isfinite(joined["pytorch"][0]).all(axis=(1, 2))
        exact = float(joint_errors(joined["pytorch"][0][posed], truth[posed]).mean())
        shares = int8_shares(bundle, K)
        for precision in PRECISIONS:
            joints, trajectory = joined[precision]
            mpjpe = float(joint_errors(joints[posed], truth[posed]).mean())
            added = added_error(joints, *(joined["pytorch"][0], trajectory, joined["pytorch"][1]))
            row = {"pair": pair, "K": K, "N": 5, "precision": precision, "frames": int(posed.sum()), **added.as_json()}
            row |= {"mpjpe_mm": mpjpe, "mpjpe_change": mpjpe / exact - 1.0, "int8_share": shares.get(precision, 0.0)}
            row["megabytes"] = sum(map(len, shipped[precision].values())) / 1e6
            rows.append(row)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| pair | K | precision | added, mean mm | 99 % mm | worst joint mm | MPJPE mm | change | INT8 share of matmul work | MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        added = [f"{r[key]:.{4 if r['precision'] == 'fp32' else 2}f}" for key in ("mean_mm", "p99_mm", "worst_mm")]
        share = f"{100 * r['int8_share']:.1f} %" if r["precision"].startswith("int8") else "-"
        cells = [r["pair"], str(r["K"]), r["precision"], *added, f"{r['mpjpe_mm']:.2f}", f"{100 * r['mpjpe_change']:+.2f} %", share]
        lines.append("| " + " | ".join([*cells, f"{r['megabytes']:.2f}"]) + " |")
    return "\n".join(lines) + "\n"


def main(
    folder: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("benchmarks/results"),
    frames: Annotated[int, typer.Option(help="Frames of each of the twelve held-out clips (frame pair).", min=1)] = 16,
    pair: Annotated[str | None, typer.Option(help="Measure this pair alone, and keep the other's rows as they are.")] = None,
) -> None:
    """Measure what each precision adds to the poses."""
    kept = json.loads((folder / "precision.json").read_text(encoding="utf-8"))["rows"] if pair else []
    with tempfile.TemporaryDirectory() as temporary:
        measured = {name: measure(name, frames, Path(temporary)) for name in PAIRS if pair in (None, name)}
    rows = [row for name in PAIRS for row in measured.get(name, [r for r in kept if r["pair"] == name])]
    record = {
        "what": "distance from PyTorch FP32 poses and MPJPE on held-out clips; ONNX Runtime on the CPU, Q/DQ computed in float, "
        "integers without saturation, FP16 rounded after every operator",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": processor(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in ("torch", "onnxruntime", "numpy")},
        "rows": rows,
    }
    for name, content in (("precision.json", json.dumps(record, indent=2) + "\n"), ("precision.md", markdown(rows))):
        with atomic_file(folder / name) as partial:
            partial.write_text(content, encoding="utf-8")
    print(markdown(rows))


if __name__ == "__main__":
    run_script(main)
