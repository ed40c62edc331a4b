"""Motions for training: body axes, windows of clips, exchanged parts, and poses made up from joint angles."""

from __future__ import annotations

import zipfile
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpose_edge.clips import mocap_clips_path
from diffpose_edge.errors import DatasetError, TrainingError
from diffpose_edge.reference.training import pair
from diffpose_edge.reference.training.batches import held_out_batch, training_batch
from diffpose_edge.reference.training.bodies import BONE_TO, GROUP_OF_BONE, bones_of, poses_of
from diffpose_edge.reference.training.motions import FPS, HELD_OUT, Clip, MotionSource, load_clips, resampled
from diffpose_edge.reference.training.plans import PLANS
from diffpose_edge.reference.training.procedural import COLUMN, directions_of, random_motions
from diffpose_edge.reference.training.rotations import rotated

LEFT, BACKWARD, UP = np.eye(3)


@pytest.fixture(scope="module")
def real() -> list[Clip]:
    return load_clips(mocap_clips_path())


def walking(name: str, place: float = 0.0, scale: float = 1.0, frames: int = 60) -> Clip:
    """A made-up clip of a rigid skeleton; the hip moves one metre with each frame, from x = ``place``."""
    bones = random_motions(1, frames, np.random.default_rng(len(name)))[0]
    # Every bone of another length, the same on both sides.
    lengths = np.float32(scale) * np.linspace(0.2, 0.3, 10, dtype=np.float32)[GROUP_OF_BONE][:, None]
    root = np.zeros((frames, 1, 3), np.float32)
    root[:, 0, 0] = place
    root[:, 0, 1] = np.arange(frames)
    return Clip(name, poses_of(bones * lengths) + root, FPS)


def orthonormal(r: np.ndarray, atol: float = 2e-6) -> None:
    np.testing.assert_allclose(r @ np.swapaxes(r, -1, -2), np.broadcast_to(np.eye(3), r.shape), rtol=0, atol=atol)
    np.testing.assert_allclose(np.linalg.det(r), 1.0, rtol=0, atol=atol)


# clips on disk


def test_shipped_clips_are_those_that_the_notice_describes(real):
    assert len(real) == 30
    assert sum(len(clip.poses) for clip in real) == 22_905
    assert {clip.name.split("_")[0]: 0 for clip in real}.keys() == {"climb", "boxing", "cmu"}
    assert set(HELD_OUT) < {clip.name for clip in real}
    for clip in real:
        lengths = np.linalg.norm(bones_of(clip.poses), axis=-1)
        rigid = [BONE_TO[j] for j in (1, 2, 3, 4, 5, 6, 10, 12, 13, 15, 16)]
        assert np.ptp(lengths[:, rigid], axis=0).max() < 5e-4, f"{clip.name}: arms, legs and head are rigid"
        assert np.ptp(lengths, axis=0).max() < 0.125, f"{clip.name}: the trunk is not, by up to 12 cm"
        # z is up: the head is above the feet most of the time.
        assert (clip.poses[:, 10, 2] > clip.poses[:, [3, 6], 2].max(axis=1)).mean() > 0.9


GOOD = walking("good").poses
BAD_CLIPS = {
    "no fps": ({"a": GOOD}, "fps_a"),
    "fps of zero": ({"a": GOOD, "fps_a": np.array(0.0)}, "fps_a"),
    "fps for each frame": ({"a": GOOD, "fps_a": np.full(len(GOOD), 30.0)}, "fps_a"),
    "fps as a word": ({"a": GOOD, "fps_a": np.array("30")}, "fps_a"),
    "16 joints": ({"a": GOOD[:, :16], "fps_a": np.array(30)}, "(60, 16, 3)"),
    "two dimensions": ({"a": GOOD[..., :2], "fps_a": np.array(30)}, "(60, 17, 2)"),
    "one frame without axis": ({"a": GOOD[0], "fps_a": np.array(30)}, "(17, 3)"),
    "no frames": ({"a": GOOD[:0], "fps_a": np.array(30)}, "(0, 17, 3)"),
    "words": ({"a": np.array(["left"]), "fps_a": np.array(30)}, "numbers"),
    "NaN": ({"a": np.where(np.arange(60)[:, None, None] == 7, np.nan, GOOD), "fps_a": np.array(30)}, "frame 7"),
    "millimetres": ({"a": 1000 * GOOD, "fps_a": np.array(30)}, "metres"),
    "all joints on one point": ({"a": 0 * GOOD, "fps_a": np.array(30)}, "metres"),
    "nothing": ({}, "no clips"),
    "only fps": ({"fps_a": np.array(30)}, "no clips"),
    "objects": ({"a": np.array([{}], dtype=object)}, "cannot be read"),
}


