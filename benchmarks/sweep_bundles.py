"""Bundles of one pair of checkpoints for every N and P of a sweep, exported where they are not there yet."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffpose_edge.bundle import Bundle, load_bundle, sha256_of
from diffpose_edge.errors import DiffPoseEdgeError

# Frames that scales of FP16 and INT8 come from: enough for graphs that run as deployed ones do, not for the best accuracy.
CALIBRATION_FRAMES = 27


@dataclass(frozen=True)
class Checkpoints:
    """A pair of checkpoints, and the name that its bundles begin with. ``heads`` of the denoiser and frame encoder."""

    name: str
    denoiser: Path
    context: Path
    heads: int = 4

    def bundle_name(self, N: int, P: int) -> str:
        """Return the name of the folder for N samples of P people."""
        return f"{self.name}-n{N}-p{P}"


def sweep_bundles(
    checkpoints: Checkpoints,
    sizes: Sequence[tuple[int, int]],
    precisions: Collection[str],
    folder: Path,
    progress: Callable[[str], None] = lambda done: None,
) -> list[Path]:
    """Return a bundle for each (N, P) of ``sizes``, in ``folder``: those that are there, and new ones that are exported.

    With a precision other than fp32, graphs in lower precision are made too, from the keypoints that ship. ``progress`` hears the
    name of each bundle before it is made. Raises DiffPoseEdgeError when a bundle there was made from other checkpoints, and as
    :func:`diffpose_edge.export.export_bundle` does; needs PyTorch for new ones.
    """
    made = []
    for N, P in sizes:
        target = folder / checkpoints.bundle_name(N, P)
        progress(target.name)
        if target.exists():
            check_origin(load_bundle(target), checkpoints)
        else:
            _export(checkpoints, N, P, target)
        there = {entry.precision for entry in load_bundle(target).manifest.files.values()}
        if set(precisions) - there:
            _calibrate(target)
        made.append(target)
    return made


def random_checkpoints(folder: Path, seed: int) -> Checkpoints:
    """Return a pair of the released size, every parameter drawn anew, in ``folder``: the one that is there, or a new one.

    PyTorch does not write the same bytes twice, and a bundle knows its checkpoints by theirs. Needs PyTorch for a new one.
    """
    target = folder / f"random{seed}"
    if not target.exists():
        from diffpose_edge.reference.random_weights import write_random_pair

        with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as place:
            write_random_pair(Path(place) / "pair", seed)
            os.replace(Path(place) / "pair", target)
    return Checkpoints(target.name, target / "untrained_denoiser.pth", target / "untrained_context.pth")


def check_origin(bundle: Bundle, checkpoints: Checkpoints) -> None:
    """Raise DiffPoseEdgeError unless a bundle was made from these checkpoints."""
    made_from = bundle.manifest.provenance.get("checkpoints", {})
    for role, path in (("denoiser", checkpoints.denoiser), ("context", checkpoints.context)):
        if made_from.get(role, {}).get("sha256") != sha256_of(path.read_bytes()):
            raise DiffPoseEdgeError(f"{bundle.path} was made from another {role} than {path}; choose another folder for the bundles")


def _export(checkpoints: Checkpoints, N: int, P: int, target: Path) -> None:
    from diffpose_edge.export import export_bundle

    # It gets there as a whole or not at all, and a sweep that was stopped goes on from what is there.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as place:
        pair = checkpoints.denoiser, checkpoints.context
        report = export_bundle(*pair, Path(place) / "bundle", samples=N, persons=P, heads=checkpoints.heads)
        os.replace(report.bundle.path, target)


def _calibrate(target: Path) -> None:
    from diffpose_edge.calibration.calibrate import apply_calibration, calibrated
    from diffpose_edge.clips import calibration_keypoints

    bundle = load_bundle(target)
    schedules = (bundle.manifest.timesteps,)
    apply_calibration(bundle, calibrated(bundle, calibration_keypoints(), schedules=schedules, frames=CALIBRATION_FRAMES))


# For --list alone. Of the frame encoder and the denoiser at the released size: operations for a person, for a sample and step, as
# benchmarks/graph_cost.py counts them; a process that loads, and Python's part of an estimate.
ENCODER_MFLOP, STEP_MFLOP, LOAD_S, ESTIMATE_S = 25.3, 25.4, 4.0, 0.003
# Of the peak in matmuls, what a step reaches.
REACHED = 0.5


def expected_minutes(rows: Sequence[tuple[int, int, int, int]], rounds: int, floors: bool) -> float:
    """Return about how long a sweep takes, for networks of the released size on this processor: rows of (N, P, K, threads).

    The peak in matmuls is measured for it.
    """
    from diffpose_edge.benchmarks.bench_floor import SECONDS
    from diffpose_edge.benchmarks.bench_rounds import INTERLUDES
    from diffpose_edge.benchmarks.machine_peaks import measured_peaks

    threads = {count for *_, count in rows}
    gflops = {count: REACHED * measured_peaks(count, SECONDS).sgemm_gflops for count in threads}
    of_rows = sum(
        LOAD_S + rounds * (ESTIMATE_S + 1e-3 * P * (ENCODER_MFLOP + K * N * STEP_MFLOP) / gflops[count]) for N, P, K, count in rows
    )
    return (of_rows + (INTERLUDES * SECONDS * len(threads) if floors else 0.0)) / 60
