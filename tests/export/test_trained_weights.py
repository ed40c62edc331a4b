"""The weights that ship, through the exported bundle: better than their own encoder, honest about their spread, and human."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffpose_edge.bones import bone_length_variation
from diffpose_edge.clips import held_out_path, street_walk, trained_pair
from diffpose_edge.evaluation import load_evaluation
from diffpose_edge.export import export_bundle
from diffpose_edge.metrics import mpjpe
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.scoring import Score, calibration, score
from diffpose_edge.skeleton import JOINTS

pytestmark = pytest.mark.slow
PAIRS = ("frame", "video", "causal")


@pytest.fixture(scope="module", params=PAIRS)
def pair(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def bundle(pair: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / pair
    export_bundle(*trained_pair(pair), out, persons=9, samples=5)
    return out


@pytest.fixture(scope="module")
def scores(bundle: Path) -> list[Score]:
    """Every held-out clip, N = 5 and K = 5."""
    results = []
    with PoseRuntime.load(bundle) as runtime:
        for index, clip in enumerate(load_evaluation(held_out_path())):
            estimates = list(runtime.estimate_clip(clip.keypoints, np.random.default_rng([0, index])))
            joints, covariance, context = (np.concatenate([getattr(e, n) for e in estimates]) for n in ("joints", "covariance", "context"))
            results.append(score(joints, covariance, context, clip))
    return results


@pytest.fixture(scope="module")
def walk(bundle: Path) -> dict[str, NDArray[Any]]:
    """The street clip's poses, in frames in which somebody was found."""
    clip = street_walk().keypoints
    with PoseRuntime.load(bundle) as runtime:
        joints = np.concatenate([e.joints for e in runtime.estimate_clip(clip, 0)])
    found = np.isfinite(joints).all(axis=(1, 2))
    assert found.sum() >= 220
    return {"joints": joints[found], "uv": clip.uv[found]}


def test_diffusion_beats_its_own_encoder(scores: list[Score]) -> None:
    contexts = [s.context for s in scores if s.context is not None]
    assert len(contexts) == len(scores)
    diffusion, encoder = np.concatenate([s.errors for s in scores]), np.concatenate(contexts)
    assert diffusion.mean() < 0.95 * encoder.mean()


def test_ninety_percent_ellipsoids_hold_the_truth(scores: list[Score]) -> None:
    ((_, held),) = calibration(scores, [0.9])
    assert 0.80 <= held <= 0.97


def test_bone_lengths_are_steady(pair: str, walk: dict[str, NDArray[Any]]) -> None:
    """Coefficient of variation, the mean over the bones: 5.1 % of the frame pair; the video pair, trained less, 10.2 %."""
    assert bone_length_variation(walk["joints"]).mean() < {"frame": 0.06, "video": 0.12, "causal": 0.12}[pair]


def test_left_and_right_are_not_exchanged(walk: dict[str, NDArray[Any]]) -> None:
    """Where the image shows left and right limbs apart, the pose has them on the same sides."""
    joints, uv = walk["joints"], walk["uv"]
    scale = np.ptp(uv[..., 1], axis=1)[:, None]
    for left, right in ((4, 1), (5, 2), (6, 3), (11, 14), (12, 15), (13, 16)):
        apart = np.abs(uv[:, left, 0] - uv[:, right, 0]) > 0.12 * scale[:, 0]
        same = np.sign(uv[:, left, 0] - uv[:, right, 0]) == np.sign(joints[:, left, 0] - joints[:, right, 0])
        assert same[apart].mean() > 0.95, JOINTS[left]


def test_knees_bend_backwards(walk: dict[str, NDArray[Any]]) -> None:
    """A bent knee lies in front of the line from the hip to the foot; in front is left x up."""
    joints = walk["joints"]
    left, up = joints[:, 4] - joints[:, 1], joints[:, 8] - joints[:, 0]
    forward = np.cross(left, up)
    forward /= np.linalg.norm(forward, axis=-1, keepdims=True)
    for hip, knee, foot in ((1, 2, 3), (4, 5, 6)):
        thigh, shank = joints[:, knee] - joints[:, hip], joints[:, foot] - joints[:, knee]
        cosine = (thigh * shank).sum(-1) / np.linalg.norm(thigh, axis=-1) / np.linalg.norm(shank, axis=-1)
        bent = np.degrees(np.arccos(np.clip(cosine, -1, 1))) > 30
        assert bent.sum() > 10
        offset = joints[:, knee] - (joints[:, hip] + joints[:, foot]) / 2
        assert ((offset * forward).sum(-1)[bent] > 0).mean() > 0.95


def test_hidden_joints_have_a_larger_spread(bundle: Path) -> None:
    clip = street_walk().keypoints
    with PoseRuntime.load(bundle) as runtime:
        shape = runtime.bundle.manifest.shape
        first = 60
        frames = slice(first, first + 1) if shape.F == 1 else slice(first, first + shape.F)
        uv, confidence = clip.uv[frames], clip.confidence[frames].copy()
        people = (uv, confidence) if shape.F == 1 else (uv[None], confidence[None])
        seen = runtime.estimate(*people, 0)
        confidence[..., [13, 16]] = 0.0
        hidden = runtime.estimate(*people, 0)
    for joint in (13, 16):
        spread = [np.sqrt(np.trace(e.covariance[0, joint])) for e in (seen, hidden)]
        assert spread[1] > 1.3 * spread[0]


def test_more_samples_are_better_than_one(tmp_path: Path) -> None:
    """N = 20 against N = 1, on every sixth frame, by the frame pair: what holds of the draws holds of both."""
    clips = load_evaluation(held_out_path())
    uv, confidence, truth = (np.concatenate([getattr(c, n)[::6] for c in clips]) for n in ("uv", "confidence", "truth"))
    errors = {}
    for N in (1, 20):
        made = export_bundle(*trained_pair("frame"), tmp_path / f"N{N}", persons=16, samples=N).bundle
        with PoseRuntime.load(made) as runtime:
            joints = runtime.estimate(uv, confidence, 0).joints
        kept = np.isfinite(joints).all(axis=(1, 2))
        errors[N] = float(mpjpe(joints[kept], truth[kept]))
    assert errors[20] < 0.97 * errors[1]