@pytest.mark.parametrize("kind", BAD_CLIPS)
def test_bad_clips_are_refused_with_their_name(tmp_path, kind):
    arrays, expected = BAD_CLIPS[kind]
    np.savez(tmp_path / "clips.npz", **arrays)
    with pytest.raises(DatasetError) as err:
        load_clips(tmp_path / "clips.npz")
    assert expected in str(err.value)
    assert "clips.npz" in str(err.value)


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "cut", "npy", "zip of text"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, kind):
    path: Path = tmp_path / "clips.npz"
    if kind == "folder":
        path.mkdir()
    elif kind == "npy":
        with open(path, "wb") as file:
            np.save(file, GOOD)
    elif kind == "zip of text":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", "not an array")
    elif kind != "missing":
        np.savez(path, a=GOOD, fps_a=30.0)
        path.write_bytes({"empty": b"", "text": b"frame,x,y\n", "cut": path.read_bytes()[:-300]}[kind])
    with pytest.raises(DatasetError, match=r"clips\.npz"):
        load_clips(path)


def test_good_clips_are_read_as_written(tmp_path):
    np.savez(tmp_path / "clips.npz", a=GOOD.astype(np.float64), fps_a=25)
    (clip,) = load_clips(tmp_path / "clips.npz")
    assert (clip.name, clip.fps, clip.poses.dtype) == ("a", 25.0, np.float32)
    np.testing.assert_array_equal(clip.poses, GOOD)


def test_resampling_is_linear_between_frames():
    poses = np.arange(11, dtype=np.float32)[:, None, None] * np.ones((1, 17, 3), np.float32)
    np.testing.assert_array_equal(resampled(poses, 60.0, 30.0), poses[::2])
    np.testing.assert_array_equal(resampled(poses, 30.0, 30.0), poses)
    np.testing.assert_allclose(resampled(poses, 50.0, 30.0)[:, 0, 0], np.arange(7) * 5 / 3, rtol=1e-6)
    np.testing.assert_allclose(resampled(poses, 25.0, 30.0)[:, 0, 0], np.arange(13) * 5 / 6, rtol=1e-6)


# windows


def test_windows_rebuild_frames_of_the_clips_and_their_mirror_images():
    clip = walking("one")
    motion = MotionSource([clip], 1).window(200, np.random.default_rng(0))
    poses = (rotated(motion.pelvis, poses_of(motion.bones)) + motion.root[:, :, None])[:, 0]
    swapped = clip.poses[:, [0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 11, 12, 13]] * [-1, 1, 1]
    away = np.abs(poses[:, None] - np.concatenate([clip.poses, swapped])[None]).max(axis=(2, 3))
    assert away.min(axis=1).max() < 2e-5
    mirrored = away.argmin(axis=1) >= len(clip.poses)
    assert 0.3 < mirrored.mean() < 0.7


