"""Milliseconds per diffusion step: the PyTorch loop as published beside the exported graph in the runtime.

Run: ``python -m diffpose_edge.benchmarks.step_latency --out result.json`` (or ``make bench``). Weights of the released
size are drawn from a seed. The candidates take turns within one process and one thread each, round by round, so that a
drift of the machine's speed touches all alike; what counts is the ratio within a round.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.progress import track

from diffpose_edge.atomic import atomic_file
from diffpose_edge.benchmarks.machine import processor
from diffpose_edge.cli.terminal import err, out
from diffpose_edge.clips import street_walk
from diffpose_edge.export import export_bundle
from diffpose_edge.reference import load_released
from diffpose_edge.reference.random_weights import write_random_pair
from diffpose_edge.runtime import PoseRuntime

WARM_UP = 3


IMPORTS = "import diffpose_edge.runtime, onnxruntime"


def import_seconds(repeats: int = 7) -> float:
    """Return the least time that a fresh interpreter takes to import the runtime with numpy and ONNX Runtime."""
    program = f"from time import perf_counter as now; began = now(); {IMPORTS}; print(now() - began)"
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True) for _ in range(repeats)]
    return min(float(run.stdout) for run in runs)


def measure(N: int, K: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Time K steps over N samples of one person by each candidate, interleaved; return milliseconds per step."""
    denoiser, context = write_random_pair(folder / "checkpoints")
    model = load_released(denoiser, context)
    bundle = export_bundle(denoiser, context, folder / f"bundle_n{N}", samples=N).bundle
    clip = street_walk().keypoints
    frame = int(np.flatnonzero(clip.confidence.min(axis=1) > 0)[0])
    timesteps = tuple(range(K - 1, -1, -1))
    uv = torch.from_numpy(np.repeat(clip.uv[frame : frame + 1], N, axis=0))
    xyz = model.context(uv)

    def eager() -> float:
        began = perf_counter()
        model.sample(uv, timesteps, xyz)
        return perf_counter() - began

    torch.set_num_threads(1)
    with PoseRuntime.load(bundle, threads=1) as runtime:

        def exported() -> float:
            return float(runtime.estimate(clip.uv[frame], timesteps=timesteps).timings.steps.sum())

        candidates: dict[str, Callable[[], float]] = {"pytorch eager": eager, "runtime onnxruntime": exported}
        times: dict[str, list[float]] = {name: [] for name in candidates}
        for index in track(range(WARM_UP + rounds), f"N={N} K={K}", console=err):
            for name, candidate in candidates.items():
                seconds = candidate()
                if index >= WARM_UP:
                    times[name].append(1000 * seconds / K)
    ratio = np.array(times["pytorch eager"]) / np.array(times["runtime onnxruntime"])
    return {
        "N": N,
        "K": K,
        "rounds": rounds,
        "ms_per_step": {name: _percentiles(np.array(values)) for name, values in times.items()},
        "ratio_eager_over_runtime": _percentiles(ratio),
    }


def _percentiles(values: np.ndarray[Any, Any]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(values, p)), 4) for p in (50, 95, 99)}


def main(
    out_path: Annotated[Path | None, typer.Option("--out", help="Write the result as JSON to this file.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds that count.", min=3)] = 30,
    steps: Annotated[int, typer.Option("--steps", help="K: reverse steps in a round.", min=1, max=51)] = 10,
) -> None:
    """Measure milliseconds per diffusion step for N = 1, 5 and 20 on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(N, steps, rounds, Path(folder) / str(N)) for N in (1, 5, 20)]
    for r in results:
        p50 = {name: values["p50"] for name, values in r["ms_per_step"].items()}
        out.print(
            f"N={r['N']:>2} K={r['K']}: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in p50.items()),
            f"per step (p50); ratio {r['ratio_eager_over_runtime']['p50']:.2f}",
        )
    imported = import_seconds()
    out.print(f"importing diffpose_edge.runtime with numpy and ONNX Runtime: {imported:.2f} s")
    report = {
        "benchmark": "step_latency",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "device": processor(),
        "threads": 1,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("torch", "onnxruntime", "numpy", "diffpose-edge")}},
        "network": "96 wide, 5 layers, 4 heads, seeded random weights",
        "import_seconds": round(imported, 3),
        "results": results,
    }
    if out_path is not None:
        with atomic_file(out_path) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
