"""The real clip that ships with the package."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from diffpose_edge.keypoints import Keypoints
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
