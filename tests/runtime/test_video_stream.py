"""Streams: what a frame's pose depends on, to the last bit, and how often the encoder of windows is run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.clips import street_walk
from diffpose_edge.errors import DiffPoseEdgeError, EngineError, KeypointError, RuntimeClosed
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.pose_runtime import PoseRuntime as Runtime
from diffpose_edge.skeleton import J
from diffpose_edge.tolerances import FP32_VIDEO_LAYER_REL

FRAMES = 14
STEPS = (49, 9)


@pytest.fixture(scope="module")
def clip() -> Keypoints:
    """A real person walking, seen in every frame."""
    street = street_walk().keypoints
    return Keypoints(street.uv[10 : 10 + FRAMES], street.confidence[10 : 10 + FRAMES])


@pytest.fixture
def causal(causal_bundle: Path) -> Iterator[Runtime]:
    """P=2, N=3, F=4, two layers."""
    with PoseRuntime.load(causal_bundle, threads=1) as loaded:
        yield loaded


@pytest.fixture
def video(conditioned_video_bundle: Path) -> Iterator[Runtime]:
    """P=2, N=3, windows of 5."""
    with PoseRuntime.load(conditioned_video_bundle, threads=1) as loaded:
        yield loaded


def frame_of(clip: Keypoints, i: int, people: int = 1) -> np.ndarray:
    both = np.concatenate([clip.uv[i], clip.confidence[i, :, None]], axis=-1)
    return np.repeat(both[None], people, axis=0)


def same(a, b) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True) for name in ("joints", "samples", "covariance", "context")
    )


# causal encoders


@pytest.mark.parametrize("unseen", [(), (0,), (4, 5), (FRAMES - 1,)])
def test_a_stream_gives_a_clips_poses_bit_for_bit(causal, clip, unseen):
    confidence = clip.confidence.copy()
    confidence[list(unseen)] = 0.0
    gaps = Keypoints(clip.uv, confidence)
    whole = np.concatenate([e.joints for e in causal.estimate_clip(gaps, 3, timesteps=STEPS)])
    with causal.stream(seed=3, timesteps=STEPS) as stream:
        streamed = np.concatenate([stream.push(gaps.uv[i], gaps.confidence[i]).joints for i in range(FRAMES)])
    assert np.array_equal(streamed, whole, equal_nan=True)
    assert np.isnan(streamed).all(axis=(1, 2)).nonzero()[0].tolist() == list(unseen)


def test_what_was_seen_before_matters(causal, clip):
    with causal.stream(timesteps=STEPS) as stream, causal.stream(timesteps=STEPS) as other:
        for i in range(3):
            stream.push(frame_of(clip, i))
        gone_on, fresh = stream.push(frame_of(clip, 3)), other.push(frame_of(clip, 3))
    assert np.abs(gone_on.context - fresh.context).max() > 1e-3


def test_a_person_is_alone_whoever_else_is_there(causal, clip):
    """Five people in batches of two: the third row has the walker, and gets the very contexts of a stream of one."""
    rng = np.random.default_rng(0)
    with causal.stream(people=5, timesteps=STEPS) as many, causal.stream(timesteps=STEPS) as one:
        for i in range(FRAMES):
            crowd = rng.uniform(-0.5, 0.5, (5, J, 3))
            crowd[..., 2] = 1.0
            crowd[2] = frame_of(clip, i)[0]
            assert np.array_equal(many.push(crowd).context[2], one.push(frame_of(clip, i)).context[0])


def test_a_new_person_is_met_as_on_a_fresh_start(causal, clip):
    with causal.stream(people=3, timesteps=STEPS) as stream, causal.stream(timesteps=STEPS) as fresh:
        for i in range(7):
            stream.push(frame_of(clip, i, 3))
        stream.reset(1)
        for i in range(5):
            context = stream.push(frame_of(clip, i, 3)).context
            assert np.array_equal(context[1], fresh.push(frame_of(clip, i)).context[0])
            assert not np.array_equal(context[0], context[1])
        stream.reset()
        contexts = stream.push(frame_of(clip, 0, 3)).context
    assert np.array_equal(contexts[0], contexts[1])
    # An estimate is of somebody about whom nothing is known.
    assert np.array_equal(contexts[0], causal.estimate(frame_of(clip, 0), timesteps=STEPS).context[0])


def test_streams_and_estimates_share_a_runtime_and_do_not_meet(causal, clip):
    with causal.stream(seed=1, timesteps=STEPS) as alone:
        expected = [alone.push(frame_of(clip, i)) for i in range(6)]
    with causal.stream(seed=1, timesteps=STEPS) as stream, causal.stream(seed=2, people=3, timesteps=STEPS) as other:
        for i in range(6):
            assert same(stream.push(frame_of(clip, i)), expected[i])
            other.push(frame_of(clip, FRAMES - 1 - i, 3))
            causal.estimate(frame_of(clip, 2, 3), timesteps=STEPS)
            list(causal.estimate_clip(clip, 0, timesteps=STEPS))


def test_a_clip_that_jumps_to_another_person_forgets(causal, clip):
    far = Keypoints(clip.uv + np.float32(5.0) * np.array([0.3, 0.0], np.float32), clip.confidence)
    joined = Keypoints(np.concatenate([clip.uv, far.uv]), np.concatenate([clip.confidence] * 2))
    contexts = np.concatenate([e.context for e in causal.estimate_clip(joined, 0, timesteps=STEPS)])
    alone = np.concatenate([e.context for e in causal.estimate_clip(far, 0, timesteps=STEPS)])
    assert np.array_equal(contexts[FRAMES:], alone)


def test_an_age_that_passes_unseen_counts(causal, clip):
    """Nobody in one frame: what is remembered of the frames before is one frame older than if there had been no gap."""
    gap = frame_of(clip, 1)
    gap[..., 2] = 0.0
    with causal.stream(timesteps=STEPS) as with_gap, causal.stream(timesteps=STEPS) as without:
        for stream in (with_gap, without):
            stream.push(frame_of(clip, 0))
        missed = with_gap.push(gap)
        assert np.isnan(missed.joints).all()
        assert not missed.observed.any()
        a, b = with_gap.push(frame_of(clip, 2)).context, without.push(frame_of(clip, 2)).context
    assert np.abs(a - b).max() > 10 * FP32_VIDEO_LAYER_REL


# windows and a hop


def windows_of(clip: Keypoints, F: int) -> Iterator[np.ndarray]:
    """The window that ends at each frame, the first frame repeated before the clip."""
    for i in range(FRAMES):
        yield np.stack([frame_of(clip, max(0, f))[0] for f in range(i - F + 1, i + 1)])


def test_a_hop_of_one_is_an_estimate_of_each_window_bit_for_bit(video, clip):
    rng = np.random.default_rng(5)
    with video.stream(seed=5, timesteps=STEPS) as stream:
        for i, window in enumerate(windows_of(clip, 5)):
            assert same(stream.push(frame_of(clip, i)), video.estimate(window, seed=rng, timesteps=STEPS))


def test_so_it_is_for_released_weights(golden_video_bundle, clip):
    with PoseRuntime.load(golden_video_bundle, threads=1) as runtime, runtime.stream(people=3, timesteps=(12, 0)) as stream:
        for i, window in enumerate(windows_of(clip, 9)):
            expected = runtime.estimate(np.repeat(window[None], 3, axis=0), timesteps=(12, 0))
            assert same(stream.push(frame_of(clip, i, 3)), expected)


class CountedEncoder:
    """Counts how often a backend's encoder is run."""

    def __init__(self, runtime: Runtime, monkeypatch: pytest.MonkeyPatch):
        self.count = 0
        backend = runtime._backend
        encode = backend.encode

        def counted() -> None:
            self.count += 1
            encode()

        monkeypatch.setattr(backend, "encode", counted)


