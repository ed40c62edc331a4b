"""The frames of a video file, as a player would show them, with their times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import VideoError
from diffpose_edge.extras import require

# Containers that hold video. FFmpeg would take a text for a picture of it, and a playlist for what it names; and a file may
# refer to nothing but itself.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,gif,h264,hevc,mjpeg"
OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}

# 8K video has half as many; a file of a few bytes can claim 65535 x 65535, and pixels that are thousands of times as wide as high.
MOST_PIXELS = 1 << 26
# For a video that does not tell its frame rate.
USUAL_FPS = 30.0


@dataclass(frozen=True)
class VideoFrame:
    """A frame: its number, its time in seconds after the first one's, and its image (h, w, 3), RGB, upright."""

    number: int
    time: float
    image: NDArray[np.uint8]


class VideoFile:
    """A video file, opened. Use ``with``, or ``close()``, which may be called twice. Raises VideoError for what is no video.

    ``fps``: the average rate, Hz; ``frame_count``: as many frames as its header promises, None where it does not say.
    """

    def __init__(self, path: str | Path) -> None:
        require("av")
        import av

        self.path = Path(path)
        if not self.path.is_file():
            raise VideoError(f"{path} is {'a folder or a device' if self.path.exists() else 'not there'}; expected a video file")
        try:
            self._container: Any = av.open(str(self.path), options=OPTIONS)
        except (av.FFmpegError, OSError) as err:
            raise VideoError(f"{path} cannot be opened as a video: {err.strerror or err}; is it complete, and a video?") from None
        if not self._container.streams.video:
            self._container.close()
            raise VideoError(f"{path} has no pictures in it: expected a video")
        self._closed = False
        self._stream = self._container.streams.video[0]
        # FFmpeg takes no memory for larger pictures: the decoder refuses them.
        self._stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else USUAL_FPS
        self.frame_count: int | None = self._stream.frames or None

    def frames(self, *, skip_damaged: bool = False) -> Iterator[VideoFrame]:
        """Yield every frame, in order; once. Raises VideoError where the video is damaged, or with ``skip_damaged`` leaves that out, and
        where it was closed.

        The picture is turned as the file asks (a telephone's), and stretched where its pixels are not square.
        """
        import av

        number, begin, last = 0, None, -np.inf
        packets = iter(()) if self._closed else self._container.demux(self._stream)
        while True:
            if self._closed:
                raise VideoError(f"{self.path} was closed; open it again")
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                # Not by threads that take frames each: those report a damaged frame late, or never.
                decoded = packet.decode()
            except av.FFmpegError as err:
                if not skip_damaged:
                    raise self._damaged(number, last, str(err.strerror or err)) from None
                continue
            for frame in decoded:
                if frame.is_corrupt:
                    if not skip_damaged:
                        raise self._damaged(number, last, "a frame is incomplete")
                    continue
                begin = frame.time if begin is None else begin
                # A few containers keep no times, or the same one twice.
                time = last + 1.0 / self.fps if frame.time is None or frame.time - (begin or 0.0) <= last else frame.time - begin
                last = max(time, 0.0)
                yield VideoFrame(number, last, self._picture(frame))
                number += 1
        if number == 0:
            raise VideoError(f"{self.path} has no frame that can be decoded; is it complete?")

    def _picture(self, frame: Any) -> NDArray[np.uint8]:
        aspect = self._stream.sample_aspect_ratio or Fraction(1)
        width = round(frame.width * aspect)
        if not 0 < width * frame.height <= MOST_PIXELS:
            raise VideoError(f"{self.path} shows pictures of {width} x {frame.height} pixels; up to {MOST_PIXELS} are taken")
        image: NDArray[np.uint8] = frame.to_ndarray(format="rgb24", width=width, height=frame.height)
        # PyAV tells by how many degrees to turn it counter-clockwise, as rot90 does.
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image

    def _damaged(self, number: int, last: float, why: str) -> VideoError:
        good = f"after {number} good frames ({max(last, 0.0):.1f} s)" if number else "at its beginning"
        return VideoError(f"{self.path} is damaged {good}: {why}. --skip-damaged (skip_damaged=True) leaves the damaged frames out")

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._closed = True
        self._container.close()

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
