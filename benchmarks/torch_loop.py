"""The K denoiser steps of a shipped pair in PyTorch on the GPU: what TensorRT's engines are measured beside."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffpose_edge.clips import trained_pair
from diffpose_edge.distribution import START_CHANNELS
from diffpose_edge.reference.diffusion import clean_of, noise_of
from diffpose_edge.reference.trained import ConditionedDiffPose, load_conditioned
from diffpose_edge.schedule import checked_timesteps
from diffpose_edge.skeleton import J

Loop = Callable[[Tensor], Tensor]
# Runs before a capture or a measurement: kernels are chosen, and memory is taken, in the first ones.
WARM_UP = 3


def reverse_steps(model: ConditionedDiffPose, feature: Tensor, start: Tensor, timesteps: Sequence[int]) -> Loop:
    """Return the last state of :meth:`ConditionedDiffPose.sample` as a function of the first, written for a compiler.

    The schedule is plain numbers, read before the loop, so that torch.compile makes one graph of it. Raises TimestepError.
    """
    steps = checked_timesteps(timesteps, len(model.alpha_bar))
    alpha_bar = [*(float(model.alpha_bar[t]) for t in steps), 1.0]
    schedule = tuple(zip(steps, alpha_bar[:-1], alpha_bar[1:], strict=True))
    network, prediction = model.denoiser_network, model.prediction

    def loop(x: Tensor) -> Tensor:
        for t, a_t, a_s in schedule:
            out = network(a_t**0.5 * x, t, feature, start)
            x0, eps = clean_of(x, out, a_t, prediction), noise_of(x, out, a_t, prediction)
            x = a_s**0.5 * x0 + (1.0 - a_s) ** 0.5 * eps
        return x

    return loop


def torch_loop(pair: str, rows: int, timesteps: Sequence[int], device: str = "cuda") -> tuple[Loop, Tensor]:
    """Return the steps of a pair that ships and a start (rows, 17, 5) for them, in float32 on ``device``."""
    model = load_conditioned(*trained_pair(pair))
    model.denoiser_network.to(device)
    # No TF32, as in the engines: both compute in full float32.
    torch.set_float32_matmul_precision("highest")
    generator = torch.Generator().manual_seed(0)

    def drawn(width: int) -> Tensor:
        return torch.randn(rows, J, width, generator=generator).to(device)

    feature, start, x = drawn(model.denoiser_network.condition_width), drawn(START_CHANNELS), drawn(5)
    return reverse_steps(model, feature, start, timesteps), x


def captured(loop: Loop, x: Tensor) -> Callable[[], Tensor]:
    """Return the loop on ``x`` captured by hand as one CUDA graph."""
    # What a capture needs is made ready on a side stream, which has to wait for what the current one still does to x.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            loop(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = loop(x)

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


def compiled(loop: Loop, x: Tensor) -> Callable[[], Tensor]:
    """Return the loop on ``x`` as torch.compile makes it for the least latency. That takes up to minutes."""
    torch.compiler.reset()  # else another N would be compiled for every N, which has no CUDA graph
    made = torch.compile(loop, mode="reduce-overhead", dynamic=False)

    def run() -> Tensor:
        return made(x)

    for _ in range(WARM_UP):
        run()
    return run
