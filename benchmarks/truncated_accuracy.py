"""What a walk that a deadline cuts short is still worth: its samples and its mean pose after m of K steps, on held-out poses.

Run: ``python -m diffpose_edge.benchmarks.truncated_accuracy PAIR --out FOLDER``. Writes ``<pair>_truncated.json``. No time is measured: a
truncated walk ends where the walk of a shorter plan does (:func:`diffpose_edge.runtime.deadline.cut_short`), and that one is walked.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from diffpose_edge.atomic import check_file_place
from diffpose_edge.benchmarks.sampler_accuracy import PERSONS, figures_of, save_accuracy
from diffpose_edge.calibration.step_search import Denoiser, held_out
from diffpose_edge.cli.script import run_script
from diffpose_edge.cli.terminal import counting, out
from diffpose_edge.clips import held_out_path, trained_pair
from diffpose_edge.evaluation import load_evaluation
from diffpose_edge.export import export_bundle
from diffpose_edge.runtime.budget import Offers
from diffpose_edge.runtime.deadline import cut_short


def measure(pair: str, N: int, each: int, folder: Path) -> dict[str, Any]:
    """Return what the bundle's largest fitted schedule reaches after each number of its steps."""
    bundle = export_bundle(*trained_pair(pair), folder / pair, samples=N, persons=PERSONS).bundle
    manifest = bundle.manifest
    plans = Offers(manifest, "fitted").plans
    K = max(plans)
    with counting(f"{pair}: denoiser steps", manifest.T + K * (K + 1) // 2) as done:
        held = held_out(bundle, Denoiser(bundle), load_evaluation(held_out_path()), each, done)
        rows = []
        for m in range(1, K + 1):
            rows.append({"walked": m, **held.accuracy(plans[K] if m == K else cut_short(manifest, plans[K], m))})
            done(m)
    return {"N": N, "poses": len(held.truth), "K": K, "dense_mpjpe_mm": held.dense_mpjpe_mm, "rows": rows}


def main(
    pair: Annotated[str, typer.Argument(help="The pair that ships: frame or video.")] = "frame",
    folder: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("benchmarks/results"),
    samples: Annotated[int, typer.Option(help="N.", min=1)] = 5,
    each: Annotated[int, typer.Option(help="Frames of each of the twelve held-out clips.", min=1)] = 10,
) -> None:
    """Measure what is left of the largest fitted schedule when it is cut short."""
    check_file_place(folder / f"{pair}_truncated.json")
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(pair, samples, each, Path(temporary))
    what = "mm from the samples and the mean pose of every timestep of DDIM, same starts, and MPJPE, after m of K fitted steps"
    save_accuracy(folder / f"{pair}_truncated.json", what, pair, result)
    for row in result["rows"]:
        out.print(f"{row['walked']} of {result['K']}  {figures_of(row)}")


if __name__ == "__main__":
    run_script(main)
