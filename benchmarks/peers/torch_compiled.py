"""torch.compile: the reference network through TorchInductor, which writes and compiles C++ for it.

Weights are frozen into what is compiled, which makes it 5 to 10 % faster than compiling with its defaults. The loop is the
reference's, in eager PyTorch; so is the context encoder, which runs once a frame and would take as long again to compile.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed

from diffpose_edge.benchmarks.peers.peer import Array, Setting, released_pair
from diffpose_edge.bundle import load_bundle
from diffpose_edge.errors import DiffPoseEdgeError


class TorchCompiled:
    """See the module; a :class:`diffpose_edge.benchmarks.peers.peer.Peer`. Everything is compiled when it is made."""

    def __init__(self, setting: Setting):
        # Both are read when the compiler is first imported, which is below.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(setting.scratch) / "inductor")
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # else its worker processes stay
        torch.set_num_threads(setting.threads)
        self._model = released_pair(setting)
        self._alpha_bar = [float(a) for a in self._model.alpha_bar]
        options: dict[str, Any] = {"freezing": True}
        self._network = torch.compile(self._model.denoiser_network, fullgraph=True, dynamic=False, options=options)
        try:
            self.epsilon(np.zeros(load_bundle(setting.bundle).manifest.shape.state, np.float32), 0)
        except BackendCompilerFailed as err:
            raise DiffPoseEdgeError(
                f"torch.compile needs a C++ compiler (CXX names another one) and Python's headers. It says: {err.inner_exception}"
            ) from err

    def encode(self, uv: Array) -> Array:
        return self._model.context(torch.from_numpy(uv)).numpy()

    @torch.no_grad()
    def epsilon(self, x: Array, t: int) -> Array:
        return self._eps(torch.from_numpy(x), t).numpy()

    @torch.no_grad()
    def walk(self, x_K: Array, timesteps: Sequence[int], step_s: NDArray[np.float64]) -> Array:
        x = torch.from_numpy(x_K)
        alpha_bar = [*(self._alpha_bar[t] for t in timesteps), 1.0]
        for k, t in enumerate(timesteps):
            began = perf_counter()
            a_t, a_s = alpha_bar[k : k + 2]
            eps = self._eps(x, t)
            x0 = (x - (1.0 - a_t) ** 0.5 * eps) / a_t**0.5
            x = a_s**0.5 * x0 + (1.0 - a_s) ** 0.5 * eps
            step_s[k] = perf_counter() - began
        return x.numpy()

    def describe(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    def close(self) -> None:
        pass

    def _eps(self, x: Tensor, t: int) -> Tensor:
        # The timestep as a tensor: for a number the compiler would make another program for each.
        return self._network(x, torch.full((len(x),), float(t)))


def load(setting: Setting) -> TorchCompiled:
    """Load and compile it, which takes up to minutes. Raises CheckpointError, and DiffPoseEdgeError where it cannot be compiled."""
    return TorchCompiled(setting)
