"""Results: what belongs together, how they are read, and made fewer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.body import BodyEstimate
from diffpose_edge.errors import ViewError
from diffpose_edge.viewer import ClipResult, load_result, result_of_bodies
from diffpose_edge.viewer.clip_result import thinned, times_of

from .clips_to_show import IMAGE, arrays, full, keypoints_of


@pytest.fixture
def written(tmp_path: Path) -> Path:
    made = arrays()
    keypoints = keypoints_of(made)
    np.savez(tmp_path / "result.npz", **made)
    pixels = (keypoints.uv + np.array([1, IMAGE[1] / IMAGE[0]])) * IMAGE[0] / 2
    clip = np.concatenate([pixels, keypoints.confidence[..., None]], axis=-1)
    np.savez(tmp_path / "clip.npz", keypoints=clip, image_size=np.array(IMAGE), fps=25.0)
    np.savez(tmp_path / "normalised.npz", keypoints=keypoints.uv, confidence=keypoints.confidence)
    return tmp_path


def test_files_are_read_as_they_were_written(written: Path) -> None:
    made = arrays()
    result = load_result(written / "result.npz", written / "clip.npz")
    for name, array in made.items():
        np.testing.assert_array_equal(getattr(result, name), array)
    assert result.keypoints is not None
    np.testing.assert_allclose(result.keypoints.uv, keypoints_of(made).uv, rtol=0, atol=1e-6)
    assert (result.image_size, result.notes) == (IMAGE, ())
    np.testing.assert_allclose(np.diff(result.times_s), 1 / 25)
    assert result.posed.sum() == 11


def test_how_fast_a_clip_is_comes_from_the_command_then_the_file_then_a_guess_that_is_told(written: Path) -> None:
    assert load_result(written / "result.npz", written / "clip.npz", 50.0).times_s[1] == pytest.approx(0.02)
    guessed = load_result(written / "result.npz", written / "normalised.npz")
    assert guessed.times_s[1] == pytest.approx(1 / 30)
    assert guessed.notes == ("How fast the clip is was not said: 30 frames a second are assumed.",)
    assert guessed.image_size is None


def test_mistakes_are_told(written: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "short.npz", keypoints=np.zeros((5, 17, 2)))
    np.savez(tmp_path / "no_joints.npz", samples=np.zeros((5, 2, 17, 3)))
    np.savez(tmp_path / "wrong.npz", joints=np.zeros((5, 17, 3)), samples=np.zeros((4, 2, 17, 3)))
    np.savez(tmp_path / "scalar.npz", joints=np.array(3.0))
    np.savez(tmp_path / "nothing.npz", joints=np.zeros((0, 17, 3)))
    np.savez(tmp_path / "fps.npz", keypoints=np.zeros((12, 17, 2)), fps=np.array([1.0, 2.0]))
    np.save(tmp_path / "single.npy", np.zeros(3))
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 not a zip")
    for name, keypoints, fps, told in (
        ("result.npz", "short.npz", None, "keypoints of the results' 12 frames, got 5"),
        ("no_joints.npz", None, None, "no array 'joints'"),
        ("wrong.npz", None, None, r"'samples' as numbers of shape \(5, N, 17, 3\), frames first; got float64 \(4, 2, 17, 3\)"),
        ("scalar.npz", None, None, "'joints' as numbers of shape"),
        ("nothing.npz", None, None, "at least one frame"),
        ("result.npz", "fps.npz", None, "expected fps as one number"),
        ("result.npz", None, 0.0, "frames per second as a positive number, got 0.0"),
        ("result.npz", None, float("nan"), "frames per second as a positive number"),
        ("single.npy", None, None, "is a single array"),
        ("damaged.npz", None, None, "cannot be read as an npz"),
        ("absent.npz", None, None, "no file at"),
    ):
        with pytest.raises(ViewError, match=told):
            load_result(tmp_path / name, None if keypoints is None else tmp_path / keypoints, fps)


def test_fewer_frames_are_those_frames() -> None:
    result = full()
    fewer = thinned(result, 1, None, 4, samples=2)
    for name in ("joints", "covariance", "observed", "root", "step_ms", "call_ms", "times_s"):
        np.testing.assert_array_equal(getattr(fewer, name), getattr(result, name)[[1, 5, 9]])
    assert fewer.samples is not None
    assert fewer.samples.shape == (3, 2, 17, 3)
    assert fewer.keypoints is not None
    assert result.keypoints is not None
    np.testing.assert_array_equal(fewer.keypoints.uv, result.keypoints.uv[[1, 5, 9]])
    np.testing.assert_array_equal(fewer.frame_numbers, [1, 5, 9])
    np.testing.assert_array_equal(thinned(fewer, 1).frame_numbers, [5, 9])
    assert thinned(result).notes == ()
    assert thinned(result, samples=0).samples is None
    for first, last, every, samples in ((12, None, 1, None), (5, 5, 1, None), (-1, None, 1, None), (0, None, 0, None), (0, None, 1, -1)):
        with pytest.raises(ViewError):
            thinned(result, first, last, every, samples)


def test_times_that_do_not_rise_are_refused() -> None:
    joints = arrays(3)["joints"]
    for times in ([0.0, 1.0], [0.0, 1.0, 1.0], [0.0, np.nan, 1.0]):
        with pytest.raises(ViewError, match="times of 3 frames"):
            ClipResult(joints=joints, times_s=np.array(times))


def bodies(count: int = 3, **changes: object) -> list[BodyEstimate]:
    made = arrays(count)
    fields = [
        {
            **{"stamp_ns": 10**18 + 40_000_000 * f, "frame_id": "camera", "body_id": 4, "latency_ns": 2_000_000 * (f + 1)},
            **{name: made[name][f] for name in ("joints", "covariance", "observed", "samples", "root")},
            "keypoints": np.full((17, 3), 0.5, np.float32),
            **changes,
        }
        for f in range(count)
    ]
    return [BodyEstimate(**one) for one in fields]


def test_a_stream_is_a_result() -> None:
    result = result_of_bodies([*bodies(2), *bodies(3, truncated=True)[2:]])
    np.testing.assert_allclose(result.times_s, [0, 0.04, 0.08])
    np.testing.assert_allclose(result.call_ms, [2, 4, 6])
    for name in ("joints", "samples", "root"):
        np.testing.assert_array_equal(getattr(result, name), arrays(3)[name])
    assert result.keypoints is not None
    assert result.keypoints.confidence.shape == (3, 17)
    assert result.notes == ("A deadline cut 1 of 3 frames short.",)
    plain = result_of_bodies(bodies(2, root=None, keypoints=None, latency_ns=0))
    assert (plain.root, plain.keypoints, plain.call_ms, plain.notes) == (None, None, None, ())


def test_a_stream_of_several_people_or_of_nobody_is_refused() -> None:
    for several in ([*bodies(2), *bodies(3, body_id=5)[2:]], []):
        with pytest.raises(ViewError, match="one person"):
            result_of_bodies(several)
    with pytest.raises(ViewError, match="each later"):
        result_of_bodies(bodies(2, stamp_ns=5))


def test_times_of_a_clip() -> None:
    np.testing.assert_allclose(times_of(3, 50), [0, 0.02, 0.04])
