"""The steps that engines are measured beside: what the reference computes, and one graph for the compiler."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diffpose_edge.benchmarks.torch_loop import Loop, reverse_steps, torch_loop
from diffpose_edge.clips import trained_pair
from diffpose_edge.distribution import START_CHANNELS
from diffpose_edge.reference.trained import ConditionedDiffPose, load_conditioned
from diffpose_edge.schedule import trailing_timesteps
from diffpose_edge.skeleton import J
from diffpose_edge.tolerances import REFERENCE_ABS

ROWS = 5


@pytest.fixture(scope="module")
def model() -> ConditionedDiffPose:
    return load_conditioned(*trained_pair("frame"))


@pytest.mark.parametrize("K", [1, 5])
@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_the_loop_is_the_reference(model: ConditionedDiffPose, monkeypatch: pytest.MonkeyPatch, K: int, prediction: str) -> None:
    monkeypatch.setattr(model, "prediction", prediction)
    generator = torch.Generator().manual_seed(0)
    widths = (5, model.denoiser_network.condition_width, START_CHANNELS)
    x, feature, start = (torch.randn(ROWS, J, width, generator=generator) for width in widths)
    steps = trailing_timesteps(len(model.alpha_bar), K)
    expected = model.sample(x, feature, start, steps)[-1]
    found = reverse_steps(model, feature, start, steps)(x)
    assert float((found - expected).abs().max()) <= REFERENCE_ABS
    other = reverse_steps(model, feature, start, [step // 2 for step in steps] if K == 1 else steps[1:])(x)
    assert float((other - expected).abs().max()) > 100 * REFERENCE_ABS  # another schedule shows


def explained(loop: Loop, x: torch.Tensor) -> Any:
    torch.compiler.reset()
    try:
        return torch._dynamo.explain(loop)(x)
    finally:
        torch.compiler.reset()


@pytest.mark.slow
def test_the_loop_is_one_graph_for_the_compiler() -> None:
    loop, x = torch_loop("frame", ROWS, (49, 37, 25, 12, 0), "cpu")
    found = explained(loop, x)
    assert found.graph_break_count == 0, found.break_reasons
    assert found.graph_count == 1


def test_a_break_in_the_graph_would_be_found_out() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        scale = float(x.sum())  # a number that only a run tells
        return torch.sin(x) * scale

    assert explained(broken, torch.ones(3)).graph_break_count > 0
