"""A plain ONNX export in ONNX Runtime: the published networks through PyTorch's exporter, nothing rewritten, and DDIM in numpy.

The exporter's own optimiser folds the published networks' Laplacians away; all else stays as it was written.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from time import perf_counter

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffpose_edge.benchmarks.peers.eager_released import as_published
from diffpose_edge.benchmarks.peers.peer import Array, Setting, released_pair
from diffpose_edge.bundle import load_bundle


def plain_export(network: nn.Module, inputs: dict[str, Tensor], output: str) -> bytes:
    """Return the ONNX file that PyTorch's exporter makes of ``network`` at the shapes of ``inputs``, as it is."""
    talks = logging.getLogger("torch.onnx")
    level = talks.level
    talks.setLevel(logging.ERROR)  # it looks for a package that these networks do not use
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network, tuple(inputs.values()), dynamo=True, input_names=list(inputs), output_names=[output], verbose=False
            )
    finally:
        talks.setLevel(level)
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


class PlainOnnx:
    """See the module; a :class:`diffpose_edge.benchmarks.peers.peer.Peer`. The export is made when it is."""

    def __init__(self, setting: Setting):
        model, shape = released_pair(setting), load_bundle(setting.bundle).manifest.shape
        options = ort.SessionOptions()
        options.intra_op_num_threads = setting.threads
        state = {"x": torch.zeros(shape.state), "t": torch.zeros(shape.state[0])}
        self._alpha_bar = model.alpha_bar
        self._denoiser, self._context = (
            ort.InferenceSession(plain_export(as_published(network), inputs, output), options, providers=["CPUExecutionProvider"])
            for network, inputs, output in (
                (model.denoiser_network, state, "eps"),
                (model.context_network, {"uv": torch.zeros(shape.uv)}, "xyz"),
            )
        )

    def encode(self, uv: Array) -> Array:
        xyz: Array = self._context.run(None, {"uv": uv})[0]
        return xyz

    def epsilon(self, x: Array, t: int) -> Array:
        eps: Array = self._denoiser.run(None, {"x": x, "t": np.full(len(x), t, np.float32)})[0]
        return eps

    def walk(self, x_K: Array, timesteps: Sequence[int], step_s: NDArray[np.float64]) -> Array:
        x = x_K
        alpha_bar = np.append(self._alpha_bar[list(timesteps)], 1.0)
        a = np.sqrt(alpha_bar).astype(np.float32)
        sigma = np.sqrt(1.0 - alpha_bar).astype(np.float32)
        for k, t in enumerate(timesteps):
            began = perf_counter()
            eps = self.epsilon(x, t)
            x0 = (x - sigma[k] * eps) / a[k]
            x = a[k + 1] * x0 + sigma[k + 1] * eps
            step_s[k] = perf_counter() - began
        return x

    def describe(self) -> dict[str, str]:
        return {"onnxruntime": ort.__version__, "torch": torch.__version__}

    def close(self) -> None:
        self._denoiser = self._context = None


def load(setting: Setting) -> PlainOnnx:
    """Export and load it. Raises CheckpointError, BundleError."""
    return PlainOnnx(setting)
