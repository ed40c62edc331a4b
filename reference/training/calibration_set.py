"""The keypoints that ship for calibration: windows of the training motions as captured, by virtual cameras.

Run: ``python -m diffpose_edge.reference.training.calibration_set OUT.npz``. None of the held-out clips is in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from diffpose_edge.atomic import atomic_file
from diffpose_edge.cli.script import run_script
from diffpose_edge.clips import mocap_clips_path
from diffpose_edge.reference.training.batches import held_out_batch
from diffpose_edge.reference.training.motions import HELD_OUT, MotionSource, load_clips

SEED = 91
WINDOWS = 16
# The window of the video encoder that ships.
FRAMES = 27


def main(
    out: Annotated[Path, typer.Argument(help="npz to write: keypoints (frames, 17, 3), normalised, with confidence.")],
    data: Annotated[Path | None, typer.Option(help="Motion clips (default: those that ship).")] = None,
) -> None:
    """Write the calibration keypoints."""
    clips = [clip for clip in load_clips(data or mocap_clips_path()) if clip.name not in HELD_OUT]
    # Half of the detectors are landmark detectors, as in the training of the frame pair.
    batch = held_out_batch(MotionSource(clips, FRAMES, landmark_share=0.5), WINDOWS, (SEED,))
    found = batch.detections
    keypoints = np.concatenate([found.uv, found.confidence[..., None]], axis=-1).reshape(WINDOWS * FRAMES, -1, 3)
    with atomic_file(out) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, keypoints=keypoints.astype(np.float32))


if __name__ == "__main__":
    run_script(main)
