"""PyTorch on a GPU, all K steps captured as one CUDA graph: what PyTorch itself offers against launch overhead.

No GPU has confirmed this peer: where there is none it is refused, and that alone is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffpose_edge.benchmarks.peers.peer import Array, Setting, released_pair
from diffpose_edge.benchmarks.torch_loop import captured
from diffpose_edge.bundle import load_bundle
from diffpose_edge.errors import CudaError


class TorchCudaGraph:
    """See the module; a :class:`diffpose_edge.benchmarks.peers.peer.Peer`. A schedule is captured when it first comes."""

    def __init__(self, setting: Setting):
        if not torch.cuda.is_available():
            build = "has no CUDA" if torch.version.cuda is None else "finds no GPU"
            raise CudaError(f"a CUDA graph needs an NVIDIA GPU, and PyTorch {torch.__version__} {build}")
        # No TF32, as in all other peers: full float32.
        torch.set_float32_matmul_precision("highest")
        model, shape = released_pair(setting), load_bundle(setting.bundle).manifest.shape
        self._denoiser, self._alpha_bar = model.denoiser_network.cuda(), [float(a) for a in model.alpha_bar]
        self._uv, self._x = torch.zeros(shape.uv, device="cuda"), torch.zeros(shape.state, device="cuda")
        with torch.no_grad():
            self._encode = captured(model.context_network.cuda(), self._uv)
        self._walks: dict[tuple[int, ...], Callable[[], Tensor]] = {}

    def encode(self, uv: Array) -> Array:
        self._uv.copy_(torch.from_numpy(uv))
        return self._encode().cpu().numpy()

    @torch.no_grad()
    def epsilon(self, x: Array, t: int) -> Array:
        return self._denoiser(torch.from_numpy(x).cuda(), t).cpu().numpy()

    def walk(self, x_K: Array, timesteps: Sequence[int], step_s: NDArray[np.float64]) -> Array:
        steps = tuple(timesteps)
        if steps not in self._walks:
            self._walks[steps] = self._captured(steps)
        self._x.copy_(torch.from_numpy(x_K))
        torch.cuda.synchronize()
        began = perf_counter()
        last = self._walks[steps]()
        torch.cuda.synchronize()
        # One graph has no times of single steps: each is given its share.
        step_s[:] = (perf_counter() - began) / len(steps)
        return last.cpu().numpy()

    def describe(self) -> dict[str, str]:
        return {"torch": torch.__version__, "device": torch.cuda.get_device_name(), "steps": "shares of one graph's time"}

    def close(self) -> None:
        self._walks.clear()

    @torch.no_grad()
    def _captured(self, timesteps: tuple[int, ...]) -> Callable[[], Tensor]:
        alpha_bar = [*(self._alpha_bar[t] for t in timesteps), 1.0]

        def loop(x: Tensor) -> Tensor:
            for t, a_t, a_s in zip(timesteps, alpha_bar[:-1], alpha_bar[1:], strict=True):
                eps = self._denoiser(x, t)
                x0 = (x - (1.0 - a_t) ** 0.5 * eps) / a_t**0.5
                x = a_s**0.5 * x0 + (1.0 - a_s) ** 0.5 * eps
            return x

        return captured(loop, self._x)


def load(setting: Setting) -> TorchCudaGraph:
    """Load it. Raises CheckpointError, and CudaError without a GPU."""
    return TorchCudaGraph(setting)
