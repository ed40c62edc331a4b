"""``diffpose-edge calibrate``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.cli.terminal import counting, out, parsed_timesteps, say, telling
from diffpose_edge.clips import calibration_keypoints
from diffpose_edge.errors import CalibrationError
from diffpose_edge.keypoints import Keypoints, load_keypoints
from diffpose_edge.reading import read_file
from diffpose_edge.schedule import checked_timesteps

if TYPE_CHECKING:
    from diffpose_edge.calibration.scales_file import Calibration

# Frames on which the new graphs are tried at the end: a first look, not the verification.
TRIED = 16
MOST_FILE_BYTES = 64 * 2**20


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="A bundle made by export; the new graphs are put into it.")],
    keypoints: Annotated[
        Path | None, typer.Option(help="npz with the keypoints to record on, as for run (default: 662 frames that ship with the package).")
    ] = None,
    timesteps: Annotated[
        list[str] | None,
        typer.Option(help="Timesteps to walk, largest first; may be given several times (default: the bundle's, and all of the schedule)."),
    ] = None,
    method: Annotated[str, typer.Option(help="Activation ranges: minmax, percentile, entropy or mse.")] = "minmax",
    smooth: Annotated[bool, typer.Option(help="Move loud activation channels into the weights, where that lowers the error.")] = True,
    frames: Annotated[int, typer.Option(help="Frames to walk, at most.", min=1)] = 96,
    calibration: Annotated[
        Path | None, typer.Option(help="Record nothing: take this calibration.json, of the same weights exported with any P and N.")
    ] = None,
) -> None:
    """Make FP16 and INT8 graphs: record the bundle's own trajectories on real poses, choose scales, and rewrite the graphs.

    The bundle gains context and step graphs in fp16, int8 and int8-trt8 (for TensorRT 8.6), and calibration.json, which
    rebuilds them without the data. Needs a CPU only.
    """
    from diffpose_edge.calibration.calibrate import apply_calibration, calibrated, deployed_schedules
    from diffpose_edge.calibration.observed import FRAMES, frames_to_use, steps_to_walk
    from diffpose_edge.calibration.ranges import checked_method

    checked_method(method)
    loaded = load_bundle(bundle)
    clip = load_keypoints(keypoints) if keypoints else calibration_keypoints()
    if calibration is not None:
        if keypoints is not None or timesteps:
            raise CalibrationError("--calibration takes the scales of a file: nothing is recorded. Leave --keypoints and --timesteps out")
        scales = read_calibration(calibration)
    else:
        schedules = deployed_schedules(loaded.manifest)
        if timesteps:
            schedules = tuple(checked_timesteps(parsed_timesteps(text) or (), loaded.manifest.T) for text in timesteps)
        with counting("recording: denoiser steps", steps_to_walk(loaded, clip, schedules, frames or FRAMES)) as done:
            scales = calibrated(loaded, clip, schedules=schedules, method=method, smooth=smooth, frames=frames, progress=done)
    with telling():
        altered = apply_calibration(loaded, scales)
    print_precisions(altered, frames_to_use(clip, loaded.manifest.stretch, TRIED))
    say(f"wrote {bundle}: prove it with diffpose-edge verify, see what each layer costs with diffpose-edge sensitivity")


def read_calibration(path: Path) -> Calibration:
    """Read a calibration file. Raises CalibrationError."""
    from diffpose_edge.calibration.scales_file import calibration_from_json

    try:
        content = read_file(path, MOST_FILE_BYTES)
    except OSError as err:
        raise CalibrationError(f"{path} cannot be read: {err.strerror}") from None
    return calibration_from_json(content.decode("utf-8", errors="replace"))


def print_precisions(bundle: Bundle, clip: Keypoints) -> None:
    """Print what each precision is made of, and what it adds to the poses of a few frames."""
    from diffpose_edge.calibration.added_error import Trial
    from diffpose_edge.manifest import GRAPHS

    table = Table(title=f"added to the pose, {len(clip)} of the recorded frames, against FP32")
    for heading in ("precision", "mean mm", "99 % mm", "worst mm", "MB", "INT8 share of matmul work\ncontext, step", "nodes kept float32"):
        table.add_column(heading, justify="left" if heading == "precision" else "right")
    trial = Trial(bundle, clip, bundle.manifest.timesteps)
    made = bundle.manifest.provenance["precision"]
    for precision in ("fp16", "int8", "int8-trt8"):
        graphs = {role: bundle.read(role, precision) for role in GRAPHS}
        added = trial.added(graphs)
        shares = ", ".join(f"{100 * made[precision][role]['int8_share']:.0f} %" for role in GRAPHS)
        kept = sum(sum(n for why, n in made[precision][role]["fp32_nodes"].items() if not why.startswith("INT8")) for role in GRAPHS)
        megabytes = sum(map(len, graphs.values())) / 1e6
        whole = precision == "int8-trt8"
        table.add_row(
            precision,
            *(f"{value:.2f}" for value in (added.mean, added.p99, added.worst)),
            f"{megabytes:.2f}",
            shares if precision != "fp16" else "-",
            "all others" if whole else str(kept),
        )
    out.print(table)