def test_windows_stay_within_their_clip_and_keep_one_speed():
    clips = [walking("first", place=100), walking("second", place=200, frames=25), walking("third", place=300, frames=7)]
    motion = MotionSource(clips, 9).window(500, np.random.default_rng(0))
    place = np.abs(motion.root[:, :, 0])
    np.testing.assert_allclose(place, np.broadcast_to(place[:, :1], place.shape), rtol=1e-6)
    # A clip that is too short goes on backwards, so only the others keep their direction.
    whole = place[:, 0] < 250
    assert set(np.round(place[:, 0])) == {100, 200, 300}
    speed = np.diff(motion.root[whole, :, 1], axis=1)
    np.testing.assert_allclose(speed, np.broadcast_to(speed[:, :1], speed.shape), rtol=0, atol=1e-4)
    assert speed.min() >= 0.5 - 1e-4
    assert speed.max() <= 1.6 + 1e-4
    assert speed.max() - speed.min() > 1.0


def test_between_two_frames_body_axes_stay_orthonormal(real):
    source = MotionSource([clip for clip in real if clip.name == "cmu_02_05"], 9)
    # Fast enough that a mean of two neighbouring axes is none.
    assert np.abs(np.diff(source.pelvis, axis=0)).max(axis=(1, 2))[:100].max() > 0.05
    orthonormal(source.window(300, np.random.default_rng(0)).pelvis, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 5])
def test_the_same_seed_gives_the_same_windows_and_batches(real, frames):
    source = MotionSource(real[:3], frames)
    for make in (source.window, source.draw):
        first, again, other = (make(20, np.random.default_rng(seed)) for seed in (1, 1, 2))
        for a, b, c in zip(astuple(first), astuple(again), astuple(other), strict=True):
            np.testing.assert_array_equal(a, b)
            assert not np.array_equal(a, c)
    for batch in (training_batch, held_out_batch):
        first, again, other = (batch(source, 6, (0, 2023, step)) for step in (4, 4, 5))
        np.testing.assert_array_equal(first.channels, again.channels)
        np.testing.assert_array_equal(first.xyz, again.xyz)
        assert not np.array_equal(first.xyz, other.xyz)
        assert first.channels.shape == (6, frames, 17, 6)
        assert np.isfinite(first.channels).all()
        np.testing.assert_array_equal(first.xyz[:, :, 0], 0.0)


# what is held out


def test_training_never_sees_the_held_out_clips(real, monkeypatch, tmp_path):
    sources = []

    class Recorded(MotionSource):
        def __init__(self, clips: list[Clip], *how: Any):
            sources.append({clip.name for clip in clips})
            super().__init__(clips, *how)

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    monkeypatch.setattr(pair, "MotionSource", Recorded)
    monkeypatch.setattr(pair, "_context", stop)
    with pytest.raises(Stop):
        pair.train_pair(PLANS["tiny"], real, tmp_path, lambda *_: None)
    learned, kept_back = sources
    assert kept_back == set(HELD_OUT)
    assert learned == {clip.name for clip in real} - set(HELD_OUT)


def test_batches_hold_no_frame_of_a_held_out_clip():
    """Held-out clips far away: a single frame of them would show in the root."""
    clips = [walking("a"), walking("boxing", place=5000.0), walking("b"), walking("cmu_02_01", place=5000.0)]
    learned, kept_back = pair.parted(PLANS["tiny"], clips)
    rng = np.random.default_rng(0)
    assert np.abs(MotionSource(learned, 1).draw(2000, rng).root[..., 0]).max() < 100
    assert np.abs(MotionSource(kept_back, 1).window(2000, rng).root[..., 0]).min() > 4000


@pytest.mark.parametrize(("names", "expected"), [(["a", "b"], "hold out"), (["boxing"], "none is left to learn from"), ([], "hold out")])
def test_data_without_either_part_is_refused(tmp_path, names, expected):
    out = tmp_path / "out"
    with pytest.raises(TrainingError, match=expected):
        pair.train_pair(PLANS["tiny"], [walking(name) for name in names], out, lambda *_: None)
    assert not out.exists()


# new motions


