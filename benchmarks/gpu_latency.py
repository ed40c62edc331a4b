"""Latency of a whole estimate and of each diffusion step on a GPU: TensorRT engines beside PyTorch and ONNX Runtime.

Run: ``python -m diffpose_edge.benchmarks.gpu_latency --out result.json``. The pairs that ship, random draws from one seed. The
candidates take turns within one process, round by round, so that a drift of clocks touches all alike; what counts are
the ratios within a round. A candidate that this machine refuses is reported with the refusal, and the others go on.
"""

from __future__ import annotations

import json
import platform
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer

from diffpose_edge.atomic import atomic_file
from diffpose_edge.benchmarks.step_latency import processor
from diffpose_edge.bundle import Bundle
from diffpose_edge.calibration.calibrate import apply_calibration, calibrated
from diffpose_edge.cli.terminal import err, out
from diffpose_edge.clips import calibration_keypoints, street_walk, trained_pair
from diffpose_edge.engines import FLAVOURS, PRECISIONS
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.export import export_bundle
from diffpose_edge.export.bundle_engines import build_engines
from diffpose_edge.extras import is_installed
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.tensorrt_backend import tensorrt_backend
from diffpose_edge.schedule import trailing_timesteps

WARM_UP = 20
PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt_rtx_cu13", "cuda-bindings", "numpy", "diffpose-edge")
# Runs once: returns the seconds of the whole estimate.
Candidate = Callable[[], float]


def estimate_of(runtime: PoseRuntime, keypoints: Any, steps: tuple[int, ...]) -> Candidate:
    """Return a candidate that estimates the same people again and again."""

    def run() -> float:
        began = perf_counter()
        runtime.estimate(keypoints, seed=0, timesteps=steps)
        return perf_counter() - began

    return run


def runtimes(bundle: Bundle, stack: ExitStack, refused: dict[str, str]) -> dict[str, PoseRuntime]:
    """Return every backend and precision that runs here, by name; ``refused`` gains the others with the reason."""
    found: dict[str, PoseRuntime] = {}

    def tried(name: str, load: Callable[[], PoseRuntime]) -> None:
        try:
            found[name] = stack.enter_context(load())
        except DiffPoseEdgeError as err:
            refused[name] = str(err)

    tried("onnxruntime cpu fp32", lambda: PoseRuntime.load(bundle, threads=1))
    tried("onnxruntime-cuda fp32", lambda: PoseRuntime.load(bundle, "onnxruntime-cuda"))
    for flavour, (module, _) in FLAVOURS.items():
        if not is_installed(module):
            refused[flavour] = "not installed"
            continue
        for precision in PRECISIONS:

            def engines(capture: bool, flavour: str = flavour, precision: str = precision) -> PoseRuntime:
                build_engines(bundle, precision, flavour)
                return PoseRuntime(bundle, tensorrt_backend(bundle, precision, flavour=flavour, capture=capture))

            tried(f"{flavour} {precision}", lambda engines=engines: engines(True))  # type: ignore[misc]
            tried(f"{flavour} {precision} eager", lambda engines=engines: engines(False))  # type: ignore[misc]
    return found


