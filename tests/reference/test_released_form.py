"""Networks of our own training in the form of the released checkpoints: read back whole, and never taken for released ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from diffpose_edge.errors import CheckpointError
from diffpose_edge.reference import checkpoints
from diffpose_edge.reference.graph_networks import Denoiser, FrameEncoder
from diffpose_edge.reference.mixste import MixSTE
from diffpose_edge.reference.random_weights import randomise
from diffpose_edge.reference.released import load_mixste, load_released
from diffpose_edge.reference.safetensors_files import config_record

# Every argument is another number, so that two of them exchanged would show.
KINDS: dict[str, Callable[[], nn.Module]] = {
    "denoiser": lambda: Denoiser(24, 2, 3),
    "conditioned denoiser": lambda: Denoiser(24, 2, 3, condition=7),
    "frame encoder": lambda: FrameEncoder(20, 3, 5),
    "frame encoder of 6 channels": lambda: FrameEncoder(20, 3, 5, channels=6),
    "video encoder": lambda: MixSTE(9, 12, 2, 3, 28),
    "video encoder of 6 channels": lambda: MixSTE(9, 12, 2, 3, 28, channels=6),
}
LOADERS: dict[str, Callable[[Path], nn.Module]] = {
    "denoiser": lambda path: checkpoints.denoiser_from_file(path, heads=3),
    "frame encoder": lambda path: checkpoints.frame_encoder_from_file(path, heads=5),
    "video encoder": lambda path: checkpoints.mixste_from_file(path, heads=3),
}


def built(kind: str) -> Any:
    network = KINDS[kind]()
    randomise(network, 5)
    return network.eval()


def output_of(network: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if isinstance(network, Denoiser):
        condition = [torch.randn(2, 17, w, generator=generator) for w in (network.condition_width, 10)] if network.condition_width else []
        return network(torch.randn(2, 17, 5, generator=generator), 3, *condition)
    shape = (2, 9, 17, network.channels) if isinstance(network, MixSTE) else (2, 17, network.channels)
    return network(torch.randn(*shape, generator=generator))


def load_pth(kind: str, path: Path) -> nn.Module:
    return next(load for name, load in LOADERS.items() if name in kind)(path)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_released_form_holds_our_networks_too(tmp_path, kind):
    network = built(kind)
    checkpoints.save_released(network, tmp_path / "a.pth")
    found = load_pth(kind, tmp_path / "a.pth")
    assert config_record(found) == config_record(network)
    assert torch.equal(output_of(found), output_of(network))


@pytest.mark.parametrize("shape", [(24, 10), (24, 3), (24,), (), (24, 0)])
def test_a_condition_of_an_impossible_shape_is_refused(tmp_path, shape):
    weights = {**built("conditioned denoiser").state_dict(), "condition.weight": torch.zeros(shape)}
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth.*condition\.weight"):
        load_pth("denoiser", tmp_path / "a.pth")


def test_a_condition_without_its_bias_or_of_another_width_is_refused(tmp_path):
    weights = built("conditioned denoiser").state_dict()
    torch.save({k: v for k, v in weights.items() if k != "condition.bias"}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"condition\.bias"):
        load_pth("denoiser", tmp_path / "a.pth")
    torch.save({**weights, "condition.weight": weights["condition.weight"][:-1]}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"condition\.weight"):
        load_pth("denoiser", tmp_path / "a.pth")


@pytest.mark.parametrize("channels", [0, 1, 3, 5, 7])
def test_encoders_of_other_channels_are_refused(tmp_path, channels):
    torch.save({**built("frame encoder").state_dict(), "gconv_input.weight": torch.zeros(3, 1, channels, 20)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="2 or 6"):
        load_pth("frame encoder", tmp_path / "a.pth")
    weights = {**built("video encoder").state_dict(), "Spatial_patch_to_embedding.weight": torch.zeros(12, channels)}
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="2 or 6"):
        load_pth("video encoder", tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("denoiser", "context", "expected"),
    [
        ("conditioned denoiser", "frame encoder", "denoiser.pth is conditioned"),
        ("denoiser", "frame encoder of 6 channels", "context.pth takes 6"),
        ("denoiser", "video encoder of 6 channels", "context.pth takes 6"),
    ],
)
def test_a_released_pair_is_not_made_of_our_networks(tmp_path, denoiser, context, expected):
    """The released process would run them without complaint, and wrongly: their schedule and start are not in the file."""
    paths = tmp_path / "denoiser.pth", tmp_path / "context.pth"
    for kind, path in zip((denoiser, context), paths, strict=True):
        checkpoints.save_released(built(kind), path)
    with pytest.raises(CheckpointError, match=rf"{expected}.*safetensors"):
        load_released(*paths, heads=1, video_heads=3)
    if "video" in context:
        with pytest.raises(CheckpointError, match=expected):
            load_mixste(paths[1], heads=3)
