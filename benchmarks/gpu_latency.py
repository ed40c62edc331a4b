"""Latency of a whole estimate and of each diffusion step on a GPU: TensorRT engines beside PyTorch and ONNX Runtime.

Run: ``python -m diffpose_edge.benchmarks.gpu_latency --out result.json``. The pairs that ship, random draws from one seed. The
candidates take turns within one process, round by round, so that a drift of clocks touches all alike; what counts are
the ratios within a round. A candidate that this machine refuses, or that fails on the way, is reported with the reason, and the
others go on. The result is written after each N and K: whatever stops a run leaves what it has measured.
"""

from __future__ import annotations

import json
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, TypeVar

import numpy as np
import typer

from diffpose_edge.atomic import atomic_file
from diffpose_edge.benchmarks.engine_probe import refusals
from diffpose_edge.benchmarks.machine import processor, versions
from diffpose_edge.benchmarks.shipped_bundles import shipped_bundle
from diffpose_edge.bundle import Bundle
from diffpose_edge.cli.script import run_script
from diffpose_edge.cli.terminal import err, say
from diffpose_edge.clips import street_walk
from diffpose_edge.engines import FLAVOURS, PRECISIONS
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.export.bundle_engines import build_engines
from diffpose_edge.extras import is_installed
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.cuda import open_cuda
from diffpose_edge.runtime.tensorrt_backend import tensorrt_backend
from diffpose_edge.schedule import trailing_timesteps