@pytest.mark.parametrize("hop", [2, 3])
def test_between_two_runs_the_last_context_is_held(video, clip, hop, monkeypatch):
    encoder = CountedEncoder(video, monkeypatch)
    exact = [video.estimate(window, seed=0, timesteps=STEPS) for window in windows_of(clip, 5)]
    encoder.count = 0
    with video.stream(seed=0, hop=hop, timesteps=STEPS) as stream:
        poses = [stream.push(frame_of(clip, i)) for i in range(FRAMES)]
    assert encoder.count == -(-FRAMES // hop)
    for i, pose in enumerate(poses):
        assert np.array_equal(pose.context, exact[i - i % hop].context), i
    # The denoiser runs at every frame, from its own keypoints.
    assert all(not np.array_equal(a.joints, b.joints) for a, b in itertools.pairwise(poses))


def test_each_person_is_due_from_their_own_first_frame(video, clip, monkeypatch):
    """Two people in one batch, the second found one frame later; one run of the encoder updates only who is due."""
    with video.stream(people=2, hop=3, timesteps=STEPS) as stream, video.stream(hop=3, timesteps=STEPS) as alone:
        for i in range(8):
            both = frame_of(clip, i, 2)
            if i == 0:
                both[1, :, 2] = 0.0
            pose = stream.push(both)
            if i == 0:
                assert np.isnan(pose.joints[1]).all()
            else:
                assert np.array_equal(pose.context[1], alone.push(frame_of(clip, i)).context[0])


def test_a_person_who_was_not_seen_when_due_is_encoded_when_back(video, clip):
    with video.stream(hop=3, timesteps=STEPS) as stream:
        stream.push(frame_of(clip, 0))
        held = stream.push(frame_of(clip, 1)).context
        for i in (2, 3):
            gap = frame_of(clip, i)
            gap[..., 2] = 0.0
            assert np.isnan(stream.push(gap).joints).all()
        window = np.stack([frame_of(clip, i)[0] for i in (0, 1, 1, 1, 4)])
        assert np.array_equal(stream.push(frame_of(clip, 4)).context, video.estimate(window, timesteps=STEPS).context)
        assert not np.array_equal(stream.push(frame_of(clip, 5)).context, held)


def test_the_middle_of_a_window_is_a_windows_own(golden_video_bundle, clip):
    """Released weights draw nothing: a pass over the window answers all of its frames. Somebody unseen in the middle has no pose."""
    gap = clip.confidence.copy()
    gap[6] = 0.0
    with PoseRuntime.load(golden_video_bundle, threads=1) as runtime, runtime.stream(output="middle", timesteps=(12, 0)) as stream:
        assert stream.delay == 4
        poses = [stream.push(clip.uv[i], gap[i]) for i in range(FRAMES)]
        for i in range(4, FRAMES):
            shown = [5 if f == 6 else f for f in range(max(0, i - 8), i + 1)]
            shown = [shown[0]] * (9 - len(shown)) + shown
            whole = runtime.estimate_clip(Keypoints(clip.uv[shown], clip.confidence[shown]), timesteps=(12, 0))
            expected = np.concatenate([e.joints for e in whole])[4]
            assert np.isnan(poses[i].joints).all() if i == 10 else np.array_equal(poses[i].joints[0], expected), i
    assert all(np.isnan(pose.joints).all() for pose in poses[:4])


def test_after_a_reset_the_middle_begins_anew(video, clip):
    with video.stream(output="middle", seed=0, timesteps=STEPS) as stream, video.stream(output="middle", seed=0, timesteps=STEPS) as fresh:
        for i in range(6):
            stream.push(frame_of(clip, i))
        stream.reset(0)
        for i in range(6, 11):
            one, other = stream.push(frame_of(clip, i)), fresh.push(frame_of(clip, i))
            assert np.isnan(one.context).all() == (i < 8)
            assert np.array_equal(one.context, other.context, equal_nan=True)


# draws of people's own, and people who are not there


@pytest.mark.parametrize("kind", ["causal_bundle", "golden_video_bundle"])
def test_with_draws_of_their_own_a_person_does_not_depend_on_the_others(request, kind, clip):
    steps = {"timesteps": (12, 0), "mode": "noised"} if kind == "golden_video_bundle" else {"timesteps": STEPS}
    mine, again, others = np.random.default_rng(4), np.random.default_rng(4), np.random.default_rng(5)
    with (
        PoseRuntime.load(request.getfixturevalue(kind), threads=1) as runtime,
        runtime.stream(people=3, **steps) as many,
        runtime.stream(**steps) as one,
    ):
        for i in range(5):
            crowd = frame_of(clip, i, 3)
            crowd[:2, :, 0] += 0.3
            crowd[0, :, 2] = i % 2
            together = many.push(crowd, seed=[others, others, mine])
            assert np.array_equal(together.samples[2], one.push(frame_of(clip, i), seed=[again]).samples[0])


def test_an_estimate_too_takes_draws_for_each_person(conditioned_bundle, clip):
    with PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        crowd = np.concatenate([frame_of(clip, i) for i in range(3)])
        together = runtime.estimate(crowd, seed=[np.random.default_rng(i) for i in range(3)], timesteps=STEPS)
        for i in range(3):
            assert np.array_equal(together.samples[i], runtime.estimate(crowd[i], seed=i, timesteps=STEPS).samples[0])


def test_draws_for_another_number_of_people_are_refused(causal, clip):
    with causal.stream(people=2, timesteps=STEPS) as stream:
        for wrong in ([np.random.default_rng(0)], [1, 2]):
            with pytest.raises(DiffPoseEdgeError, match="for each of the 2 people"):
                stream.push(frame_of(clip, 0, 2), seed=wrong)
            with pytest.raises(DiffPoseEdgeError, match="for each of the 2 people"):
                causal.estimate(frame_of(clip, 0, 2), seed=wrong)


@pytest.mark.parametrize("kind", ["causal_bundle", "conditioned_video_bundle", "golden_video_bundle"])
def test_a_batch_in_which_nobody_is_seen_costs_nothing_and_changes_nothing(request, kind, clip, monkeypatch):
    """Four people in batches of two, of whom the first two are unseen in every third frame: the others' poses are those of a runtime that
    runs every batch."""
    steps = {"timesteps": (12, 0), "mode": "noised"} if kind == "golden_video_bundle" else {"timesteps": STEPS}
    with PoseRuntime.load(request.getfixturevalue(kind), threads=1) as runtime:
        walks = []
        walk = runtime._backend.walk
        monkeypatch.setattr(runtime._backend, "walk", lambda *given: walks.append(1) or walk(*given))
        with runtime.stream(people=4, seed=3, **steps) as stream, runtime.stream(people=4, seed=3, **steps) as other:
            for i in range(9):
                frame = frame_of(clip, i, 4)
                both = frame.copy()
                if i % 3 == 1:
                    both[:2, :, 2] = 0.0
                before = len(walks)
                given, expected = stream.push(both), other.push(frame)
                assert len(walks) - before == (3 if i % 3 == 1 else 4)
                assert np.array_equal(given.samples[2:], expected.samples[2:])
                assert np.isnan(given.joints[:2]).all() == (i % 3 == 1)


# mistakes


def test_a_frame_encoder_has_no_stream(conditioned_bundle):
    with (
        PoseRuntime.load(conditioned_bundle, threads=1) as runtime,
        pytest.raises(DiffPoseEdgeError, match=r"frame encoder.*call estimate"),
    ):
        runtime.stream()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"people": 0}, "people"),
        ({"people": True}, "people"),
        ({"hop": 0}, "hop"),
        ({"hop": 1.5}, "hop"),
        ({"output": "first"}, "output"),
        ({"output": "middle", "hop": 2}, "hop of 1"),
    ],
)
def test_numbers_that_are_none(video, arguments, told):
    with pytest.raises(DiffPoseEdgeError, match=told):
        video.stream(**arguments)


