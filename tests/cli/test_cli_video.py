"""``diffpose-edge video``: everything but MediaPipe itself, which tests/detector/test_real_video.py has."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffpose_edge.detector import VideoFile

from ..detector.videos import grey_levels, write_video  # noqa: TID252 - tests are no package that could be named

LANDMARKS = Path(str(files("diffpose_edge"))) / "data" / "street_walk_mediapipe33.npz"
FOUND = 100  # from here on somebody is found in the shipped clip

# Stands for the Python of MediaPipe's environment: finds in frame i what MediaPipe found in frame 100 + i of the shipped clip, but
# nobody in frame 3 and in images without light.
DOUBLE = f"""#!{sys.executable}
import json, sys
import numpy as np

with np.load({str(LANDMARKS)!r}) as clip:
    marks, size = clip["keypoints"][{FOUND}:], clip["image_size"]
print(json.dumps(dict(protocol=1, detector="double 1.0", landmarks=33)), flush=True)
i = 0
while line := sys.stdin.buffer.readline():
    request = json.loads(line)
    w, h = request["width"], request["height"]
    image = sys.stdin.buffer.read(3 * w * h)
    i = 0 if request["first"] else i + 1
    rows = None if i == 3 or max(image) < 8 else (marks[i] * [w / size[0], h / size[1], 1]).tolist()
    print(json.dumps(dict(number=request["number"], landmarks=rows)), flush=True)
