"""Frames, times and orientation of video files that are made here; and what is no video, or a damaged one."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffpose_edge.detector import VideoFile, VideoPictures
from diffpose_edge.errors import VideoError

from .videos import grey_levels, turn, write_video


def levels_of(path: Path, **options: bool) -> list[int]:
    """The grey level of each frame, to the nearest 20."""
    with VideoFile(path) as video:
        return [20 * round(float(frame.image.mean()) / 20) for frame in video.frames(**options)]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.avi"])
def test_every_frame_comes_in_order_with_its_time(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, grey_levels(12))
    with VideoFile(path) as video:
        assert video.fps == pytest.approx(10.0)
        frames = list(video.frames())
    assert [frame.number for frame in frames] == list(range(12))
    assert [frame.time for frame in frames] == pytest.approx([i / 10 for i in range(12)], abs=1e-3)
    assert all(frame.image.shape == (48, 64, 3) and frame.image.dtype == np.uint8 for frame in frames)
    assert levels_of(path) == [20 + 40 * (i % 5) for i in range(12)]


def test_times_are_those_of_the_file_and_not_counted(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.15, 0.6, 0.7]
    path = write_video(tmp_path / "a.mkv", grey_levels(5), times=[5.0 + t for t in times])
    with VideoFile(path) as video:
        assert [frame.time for frame in video.frames()] == pytest.approx(times, abs=2e-3)


def corner_of(path: Path) -> tuple[tuple[int, int], str]:
    """Size of the first frame, and in which of its corners it is bright."""
    with VideoFile(path) as video:
        image = next(iter(video.frames())).image
    h, w = image.shape[:2]
    places = {"top left": (4, 4), "top right": (4, w - 5), "bottom right": (h - 5, w - 5), "bottom left": (h - 5, 4)}
    return (w, h), max(places, key=lambda place: int(image[places[place]].sum()))


@pytest.mark.parametrize(
    ("degrees", "size", "corner"),
    [(0, (64, 48), "top left"), (90, (48, 64), "top right"), (180, (64, 48), "bottom right"), (270, (48, 64), "bottom left")],
)
def test_a_turned_telephone_gives_upright_pictures(tmp_path: Path, degrees: int, size: tuple[int, int], corner: str) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32] = 250
    assert corner_of(turn(write_video(tmp_path / "a.mp4", [image] * 2), degrees)) == (size, corner)


def test_pixels_that_are_not_square_are_stretched(tmp_path: Path) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32] = 250
    path = write_video(tmp_path / "a.mp4", [image] * 2, aspect=Fraction(3, 2))
    assert corner_of(path) == ((96, 48), "top left")
    assert corner_of(turn(path, 90)) == ((48, 96), "top right")


def test_colours_keep_their_order(tmp_path: Path) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    image[...] = (220, 120, 20)
    with VideoFile(write_video(tmp_path / "a.mp4", [image] * 2)) as video:
        assert np.abs(next(iter(video.frames())).image.mean(axis=(0, 1)) - (220, 120, 20)).max() < 8


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "real.mp4", grey_levels(3))
    (tmp_path / "words.txt").write_text("These are words.\n" * 100)
    (tmp_path / "words.mp4").write_text("These are words.\n" * 100)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "zeros.mp4").write_bytes(bytes(100_000))
    # A playlist would make FFmpeg open whatever it names, over the network too.
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:10,\nreal.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile real.mp4\n")
    Image.new("RGB", (64, 48)).save(tmp_path / "picture.png")
    for name in ("words.txt", "words.mp4", "empty.mp4", "zeros.mp4", "list.m3u8", "list.mp4", "picture.png"):
        with pytest.raises(VideoError, match=f"{name} cannot be opened as a video: .*; is it complete, and a video"):
            VideoFile(tmp_path / name)
    with pytest.raises(VideoError, match="is a folder or a device; expected a video file"):
        VideoFile(tmp_path)
    with pytest.raises(VideoError, match=r"nothing\.mp4 is not there"):
        VideoFile(tmp_path / "nothing.mp4")


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    import av

    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    with av.open(str(tmp_path / "a.wav")) as wav, av.open(str(tmp_path / "a.mp4"), "w") as mp4:
        stream = mp4.add_stream("aac", rate=8000)
        for frame in wav.decode(audio=0):
            mp4.mux(stream.encode(frame))
        mp4.mux(stream.encode())
    with pytest.raises(VideoError, match=r"a\.mp4 has no pictures in it"):
        VideoFile(tmp_path / "a.mp4")


def noise(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(count)]


def test_a_video_that_was_cut_off_is_refused_unless_its_good_frames_are_asked_for(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", noise(20))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with VideoFile(path) as video, pytest.raises(VideoError, match=r"a\.mp4 is damaged after \d+ good frames .*--skip-damaged") as told:
        list(video.frames())
    with VideoFile(path) as video:
        good = [frame.number for frame in video.frames(skip_damaged=True)]
    assert good == list(range(11)), "six tenths of the bytes, of which some are the header's"
    assert "after 11 good frames (1.0 s)" in str(told.value)


def test_a_damaged_place_is_refused_or_left_out_and_times_go_on(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", grey_levels(20))
    content = bytearray(path.read_bytes())
    # Spoil the lengths of the units of one frame in the middle: each frame stands alone, so the others are whole.
    at = [i for i in range(len(content) - 5) if content[i + 4] & 0x1F == 5 and content[i : i + 2] == b"\0\0" and content[i + 4] == 0x65]
    assert len(at) == 20, "every frame is a key frame"
    content[at[10] : at[10] + 12] = b"\xff" * 12
    path.write_bytes(content)
    with VideoFile(path) as video, pytest.raises(VideoError, match=r"is damaged after 10 good frames \(0\.9 s\)"):
        list(video.frames())
    with VideoFile(path) as video:
        frames = list(video.frames(skip_damaged=True))
    assert [frame.number for frame in frames] == list(range(19))
    assert [frame.time for frame in frames] == pytest.approx([i / 10 for i in range(20) if i != 10], abs=2e-3)


def test_a_file_may_be_closed_twice(tmp_path: Path) -> None:
    video = VideoFile(write_video(tmp_path / "a.mp4", grey_levels(2)))
    video.close()
    video.close()


def test_pictures_come_by_number_and_only_forwards(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", grey_levels(10))
    with VideoPictures(path) as pictures:
        assert [20 * round(float(pictures(i).mean()) / 20) for i in (0, 3, 4, 7)] == [20, 140, 180, 100]
        with pytest.raises(VideoError, match="no frame 2 after the one that was shown last"):
            pictures(2)
    with VideoPictures(path) as pictures, pytest.raises(VideoError, match="no frame 10"):
        pictures(10)
