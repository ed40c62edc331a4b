"""The held-out evaluation set that ships: clips that training never sees, by three virtual cameras each.

Run: ``python -m diffpose_edge.reference.training.held_out OUT.npz``. The 2D keypoints are made by the model detector, so
this set tells how well held-out motion and bodies are lifted, not how a real detector errs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from diffpose_edge.cli.script import run_script
from diffpose_edge.clips import mocap_clips_path
from diffpose_edge.evaluation import EvaluationClip, save_evaluation
from diffpose_edge.reference.training.batches import viewed
from diffpose_edge.reference.training.bodies import bones_of
from diffpose_edge.reference.training.motions import FPS, HELD_OUT, Clip, Motion, load_clips, resampled
from diffpose_edge.reference.training.rotations import frame_of

SEED = 90
CAMERAS = 3
# Six windows of the video encoder from the middle of each clip.
FRAMES = 162


def motion_of(clip: Clip, frames: int, cameras: int) -> Motion:
    """Return the middle ``frames`` of a clip at 30 frames per second, once for each camera."""
    poses = resampled(clip.poses, clip.fps, FPS)
    first = max(0, (len(poses) - frames) // 2)
    poses = np.repeat(poses[None, first : first + frames], cameras, axis=0)
    pelvis = frame_of(poses[:, :, 4] - poses[:, :, 1], poses[:, :, 7] - poses[:, :, 0])
    return Motion(pelvis, np.matmul(bones_of(poses), pelvis), poses[:, :, 0])


def held_out_evaluation(path: Path) -> list[EvaluationClip]:
    """Return the evaluation clips made of the held-out clips in the motion file ``path``."""
    clips = []
    for number, clip in enumerate(c for c in load_clips(path) if c.name in HELD_OUT):
        batch = viewed(motion_of(clip, FRAMES, CAMERAS), CAMERAS, np.random.default_rng([SEED, number]))
        action = {"boxing": "boxing", "climb_3": "climbing", "cmu_02_01": "walking", "cmu_01_06": "playground"}[clip.name]
        for camera in range(CAMERAS):
            found = batch.detections
            clips.append(
                EvaluationClip(f"{clip.name}/{camera}", action, FPS, found.uv[camera], found.confidence[camera], batch.xyz[camera])
            )
    return clips


def main(
    out: Annotated[Path, typer.Argument(help="npz to write.")],
    data: Annotated[Path | None, typer.Option(help="Motion clips (default: those that ship).")] = None,
) -> None:
    """Write the held-out evaluation set."""
    save_evaluation(out, held_out_evaluation(data or mocap_clips_path()))


if __name__ == "__main__":
    run_script(main)
