"""Streams of people, computed in the caller's thread: the poses are those of the whole clips, bit for bit, whatever came in between."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.body import BodyEstimate
from diffpose_edge.errors import DiffPoseEdgeError, KeypointError, RuntimeClosed, TimestepError
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.runtime import OneEuro, PoseRuntime, PoseStream, Tracking
from diffpose_edge.runtime.one_euro import OneEuroFilter
from diffpose_edge.skeleton import J
from diffpose_edge.tracks import tracks_of

from .walkers import PERIOD_NS, crossing, walker

FRAMES = 14
SEED = 11
STEPS = (49, 9)
PLACES = ((-0.5, 0.0), (0.0, 0.05), (0.55, -0.05))
KINDS = ("frame", "video", "causal")


@pytest.fixture(scope="module")
def runtimes(conditioned_bundle: Path, conditioned_video_bundle: Path, causal_bundle: Path) -> Iterator[dict[str, PoseRuntime]]:
    """P=2, N=3 each; windows of 5; a causal encoder over 4 frames in each of two layers."""
    paths = dict(zip(KINDS, (conditioned_bundle, conditioned_video_bundle, causal_bundle), strict=True))
    loaded = {kind: PoseRuntime.load(path, threads=1) for kind, path in paths.items()}
    yield loaded
    for runtime in loaded.values():
        runtime.close()


def people_at(i: int, people: int = 3) -> np.ndarray:
    """Frame i of so many walkers, each in their own place and phase, (people, 17, 3)."""
    return np.stack([walker(i, place, 0.4 + 0.05 * p, phase=20 * p) for p, place in enumerate(PLACES[:people])])


def clip_of(p: int, frames: int = FRAMES) -> Keypoints:
    clip = np.stack([people_at(i)[p] for i in range(frames)])
    checked = Keypoints(clip[..., :2], clip[..., 2])
    assert len(tracks_of(checked)) == 1
    return checked


def draws(body_id: int) -> np.random.Generator:
    return np.random.default_rng([SEED, body_id])


def by_id(bodies: list[BodyEstimate]) -> dict[int, np.ndarray]:
    found = defaultdict(list)
    for body in bodies:
        found[body.body_id].append(body)
    for own in found.values():
        assert all(a.stamp_ns < b.stamp_ns for a, b in itertools.pairwise(own))
    return {i: np.stack([body.joints for body in own]) for i, own in found.items()}


def windows_of(clip: Keypoints, F: int, middle: bool) -> Iterator[np.ndarray]:
    """The window that ends at each frame of a clip, or in whose middle it is; its ends are repeated."""
    ahead = (F - 1) // 2 if middle else 0
    for i in range(len(clip)):
        at = np.clip(np.arange(i + ahead - F + 1, i + ahead + 1), 0, len(clip) - 1)
        yield np.concatenate([clip.uv[at], clip.confidence[at][..., None]], axis=-1)


def offline(runtime: PoseRuntime, kind: str, clip: Keypoints, rng: np.random.Generator) -> np.ndarray:
    """The poses of a whole clip, by what the runtime has for clips and windows."""
    if kind == "video":
        return np.concatenate([runtime.estimate(w, seed=rng, timesteps=STEPS).joints for w in windows_of(clip, 5, middle=False)])
    return np.concatenate([e.joints for e in runtime.estimate_clip(clip, rng, timesteps=STEPS)])


def shuffled(i: int, people: np.ndarray) -> np.ndarray:
    """The people in another order in every frame but the first, which gives them their numbers."""
    return people if i == 0 else people[np.random.default_rng(i).permutation(len(people))]


# what is equal to what


@pytest.mark.parametrize("people", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_gives_the_poses_of_the_whole_clips_bit_for_bit(runtimes, kind, people):
    with PoseStream(runtimes[kind], seed=SEED, timesteps=STEPS) as stream:
        bodies = [b for i in range(FRAMES) for b in stream.process(shuffled(i, people_at(i, people)), i * PERIOD_NS)]
    found = by_id(bodies)
    assert sorted(found) == list(range(people))
    for p in range(people):
        assert np.array_equal(found[p], offline(runtimes[kind], kind, clip_of(p), draws(p)))


@pytest.mark.parametrize("kind", KINDS)
def test_so_do_a_thread_and_a_queue(runtimes, kind):
    with PoseStream(runtimes[kind], seed=SEED, timesteps=STEPS, back_pressure=f"queue({FRAMES})") as stream:
        for i in range(FRAMES):
            assert stream.push(shuffled(i, people_at(i)), i * PERIOD_NS)
    answers = list(stream.results())
    assert [bodies[0].stamp_ns for bodies in answers] == [i * PERIOD_NS for i in range(FRAMES)]
    found = by_id([body for bodies in answers for body in bodies])
    for p in range(3):
        assert np.array_equal(found[p], offline(runtimes[kind], kind, clip_of(p), draws(p)))
    assert stream.counters.computed == stream.counters.frames == FRAMES
    assert stream.counters.dropped == 0


@pytest.mark.parametrize("mode", ["released", "noised"])
def test_so_it_is_for_released_weights(golden_bundle, mode):
    with PoseRuntime.load(golden_bundle, threads=1) as runtime:
        with PoseStream(runtime, seed=SEED, timesteps=(12, 0), mode=mode) as stream:
            found = by_id([b for i in range(6) for b in stream.process(people_at(i), i * PERIOD_NS)])
        for p in range(3):
            clip = runtime.estimate_clip(clip_of(p, 6), draws(p), timesteps=(12, 0), mode=mode)
            assert np.array_equal(found[p], np.concatenate([e.joints for e in clip]))


def middles(runtime: PoseRuntime, clip: Keypoints, rng: np.random.Generator) -> np.ndarray:
    pace, mode = runtime._pace(STEPS, None, None, None), runtime._mode(None)
    windows = [Keypoints(w[None, ..., :2], w[None, ..., 2]) for w in windows_of(clip, 5, middle=True)]
    return np.concatenate([runtime._estimate(window, 2, pace, 0, mode, rng, False).joints for window in windows])


@pytest.mark.parametrize("people", [1, 3])
def test_the_middle_of_a_window_comes_later_and_is_as_offline(runtimes, people):
    with PoseStream(runtimes["video"], output="middle", seed=SEED, timesteps=STEPS) as stream:
        assert stream.delay == 2
        bodies = []
        for i in range(FRAMES):
            new = stream.process(shuffled(i, people_at(i, people)), i * PERIOD_NS)
            assert {body.stamp_ns for body in new} == ({(i - 2) * PERIOD_NS} if i >= 2 else set())
            bodies += new
        last = stream.flush()
        assert sorted({body.stamp_ns for body in last}) == [(FRAMES - 2) * PERIOD_NS, (FRAMES - 1) * PERIOD_NS]
        assert stream.flush() == []
    found = by_id(bodies + last)
    for p in range(people):
        assert np.array_equal(found[p], middles(runtimes["video"], clip_of(p), draws(p)))
    assert bodies[0].keypoints is not None
    assert np.array_equal(bodies[0].keypoints, people_at(0)[bodies[0].body_id])


def test_the_middle_of_released_weights_is_a_clips(golden_video_bundle):
    """Nothing is drawn in their mode: one pass over the window, of whose answers the middle one is taken, is the same."""
    with PoseRuntime.load(golden_video_bundle, threads=1) as runtime:
        with PoseStream(runtime, output="middle", timesteps=(12, 0)) as stream:
            assert stream.delay == 4
            bodies = [b for i in range(FRAMES) for b in stream.process(people_at(i, 1), i * PERIOD_NS)]
            found = by_id(bodies + stream.flush())[0]
        for i, window in enumerate(windows_of(clip_of(0), 9, middle=True)):
            offline = runtime.estimate_clip(Keypoints(window[..., :2], window[..., 2]), timesteps=(12, 0))
            assert np.array_equal(np.concatenate([e.joints for e in offline])[4], found[i])


def test_a_hop_is_that_of_the_stream_underneath(runtimes):
    runtime = runtimes["video"]
    with PoseStream(runtime, hop=3, seed=SEED, timesteps=STEPS) as stream:
        found = by_id([b for i in range(FRAMES) for b in stream.process(people_at(i, 1), i * PERIOD_NS)])[0]
    with runtime.stream(hop=3, timesteps=STEPS) as alone:
        rng = draws(0)
        assert np.array_equal(found, np.concatenate([alone.push(people_at(i)[0], seed=rng).joints for i in range(FRAMES)]))


# people who come and go


@pytest.mark.parametrize("kind", KINDS)
def test_two_who_cross_keep_their_numbers_and_their_past(runtimes, kind):
    rng = np.random.default_rng(0)
    orders = [[0, 1] if i == 0 else list(rng.permutation(2)) for i in range(40)]
    with PoseStream(runtimes[kind], seed=SEED, timesteps=STEPS) as stream:
        answers = [stream.process(crossing(i, 40)[order], i * PERIOD_NS) for i, order in enumerate(orders)]
    assert [[body.body_id for body in bodies] for bodies in answers] == orders
    for p in range(2):
        clip = np.stack([crossing(i, 40)[p] for i in range(40)])
        expected = offline(runtimes[kind], kind, Keypoints(clip[..., :2], clip[..., 2]), draws(p))
        assert np.array_equal(by_id([b for bodies in answers for b in bodies])[p], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_who_comes_into_anothers_slot_brings_no_past(runtimes, kind):
    """Three, then one leaves and another comes to the same place: they have another number, and the poses of their own clip."""
    with PoseStream(runtimes[kind], seed=SEED, timesteps=STEPS, max_missed=1) as stream:
        for i in range(5):
            stream.process(people_at(i), i * PERIOD_NS)
        for i in range(5, 7):
            stream.process(people_at(i)[1:], i * PERIOD_NS)
        assert (stream.counters.entered, stream.counters.left) == (3, 1)
        late = [stream.process(np.concatenate([people_at(i)[1:], people_at(i)[:1]]), i * PERIOD_NS) for i in range(7, 14)]
    assert [[body.body_id for body in bodies] for bodies in late] == [[1, 2, 3]] * 7
    clip = clip_of(0)
    after = Keypoints(clip.uv[7:], clip.confidence[7:])
    assert np.array_equal(np.stack([bodies[2].joints for bodies in late]), offline(runtimes[kind], kind, after, draws(3)))
    whole = [offline(runtimes[kind], kind, clip_of(p), draws(p))[7:] for p in (1, 2)]
    for p in (0, 1):
        assert np.array_equal(np.stack([bodies[p].joints for bodies in late]), whole[p])
    assert stream.counters.left_out == 0


def test_with_the_middle_somebody_who_left_is_still_answered(runtimes):
    """One is gone at the first frame without them, before the answers about them have come, and somebody else is there at once."""
    with PoseStream(runtimes["video"], output="middle", seed=SEED, timesteps=STEPS, tracking=None, max_missed=0) as stream:
        bodies = []
        for i in range(FRAMES):
            ids = (4, 9) if i < 6 else (9, 2)
            bodies += stream.process(people_at(i)[[0, 1]] if i < 6 else people_at(i)[[1, 0]], i * PERIOD_NS, ids)
        bodies += stream.flush()
        assert (stream.counters.entered, stream.counters.left) == (3, 3)
    found = by_id(bodies)
    clip = clip_of(0)
    for body_id, part in ((4, slice(0, 6)), (2, slice(6, FRAMES))):
        own = Keypoints(clip.uv[part], clip.confidence[part])
        assert np.array_equal(found[body_id], middles(runtimes["video"], own, draws(body_id)))
    assert np.array_equal(found[9], middles(runtimes["video"], clip_of(1), draws(9)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_nearest_are_estimated_and_the_others_counted(runtimes, kind):
    with PoseStream(runtimes[kind], crowd="nearest", seed=SEED, timesteps=STEPS) as stream:
        far = [walker(i, (-0.5, 0.1), 0.2) for i in range(6)]
        answers = [stream.process([far[i], *people_at(i)[1:]], i * PERIOD_NS) for i in range(6)]
    assert [[body.body_id for body in bodies] for bodies in answers] == [[1, 2]] * 6
    assert stream.counters.left_out == 6
    assert (stream.counters.entered, stream.counters.left) == (3, 0)


def test_somebody_displaced_before_their_answers_came_has_none(runtimes):
    """With the middle and the nearest: the one who took the slot is never answered with the other's keypoints."""
    with PoseStream(runtimes["video"], crowd="nearest", output="middle", timesteps=STEPS, tracking=None) as stream:
        bodies = []
        for i in range(8):
            people = [walker(i, place, height) for place, height in zip(PLACES, (0.2, 0.5, 0.9), strict=True)]
            bodies += stream.process(people[: 2 if i < 4 else 3], i * PERIOD_NS, range(2 if i < 4 else 3))
        bodies += stream.flush()
    told = {i: [body.stamp_ns // PERIOD_NS for body in bodies if body.body_id == i] for i in range(3)}
    assert told == {0: [0, 1], 1: list(range(8)), 2: [4, 5, 6, 7]}
    assert all(body.found for body in bodies)


def test_few_joints_are_a_body_without_a_pose_and_nobody_is_no_body(runtimes):
    with PoseStream(runtimes["causal"], seed=SEED, timesteps=STEPS, frame_id="head_camera") as stream:
        assert stream.process([], 0) == []
        assert stream.process(np.zeros((0, J, 3)), 1) == []
        both = people_at(0, 2)
        both[0, 6:, 2] = 0.0
        few, whole = stream.process(both, PERIOD_NS)
        assert (few.found, whole.found) == (False, True)
        assert few.observed.sum() == 0
        assert (whole.frame_id, whole.stamp_ns, whole.steps) == ("head_camera", PERIOD_NS, 2)
        assert 0 < whole.latency_ns < 60e9
        assert np.array_equal(whole.keypoints, both[1])
        both[0, 4:, 2] = 0.0
        assert [body.body_id for body in stream.process(both, 2 * PERIOD_NS)] == [1]
        assert stream.counters.left_out == 1


# stamps


def test_stamps_that_are_not_new_are_counted_and_dropped(runtimes):
    with (
        PoseStream(runtimes["causal"], seed=SEED, timesteps=STEPS) as stream,
        PoseStream(runtimes["causal"], seed=SEED, timesteps=STEPS) as other,
    ):
        for i in range(5):
            one, same = (s.process(people_at(i, 1), (i + 10) * PERIOD_NS)[0] for s in (stream, other))
            assert np.array_equal(one.joints, same.joints)
            assert stream.process(people_at(i + 3), (i + 10) * PERIOD_NS) == []
            assert stream.process(people_at(i + 3), (i + 10) * PERIOD_NS - 1) == []
        counters = stream.counters
    assert (counters.frames, counters.computed, counters.duplicated, counters.out_of_order) == (15, 5, 5, 5)
    assert (counters.entered, counters.dropped) == (1, 0)


def test_negative_stamps_and_numpys_are_stamps(runtimes):
    with PoseStream(runtimes["frame"], timesteps=STEPS) as stream:
        stamps = [-5, np.int64(-4), np.int64(2**62)]
        assert [stream.process(people_at(0, 1), stamp)[0].stamp_ns for stamp in stamps] == [-5, -4, 2**62]


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_gap_everybody_is_new(runtimes, kind):
    late = 7 * PERIOD_NS + 500_000_001
    options = {"seed": SEED, "timesteps": STEPS, "smoothing": OneEuro()}
    with PoseStream(runtimes[kind], **options) as stream, PoseStream(runtimes[kind], tracking=None, **options) as fresh:
        for i in range(8):
            stream.process(people_at(i), i * PERIOD_NS)
        for i in range(8, FRAMES):
            given = stream.process(people_at(i), late + (i - 8) * PERIOD_NS)
            expected = fresh.process(people_at(i), i * PERIOD_NS, (3, 4, 5))
            assert [body.body_id for body in given] == [3, 4, 5]
            for one, other in zip(given, expected, strict=True):
                # A nanosecond's difference between the stamps is all that smoothing sees.
                assert np.allclose(one.joints, other.joints, atol=1e-6)
    assert (stream.counters.gaps, stream.counters.entered, stream.counters.left) == (1, 6, 3)


def test_a_gap_that_is_no_longer_than_allowed_is_none(runtimes):
    with PoseStream(runtimes["causal"], timesteps=STEPS, max_gap_ns=10 * PERIOD_NS) as stream:
        for stamp in (0, 10, 20):
            assert [body.body_id for body in stream.process(people_at(0, 1), stamp * PERIOD_NS)] == [0]
        assert stream.counters.gaps == 0
        assert [body.body_id for body in stream.process(people_at(0, 1), 30 * PERIOD_NS + 1)] == [1]


def test_with_the_middle_a_gap_brings_what_was_due(runtimes):
    with PoseStream(runtimes["video"], output="middle", seed=SEED, timesteps=STEPS) as stream:
        bodies = [b for i in range(6) for b in stream.process(people_at(i, 1), i * PERIOD_NS)]
        assert len(bodies) == 4
        after = stream.process(people_at(6, 1), 10**12)
        assert [(b.body_id, b.stamp_ns // PERIOD_NS) for b in after] == [(0, 4), (0, 5)]
        assert np.array_equal(by_id(bodies + after)[0], middles(runtimes["video"], clip_of(0, 6), draws(0)))


@pytest.mark.parametrize("kind", ["video", "causal"])
def test_what_is_remembered_ages_by_frames_that_never_came(runtimes, kind):
    """With a known period a missing frame is as one in which nobody was seen; without, the frames are taken to follow one another."""
    gone = (4, 5, 9)
    unseen = clip_of(0)
    unseen.confidence[list(gone)] = 0.0
    jitter = np.random.default_rng(0).integers(-PERIOD_NS // 4, PERIOD_NS // 4, FRAMES)
    with runtimes[kind].stream(timesteps=STEPS) as alone:
        rng = draws(0)
        expected = [alone.push(unseen.uv[i], unseen.confidence[i], rng).joints[0] for i in range(FRAMES)]
    for period, alike in ((PERIOD_NS, True), (None, False)):
        with PoseStream(runtimes[kind], seed=SEED, timesteps=STEPS, period_ns=period) as stream:
            for i in range(FRAMES):
                if i not in gone:
                    (body,) = stream.process(people_at(i, 1), i * PERIOD_NS + int(jitter[i]))
                    assert np.array_equal(body.joints, expected[i]) == (alike or i < 4), i
            assert stream.counters.missed == (3 if alike else 0)


def test_with_the_middle_frames_that_never_came_have_no_answer(runtimes):
    with PoseStream(runtimes["video"], output="middle", timesteps=STEPS, period_ns=PERIOD_NS) as stream:
        bodies = [b for i in (0, 1, 2, 4, 5, 6) for b in stream.process(people_at(i, 1), i * PERIOD_NS)]
        assert [body.stamp_ns // PERIOD_NS for body in bodies + stream.flush()] == [0, 1, 2, 4, 5, 6]


# smoothing


@pytest.mark.parametrize("output", ["last", "middle"])
def test_smoothing_is_a_filter_of_each_bodys_own(runtimes, output):
    options = {"output": output, "seed": SEED, "timesteps": STEPS, "max_missed": 0, "tracking": None}
    answers = []
    for smoothing in (None, OneEuro(0.5, 0.3)):
        with PoseStream(runtimes["video"], smoothing=smoothing, **options) as stream:
            bodies = []
            for i in range(FRAMES):
                ids = (0, 1) if i not in (6, 7, 8) else (1,)
                bodies += stream.process(people_at(i, 2)[list(ids)], i * PERIOD_NS, ids)
            answers.append(bodies + stream.flush())
    filters: dict[tuple[int, bool], OneEuroFilter] = {}
    for raw, smooth in zip(*answers, strict=True):
        # 0 goes and comes back: whoever has the number then begins anew.
        own = filters.setdefault((raw.body_id, raw.stamp_ns > 7 * PERIOD_NS and raw.body_id == 0), OneEuroFilter(OneEuro(0.5, 0.3)))
        assert np.array_equal(own.body(raw).joints, smooth.joints)


# memory


@pytest.mark.slow
def test_memory_is_flat_over_two_thousand_frames(runtimes):
    """People cross, come, and go all the time, frames are missing, and stamps come twice."""
    rng = np.random.default_rng(0)
    crowd = [people_at(i) for i in range(30)]

    def run(stream: PoseStream, frames: range) -> None:
        for i in frames:
            people = crowd[i % 30][: 3 if (i // 40) % 2 else 1]
            stream.process(people[rng.permutation(len(people))], i * PERIOD_NS)
            if i % 7 == 0:
                stream.process(people, i * PERIOD_NS)

    with PoseStream(runtimes["causal"], timesteps=(49,), smoothing=OneEuro(), max_missed=2, period_ns=PERIOD_NS) as stream:
        run(stream, range(200))
        gc.collect()
        tracemalloc.start()
        try:
            run(stream, range(200, 280))
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            run(stream, range(280, 2200))
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert stream.counters.entered > 50
    # A body that was kept for each frame would be 2 KB x 1920; a float for each, 60 KB.
    assert grown < 20_000


# mistakes


def test_a_frame_that_is_none_changes_nothing(runtimes):
    with PoseStream(runtimes["causal"], seed=SEED, timesteps=STEPS) as stream:
        for i in range(4):
            for wrong in (np.full((1, J, 2), np.nan), np.zeros((1, 5, 3)), np.full((1, J, 2), 400.0), [["a"]], np.zeros((2, 0, 3))):
                with pytest.raises(KeypointError):
                    stream.process(wrong, i * PERIOD_NS)
            for stamp in (1.5, "1", None, True, 2**63):
                with pytest.raises(DiffPoseEdgeError, match="stamp_ns"):
                    stream.process(people_at(i, 1), stamp)
            with pytest.raises(DiffPoseEdgeError, match="tracking=None"):
                stream.process(people_at(i, 1), i * PERIOD_NS, [1])
            (body,) = stream.process(people_at(i, 1), i * PERIOD_NS)
            assert np.array_equal(body.joints, offline(runtimes["causal"], "causal", clip_of(0), draws(0))[i])
        assert stream.counters.frames == 4


def test_the_callers_arrays_stay_theirs(runtimes):
    with PoseStream(runtimes["frame"], timesteps=STEPS) as stream:
        people = people_at(0, 1)
        (body,) = stream.process(Keypoints(people[..., :2], people[..., 2]), 0)
        kept = body.keypoints.copy()
        people[...] = 0.0
        assert np.array_equal(body.keypoints, kept)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"tracking": "oks"}, "tracking as a Tracking"),
        ({"smoothing": True}, "smoothing as a OneEuro"),
        ({"max_missed": -1}, "max_missed"),
        ({"crowd": "all"}, "crowd"),
        ({"output": "first"}, "output"),
        ({"hop": 0}, "hop"),
        ({"max_gap_ns": 0}, "max_gap_ns"),
        ({"period_ns": 0.03}, "period_ns"),
        ({"back_pressure": "queue(0)"}, "back_pressure"),
        ({"back_pressure": 3}, "back_pressure"),
        ({"frame_id": None}, "frame_id"),
        ({"seed": -1}, "seed"),
        ({"mode": "released"}, "modes are distribution"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_options_that_are_none(runtimes, kind, arguments, told):
    with pytest.raises(DiffPoseEdgeError, match=told):
        PoseStream(runtimes[kind], **arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_timesteps_that_are_none_show_before_the_first_frame(runtimes, kind):
    with pytest.raises(TimestepError):
        PoseStream(runtimes[kind], timesteps=(3, 5))


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("frame", {"output": "middle"}),
        ("frame", {"hop": 2}),
        ("causal", {"output": "middle"}),
        ("causal", {"hop": 2}),
        ("video", {"output": "middle", "hop": 2}),
    ],
)
def test_what_an_encoder_cannot_have(runtimes, kind, arguments):
    with pytest.raises(DiffPoseEdgeError, match=r"hop|middle"):
        PoseStream(runtimes[kind], **arguments)


def test_ids_have_to_come_where_nobody_tracks(runtimes):
    with PoseStream(runtimes["frame"], tracking=None) as stream, pytest.raises(DiffPoseEdgeError, match="body_ids"):
        stream.process(people_at(0), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_closed_streams_and_runtimes_say_so(runtimes, kind, request):
    stream = PoseStream(runtimes[kind], tracking=Tracking(hits=2))
    stream.close()
    stream.close()
    for call in (stream.process, stream.push):
        with pytest.raises(RuntimeClosed):
            call(people_at(0), 0)
    with pytest.raises(RuntimeClosed):
        stream.flush()
    assert list(stream.results()) == []
