"""The causal encoder: what it may see, that only ages matter to it, and what it begins training with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from diffpose_edge.config import CausalConfig
from diffpose_edge.errors import CheckpointError, TrainingError
from diffpose_edge.person import context_channels, frame_views, person_view
from diffpose_edge.reference.causal_mixste import CausalMixSTE
from diffpose_edge.reference.mixste import MixSTE
from diffpose_edge.reference.random_weights import randomise
from diffpose_edge.reference.safetensors_files import load_trained, save_trained
from diffpose_edge.reference.trained import load_conditioned
from diffpose_edge.reference.training.batches import held_out_batch
from diffpose_edge.reference.training.bodies import poses_of
from diffpose_edge.reference.training.motions import Clip, MotionSource
from diffpose_edge.reference.training.pair import begin_with, build_encoder
from diffpose_edge.reference.training.plans import PLANS
from diffpose_edge.reference.training.procedural import random_motions
from diffpose_edge.tolerances import FP32_VIDEO_LAYER_REL

F, L = 4, 2
S = 15


@pytest.fixture
def network() -> CausalMixSTE:
    made = CausalMixSTE(F, 16, L, 4, 32).eval()
    randomise(made, 1, gain=0.7)
    return made.requires_grad_(False)


@pytest.fixture
def clip() -> torch.Tensor:
    return torch.randn(2, S, 17, 6, generator=torch.Generator().manual_seed(2))


def test_a_frame_is_seen_by_itself_and_as_far_as_all_layers_reach_and_no_further(network, clip):
    t = 3
    other = clip.clone()
    other[:, t] += 1.0
    changed = (network(other) - network(clip)).abs().amax(dim=(0, 2, 3)) > 0
    assert network.receptive_field == L * (F - 1) + 1
    assert changed.tolist() == [t <= frame < t + network.receptive_field for frame in range(S)]


def test_an_answer_depends_on_ages_and_not_on_where_a_clip_begins(network, clip):
    """So that a frame's keys and values need not be made again when the window moves on."""
    whole = network(clip)
    cut = network(clip[:, S - network.receptive_field :])
    error = (cut[:, -1] - whole[:, -1]).abs().max() / whole.abs().max()
    assert error <= FP32_VIDEO_LAYER_REL
    too_short = network(clip[:, S - network.receptive_field + 1 :])
    assert (too_short[:, -1] - whole[:, -1]).abs().max() / whole.abs().max() > 10 * FP32_VIDEO_LAYER_REL


def test_each_head_and_age_has_its_own_bias(network, clip):
    before = network(clip)
    for head, age in ((0, 0), (1, F - 1)):
        altered = CausalMixSTE(F, 16, L, 4, 32).eval()
        altered.load_state_dict(network.state_dict())
        with torch.no_grad():
            altered.TTEblocks[0].attn.age_bias[head, age] += 0.5
        assert not torch.equal(altered(clip)[:, age:], before[:, age:])
        # Before the clip has a frame of that age nothing changes.
        assert torch.equal(altered(clip)[:, :age], before[:, :age])


def test_one_frame_alone_is_a_clip(network, clip):
    first = network(clip[:, :1])
    error = (first - network(clip)[:, :1]).abs().max() / first.abs().max()
    assert error <= FP32_VIDEO_LAYER_REL


def test_it_is_saved_and_loaded_as_what_it_is(network, clip, tmp_path):
    path = tmp_path / "context.safetensors"
    save_trained(network, {"plan": "none"}, path)
    loaded = load_trained(path)
    assert loaded.record["network"] == "causal video encoder"
    assert isinstance(loaded.network, CausalMixSTE)
    assert torch.equal(loaded.network(clip), network(clip))


def test_a_pair_tells_its_size(causal_pair: tuple[Path, Path]):
    assert load_conditioned(*causal_pair).context_config == CausalConfig(4, 16, 2, 4)


def test_one_frame_in_each_layer_is_no_causal_encoder():
    with pytest.raises(CheckpointError, match="at least 2 frames"):
        CausalConfig(1, 16, 2, 4)


def test_it_begins_with_what_a_window_encoder_has_learnt(tmp_path, clip):
    video = MixSTE(5, 16, L, 4, 32, 6)
    randomise(video, 3)
    save_trained(video, {}, tmp_path / "video.safetensors")
    causal = CausalMixSTE(F, 16, L, 4, 32)
    biases = [block.attn.age_bias.clone() for block in causal.TTEblocks]
    begin_with(causal, tmp_path / "video.safetensors")
    theirs = video.state_dict()
    for name, value in causal.state_dict().items():
        if not name.endswith("age_bias"):
            assert torch.equal(value, theirs[name]), name
    assert all(torch.equal(block.attn.age_bias, bias) for block, bias in zip(causal.TTEblocks, biases, strict=True))


def test_it_does_not_begin_with_weights_of_other_widths(tmp_path):
    save_trained(MixSTE(5, 8, L, 4, 16, 6), {}, tmp_path / "video.safetensors")
    with pytest.raises(TrainingError, match="Spatial_pos_embed"):
        begin_with(CausalMixSTE(F, 16, L, 4, 32), tmp_path / "video.safetensors")


def test_the_shipped_plan_begins_with_the_shipped_video_pair():
    plan = PLANS["causal"]
    from diffpose_edge.clips import trained_pair
    from diffpose_edge.reference.training.pair import build_denoiser

    for network, path in zip((build_denoiser(plan), build_encoder(plan)), trained_pair(plan.begins_with), strict=True):
        begin_with(network, path)


def people(frames: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    uv = rng.uniform(-0.5, 0.5, (2, frames, 17, 2)).astype(np.float32)
    return uv, (rng.random((2, frames, 17)) > 0.2).astype(np.float32)


def test_every_frame_is_seen_from_its_own_centre_and_scale():
    uv, confidence = people(3)
    view = frame_views(uv, confidence)
    channels = context_channels(uv, confidence, view)
    for f in range(3):
        own = person_view(uv[:, f], confidence[:, f])
        np.testing.assert_array_equal(view.centre[:, f], own.centre)
        np.testing.assert_array_equal(view.scale[:, f], own.scale)
        np.testing.assert_array_equal(channels[:, f], context_channels(uv[:, f], confidence[:, f], own))
        np.testing.assert_array_equal(view.to_person(uv)[:, f], own.to_person(uv[:, f]))
        np.testing.assert_allclose(view.to_image(view.to_person(uv)), uv, atol=1e-6)
    # And not from the window's.
    assert not np.allclose(channels, context_channels(uv, confidence, person_view(uv, confidence)))


def test_batches_of_the_causal_plan_show_frames_so():
    poses = poses_of(0.3 * random_motions(1, 40, np.random.default_rng(0))[0])
    source = MotionSource([Clip("a", poses, 30.0)], 6, frame_views=True)
    batch = held_out_batch(source, 3, (1, 2))
    found = batch.detections
    assert batch.view.scale.shape == (3, 6)
    np.testing.assert_array_equal(batch.channels, context_channels(found.uv, found.confidence, frame_views(found.uv, found.confidence)))
    plain = held_out_batch(MotionSource([Clip("a", poses, 30.0)], 6), 3, (1, 2))
    np.testing.assert_array_equal(plain.uv, batch.uv)
    assert plain.view.scale.shape == (3,)
