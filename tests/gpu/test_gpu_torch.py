"""PyTorch's reference on a real GPU: what the engines are measured beside computes the same there."""

from __future__ import annotations

import pytest

from diffpose_edge.tolerances import FP32_STATE_REL

STEPS = (49, 37, 25, 12, 0)


@pytest.mark.parametrize("pair", ["frame", "video"])
def test_the_loop_on_the_gpu_is_the_one_on_the_cpu(gpu: str, pair: str) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    from diffpose_edge.benchmarks.torch_loop import captured, torch_loop

    loop, x = torch_loop(pair, 5, STEPS, "cpu")
    expected = loop(x)
    loop, x = torch_loop(pair, 5, STEPS)
    replay = captured(loop, x)
    for name, found in {"eager": loop(x), "replayed": replay()}.items():
        worst = float((found.cpu() - expected).abs().max() / expected.abs().max())
        print(f"{pair} {name}: {worst:.2e} of the largest value")
        # A GPU sums in another order than a CPU in each of the steps.
        assert worst <= 10 * FP32_STATE_REL
