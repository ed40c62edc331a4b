"""The pictures of a video by frame number, for drawings that come to them one after another."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.detector.video_file import VideoFile
from diffpose_edge.errors import VideoError


class VideoPictures:
    """Call it with a frame's number for the picture (h, w, 3). Reads forwards only, so that none is kept. Use ``with``, or ``close()``."""

    def __init__(self, path: str | Path, *, skip_damaged: bool = False) -> None:
        self._file = VideoFile(path)
        self._frames = self._file.frames(skip_damaged=skip_damaged)

    def __call__(self, number: int) -> NDArray[np.uint8]:
        """Return a frame's picture. Numbers must rise. Raises VideoError where the video has no such frame, or it has gone by."""
        for frame in self._frames:
            if frame.number == number:
                return frame.image
            if frame.number > number:
                break
        raise VideoError(f"{self._file.path} has no frame {number} after the one that was shown last")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> VideoPictures:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
