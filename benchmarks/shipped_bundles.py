"""Bundles of the pairs that ship, in every precision: what the GPU suite and the latency benchmark run.

Run: ``python -m diffpose_edge.benchmarks.shipped_bundles FOLDER`` makes all of them, on a PC for a Jetson without PyTorch, say.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.cli.script import run_script
from diffpose_edge.clips import calibration_keypoints, trained_pair

# Pair and N of what is run: the first two by the suite, and all but the video pair by the benchmark.
SHIPPED = (("frame", 5), ("video", 5), ("frame", 1), ("frame", 20))
# One window of the video encoder. How exact INT8 is, others tell: here it has to agree with its own graph, and to be fast.
CALIBRATION_FRAMES = 27


def shipped_bundle(pair: str, N: int, folder: Path) -> Bundle:
    """Return the bundle of a pair that ships for one person and N samples: from ``folder``, or exported into it and calibrated.

    It gets there as a whole or not at all. Raises as :func:`diffpose_edge.export.export_bundle` does, MissingPackage.
    """
    target = folder / f"{pair}-{N}"
    if not target.exists():
        # PyTorch is imported where a bundle is made, and not where it is only run.
        from diffpose_edge.calibration.calibrate import apply_calibration, calibrated
        from diffpose_edge.export import export_bundle

        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as place:
            bundle = export_bundle(*trained_pair(pair), Path(place) / "bundle", samples=N).bundle
            timesteps = bundle.manifest.timesteps
            calibration = calibrated(bundle, calibration_keypoints(), schedules=(timesteps,), frames=CALIBRATION_FRAMES)
            os.replace(apply_calibration(bundle, calibration).path, target)
    return load_bundle(target)


def main(folder: Annotated[Path, typer.Argument(help="Where the bundles go; those that are there stay.")]) -> None:
    """Make the bundles that the GPU suite and the latency benchmark run."""
    for pair, N in SHIPPED:
        typer.echo(shipped_bundle(pair, N, folder).path)


if __name__ == "__main__":
    run_script(main)
