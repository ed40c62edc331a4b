"""Recording: the poses are those of the plain runtime, and every run of a graph is heard as it was."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from diffpose_edge.bundle import load_bundle
from diffpose_edge.calibration.observed import ROWS_PER_RUN, frames_to_use, observe, steps_to_walk
from diffpose_edge.calibration.recording import RecordingBackend
from diffpose_edge.clips import street_walk
from diffpose_edge.errors import KeypointError
from diffpose_edge.export.layer_groups import taps_of, weight_matmuls
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.runtime import PoseRuntime

Heard = list[tuple[str, int | None, dict[str, NDArray[Any]]]]
FIXTURES = ["golden_bundle", "golden_video_bundle", "conditioned_bundle", "conditioned_video_bundle", "causal_bundle"]


def seen_clip(frames: int) -> Keypoints:
    clip = street_walk().keypoints
    seen = np.flatnonzero((clip.confidence > 0).all(axis=1))[:frames]
    return Keypoints(clip.uv[seen], clip.confidence[seen])


def test_a_causal_encoder_is_heard_with_what_it_remembers(causal_bundle: Path) -> None:
    bundle = load_bundle(causal_bundle)
    heard: Heard = []
    watched = {"context": ["ages", "keys0", "key0"]}
    with PoseRuntime(bundle, RecordingBackend(bundle, watched, lambda *told: heard.append(told), threads=1)) as runtime:
        list(runtime.estimate_clip(seen_clip(5), 0, timesteps=(9,)))
    told = [values for _, _, values in heard]
    # Of the first of two people: three slots, the frame before is 1 frame old, and 4 is none.
    assert [sorted(values["ages"][0]) for values in told] == [[4, 4, 4], [1, 4, 4], [1, 2, 4], [1, 2, 3], [1, 2, 3]]
    for before, after in itertools.pairwise(told):
        newest = int(np.flatnonzero(after["ages"][0] == 1)[0])
        assert after["keys0"][0, ..., newest].tobytes() == np.ascontiguousarray(before["key0"][0]).tobytes()


def test_a_causal_encoder_is_calibrated_on_frames_in_a_row(causal_bundle: Path) -> None:
    """Each frame tells its number."""
    number = np.broadcast_to(np.arange(40, dtype=np.float32)[:, None, None], (40, 17, 2))
    chosen = frames_to_use(Keypoints(number, np.ones((40, 17), np.float32)), load_bundle(causal_bundle).manifest.stretch, 12)
    stretches = chosen.uv[:, 0, 0].reshape(3, 4)
    assert (np.diff(stretches, axis=1) == 1).all()
    assert (np.diff(stretches[:, 0]) > 4).all()


@pytest.mark.parametrize("fixture", FIXTURES)
def test_recording_changes_no_bit_and_hears_every_step(fixture: str, request: pytest.FixtureRequest) -> None:
    bundle = load_bundle(request.getfixturevalue(fixture))
    timesteps, F = (33, 20, 4), bundle.manifest.shape.F
    clip = seen_clip(2 if F == 1 else F)
    heard: Heard = []
    watched = {"context": ["xyz"], "step": ["x", "layer1.out", "x_next"]}
    backend = RecordingBackend(bundle, watched, lambda *told: heard.append(told), threads=1)
    with PoseRuntime(bundle, backend) as runtime:
        recorded = list(runtime.estimate_clip(clip, 3, timesteps=timesteps, trace=True))
    with PoseRuntime.load(bundle, threads=1, portable=True) as runtime:
        plain = list(runtime.estimate_clip(clip, 3, timesteps=timesteps, trace=True))
    for one, other in zip(recorded, plain, strict=True):
        assert one.joints.tobytes() == other.joints.tobytes()
        assert one.trajectory.tobytes() == other.trajectory.tobytes()
    runs = [(role, timestep) for role, timestep, _ in heard]
    assert [run for run in runs if run[0] == "context"] == [("context", None)] * runs.count(("context", None))
    steps = [timestep for role, timestep in runs if role == "step"]
    assert steps == list(timesteps) * (len(steps) // 3)
    assert len(steps) == 3 * -(-len(clip) // bundle.manifest.shape.P)
    assert [set(values) for _, _, values in heard] == [set(watched[role]) for role, _ in runs]
    # What a step gave is what the next one took, bit for bit, and the buffers did not run away under the hearer.
    told = [values for role, _, values in heard if role == "step"]
    for k in (0, 1):
        assert told[k]["x_next"].tobytes() == told[k + 1]["x"].tobytes()
        assert told[k]["x"].tobytes() != told[k + 1]["x"].tobytes()
    assert np.abs(told[0]["layer1.out"]).max() > 0


def test_what_is_not_watched_is_not_told(golden_bundle: Path) -> None:
    bundle, heard = load_bundle(golden_bundle), []  # type: ignore[var-annotated]
    backend = RecordingBackend(bundle, {"step": ["x"]}, lambda *told: heard.append(told), threads=1)
    with PoseRuntime(bundle, backend) as runtime:
        runtime.estimate(seen_clip(1).uv, timesteps=(9,))
    assert [(role, timestep, list(values)) for role, timestep, values in heard] == [("step", 9, ["x"])]


def test_observations_are_what_a_recording_by_hand_finds(conditioned_bundle: Path) -> None:
    bundle, clip, schedules = load_bundle(conditioned_bundle), seen_clip(5), ((40, 3), (12,))
    seen = observe(bundle, clip, schedules, frames=4)
    matmuls = weight_matmuls(onnx.load_model_from_string(bundle.read("step")), taps_of(bundle.manifest, "step"))
    conv = next(matmul for matmul in matmuls if matmul.name == "layer0.conv1")
    heard: Heard = []
    with PoseRuntime(bundle, RecordingBackend(bundle, {"step": [conv.activation]}, lambda *told: heard.append(told), 1)) as runtime:
        for schedule in schedules:
            list(runtime.estimate_clip(frames_to_use(clip, 1, 4), 0, timesteps=schedule, mode="distribution"))
    entered = {t: [v[conv.activation].reshape(-1, 48) for _, at, v in heard if at == t] for t in (40, 3, 12)}
    found = seen.matmuls["step", "layer0.conv1"]
    every = np.concatenate([rows for runs in entered.values() for rows in runs])
    np.testing.assert_array_equal(found.amax, np.abs(every).max(axis=0))
    assert seen.ranges["step"][conv.activation] == float(np.abs(every).max())
    assert found.rows.shape == (6 * ROWS_PER_RUN["step"], 48)  # two batches of P = 2, three steps each
    for timestep, runs in entered.items():
        rows = found.rows[found.timesteps == timestep]
        assert len(rows) == 2 * ROWS_PER_RUN["step"]
        of = {row.tobytes() for run in runs for row in run}
        assert all(row.tobytes() in of for row in rows), "a sampled row that never entered at that timestep"
    assert set(seen.matmuls["context", "layer0.conv1"].timesteps) == {-1}
    assert seen.poses == 8
    assert steps_to_walk(bundle, clip, schedules, 4) == 4 * 2 + 4
    # Every float of either graph has a range: the input's and the output's too.
    assert {"x", "x_next", "eps", "layer1.out", "coefficients", "timestep"} <= set(seen.ranges["step"])
    assert seen.ranges["step"]["timestep"] == 40
    assert {"observation", "xyz", "feature"} <= set(seen.ranges["context"])


def test_frames_without_a_pose_are_not_used() -> None:
    clip = seen_clip(60)
    confidence = clip.confidence.copy()
    confidence[[0, 1, 2, 30]] = 0
    used = frames_to_use(Keypoints(clip.uv, confidence), 1, 7)
    assert len(used) == 7
    assert (used.confidence > 0).all()
    every = frames_to_use(Keypoints(clip.uv, confidence), 1, 1000)
    np.testing.assert_array_equal(every.uv, np.delete(clip.uv, [0, 1, 2, 30], axis=0))
    with pytest.raises(KeypointError, match="no frame"):
        frames_to_use(Keypoints(clip.uv, 0 * confidence), 1, 7)


@pytest.mark.parametrize(("at", "kept"), [(slice(27, 29), slice(25, 30)), (slice(52, 53), slice(50, 53))])
def test_windows_without_a_pose_are_not_used(at: slice, kept: slice) -> None:
    clip = seen_clip(53)
    confidence = np.zeros_like(clip.confidence)
    confidence[at] = 1
    used = frames_to_use(Keypoints(clip.uv, confidence), 5, 10)
    np.testing.assert_array_equal(used.uv, clip.uv[kept])


def test_windows_are_whole_and_spread() -> None:
    clip = seen_clip(53)
    used = frames_to_use(clip, 5, 17)
    windows = [0, 4, 9]  # evenly of the ten whole ones, though 17 frames would cut the fourth short
    np.testing.assert_array_equal(used.uv, np.concatenate([clip.uv[5 * w : 5 * w + 5] for w in windows]))