def test_drawn_motions_keep_the_lengths_of_their_clips_and_exchange_whole_limbs():
    """Two bodies, one of twice the size: the size of each bone tells where it came from."""
    clips = [walking("small"), walking("large", scale=2.0)]
    motion = MotionSource(clips, 3).draw(3000, np.random.default_rng(0))
    assert all(np.isfinite(part).all() for part in astuple(motion))
    orthonormal(motion.pelvis, atol=1e-5)
    single = np.linalg.norm(bones_of(clips[0].poses[0]), axis=-1)
    norms = np.linalg.norm(motion.bones, axis=-1)
    made_up = np.abs(norms - 1).max(axis=(1, 2)) < 3e-4
    assert made_up.mean() == pytest.approx(0.3, abs=0.04)
    size = norms[~made_up] / single
    # Between two frames a bone is interpolated and loses a little.
    kind = np.round(size).astype(int)
    assert set(np.unique(kind)) == {1, 2}
    assert np.abs(size - kind).max() < 0.06
    legs, left, right = ([BONE_TO[j] for j in joints] for joints in ((1, 2, 3, 4, 5, 6), (12, 13), (15, 16)))
    rest = [BONE_TO[j] for j in (7, 8, 9, 10, 11, 14)]
    for part in (legs, left, right, rest):
        assert (kind[..., part] == kind[:, :1, part[:1]]).all()
    for part in (legs, left, right):
        # Exchanged in two of five windows, half of them for one of the other body.
        assert (kind[:, 0, part[0]] != kind[:, 0, rest[0]]).mean() == pytest.approx(0.2, abs=0.04)


def test_an_exchanged_arm_keeps_its_place_at_the_shoulders():
    """Donor and receiver differ by a twist of the trunk alone: the arm has to follow the receiver's trunk."""
    angles = np.zeros((1, len(COLUMN)), np.float32)
    angles[0, COLUMN["arm flex L"]] = angles[0, COLUMN["arm flex R"]] = 90
    turned = angles.copy()
    turned[0, COLUMN["twist"]] = 60
    clips = [Clip("a", poses_of(directions_of(np.repeat(a, 9, axis=0))) * np.float32(0.3), FPS) for a in (angles, turned)]
    source = MotionSource(clips, 1)
    bones = source.draw(4000, np.random.default_rng(1)).bones[:, 0]
    bones = bones[np.abs(np.linalg.norm(bones, axis=-1) - 1).max(axis=1) > 1e-3]
    shoulders = bones[:, BONE_TO[11]] - bones[:, BONE_TO[14]]
    forward = np.cross(shoulders, bones[:, BONE_TO[8]])
    for elbow in (12, 15):
        arm = bones[:, BONE_TO[elbow]]
        cosine = (arm * forward).sum(-1) / np.linalg.norm(arm, axis=-1) / np.linalg.norm(forward, axis=-1)
        # Straight ahead, but for the small turns that every limb gets; 60 degrees off without the change of axes.
        assert np.rad2deg(np.arccos(np.clip(cosine, -1, 1))).max() < 45


def test_real_people_in_their_own_axes(real):
    """The left hip is on the left, the spine goes up, and who walks goes forward."""
    source = MotionSource(real, 1)
    orthonormal(source.pelvis, atol=2e-5)
    assert ((source.bones[:, BONE_TO[4]] - source.bones[:, BONE_TO[1]]) @ LEFT > 0).all()
    assert (source.bones[:, BONE_TO[7]] @ UP > 0).all()
    walk = MotionSource([clip for clip in real if clip.name == "cmu_02_01"], 1)
    # The clip, without its mirror image.
    half = len(walk.root) // 2
    velocity = np.einsum("fij,fi->fj", walk.pelvis[: half - 1], np.diff(walk.root[:half], axis=0)) * FPS
    ahead = -velocity.mean(axis=0) @ BACKWARD
    assert 0.5 < ahead < 2.5
    assert ahead > 5 * abs(velocity.mean(axis=0) @ LEFT)
