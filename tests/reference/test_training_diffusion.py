"""The second stage: what the starts spread by, where samples start, and what the denoiser has to predict."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffpose_edge.distribution import StartSpread, whitened
from diffpose_edge.reference.training import diffusion_stage
from diffpose_edge.reference.training.batches import Batch, training_batch
from diffpose_edge.reference.training.bodies import poses_of
from diffpose_edge.reference.training.context_stage import context_of
from diffpose_edge.reference.training.diffusion_stage import Starts, diffusion_loss, draw_starts, sampled
from diffpose_edge.reference.training.motions import Clip, MotionSource
from diffpose_edge.reference.training.pair import build_denoiser, build_encoder
from diffpose_edge.reference.training.plans import PLANS
from diffpose_edge.reference.training.procedural import random_motions
from diffpose_edge.reference.training.spread import KNOTS, measured_spread, table_of
from diffpose_edge.schedule import cosine_alpha_bar

ALPHA_BAR = cosine_alpha_bar(50)
FRAMES = PLANS["tiny-video"].frames


def batch_of(frames: int, count: int = 8, seed: int = 0) -> Batch:
    poses = poses_of(0.3 * random_motions(1, 40, np.random.default_rng(0))[0])
    return training_batch(MotionSource([Clip("a", poses, 30.0)], frames), count, (0, seed))


@pytest.fixture
def spread() -> StartSpread:
    rng = np.random.default_rng(0)
    return StartSpread(KNOTS, *(rng.uniform(0.05, 0.2, (5, 17, *more)).astype(np.float32) for more in ((), (3,), (3,))))


@pytest.fixture
def starts(spread: StartSpread) -> Starts:
    torch.manual_seed(0)
    return draw_starts(build_encoder(PLANS["tiny"]), batch_of(1, 64), spread, 1, np.random.default_rng(0))


# the spread


def test_the_table_recovers_errors_of_a_known_size():
    """Errors whose standard deviation falls with the confidence, by another factor for each joint and axis."""
    rng = np.random.default_rng(0)
    confidence = rng.choice(KNOTS, (60_000, 17)).astype(np.float32)
    factor = rng.uniform(0.5, 2.0, (17, 3))
    sigma = factor * (0.2 - 0.15 * confidence[..., None])
    table = table_of((sigma * rng.standard_normal(sigma.shape)).astype(np.float32), confidence)
    assert table.shape == (5, 17, 3)
    np.testing.assert_allclose(table, factor * (0.2 - 0.15 * KNOTS[:, None, None]), rtol=0.08)


def test_what_was_not_found_and_what_was_found_badly_are_told_apart():
    rng = np.random.default_rng(0)
    confidence = rng.choice(np.float32([0.0, 0.02]), (20_000, 17))
    sigma = np.where(confidence == 0, 0.4, 0.1)[..., None]
    table = table_of((sigma * rng.standard_normal((20_000, 17, 2))).astype(np.float32), confidence)
    np.testing.assert_allclose(table[0], 0.4, rtol=0.05)
    np.testing.assert_allclose(table[1], 0.1, rtol=0.05)


def test_a_far_tail_does_not_widen_the_table():
    rng = np.random.default_rng(0)
    errors = rng.standard_normal((20_000, 17, 3)).astype(np.float32)
    plain = table_of(errors, np.ones((20_000, 17), np.float32))[-1]
    errors[::500] *= 1000
    far = table_of(errors, np.ones((20_000, 17), np.float32))[-1]
    assert (far < 1.2 * plain).all()


def test_a_rare_confidence_leans_on_all_joints():
    """Ten observations of one joint at a confidence say little: the entry stays near the mean of all joints there."""
    errors = np.ones((1000, 17, 1), np.float32)
    confidence = np.full((1000, 17), 0.5, np.float32)
    confidence[:, 3] = 1.0
    confidence[:10, 3] = 0.5
    errors[:10, 3] = 3.0
    table = table_of(errors, confidence)
    assert 1.0 < table[2, 3, 0] < 1.3
    assert np.isfinite(table).all()


@pytest.mark.parametrize("plan", ["tiny", "tiny-video"])
def test_the_measured_spread_is_what_detector_and_encoder_err_by(plan):
    torch.manual_seed(0)
    encoder = build_encoder(PLANS[plan]).eval()
    batches = [batch_of(PLANS[plan].frames, 64, seed) for seed in range(8)]
    spread = measured_spread(encoder, batches)
    xyz_errors = np.concatenate(
        [(b.xyz - context_of(encoder, torch.from_numpy(b.channels))[0].detach().numpy()).reshape(-1, 3) for b in batches]
    )
    # Over all knots and joints together, about the root mean square of all errors.
    assert np.sqrt(np.square(spread.xyz[:, 1:]).mean()) == pytest.approx(np.sqrt(np.square(xyz_errors).mean()), rel=0.3)
    assert (spread.xyz[:, 0] == 0).all(), "the hip is the origin"
    assert spread.uv[0].mean() > 3 * spread.uv[-1].mean(), "what is missing lies anywhere, what is sure lies near"


# the starts


def test_starts_tell_the_true_state_and_the_encoders_feature(starts):
    batch = batch_of(1, 64)
    torch.manual_seed(0)
    xyz, feature = context_of(build_encoder(PLANS["tiny"]), torch.from_numpy(batch.channels))
    np.testing.assert_array_equal(starts.feature.numpy(), feature[:, 0].detach().numpy())
    np.testing.assert_array_equal(starts.mu[..., 2:], xyz[:, 0].detach().numpy())
    np.testing.assert_array_equal(starts.h0[..., 2:], batch.xyz[:, 0])
    np.testing.assert_allclose(batch.view.to_image(starts.h0[:, None, :, :2]), batch.uv, rtol=0, atol=1e-5)
    missing = batch.detections.confidence[:, 0] == 0
    assert missing.any()
    assert (starts.mu[missing][:, :2] == 0).all()
    assert starts.channels.shape == (64, 17, 10)


def test_second_guesses_are_taken_as_often_as_they_weigh(spread, monkeypatch):
    """With a mixture for every start: where the mean is the other side's, and nowhere that has no second guess."""
    monkeypatch.setattr(diffusion_stage, "MIXTURE_SHARE", 1.0)
    batch = batch_of(1, 3000)
    starts = draw_starts(build_encoder(PLANS["tiny"]), batch, spread, 1, np.random.default_rng(0))
    seen = batch.detections.confidence[:, 0] > 0
    first, other = batch.channels[:, 0, :, :2], batch.view.to_person(batch.detections.other)[:, 0]
    sides = (np.abs(first - other).max(axis=-1) > 1e-3) & seen
    taken = np.abs(starts.mu[..., :2] - other).max(axis=-1) < 1e-6
    weight = batch.detections.other_weight[:, 0]
    assert not taken[sides & (weight == 0)].any()
    known = sides & (weight > 0)
    assert taken[known].mean() == pytest.approx(weight[known].mean(), abs=0.03)
    np.testing.assert_allclose(starts.mu[sides & ~taken][:, :2], first[sides & ~taken], rtol=0, atol=1e-6)


