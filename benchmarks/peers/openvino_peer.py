"""OpenVINO on the CPU, running the bundle's own graphs as they are: how much of our time is ONNX Runtime's.

With its latency hint, and in float32: on processors that have bfloat16 it would take that by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from diffpose_edge.benchmarks.peers.peer import Array, Setting
from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.schedule import ddim_coefficients


class OpenVino:
    """See the module; a :class:`diffpose_edge.benchmarks.peers.peer.Peer`.

    As in our runtime, the state takes turns between two arrays: a request reads one and writes the other, without a copy.
    """

    def __init__(self, setting: Setting):
        bundle = load_bundle(setting.bundle)
        manifest = bundle.manifest
        self._alpha_bar = np.array(manifest.alpha_bar)
        self._uv, self._xyz = np.zeros(manifest.shape.uv, np.float32), np.zeros(manifest.shape.uv[:-1] + (3,), np.float32)
        self._states = np.zeros(manifest.shape.state, np.float32), np.zeros(manifest.shape.state, np.float32)
        self._timestep, self._coefficients = np.zeros(1, np.float32), np.zeros(3, np.float32)
        # DDIM remembers nothing: what a step would be told of the one before stays zero.
        self._eps, previous = (np.zeros(manifest.shape.state, np.float32) for _ in range(2))
        context, step = (_compiled(bundle, role, setting.threads) for role in ("context", "step"))
        self._encoding = _request(context, {"uv": self._uv}, {"xyz": self._xyz})
        told = {"timestep": self._timestep, "coefficients": self._coefficients, "previous": previous}
        self._steps = [
            _request(step, {"x": x, **told}, {"x_next": other, "eps": self._eps}) for x, other in (self._states, self._states[::-1])
        ]

    def encode(self, uv: Array) -> Array:
        self._uv[...] = uv
        self._encoding.infer()
        return self._xyz.copy()

    def epsilon(self, x: Array, t: int) -> Array:
        self._states[0][...], self._timestep[0], self._coefficients[...] = x, t, 0.0
        self._steps[0].infer()
        return self._eps.copy()

    def walk(self, x_K: Array, timesteps: Sequence[int], step_s: NDArray[np.float64]) -> Array:
        self._states[0][...] = x_K
        coefficients = ddim_coefficients(self._alpha_bar, timesteps)
        for k, t in enumerate(timesteps):
            began = perf_counter()
            self._timestep[0], self._coefficients[:2] = t, coefficients[k]
            self._steps[k % 2].infer()
            step_s[k] = perf_counter() - began
        return self._states[len(timesteps) % 2].copy()

    def describe(self) -> dict[str, str]:
        return {"openvino": ov.__version__}

    def close(self) -> None:
        self._steps, self._encoding = [], None


def _compiled(bundle: Bundle, role: str, threads: int) -> Any:
    core = ov.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(core.read_model(bundle.read(role, "fp32")), "CPU", settings)


def _request(compiled: Any, inputs: dict[str, Array], outputs: dict[str, Array]) -> Any:
    request = compiled.create_infer_request()
    for name, array in {**inputs, **outputs}.items():
        request.set_tensor(name, ov.Tensor(array, shared_memory=True))
    return request


def load(setting: Setting) -> OpenVino:
    """Load it. Raises BundleError."""
    return OpenVino(setting)
