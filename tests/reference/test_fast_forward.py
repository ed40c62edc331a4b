"""The training's own forward pass computes what the networks compute, and passes back the same gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diffpose_edge.distribution import START_CHANNELS
from diffpose_edge.person import CHANNELS
from diffpose_edge.reference.graph_networks import Denoiser, FrameEncoder
from diffpose_edge.reference.random_weights import randomise
from diffpose_edge.reference.training.fast_forward import denoised, encoded

B, C, FEATURE, LAYERS = 9, 64, 48, 3
# Of the largest value; float32 rounding in another order gives about 2e-6.
CLOSE = 2e-5


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def encoder() -> FrameEncoder:
    network = FrameEncoder(C, LAYERS, 4, CHANNELS).eval()
    randomise(network, 1)
    return network


@pytest.fixture
def denoiser() -> Denoiser:
    network = Denoiser(C, LAYERS, 8, condition=FEATURE).eval()
    randomise(network, 2)
    return network


def encoder_ways(network: FrameEncoder) -> tuple[list[Tensor], list[Tensor]]:
    """Pose and feature, the network's own and the fast ones."""
    x = inputs(B, 17, CHANNELS)
    return [network(x), network.features(x)], list(encoded(network, x))


def denoiser_ways(network: Denoiser) -> tuple[list[Tensor], list[Tensor]]:
    x, feature, start = inputs(B, 17, 5), inputs(B, 17, FEATURE), inputs(B, 17, START_CHANNELS)
    t = torch.arange(B) * 5
    return [network(x, t, feature, start)], [denoised(network, x, t, feature, start)]


WAYS: dict[str, Callable[[nn.Module], tuple[list[Tensor], list[Tensor]]]] = {"encoder": encoder_ways, "denoiser": denoiser_ways}


def apart(own: list[Tensor], fast: list[Tensor]) -> float:
    """Largest difference, as a share of the largest value."""
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(own, fast, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("name", WAYS)
def test_the_fast_forward_is_the_networks_own(request, name):
    own, fast = WAYS[name](request.getfixturevalue(name))
    assert [a.shape for a in own] == [b.shape for b in fast]
    assert all(a.abs().max() > 0.1 for a in own)
    assert apart(own, fast) < CLOSE


@pytest.mark.parametrize("name", WAYS)
def test_gradients_are_the_networks_own(request, name):
    network = request.getfixturevalue(name)
    found = []
    for way in (0, 1):
        network.zero_grad()
        outputs = WAYS[name](network)[way]
        sum((v * inputs(*v.shape)).sum() for v in outputs).backward()
        found.append({key: p.grad.clone() for key, p in network.named_parameters() if p.grad is not None})
    own, fast = found
    assert own.keys() == fast.keys()
    assert len(own) > 60
    for key, gradient in own.items():
        # The gradients of the keys' biases are nothing but rounding: softmax takes no notice of these.
        assert float((gradient - fast[key]).abs().max()) < 2e-4 * float(gradient.abs().max()) + 1e-5, key


@torch.no_grad()
@pytest.mark.parametrize("name", WAYS)
def test_every_parameter_counts_in_both_ways(request, name):
    """A fault in any one parameter is found: the fast way with it differs from the network without it."""
    network = request.getfixturevalue(name)
    own, _ = WAYS[name](network)
    unused = []
    for key, parameter in network.named_parameters():
        before = parameter.clone()
        parameter[..., ::2] += 0.05 * (parameter.abs().max() + 0.1)
        _, fast = WAYS[name](network)
        parameter.copy_(before)
        if apart(own, fast) < 3 * CLOSE:
            unused.append(key)
    # The encoder's step embedding is in its checkpoints and used by nobody; a key's bias moves all scores of a row alike.
    idle = ("temb." if name == "encoder" else "none", "linears.1.bias")
    assert unused == [key for key, _ in network.named_parameters() if key.startswith(idle[0]) or key.endswith(idle[1])]


@torch.no_grad()
def test_one_network_and_one_frame(encoder):
    x = inputs(1, 17, CHANNELS)
    assert apart([encoder(x), encoder.features(x)], list(encoded(encoder, x))) < CLOSE


@torch.no_grad()
def test_each_row_is_computed_on_its_own(denoiser):
    x, feature, start, t = inputs(B, 17, 5), inputs(B, 17, FEATURE), inputs(B, 17, START_CHANNELS), torch.arange(B) * 5
    whole = denoised(denoiser, x, t, feature, start)
    for row in range(B):
        part = slice(row, row + 1)
        assert apart([whole[part]], [denoised(denoiser, x[part], t[part], feature[part], start[part])]) < CLOSE