def test_of_a_window_distinct_frames_are_taken_and_always_the_last(spread):
    batch = batch_of(FRAMES, 50)
    encoder = build_encoder(PLANS["tiny-video"]).eval()
    starts = draw_starts(encoder, batch, spread, 3, np.random.default_rng(0))
    truth = starts.h0[..., 2:].reshape(50, 3, 17, 3)
    at = np.abs(truth[:, :, None] - batch.xyz[:, None]).max(axis=(3, 4)).argmin(axis=2)
    np.testing.assert_array_equal(np.take_along_axis(batch.xyz, at[:, :, None, None], axis=1), truth)
    assert (np.diff(at, axis=1) > 0).mean() > 0.95, "in order and distinct; a still window has equal frames"
    assert (np.abs(truth[:, -1] - batch.xyz[:, -1]).max(axis=(1, 2)) == 0).all()
    assert set(at[:, 0]) == {0, 1, 2}


# the diffusion


def oracle(starts: Starts, s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The v that belongs to s = sqrt(a) x at timestep t when the clean state is known: from x0 and the noise that x then holds."""
    a = torch.from_numpy(ALPHA_BAR)[t][:, None, None]
    r0 = torch.from_numpy(whitened(starts.h0, starts.mu, starts.cholesky)).double()
    eps = (s.double() / a.sqrt() - a.sqrt() * r0) / (1 - a).sqrt()
    return (a.sqrt() * eps - (1 - a).sqrt() * r0).float()


def test_the_loss_of_the_right_answer_is_nothing(starts, monkeypatch):
    network = build_denoiser(PLANS["tiny"])
    own, figures = diffusion_loss(network, starts, ALPHA_BAR, np.random.default_rng(0))
    assert float(own.detach()) > 0.3
    assert figures["x0_mm"] > 10
    monkeypatch.setattr(diffusion_stage, "denoised", lambda _, x, t, *__: oracle(starts, x, t))
    none, figures = diffusion_loss(network, starts, ALPHA_BAR, np.random.default_rng(0))
    # The root of the squared distance is kept from an infinite slope at zero by 0.1 mm.
    assert float(none) < 2e-3
    assert figures["x0_mm"] < 0.2


def test_the_metric_part_is_what_the_pose_is_off_by(starts, monkeypatch):
    """An error in v that means x0 + 10 sigma mm everywhere, whatever the timestep."""
    sigma = torch.from_numpy(starts.cholesky[..., 3:])

    def off(_, x, t, *__):
        v = oracle(starts, x, t)
        root_b = torch.from_numpy(np.sqrt(1 - ALPHA_BAR)).float()[t][:, None]
        v[..., 2] -= 0.010 / sigma[..., 0] / root_b
        return v

    monkeypatch.setattr(diffusion_stage, "denoised", off)
    _, figures = diffusion_loss(build_denoiser(PLANS["tiny"]), starts, ALPHA_BAR, np.random.default_rng(0))
    assert figures["x0_mm"] == pytest.approx(10.0, rel=0.02)


def test_the_last_fifth_of_the_schedule_is_drawn_more_often(starts, monkeypatch):
    drawn = []
    monkeypatch.setattr(diffusion_stage, "denoised", lambda _, x, t, *__: drawn.append(t) or torch.zeros_like(x))
    for seed in range(200):
        diffusion_loss(build_denoiser(PLANS["tiny"]), starts, ALPHA_BAR, np.random.default_rng(seed))
    t, share = torch.cat(drawn), diffusion_stage.LATE_SHARE
    assert (int(t.min()), int(t.max())) == (0, 49)
    assert float((t >= 40).double().mean()) == pytest.approx(share + (1 - share) * 0.2, abs=0.02)


@pytest.mark.parametrize("K", [1, 2, 5, 50])
def test_with_the_right_answers_any_number_of_steps_gives_the_truth(starts, monkeypatch, K):
    monkeypatch.setattr(diffusion_stage, "denoised", lambda _, x, t, *__: oracle(starts, x, t))
    r = np.random.default_rng(1).standard_normal(starts.mu.shape, dtype=np.float32)
    found = sampled(build_denoiser(PLANS["tiny"]), starts, ALPHA_BAR, K, r)
    # u, v of a joint that was not found are far out in widths of the start: relative to that.
    scale = 1.0 + np.abs(whitened(starts.h0, starts.mu, starts.cholesky))
    assert (np.abs(found - starts.h0) / scale).max() < 1e-4
