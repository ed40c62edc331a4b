"""The K denoiser steps of a shipped pair in PyTorch on the GPU: what TensorRT's engines are measured beside."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffpose_edge.bundle import Bundle
from diffpose_edge.clips import trained_pair
from diffpose_edge.distribution import START_CHANNELS
from diffpose_edge.reference.trained import load_conditioned
from diffpose_edge.skeleton import J


def torch_loop(bundle: Bundle, pair: str, steps: tuple[int, ...], device: str = "cuda") -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return the loop over ``steps``, as the reference writes it, and a start (P N, 17, 5) for it, in float32 on ``device``."""
    model = load_conditioned(*trained_pair(pair))
    model.denoiser_network.to(device)
    # TF32 stays off, as it is in the engines: both compute in full float32.
    torch.backends.cuda.matmul.allow_tf32 = False
    rows, generator = bundle.manifest.shape.state[0], torch.Generator().manual_seed(0)

    def drawn(width: int) -> Tensor:
        return torch.randn(rows, J, width, generator=generator).to(device)

    feature, start, x = drawn(bundle.manifest.feature_width), drawn(START_CHANNELS), drawn(5)

    def loop(x: Tensor) -> Tensor:
        return model.sample(x, feature, start, steps)[-1]

    return loop, x
