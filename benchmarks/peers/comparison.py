"""The runtime and its peers, measured by turns: what ``diffpose-edge bench peers`` and ``make bench`` do."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_edge.benchmarks.bench_candidate import Candidate
from diffpose_edge.benchmarks.bench_run import bench_run
from diffpose_edge.benchmarks.bench_variant import Variant
from diffpose_edge.benchmarks.peers.candidate import PeerCandidate
from diffpose_edge.benchmarks.peers.peer import PEERS, Setting, checked_peer, released_pair
from diffpose_edge.config import GraphNetworkConfig
from diffpose_edge.schedule import RELEASED_T, trailing_timesteps
from diffpose_edge.skeleton import J

# Frames that lower precisions are calibrated on here: enough for their speed, which does not depend on the scales.
CALIBRATION_FRAMES = 2
WARM_UP = 5
# Of each joint of a state: u, v, x, y, z.
STATE_CHANNELS = 5


def peers_report(
    samples: Sequence[int],
    *,
    peers: Sequence[str] = tuple(PEERS),
    precisions: Sequence[str] = ("fp32",),
    K: int = 10,
    threads: int = 1,
    rounds: int = 24,
    checkpoints: tuple[Path, Path] | None = None,
    heads: int = 4,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Measure the runtime and ``peers`` for one person and each number of ``samples`` N; return a report of ``bench``.

    ``checkpoints`` are a released denoiser and its frame encoder; by default a pair of the released size whose parameters are all
    drawn from a seed. Each N has a bundle of its own, exported here. The runtime runs in FP32, and in whichever of ``precisions``
    there are besides. ``progress`` hears of each of the ``WARM_UP + rounds`` rounds.

    Each row has, besides what docs/bench.md says, ``ratio``: the median over the rounds of its time per step over the
    runtime's in FP32 in the same round; and ``network_floor``: the time of the network's multiplications at the best rate of the
    same run, and how many times as long a step takes, whatever graph computes it (:func:`network_matmul_flops`). ``import_s`` is what
    importing the runtime takes. Raises DiffPoseEdgeError.
    """
    trailing_timesteps(RELEASED_T, K)
    names = [checked_peer(name) for name in dict.fromkeys(peers)]
    kinds = list(dict.fromkeys(["fp32", *precisions]))
    candidates: list[Candidate] = []
    with tempfile.TemporaryDirectory(prefix="diffpose-edge-peers-") as scratch:
        folder = Path(scratch)
        pair = _random_pair(folder) if checkpoints is None else checkpoints
        for N in dict.fromkeys(samples):
            setting = Setting(str(pair[0]), str(pair[1]), str(folder / f"n{N}"), scratch, heads, threads)
            size = _export(setting, N, lower=len(kinds) > 1)
            candidates += [Variant(setting.bundle, precision=kind, K=K, threads=threads) for kind in kinds]
            candidates += [PeerCandidate(name, setting, K) for name in names]
        report = bench_run(candidates, rounds, warm_up=WARM_UP, progress=progress)
    for N in dict.fromkeys(samples):
        add_ratios([row for row in report["rows"] if row["N"] == N])
    add_network_floors(report["rows"], report["floors"], size)
    for row in [*report["rows"], *report["refused"]]:
        row["bundle"] = Path(row["bundle"]).name  # the folder is gone
    weights = "drawn from a seed, 96 wide, 5 layers, 4 heads" if checkpoints is None else [path.name for path in checkpoints]
    return {**report, "weights": weights, "import_s": round(import_seconds(), 3)}


def add_ratios(rows: Sequence[dict[str, Any]]) -> None:
    """Add to each row how many times as long as the first's its steps take: the median over the rounds of the ratio in a round."""
    each = [np.asarray(row["samples_ms"]["steps"], float).mean(axis=1) for row in rows]
    for row, ms in zip(rows, each, strict=True):
        row["ratio"] = round(float(np.median(ms / each[0])), 4)


def add_network_floors(rows: Sequence[dict[str, Any]], floors: Mapping[str, Any] | None, size: GraphNetworkConfig) -> None:
    """Add to each row the floor of the network at the best rate of matmuls that was measured, or None where none was."""
    for row in rows:
        peaks = (floors or {}).get(str(row["threads"]))
        row["network_floor"] = None
        # On a GPU the rate of the processor's matmuls bounds nothing.
        if peaks is not None and "cuda" not in row["backend"] and row["ms"]["step"]["p50"] is not None:
            flops = network_matmul_flops(size, row["P"] * row["N"])
            ms = flops / peaks["sgemm_gflops"] / 1e6
            row["network_floor"] = {"flops": flops, "ms": round(ms, 5), "ratio": round(row["ms"]["step"]["p50"] / ms, 3)}


def network_matmul_flops(size: GraphNetworkConfig, samples: int) -> int:
    """Return what a step of a released denoiser multiplies and adds in matmuls at least, without the eigenbasis.

    Constants are folded, T_0 = I is not multiplied by within the layers, and joints are mixed where features are narrowest. A graph may
    multiply more than that, or less: in the eigenbasis of the Laplacian a convolution takes a third of its multiplications.
    """
    C, joint_pairs = size.hidden, J * J
    attention = J * C * 3 * C + 2 * joint_pairs * C + J * C * C
    adjacency = 2 * joint_pairs * C + 2 * J * C * 2 * C
    convolution = 2 * joint_pairs * C + J * 3 * C * C
    ends = 2 * (3 * joint_pairs * STATE_CHANNELS + J * 3 * STATE_CHANNELS * C)
    return 2 * samples * (size.layers * (attention + adjacency + 2 * convolution) + ends)


def import_seconds(repeats: int = 7) -> float:
    """Return the least time that a fresh interpreter takes to import the runtime with numpy and ONNX Runtime."""
    imports = "import diffpose_edge.runtime, onnxruntime"
    program = f"from time import perf_counter as now; began = now(); {imports}; print(now() - began)"
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True) for _ in range(repeats)]
    return min(float(run.stdout) for run in runs)


def _random_pair(folder: Path) -> tuple[Path, Path]:
    from diffpose_edge.reference.random_weights import write_random_pair

    return write_random_pair(folder / "checkpoints")


def _export(setting: Setting, N: int, *, lower: bool) -> GraphNetworkConfig:
    """Export the bundle of a setting; return the size of its denoiser."""
    from diffpose_edge.calibration.calibrate import apply_calibration, calibrated
    from diffpose_edge.clips import calibration_keypoints
    from diffpose_edge.export import export_bundle

    released_pair(setting)
    bundle = export_bundle(setting.denoiser, setting.context, setting.bundle, heads=setting.heads, samples=N).bundle
    if lower:
        schedules = (bundle.manifest.timesteps,)
        apply_calibration(bundle, calibrated(bundle, calibration_keypoints(), schedules=schedules, frames=CALIBRATION_FRAMES))
    return bundle.manifest.denoiser
