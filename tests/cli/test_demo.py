"""The demo: everything on a real clip, in one command that can be given again."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.bundle import load_bundle
from diffpose_edge.cli import main
from diffpose_edge.clips import Clip, street_walk, trained_pair
from diffpose_edge.keypoints import Keypoints

# The demo draws some eighty frames, so its two runs are shared by all tests here.
pytestmark = pytest.mark.slow
PAIRS = ("frame", "video")
LASTING = {f"{pair}-{what}" for pair in PAIRS for what in ("bundle", "poses.npz", "poses.png", "poses.gif", "poses.html")}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The demo, run once in a process of its own: its folder, and what it said."""
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    process = subprocess.run([sys.executable, "-m", "diffpose_edge", "demo", "--out", folder], capture_output=True, text=True)
    return folder, process


def test_it_says_what_it_did(done):
    folder, process = done
    assert process.returncode == 0, process.stderr
    assert "FAILED" not in process.stdout
    for pair in PAIRS:
        for text in (f"{pair}-bundle", f"{pair}-poses.png", f"{pair}-poses.gif", f"{pair}-poses.html"):
            assert str(folder / text) in process.stdout
    assert process.stdout.count("of 230 frames posed") == 2


def test_it_writes_everything_and_nothing_else(done):
    folder, _ = done
    assert {path.name for path in folder.iterdir()} == LASTING
    assert not [path for path in folder.rglob("*") if "partial" in path.name or "replaced" in path.name]


@pytest.mark.parametrize("pair", PAIRS)
def test_its_bundles_are_whole_and_of_the_shipped_weights(done, pair):
    manifest = load_bundle(done[0] / f"{pair}-bundle").manifest
    assert (manifest.process.kind, manifest.shape.N, len(manifest.timesteps)) == ("distribution", 5, 5)
    origins = json.loads((done[0] / f"{pair}-bundle" / "manifest.json").read_text())["provenance"]["checkpoints"]
    shipped = [hashlib.sha256(path.read_bytes()).hexdigest() for path in trained_pair(pair)]
    assert [origins[role]["sha256"] for role in ("denoiser", "context")] == shipped


@pytest.mark.parametrize("pair", PAIRS)
def test_its_poses_are_those_of_the_clip(done, pair):
    with np.load(done[0] / f"{pair}-poses.npz", allow_pickle=False) as content:
        joints, samples = content["joints"], content["samples"]
    assert (joints.shape, samples.shape) == ((230, 17, 3), (230, 5, 17, 3))
    nobody = (street_walk().keypoints.confidence == 0).all(axis=-1)
    assert nobody.sum() == 8
    np.testing.assert_array_equal(np.isnan(joints).all(axis=(1, 2)), nobody)
    assert np.isfinite(joints[~nobody]).all()
    assert not joints[~nobody][:, 0].any()
    assert samples[~nobody].std(axis=1).max() > 0


@pytest.mark.parametrize("pair", PAIRS)
def test_its_pictures_open_and_the_animation_moves(done, pair):
    image = pytest.importorskip("PIL.Image")
    with image.open(done[0] / f"{pair}-poses.png") as png:
        png.load()
        assert png.format == "PNG"
        assert min(png.size) > 300
        assert len(png.convert("RGB").getcolors(maxcolors=2**24)) > 20
    with image.open(done[0] / f"{pair}-poses.gif") as gif:
        assert gif.format == "GIF"
        assert gif.n_frames > 40
        frames = set()
        for i in range(gif.n_frames):
            gif.seek(i)
            frames.add(gif.convert("RGB").tobytes())
            assert gif.info["duration"] > 0
    assert len(frames) > 40


@pytest.mark.parametrize("pair", PAIRS)
def test_its_page_is_whole(done, pair):
    page = (done[0] / f"{pair}-poses.html").read_text(encoding="utf-8")
    assert page.endswith("</html>")
    for text in ("230 frames in 7.6 s", "8 without a pose", "N = 5 samples", "K = 5 steps"):
        assert text in page


def test_a_second_run_into_the_same_folder_replaces_the_first(done, monkeypatch, capsys):
    folder, _ = done
    (folder / "notes.txt").write_text("mine")
    before = (folder / "frame-poses.npz").stat().st_ino
    clip = street_walk()  # a part of it is enough to see files exchanged
    part = Clip(Keypoints(clip.keypoints.uv[:40], clip.keypoints.confidence[:40]), clip.fps, clip.image_size)
    monkeypatch.setattr("diffpose_edge.cli.demo.street_walk", lambda: part)
    monkeypatch.setattr(sys, "argv", ["diffpose-edge", "demo", "--out", str(folder)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert capsys.readouterr().out.count("of 40 frames posed") == 2
    assert {path.name for path in folder.iterdir()} == {*LASTING, "notes.txt"}
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "frame-poses.npz").stat().st_ino != before


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("precious")
    monkeypatch.setattr(sys, "argv", ["diffpose-edge", "demo", "--out", str(tmp_path / "file")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert (tmp_path / "file").read_text() == "precious"
