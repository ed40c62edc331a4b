"""The networks work where their weights are: nothing that they make on the way stays on the CPU.

Device "meta" has shapes and no numbers, and refuses to be mixed with the CPU as a GPU does: it stands for one here.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from diffpose_edge.distribution import START_CHANNELS
from diffpose_edge.reference import graph_networks, layers
from diffpose_edge.reference.graph_networks import Denoiser, FrameEncoder
from diffpose_edge.reference.mixste import MirrorAverage, MixSTE
from diffpose_edge.skeleton import J

ROWS, FEATURE = 3, 7


def elsewhere(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def denoised(t: Tensor | int) -> Tensor:
    network = Denoiser(24, 2, 3, condition=FEATURE).to("meta")
    return network(elsewhere(ROWS, J, 5), t, elsewhere(ROWS, J, FEATURE), elsewhere(ROWS, J, START_CHANNELS))


@pytest.mark.parametrize("t", [12, torch.empty(ROWS, dtype=torch.int64, device="meta")], ids=["int", "tensor"])
def test_the_denoiser_works_where_its_weights_are(t: Tensor | int) -> None:
    out = denoised(t)
    assert out.device.type == "meta"
    assert out.shape == (ROWS, J, 5)


@pytest.mark.parametrize(
    ("network", "observation"),
    [
        (FrameEncoder(20, 3, 5, channels=6), (ROWS, J, 6)),
        (MixSTE(9, 12, 2, 3, 28, channels=6), (ROWS, 9, J, 6)),
        (MirrorAverage(MixSTE(9, 12, 2, 3, 28)), (ROWS, 9, J, 2)),
    ],
    ids=["frame", "video", "mirror-averaged video"],
)
def test_the_encoders_work_where_their_weights_are(network: nn.Module, observation: tuple[int, ...]) -> None:
    out = network.to("meta")(elsewhere(*observation))
    assert out.device.type == "meta"
    assert out.shape == (*observation[:-1], 3)


@pytest.mark.parametrize(("module", "maker"), [(graph_networks, "full"), (layers, "arange")])
def test_what_is_made_on_the_cpu_is_found_out(monkeypatch: pytest.MonkeyPatch, module: SimpleNamespace, maker: str) -> None:
    """The fault that was there once: timesteps, or frequencies, on the CPU beside weights on a GPU."""
    real = getattr(torch, maker)
    monkeypatch.setattr(module.torch, maker, lambda *args, device, **kwargs: real(*args, **kwargs))
    with pytest.raises(RuntimeError, match="device"):
        denoised(12)
