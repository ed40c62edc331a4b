"""Videos whose pictures would take more memory than there is: refused before it is taken."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.detector import video_file
from diffpose_edge.detector.video_file import VideoFile
from diffpose_edge.errors import VideoError

from .videos import write_video

av = pytest.importorskip("av")
IMAGE = np.full((64, 64, 3), 90, np.uint8)


def frames(path: Path) -> int:
    with VideoFile(path) as video:
        return sum(1 for _ in video.frames())


def test_pixels_that_are_to_be_shown_a_hundred_times_as_wide_are_refused(tmp_path: Path) -> None:
    assert frames(write_video(tmp_path / "plain.mp4", [IMAGE])) == 1  # the control
    path = write_video(tmp_path / "wide.mp4", [np.full((1024, 1024, 3), 90, np.uint8)], aspect=Fraction(100, 1))
    tracemalloc.start()
    try:
        with pytest.raises(VideoError, match=r"shows pictures of 102400 x 1024 pixels; up to 67108864 are taken"):
            frames(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_the_decoder_itself_takes_no_larger_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "plain.mp4", [IMAGE])
    monkeypatch.setattr(video_file, "MOST_PIXELS", 63 * 64)
    with pytest.raises(VideoError, match="is damaged at its beginning"):
        frames(path)


def test_a_gif_that_claims_to_be_65535_pixels_wide_and_high_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "claims.gif"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "rgb8"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(IMAGE, format="rgb24").reformat(format="rgb8")))
        container.mux(stream.encode())
    assert frames(path) == 1  # the control
    content = bytearray(path.read_bytes())
    content[6:10] = b"\xff" * 4
    path.write_bytes(content)
    with pytest.raises(VideoError):
        frames(path)
