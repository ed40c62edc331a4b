"""``diffpose-edge view``: what 'run' wrote, as a page, a film and a picture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from .conftest import Mistake, Run

FPS = 20.0


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with a result of 6 frames, nobody in the fifth, and the keypoints of it."""
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.3, (6, 3, 17, 3)).astype(np.float32)
    samples[:, :, 0] = 0
    samples[4] = np.nan
    joints = samples.mean(axis=1)
    np.savez(tmp_path / "result.npz", joints=joints, samples=samples)
    clip = np.concatenate([rng.uniform(-0.3, 0.3, (6, 17, 2)), rng.uniform(0.1, 1, (6, 17, 1))], axis=-1)
    clip[4, :, 2] = 0
    np.savez(tmp_path / "clip.npz", keypoints=clip, fps=np.array(FPS))
    return tmp_path


def test_what_run_wrote_is_shown_with_its_times(cli: Run, written: Path, conditioned_bundle: Path) -> None:
    cli("run", conditioned_bundle, "--keypoints", written / "clip.npz", "--out", written / "own.npz")
    said = cli(
        "view", written / "own.npz", "--keypoints", written / "clip.npz", "--out", written / "own.html", "--title", "<b>a & b</b>"
    ).out
    assert f"wrote {written / 'own.html'}: 6 frames, 0." in said
    page = (written / "own.html").read_text(encoding="utf-8")
    assert "<title>&lt;b&gt;a &amp; b&lt;/b&gt;</title>" in page
    for text in ("6 frames in 0.2 s", "1 without a pose", "N = 3 samples", '"call_ms"', '"step_ms"', '"uv"'):
        assert text in page
    assert {path.name for path in written.iterdir()} == {"result.npz", "clip.npz", "own.npz", "own.html"}


def test_a_part_is_shown_and_told(cli: Run, written: Path) -> None:
    said = cli("view", written / "result.npz", "--first", 1, "--every", 2, "--samples", 1, "--fps", 5, "--out", written / "part.html").out
    for text in ("one in 2 of the frames 1 to 5 of a clip of 6", "1 of N = 3 samples", "part.html: 3 frames"):
        assert text in said
    page = (written / "part.html").read_text(encoding="utf-8")
    assert "3 frames in 0.8 s" in page
    assert "one in 2 of the frames 1 to 5" in page
    assert "<title>result.npz</title>" in page


def test_a_picture_shows_frames_that_have_a_pose(cli: Run, written: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    cli("view", written / "result.npz", "--keypoints", written / "clip.npz", "--first", 3, "--out", written / "view.png")
    with image.open(written / "view.png") as png:
        png.load()
        # Two of the three frames have a pose: two columns.
        assert png.size == (600, 660)


@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_a_film_has_every_frame_that_was_asked_for_at_the_clips_own_speed(cli: Run, written: Path, kind: str) -> None:
    av = pytest.importorskip("av")
    out = written / f"view.{kind}"
    cli("view", written / "result.npz", "--keypoints", written / "clip.npz", "--every", 2, "--out", out)
    with av.open(str(out)) as film:
        (stream,) = film.streams.video
        pictures = [frame.to_ndarray(format="rgb24").astype(int) for frame in film.decode(stream)]
        assert float(stream.average_rate) == pytest.approx(FPS / 2)
        assert (stream.codec_context.name == "h264") == (kind == "mp4")
    assert len(pictures) == 3
    assert pictures[0].shape == ((720, 1200, 3) if kind == "mp4" else (360, 600, 3))
    for one, other in pairwise(pictures):
        assert (np.abs(one - other) > 60).mean() > 0.001
    assert {path.name for path in written.iterdir()} == {"result.npz", "clip.npz", out.name}


def test_mistakes_leave_nothing_behind(mistake: Mistake, written: Path) -> None:
    result, clip = written / "result.npz", written / "clip.npz"
    assert "ending in .html, .mp4, .gif, .png, got 'view.pdf'" in mistake("view", result, "--out", written / "view.pdf")
    assert "give the keypoints that 'run' was given" in mistake("view", result, "--out", written / "view.mp4")
    assert "no file at" in mistake("view", written / "absent.npz", "--out", written / "view.html")
    assert "has no array 'joints'" in mistake("view", clip, "--out", written / "view.html")
    assert "its parent folder does not exist" in mistake("view", result, "--out", written / "absent" / "view.html")
    assert "frames within the clip's 0 to 6" in mistake("view", result, "--first", 6, "--out", written / "view.html")
    assert "no frame has a pose" in mistake("view", result, "--keypoints", clip, "--first", 4, "--last", 5, "--out", written / "view.png")


def test_the_view_never_replaces_what_it_shows(cli: Run, written: Path) -> None:
    before = (written / "result.npz").read_bytes()
    (written / "link.html").symlink_to("result.npz")
    assert "would replace it" in cli("view", written / "result.npz", "--out", written / "link.html", status=2).err
    assert (written / "result.npz").read_bytes() == before