def torch_steps(bundle: Bundle, pair: str, steps: tuple[int, ...], refused: dict[str, str]) -> dict[str, Candidate]:
    """Return the K denoiser steps in PyTorch on the GPU: eager, compiled, and captured by hand. The encoder is not in them."""
    try:
        import torch
    except ImportError as absent:
        refused["pytorch"] = str(absent)
        return {}
    if not torch.cuda.is_available():
        refused["pytorch"] = "this PyTorch has no CUDA"
        return {}
    from diffpose_edge.benchmarks.torch_loop import torch_loop

    loop, x = torch_loop(bundle, pair, steps)

    def timed(run: Callable[[], Any]) -> Candidate:
        def candidate() -> float:
            began = perf_counter()
            run()
            torch.cuda.synchronize()
            return perf_counter() - began

        return candidate

    candidates: dict[str, Candidate] = {"pytorch eager, steps alone": timed(lambda: loop(x))}
    try:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side), torch.inference_mode():
            loop(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(graph):
            loop(x)
        candidates["pytorch cuda graph, steps alone"] = timed(graph.replay)
    except RuntimeError as err_:
        refused["pytorch cuda graph"] = str(err_)[:500]
    try:
        compiled = torch.compile(loop, mode="reduce-overhead")
        for _ in range(3):
            compiled(x)
        candidates["torch.compile reduce-overhead, steps alone"] = timed(lambda: compiled(x))
    except Exception as err_:  # whatever the compiler lacks on this machine: a C compiler, Triton
        refused["torch.compile"] = f"{type(err_).__name__}: {err_}"[:500]
    return candidates


def measure(pair: str, N: int, K: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Return milliseconds of every candidate for one person, N samples and K steps, and the device's own times."""
    bundle = export_bundle(*trained_pair(pair), folder / f"{pair}-{N}", samples=N).bundle
    bundle = apply_calibration(bundle, calibrated(bundle, calibration_keypoints(), schedules=(bundle.manifest.timesteps,), frames=27))
    F, clip = bundle.manifest.shape.F, street_walk().keypoints
    first = int(np.flatnonzero(clip.confidence.min(axis=1) > 0)[0])
    seen = np.concatenate([clip.uv, clip.confidence[..., None]], axis=-1)
    keypoints = seen[first] if F == 1 else seen[None, first : first + F]
    steps = trailing_timesteps(bundle.manifest.T, K)
    refused: dict[str, str] = {}
    with ExitStack() as stack:
        loaded = runtimes(bundle, stack, refused)
        candidates = {name: estimate_of(runtime, keypoints, steps) for name, runtime in loaded.items()}
        candidates |= torch_steps(bundle, pair, steps, refused)
        times: dict[str, list[float]] = {name: [] for name in candidates}
        for index in range(WARM_UP + rounds):
            for name, candidate in candidates.items():
                seconds = candidate()
                if index >= WARM_UP:
                    times[name].append(1000 * seconds)
    result = {
        "pair": pair,
        "N": N,
        "K": K,
        "rounds": rounds,
        "ms": {name: percentiles(values) for name, values in times.items()},
        "ms_per_step": {name: round(float(np.median(values)) / K, 5) for name, values in times.items()},
        "on_device": device_times(bundle, keypoints, steps, rounds),
        "refused": refused,
    }
    base = np.array(times["onnxruntime cpu fp32"])
    ratios = {name: float(np.median(base / np.array(values))) for name, values in times.items()}
    result["times_faster_than_onnxruntime_cpu"] = {name: round(ratio, 3) for name, ratio in ratios.items()}
    return result


def device_times(bundle: Bundle, keypoints: Any, steps: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Return what the GPU itself says that encoder, steps and the rest take, in ms, by flavour and precision."""
    found: dict[str, Any] = {}
    for flavour, (module, _) in FLAVOURS.items():
        for precision in PRECISIONS if is_installed(module) else ():
            try:
                with PoseRuntime(bundle, tensorrt_backend(bundle, precision, flavour=flavour, timed=True)) as runtime:
                    timings = [runtime.estimate(keypoints, seed=0, timesteps=steps).timings for _ in range(WARM_UP + rounds)][WARM_UP:]
            except DiffPoseEdgeError as refused:
                found[f"{flavour} {precision}"] = {"refused": str(refused)}
                continue
            found[f"{flavour} {precision}"] = {
                "context": percentiles([1000 * t.context for t in timings]),
                "step": percentiles(list(1000 * np.concatenate([t.steps for t in timings]))),
                "copies_and_start": percentiles([1000 * t.copies for t in timings]),
            }
    return found


def percentiles(values: list[float]) -> dict[str, float]:
    """Return p50, p95 and p99."""
    return {f"p{p}": round(float(np.percentile(values, p)), 5) for p in (50, 95, 99)}


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    query = "name,driver_version,compute_cap,memory.total,clocks.sm,clocks.mem,power.limit"
    try:
        smi = subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True, text=True, check=False)
        gpu = smi.stdout.strip()
    except OSError:
        gpu = ""
    return {
        "gpu": gpu or "no nvidia-smi",
        "processor": processor(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version_of(name))},
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main(
    out_path: Annotated[Path | None, typer.Option("--out", help="Write the result as JSON to this file.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds that count.", min=5)] = 200,
    pair: Annotated[list[str] | None, typer.Option(help="A pair that ships: frame or video; may be given twice.")] = None,
) -> None:
    """Measure the latency of estimates on this machine's GPU, for N = 1, 5, 20 and K = 5, 50."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in pair or ("frame", "video"):
            for N, K in ((5, 5), (1, 5), (20, 5), (5, 50)):
                err.print(f"{name}: N={N} K={K}")
                own = Path(folder) / f"{N}-{K}"
                own.mkdir(exist_ok=True)
                results.append(measure(name, N, K, rounds, own))
                for candidate, values in results[-1]["ms"].items():
                    out.print(f"{name} N={N} K={K} {candidate}: {values['p50']:.3f} ms p50, {values['p99']:.3f} p99")
    report = {"benchmark": "gpu_latency", **machine(), "results": results}
    if out_path is not None:
        with atomic_file(out_path) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