def test_a_causal_encoder_takes_every_frame(causal):
    with pytest.raises(DiffPoseEdgeError, match="no hop for a causal encoder"):
        causal.stream(hop=2)
    with pytest.raises(DiffPoseEdgeError, match=r"needs an encoder of windows.*a causal encoder"):
        causal.stream(output="middle")


def test_a_mistake_changes_nothing(causal, clip):
    with causal.stream(people=2, seed=0, timesteps=STEPS) as stream, causal.stream(people=2, seed=0, timesteps=STEPS) as other:
        for i in range(4):
            with pytest.raises(KeypointError, match="2 people, got 1"):
                stream.push(frame_of(clip, i))
            with pytest.raises(KeypointError):
                stream.push(np.full((2, J, 2), np.nan))
            with pytest.raises(KeypointError, match=r"within 0\.\.1"):
                stream.reset(2)
            assert same(stream.push(frame_of(clip, i, 2)), other.push(frame_of(clip, i, 2)))


def test_closed_streams_and_runtimes_say_so(causal_bundle, clip):
    runtime = PoseRuntime.load(causal_bundle, threads=1)
    with runtime.stream() as stream:
        stream.push(frame_of(clip, 0))
    stream.close()
    with pytest.raises(RuntimeClosed, match="stream was closed"):
        stream.push(frame_of(clip, 1))
    left = runtime.stream()
    runtime.close()
    with pytest.raises(RuntimeClosed, match="runtime was closed"):
        left.push(frame_of(clip, 1))
    with pytest.raises(RuntimeClosed):
        runtime.stream()


@pytest.mark.parametrize("backend", ["tensorrt", "onnxruntime-cuda"])
def test_no_gpu_backend_takes_a_causal_encoder(causal_bundle, backend):
    with pytest.raises(EngineError, match="no GPU backend keeps"):
        PoseRuntime.load(causal_bundle, backend)


def test_auto_takes_the_cpu_and_says_why(causal_bundle, caplog):
    caplog.set_level("INFO")
    with PoseRuntime.load(causal_bundle, "auto", threads=1) as runtime:
        assert runtime.describe()["backend"] == "onnxruntime"
    assert "causal encoder" in caplog.text
