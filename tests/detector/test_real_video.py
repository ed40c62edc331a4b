"""MediaPipe itself, in its own environment, on a real video of a person outdoors.

The environment and the video come from PyPI once, 130 MB, and stay in pytest's cache folder.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest

from diffpose_edge.cli import main
from diffpose_edge.clips import street_walk
from diffpose_edge.detector import MediaPipeDetector, make_environment
from diffpose_edge.errors import DetectorError
from diffpose_edge.keypoints import denormalise
from diffpose_edge.skeleton import JOINTS
from diffpose_edge.tolerances import LANDMARK_PX

pytestmark = pytest.mark.slow

SPORTS2D = "sports2d==0.8.34"
DEMO = "Sports2D/Demo/demo.mp4"
FRAMES = 120
SHIPPED = Path(__file__).resolve().parents[2] / "diffpose_edge" / "data" / "street_walk_mediapipe33.npz"


@pytest.fixture(scope="module")
def cache(request: pytest.FixtureRequest):
    """Put the environments where pytest keeps what lasts from one run to the next."""
    folder = Path(request.config.cache.mkdir("detector"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("platformdirs.user_cache_path", lambda name, appauthor: folder / name)
        yield folder


@pytest.fixture(scope="module")
def python(cache: Path) -> Path:
    try:
        return make_environment()
    except DetectorError as err:
        if "cannot be installed" in str(err) or "MediaPipe needs Python" in str(err):
            pytest.skip(f"pip cannot install MediaPipe here: {err}")
        raise


@pytest.fixture(scope="module")
def demo(cache: Path) -> Path:
    video = cache / "demo.mp4"
    if not video.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache), SPORTS2D]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"pip cannot download {SPORTS2D} here: {done.stderr[-300:]}")
        (wheel,) = cache.glob("sports2d-*.whl")
        with zipfile.ZipFile(wheel) as content:
            video.write_bytes(content.read(DEMO))
        wheel.unlink()
    return video


@pytest.fixture(scope="module")
def beginning(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 120 frames of the video, four seconds, as they are: enough to see, at half the time."""
    path = tmp_path_factory.mktemp("video") / "beginning.mp4"
    with av.open(str(demo)) as whole, av.open(str(path), "w") as part:
        stream = part.add_stream_from_template(whole.streams.video[0])
        for packet in itertools.islice(whole.demux(video=0), FRAMES):
            packet.stream = stream
            part.mux(packet)
    return path


def test_landmarks_are_those_of_the_clip_that_ships(python: Path, demo: Path) -> None:
    """The clip was made by MediaPipe's own Python interface, without any of this project's code, of frames read by OpenCV.

    OpenCV takes every video's colours for BT.601, whatever the file says: done here as well, the numbers are the very same.
    """
    with np.load(SHIPPED) as content:
        expected = content["keypoints"][:40]
    assert np.isnan(expected[:3]).all(), "it begins with three frames in which nobody is found"
    with av.open(str(demo)) as container, MediaPipeDetector(python) as detector:
        assert detector.name == "mediapipe 0.10.21"
        for round_ in range(2):  # the second time to see that a new clip begins anew
            container.seek(0)
            frames = zip(range(40 if round_ == 0 else 6), container.decode(video=0), strict=False)
            found = np.stack([detector.detect(f.to_ndarray(format="rgb24", src_colorspace="ITU601"), first=i == 0) for i, f in frames])
            assert (np.isnan(found) == np.isnan(expected[: len(found)])).all()
            np.testing.assert_allclose(found, expected[: len(found)], atol=LANDMARK_PX)


def test_the_whole_command(python: Path, beginning: Path, conditioned_bundle: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    poses, keypoints = tmp_path / "poses.npz", tmp_path / "keypoints.npz"
    named = ["--out", str(poses), "--keypoints-out", str(keypoints), "--draw", str(tmp_path / "poses.png")]
    monkeypatch.setattr(sys, "argv", ["diffpose-edge", "video", str(beginning), "--bundle", str(conditioned_bundle), *named])
    with pytest.raises(SystemExit) as stop:
        main()
    told = capsys.readouterr()
    assert stop.value.code == 0, told.err
    assert "mediapipe 0.10.21: a person in 1" in told.out
    with np.load(keypoints) as content:
        landmarks, times = content["landmarks"], content["times"]
        pixels, confidence = content["keypoints"][..., :2], content["keypoints"][..., 2]
        (w, h), fps = content["image_size"], float(content["fps"])
    assert (w, h, fps, len(times)) == (1768, 994, 30.0, FRAMES)
    np.testing.assert_allclose(times, np.arange(FRAMES) / 30, atol=1e-3)

    found = np.isfinite(landmarks).all(axis=(1, 2))
    assert found.mean() > 0.9
    sure = confidence > 0.5
    assert sure[found].mean() > 0.8
    inside = (pixels >= 0).all(axis=-1) & (pixels <= (w, h)).all(axis=-1)
    assert inside[sure].mean() > 0.98
    # While the person faces the camera their right is on the left of the image, hips and shoulders alike.
    right, left = (pixels[70:110, [JOINTS.index(f"{side}_hip"), JOINTS.index(f"{side}_shoulder")], 0] for side in ("right", "left"))
    assert (right < left).mean() > 0.85  # 0.93: MediaPipe takes them for each other in a few frames
    # From frame to frame left and right are not exchanged: no hip jumps to where the other was.
    hips = pixels[:, [JOINTS.index("right_hip"), JOINTS.index("left_hip")]]
    kept, exchanged = (np.linalg.norm(hips[1:] - before[:-1], axis=-1).sum(axis=1) for before in (hips, hips[:, ::-1]))
    apart = np.linalg.norm(hips[1:, 0] - hips[1:, 1], axis=-1) > 20
    assert apart.sum() > 50
    assert (kept <= exchanged)[apart].mean() > 0.93  # 0.97

    # The clip that ships is of the same video, with colours a little different: nearly the same joints.
    shipped = street_walk()
    both = sure & (shipped.keypoints.confidence[:FRAMES] > 0.5)
    away = np.linalg.norm(pixels - denormalise(shipped.keypoints.uv[:FRAMES], shipped.image_size), axis=-1)[both]
    assert np.median(away) < 3.0
    assert np.quantile(away, 0.9) < 15.0
    with np.load(poses) as content:
        joints = content["joints"]
    assert (np.isfinite(joints).all(axis=(1, 2)) <= found).all()
    assert np.isfinite(joints).all(axis=(1, 2)).sum() > 100
