"""What ships with the package: real clips (see diffpose_edge/data/README.md) and trained weights."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from diffpose_edge.keypoints import Keypoints, load_keypoints
from diffpose_edge.layouts import h36m17_from_mediapipe33


@dataclass(frozen=True)
class Clip:
    """Keypoints of one person (frames, 17, 2), normalised, with the video's frame rate (Hz) and image size (w, h), pixels."""

    keypoints: Keypoints
    fps: float
    image_size: tuple[float, float]


def street_walk() -> Clip:
    """Return 230 frames of a person walking in a street, as MediaPipe found them; see diffpose_edge/data/README.md.

    In 8 frames nobody was found: their confidences are zero.
    """
    path = files("diffpose_edge") / "data" / "street_walk_mediapipe33.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
        w, h = (float(size) for size in content["image_size"])
        return Clip(h36m17_from_mediapipe33(content["keypoints"], (w, h)), float(content["fps"]), (w, h))


def calibration_keypoints() -> Keypoints:
    """Return the 662 frames that calibration records when it is given no others: captured motion, and the street clip.

    The motion, 16 windows of 27 frames, is seen by virtual cameras and the model detector; see diffpose_edge/data/README.md.
    """
    motion = load_keypoints(Path(str(files("diffpose_edge") / "data" / "calibration.npz")))
    street = street_walk().keypoints
    return Keypoints(np.concatenate([motion.uv, street.uv]), np.concatenate([motion.confidence, street.confidence]))


def mocap_clips_path() -> Path:
    """Return the npz of motion capture clips that training draws from: arrays (frames, 17, 3), metres, z up."""
    return Path(str(files("diffpose_edge") / "data" / "mocap_h36m17.npz"))


def held_out_path() -> Path:
    """Return the npz of the evaluation set that ships: clips that training never sees, by virtual cameras."""
    return Path(str(files("diffpose_edge") / "data" / "held_out.npz"))


def trained_pair(name: str) -> tuple[Path, Path]:
    """Return the denoiser and the context encoder that ship, of the pair "frame", "video" or "causal"."""
    folder = Path(str(files("diffpose_edge") / "weights" / name))
    return folder / "denoiser.safetensors", folder / "context.safetensors"
