"""Small videos, made where they are needed."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(
    path: Path,
    images: Sequence[np.ndarray],
    *,
    rate: int = 10,
    times: Sequence[float] | None = None,
    aspect: Fraction | None = None,
) -> Path:
    """Write images (h, w, 3) as H.264, the header first and each frame on its own; ``times`` in seconds, else even."""
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=rate, options={"g": "1", "crf": "10", "tune": "zerolatency"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        unit = Fraction(1, rate) if times is None else Fraction(1, 1000)
        stream.codec_context.time_base = unit
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i if times is None else round(1000 * times[i])
            frame.time_base = unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn(path: Path, degrees: int) -> Path:
    """Write into an mp4's track header that its pictures are to be shown turned clockwise, as a telephone does."""
    content = bytearray(path.read_bytes())
    # The matrix stands 40 bytes after the name of a version 0 header: (a b u; c d v; x y w), 16.16 and 2.30 fixed point.
    at = content.index(b"tkhd") + 44
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    assert content[at : at + 36] == identity
    a, b = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    content[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def grey_levels(count: int, h: int = 48, w: int = 64) -> list[np.ndarray]:
    """Images of one grey each, 40 apart modulo 200: a frame can be told by its brightness."""
    return [np.full((h, w, 3), 20 + 40 * (i % 5), np.uint8) for i in range(count)]