WARM_UP = 20
PACKAGES = ("torch", "triton", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt_rtx_cu13", "cuda-bindings", "numpy", "diffpose-edge")
# K by N. All K of one N share a bundle and what was loaded of it. 50 comes before 5: nothing is compiled for it, which is what
# takes longest, so that first figures are there early.
CONFIGURATIONS: Mapping[int, tuple[int, ...]] = {5: (50, 5), 1: (5,), 20: (5,)}
# torch.compile unrolls the loop: more steps than these would be compiled for minutes.
MOST_COMPILED_STEPS = 5
BASE = "onnxruntime cpu fp32"
# Runs once: returns the seconds of the whole estimate.
Candidate = Callable[[], float]
T = TypeVar("T")


def attempt(name: str, refused: dict[str, str], make: Callable[[], T]) -> T | None:
    """Return what ``make`` gives, or None when it fails: ``refused`` then has the reason under ``name``."""
    try:
        return make()
    except DiffPoseEdgeError as reason:
        refused[name] = str(reason)
    except Exception as reason:
        # ONNX Runtime's, PyTorch's and its compiler's errors have no base of their own. Each is reported with its text.
        refused[name] = f"{type(reason).__name__}: {reason}"
    return None


def taking_turns(candidates: Mapping[str, Candidate], rounds: int, refused: dict[str, str]) -> dict[str, list[float]]:
    """Return milliseconds of every candidate, one for each round. One that fails on the way is left out, and told in ``refused``."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for index in range(WARM_UP + rounds):
        for name in tuple(times):
            seconds = attempt(name, refused, candidates[name])
            if seconds is None:
                del times[name]
            elif index >= WARM_UP:
                times[name].append(1000 * seconds)
    return times


def estimate_of(runtime: PoseRuntime, keypoints: Any, steps: tuple[int, ...]) -> Candidate:
    """Return a candidate that estimates the same people again and again."""

    def run() -> float:
        began = perf_counter()
        runtime.estimate(keypoints, seed=0, timesteps=steps)
        return perf_counter() - began

    return run


def runtimes(bundle: Bundle, stack: ExitStack, refused: dict[str, str]) -> dict[str, PoseRuntime]:
    """Return every backend and precision that runs here, by name; ``refused`` gains the others with the reason.

    A flavour of TensorRT that it has already is not tried.
    """
    found: dict[str, PoseRuntime] = {}

    def tried(name: str, load: Callable[[], PoseRuntime]) -> None:
        runtime = attempt(name, refused, load)
        if runtime is not None:
            found[name] = stack.enter_context(runtime)

    tried(BASE, lambda: PoseRuntime.load(bundle, threads=1))
    tried("onnxruntime-cuda fp32", lambda: PoseRuntime.load(bundle, "onnxruntime-cuda"))
    for flavour, (module, _) in FLAVOURS.items():
        if not is_installed(module):
            refused[flavour] = "not installed"
        if flavour in refused:
            continue
        for precision in PRECISIONS:

            def engines(capture: bool, flavour: str = flavour, precision: str = precision) -> PoseRuntime:
                build_engines(bundle, precision, flavour)
                return PoseRuntime(bundle, tensorrt_backend(bundle, precision, flavour=flavour, capture=capture))

            tried(f"{flavour} {precision}", lambda engines=engines: engines(True))  # type: ignore[misc]
            tried(f"{flavour} {precision} eager", lambda engines=engines: engines(False))  # type: ignore[misc]
    return found


def torch_steps(bundle: Bundle, pair: str, steps: tuple[int, ...], refused: dict[str, str]) -> dict[str, Candidate]:
    """Return the K denoiser steps in PyTorch on the GPU: eager, captured by hand, and compiled. The encoder is not in them."""
    torch = attempt("pytorch", refused, torch_with_cuda)
    if torch is None:
        return {}
    from diffpose_edge.benchmarks.torch_loop import captured, compiled, torch_loop

    made = attempt("pytorch", refused, lambda: torch_loop(pair, bundle.manifest.shape.state[0], steps))
    if made is None:
        return {}
    loop, x = made
    ways: dict[str, Callable[[], Callable[[], Any]]] = {
        "pytorch eager, steps alone": lambda: lambda: loop(x),
        "pytorch cuda graph, steps alone": lambda: captured(loop, x),
    }
    name = "torch.compile reduce-overhead, steps alone"
    if len(steps) <= MOST_COMPILED_STEPS:
        ways[name] = lambda: compiled(loop, x)
    else:
        refused[name] = f"not compiled for more than {MOST_COMPILED_STEPS} steps: it takes minutes"

    def timed(run: Callable[[], Any]) -> Candidate:
        def candidate() -> float:
            began = perf_counter()
            run()
            torch.cuda.synchronize()
            return perf_counter() - began

        return candidate

    runs = {name: attempt(name, refused, way) for name, way in ways.items()}
    return {name: timed(run) for name, run in runs.items() if run is not None}


def torch_with_cuda() -> Any:
    """Return PyTorch. Raises DiffPoseEdgeError when it sees no GPU, ImportError when it is missing."""
    import torch

    if not torch.cuda.is_available():
        raise DiffPoseEdgeError(f"PyTorch {torch.__version__} sees no GPU here")
    return torch


def measured(pair: str, N: int, all_K: tuple[int, ...], rounds: int, folder: Path, untaken: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield for each K the milliseconds of every candidate, for one person and N samples, and the device's own times.

    ``folder`` has the bundles, or gets them; ``untaken``: flavours of TensorRT whose engines the GPU refuses, with the reason.
    """
    unmade: dict[str, str] = {}
    bundle = attempt("bundle", unmade, lambda: shipped_bundle(pair, N, folder))
    if bundle is None:
        yield {"pair": pair, "N": N, "K": list(all_K), "ms": {}, "refused": unmade}
        return
    F, clip = bundle.manifest.shape.F, street_walk().keypoints
    first = int(np.flatnonzero(clip.confidence.min(axis=1) > 0)[0])
    seen = np.concatenate([clip.uv, clip.confidence[..., None]], axis=-1)
    keypoints = seen[first] if F == 1 else seen[None, first : first + F]
    with ExitStack() as stack:
        unloaded = dict(untaken)
        loaded = runtimes(bundle, stack, unloaded)
        for K in all_K:
            refused, steps = dict(unloaded), trailing_timesteps(bundle.manifest.T, K)
            candidates = {name: estimate_of(runtime, keypoints, steps) for name, runtime in loaded.items()}
            candidates |= torch_steps(bundle, pair, steps, refused)
            times = taking_turns(candidates, rounds, refused)
            on_device = device_times(bundle, loaded, keypoints, steps, rounds, refused)
            yield {"pair": pair, "N": N, "K": K, "rounds": rounds, **summary(times, K), "on_device": on_device, "refused": refused}


def summary(times: Mapping[str, list[float]], K: int) -> dict[str, Any]:
    """Return percentiles of each candidate, its median for each of K steps, and the median of its ratios to ONNX Runtime's CPU."""
    found: dict[str, Any] = {
        "ms": {name: percentiles(values) for name, values in times.items()},
        "ms_per_step": {name: round(float(np.median(values)) / K, 5) for name, values in times.items()},
    }
    if BASE in times:
        ratios = {name: float(np.median(np.array(times[BASE]) / np.array(values))) for name, values in times.items()}
        found["times_faster_than_onnxruntime_cpu"] = {name: round(ratio, 3) for name, ratio in ratios.items()}
    return found


def device_times(
    bundle: Bundle, loaded: Mapping[str, PoseRuntime], keypoints: Any, steps: tuple[int, ...], rounds: int, refused: dict[str, str]
) -> dict[str, Any]:
    """Return what the GPU itself says that encoder, steps and the rest take, in ms, for each of the engines that were ``loaded``."""
    found: dict[str, Any] = {}
    for flavour in FLAVOURS:
        for precision in PRECISIONS:

            def timings(flavour: str = flavour, precision: str = precision) -> list[Any]:
                with PoseRuntime(bundle, tensorrt_backend(bundle, precision, flavour=flavour, timed=True)) as runtime:
                    return [runtime.estimate(keypoints, seed=0, timesteps=steps).timings for _ in range(WARM_UP + rounds)][WARM_UP:]

            name = f"{flavour} {precision}"
            told = attempt(f"{name}, timed", refused, timings) if name in loaded else None
            if told is not None:
                found[name] = {
                    "context": percentiles([1000 * t.context for t in told]),
                    "step": percentiles(list(1000 * np.concatenate([t.steps for t in told]))),
                    "copies_and_start": percentiles([1000 * t.copies for t in told]),
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
        "versions": versions(PACKAGES),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def gpu_missing() -> str | None:
    """Return why nothing here runs on a GPU, or None: neither our own CUDA layer finds one, nor PyTorch."""
    try:
        open_cuda().close()
        return None
    except DiffPoseEdgeError as reason:
        return None if attempt("pytorch", {}, torch_with_cuda) else str(reason)


def untaken_flavours() -> dict[str, str]:
    """Return each TensorRT whose engines this GPU refuses, with its words: then none is built for every N and precision."""
    found: Mapping[str, str | None] = attempt("engines", {}, refusals) or {}
    return {flavour: refusal for flavour, refusal in found.items() if refusal is not None}


def main(
    out_path: Annotated[
        Path | None, typer.Option("--out", help="Write the result as JSON to this file, and again after each N and K.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds that count.", min=5)] = 200,
    pair: Annotated[list[str] | None, typer.Option(help="A pair that ships: frame or video; may be given twice.")] = None,
    bundles: Annotated[Path | None, typer.Option(help="Take bundles from this folder, and keep there those that it lacks.")] = None,
) -> None:
    """Measure the latency of estimates on this machine's GPU, for N = 1, 5, 20 with K = 5, and N = 5 with K = 50."""
    missing = gpu_missing()
    if missing is not None:
        err.print(f"there is no GPU to measure: {missing}", markup=False, soft_wrap=True)
        raise typer.Exit(1)
    results: list[dict[str, Any]] = []
    report = {"benchmark": "gpu_latency", **machine(), "complete": False, "results": results}
    untaken = untaken_flavours()
    with tempfile.TemporaryDirectory() as folder:
        for name in pair or ("frame", "video"):
            for N, all_K in CONFIGURATIONS.items():
                err.print(f"{name}: N={N} K={all_K}")
                for result in measured(name, N, all_K, rounds, bundles or Path(folder), untaken):
                    results.append(result)
                    save(report, out_path)
                    tell(result)
    report["complete"] = True
    save(report, out_path)
    if not all(result["ms"] for result in results):
        raise typer.Exit(1)


def save(report: Mapping[str, Any], path: Path | None) -> None:
    """Write the report, whole or not at all."""
    if path is not None:
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def tell(result: Mapping[str, Any]) -> None:
    """Print a line for each candidate."""
    of = f"{result['pair']} N={result['N']} K={result['K']}"
    for candidate, values in result["ms"].items():
        say(f"{of} {candidate}: {values['p50']:.3f} ms p50, {values['p99']:.3f} p99")
    for candidate, reason in result["refused"].items():
        say(f"{of} {candidate}: refused: {reason}")


if __name__ == "__main__":
    run_script(main)
