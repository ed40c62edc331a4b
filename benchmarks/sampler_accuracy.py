"""How near few steps come to every timestep of DDIM, by sampler and K, and to the truth, on held-out poses.

Run: ``python -m diffpose_edge.benchmarks.sampler_accuracy PAIR --out FOLDER``. Writes ``<pair>_samplers.json``. No time is
measured. The fitted schedules are those that ship with the pair (``diffpose-edge search-steps`` made them on other poses).
"""

from __future__ import annotations

import json
import tempfile
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from diffpose_edge.atomic import atomic_file, check_file_place
from diffpose_edge.calibration.step_search import Denoiser, held_out
from diffpose_edge.cli.script import run_script
from diffpose_edge.cli.terminal import counting, out
from diffpose_edge.clips import held_out_path, trained_pair
from diffpose_edge.evaluation import load_evaluation
from diffpose_edge.export import export_bundle
from diffpose_edge.runtime.plan import step_plan

STEPS = (1, 2, 3, 4, 5, 8, 10, 25)
# How many samples are computed at once: poses and draws do not depend on it.
PERSONS = 20


def measure(pair: str, N: int, each: int, folder: Path) -> dict[str, Any]:
    """Return what every sampler reaches with every K, and what every timestep of DDIM does."""
    bundle = export_bundle(*trained_pair(pair), folder / pair, samples=N, persons=PERSONS).bundle
    manifest = bundle.manifest
    fitted = {len(schedule.timesteps) for schedule in manifest.fitted}
    plans = [
        (K, step_plan(manifest, steps=K, sampler=sampler))
        for K in STEPS
        for sampler in ("ddim", "ab2", "fitted")
        if not (sampler == "fitted" and K not in fitted) and not (sampler == "ab2" and K == 1)
    ]
    with counting(f"{pair}: denoiser steps", manifest.T + sum(K for K, _ in plans)) as done:
        held = held_out(bundle, Denoiser(bundle), load_evaluation(held_out_path()), each, done)
        rows = []
        for K, plan in plans:
            rows.append({"K": K, "sampler": plan.sampler, "timesteps": list(plan.timesteps), **held.accuracy(plan)})
            done(K)
    return {"N": N, "poses": len(held.truth), "dense_K": len(held.trial.dense), "dense_mpjpe_mm": held.dense_mpjpe_mm, "rows": rows}


def save_accuracy(path: Path, what: str, pair: str, result: dict[str, Any]) -> None:
    """Write what was measured, and of what, with what."""
    record = {
        "what": what,
        "pair": pair,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": {name: version(name) for name in ("onnxruntime", "numpy")},
        **result,
    }
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def figures_of(row: dict[str, Any]) -> str:
    """Return a row's millimetres as columns."""
    return "  ".join(f"{row[name]:7.2f}" for name in ("sample_mm", "pose_mm", "pose_p99_mm", "mpjpe_mm"))


def main(
    pair: Annotated[str, typer.Argument(help="The pair that ships: frame or video.")] = "frame",
    folder: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("benchmarks/results"),
    samples: Annotated[int, typer.Option(help="N.", min=1)] = 5,
    each: Annotated[int, typer.Option(help="Frames of each of the twelve held-out clips.", min=1)] = 10,
) -> None:
    """Measure samplers against every timestep of DDIM."""
    # Before the work, not after it: a place that cannot be written to.
    check_file_place(folder / f"{pair}_samplers.json")
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(pair, samples, each, Path(temporary))
    what = "mm from the samples and the mean pose of every timestep of DDIM, same starts, and MPJPE; held-out poses"
    save_accuracy(folder / f"{pair}_samplers.json", what, pair, result)
    for row in result["rows"]:
        out.print(f"K={row['K']:3d}  {row['sampler']:6s}  {figures_of(row)}")


if __name__ == "__main__":
    run_script(main)
