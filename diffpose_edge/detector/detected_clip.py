"""The keypoints of one person in a video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.atomic import atomic_file
from diffpose_edge.detector.mediapipe_detector import MediaPipeDetector
from diffpose_edge.detector.video_file import VideoFile
from diffpose_edge.errors import VideoError
from diffpose_edge.keypoints import Keypoints, denormalise
from diffpose_edge.layouts import h36m17_from_mediapipe33


@dataclass(frozen=True)
class DetectedClip:
    """What was found in a video's frames.

    ``landmarks`` (frames, 33, 3) float32: x, y in pixels, visibility, NaN where nobody was found; ``times`` (frames,) float64: seconds
    after the first frame; ``image_size``: (w, h) in pixels; ``fps``: average, Hz; ``keypoints``: the same in Human3.6M-17, normalised.
    """

    landmarks: NDArray[np.float32]
    times: NDArray[np.float64]
    image_size: tuple[float, float]
    fps: float
    keypoints: Keypoints

    @property
    def found(self) -> NDArray[np.bool_]:
        """In which frames (frames,) somebody was found."""
        return np.asarray(np.isfinite(self.landmarks).all(axis=(1, 2)))

    def save(self, path: str | Path) -> None:
        """Write an npz that ``diffpose-edge run`` takes: ``keypoints`` (frames, 17, 3), pixels and confidence, and ``image_size``.

        With them ``landmarks``, ``times`` and ``fps``. Raises OutputError.
        """
        xy = denormalise(self.keypoints.uv, self.image_size)
        pixels = np.concatenate([xy, self.keypoints.confidence[..., None]], axis=-1).astype(np.float32)
        with atomic_file(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, keypoints=pixels, image_size=np.array(self.image_size), landmarks=self.landmarks, times=self.times, fps=self.fps)


def detect_clip(
    video: VideoFile, detector: MediaPipeDetector, *, skip_damaged: bool = False, progress: Callable[[int], None] = lambda done: None
) -> DetectedClip:
    """Find the person in every frame of a video. Raises VideoError, also where nobody is found in any frame, and DetectorError."""
    landmarks, times, image_size = [], [], None
    for frame in video.frames(skip_damaged=skip_damaged):
        h, w = frame.image.shape[:2]
        if image_size not in (None, (w, h)):
            raise VideoError(f"{video.path} changes its size from {image_size} to {(w, h)} at frame {frame.number}; split it there")
        image_size = (w, h)
        landmarks.append(detector.detect(frame.image, first=frame.number == 0))
        times.append(frame.time)
        progress(1)
    assert image_size is not None, "a video without frames is an error of its own"
    marks = np.stack(landmarks)
    if not np.isfinite(marks).any():
        raise VideoError(f"nobody was found in any of the {len(marks)} frames of {video.path}; is there a person, and large enough?")
    size = (float(image_size[0]), float(image_size[1]))
    return DetectedClip(marks, np.array(times), size, video.fps, h36m17_from_mediapipe33(marks, size))