"""


@pytest.fixture
def double(tmp_path):
    path = tmp_path / "double-python"
    path.write_text(DOUBLE)
    path.chmod(0o755)
    return path


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "walk.mp4", grey_levels(12, h=90, w=160))


def test_a_video_becomes_poses_keypoints_and_a_picture(cli, clip, double, conditioned_bundle, tmp_path):
    poses, keypoints = tmp_path / "poses.npz", tmp_path / "keypoints.npz"
    named = ("--out", poses, "--keypoints-out", keypoints, "--draw", tmp_path / "poses.png")
    told = cli("video", clip, "--bundle", conditioned_bundle, "--detector-python", double, *named, "--seed", 4, "--steps", 2).out
    assert "double 1.0: a person in 11 of 12 frames" in told
    assert f"wrote {poses}: 12 frames, 11 of them with a pose; bone lengths vary by" in told
    with np.load(poses) as content:
        made = dict(content)
    assert made["joints"].shape == (12, 17, 3)
    assert made["times"] == pytest.approx([i / 10 for i in range(12)], abs=1e-3)
    assert np.isnan(made["joints"]).all(axis=(1, 2)).nonzero()[0].tolist() == [3]
    assert not made["observed"][3].any()
    with np.load(keypoints) as content, np.load(LANDMARKS) as shipped:
        assert content["landmarks"].shape == (12, 33, 3)
        expected = shipped["keypoints"][FOUND + 5] * [160 / shipped["image_size"][0], 90 / shipped["image_size"][1], 1]
        np.testing.assert_allclose(content["landmarks"][5], expected, rtol=1e-5)
        assert content["image_size"].tolist() == [160, 90]
        assert float(content["fps"]) == pytest.approx(10)
    # What was written as keypoints gives 'run' the very poses.
    cli("run", conditioned_bundle, "--keypoints", keypoints, "--out", tmp_path / "again.npz", "--seed", 4, "--steps", 2)
    with np.load(tmp_path / "again.npz") as again:
        np.testing.assert_allclose(again["joints"], made["joints"], atol=1e-4)
    with Image.open(tmp_path / "poses.png") as picture:
        assert picture.size == (1200, 660)


@pytest.mark.parametrize("bundle", ["conditioned_video_bundle", "causal_bundle"])
def test_bundles_of_every_kind_take_a_video(cli, clip, double, bundle, request, tmp_path):
    out = tmp_path / "poses.npz"
    cli("video", clip, "--bundle", request.getfixturevalue(bundle), "--detector-python", double, "--out", out)
    with np.load(out) as made:
        assert np.isfinite(made["joints"]).all(axis=(1, 2)).sum() == 11


def test_animations_have_the_speed_of_the_video_and_its_pictures(cli, double, conditioned_bundle, tmp_path):
    clip = write_video(tmp_path / "walk.mp4", grey_levels(5, h=90, w=160))
    named = ("--bundle", conditioned_bundle, "--detector-python", double, "--out", tmp_path / "poses.npz")
    cli("video", clip, *named, "--draw", tmp_path / "a.gif")
    cli("video", clip, *named, "--draw", tmp_path / "a.mp4")
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.info["duration"]) == (5, 100)
        frames = []
        for i in range(5):
            gif.seek(i)
            frames.append(np.asarray(gif.convert("RGB")).astype(float))
    with VideoFile(tmp_path / "a.mp4") as mp4:
        shown = list(mp4.frames())
    assert [frame.time for frame in shown] == pytest.approx([i / 10 for i in range(5)], abs=2e-3)
    for i, frame in enumerate(shown):
        # A film has twice as many pixels each way.
        halved = frame.image.reshape(360, 2, 600, 2, 3).mean(axis=(1, 3))
        off = [np.abs(halved - picture).mean() for picture in frames]
        assert int(np.argmin(off)) == i, "both show the same"
        # The video's grey, over white at four fifths, where the 2D part has no bones: in a corner of the window.
        grey = 0.8 * (20 + 40 * (i % 5)) + 51
        near = np.abs(frame.image - grey).max(axis=2) < 6
        assert near[:, :600].mean() > 0.1, f"frame {i} is behind its keypoints"


def test_mistakes_show_before_any_work(mistake, clip, double, conditioned_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name, appauthor: tmp_path / "nothing" / name)
    out = ("--out", tmp_path / "poses.npz")
    good = ("--bundle", conditioned_bundle, *out)
    told = mistake("video", clip, *good)
    assert "MediaPipe is not set up yet" in told
    assert str(tmp_path / "nothing") in told
    assert "--install-detector" in told
    assert "--detector-python" in told
    good = ("--detector-python", double, *good)
    assert "is the video itself" in mistake("video", clip, "--detector-python", double, "--out", clip)
    assert "two results are both" in mistake("video", clip, *good, "--keypoints-out", tmp_path / "poses.npz")
    assert "ends in .png, .gif or .mp4" in mistake("video", clip, *good, "--draw", tmp_path / "a.webm")
    assert "not there" in mistake("video", tmp_path / "no.mp4", *good)
    assert "cannot be opened as a video" in mistake("video", double, *good)
    assert "parent folder does not exist" in mistake("video", clip, *good, "--draw", tmp_path / "no" / "a.png")
    assert "--pair" in mistake("video", clip, "--detector-python", double, *out, "--pair", "stereo")
    assert "bundle" in mistake("video", clip, "--detector-python", double, *out, "--bundle", tmp_path)
    assert "cannot be started" in mistake("video", clip, "--bundle", conditioned_bundle, *out, "--detector-python", tmp_path / "no")


def test_the_environment_is_made_only_when_that_is_asked_for(cli, mistake, clip, double, conditioned_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name, appauthor: tmp_path / "nothing" / name)
    asked = []

    def made(stage):
        stage("making it")
        asked.append(True)
        return double

    monkeypatch.setattr("diffpose_edge.detector.make_environment", made)
    arguments = ("video", clip, "--bundle", conditioned_bundle, "--out", tmp_path / "poses.npz")
    mistake(*arguments)
    assert not asked
    cli(*arguments, "--install-detector")
    assert asked
    assert (tmp_path / "poses.npz").exists()


def test_nobody_in_the_whole_video_is_told(mistake, double, conditioned_bundle, tmp_path):
    dark = write_video(tmp_path / "dark.mp4", [np.zeros((90, 160, 3), np.uint8)] * 5)
    told = mistake("video", dark, "--bundle", conditioned_bundle, "--detector-python", double, "--out", tmp_path / "poses.npz")
    assert "nobody was found in any of the 5 frames" in told


def test_a_detector_that_dies_within_the_video_leaves_no_output(mistake, clip, conditioned_bundle, double, tmp_path):
    double.write_text(DOUBLE.replace("i = 0 if", "i == 6 and sys.exit('out of memory'); i = 0 if"))
    told = mistake("video", clip, "--bundle", conditioned_bundle, "--detector-python", double, "--out", tmp_path / "poses.npz")
    assert "it ended at image 8, with status 1" in told
    assert "its last lines: out of memory" in told
