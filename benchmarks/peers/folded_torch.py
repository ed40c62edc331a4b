"""Our folded mathematics (:mod:`diffpose_edge.export.folded`) in eager PyTorch: what the rewrites gain without another runtime."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from diffpose_edge.benchmarks.peers.peer import Array, Setting, released_pair
from diffpose_edge.export.folded import FoldedFrameEncoder, FoldedStep
from diffpose_edge.reference.graph_networks import FrameEncoder
from diffpose_edge.schedule import ddim_coefficients


class FoldedTorch:
    """See the module; a :class:`diffpose_edge.benchmarks.peers.peer.Peer`."""

    def __init__(self, setting: Setting):
        torch.set_num_threads(setting.threads)
        model = released_pair(setting)
        assert isinstance(model.context_network, FrameEncoder)
        self._alpha_bar = model.alpha_bar
        self._context = FoldedFrameEncoder(model.context_network).eval()
        self._step = FoldedStep(model.denoiser_network, len(model.alpha_bar)).eval()

    @torch.inference_mode()
    def encode(self, uv: Array) -> Array:
        return self._context(torch.from_numpy(uv))[0].numpy()

    @torch.inference_mode()
    def epsilon(self, x: Array, t: int) -> Array:
        return self._step(torch.from_numpy(x), torch.tensor([float(t)]), torch.zeros(3), torch.from_numpy(x))[1].numpy()

    @torch.inference_mode()
    def walk(self, x_K: Array, timesteps: Sequence[int], step_s: NDArray[np.float64]) -> Array:
        x = torch.from_numpy(x_K)
        # DDIM remembers nothing: its third number is zero.
        coefficients = np.pad(ddim_coefficients(self._alpha_bar, timesteps), ((0, 0), (0, 1)))
        rows, previous = (torch.tensor(timesteps, dtype=torch.float32)[:, None], torch.from_numpy(coefficients)), torch.zeros_like(x)
        for k, (timestep, row) in enumerate(zip(*rows, strict=True)):
            began = perf_counter()
            x = self._step(x, timestep, row, previous)[0]
            step_s[k] = perf_counter() - began
        return x.numpy()

    def describe(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    def close(self) -> None:
        pass


def load(setting: Setting) -> FoldedTorch:
    """Load it. Raises CheckpointError."""
    return FoldedTorch(setting)
