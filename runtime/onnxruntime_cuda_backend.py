"""ONNX Runtime on a GPU: for machines without TensorRT.

States and rows stay on the device, and each step is replayed by ONNX Runtime as a CUDA graph of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from diffpose_edge.errors import BundleError, CudaError
from diffpose_edge.manifest import Manifest, Shapes
from diffpose_edge.runtime.backend import KEPT_SCHEDULES, Array
from diffpose_edge.runtime.loop import reverse_process

PROVIDER = "CUDAExecutionProvider"


class OnnxRuntimeCudaBackend:
    """A bundle's graphs, by role, in ONNX Runtime's CUDA provider; see :class:`diffpose_edge.runtime.backend.Backend`.

    Raises CudaError when this ONNX Runtime has no CUDA provider, or it cannot start. ``on_cpu`` puts the same arrangement on
    the CPU, for tests of it.
    """

    base: Array | None = None

    def __init__(self, manifest: Manifest, graphs: Mapping[str, bytes], device: int = 0, *, on_cpu: bool = False):
        if not on_cpu and PROVIDER not in ort.get_available_providers():
            raise CudaError(
                f"this ONNX Runtime {ort.__version__} has no CUDA provider. In its place run: pip uninstall onnxruntime; "
                f"pip install onnxruntime-gpu"
            )
        self.shape, self._device, self._kind = manifest.shape, device, "cpu" if on_cpu else "cuda"
        self._graphs = not on_cpu
        self._context = self._session("context", graphs["context"])
        self._step = self._session("step", graphs["step"])
        (seen, observed), given = next(iter(manifest.context_io[0].items())), manifest.context_io[1]
        taken = manifest.step_io[0]
        told: Shapes = {name: taken[name] for name in ("feature", "start") if name in taken}
        hosts: Shapes = {"observation": observed, "xyz": given["xyz"], "x": self.shape.state, **told}
        host = {name: np.zeros(shape, np.float32) for name, shape in hosts.items()}
        self.observation, self.xyz, self.x = host["observation"], host["xyz"], host["x"]
        self.feature, self.start = host.get("feature"), host.get("start")
        self.features: Array | None = np.zeros(given["feature"], np.float32) if "feature" in given else None
        self._values = {name: self._allocated(shape) for name, shape in {"observation": observed, **told}.items()}
        self._given = {name: self._allocated(shape) for name, shape in given.items()}
        self._states: tuple[Any, ...] = (self._allocated(self.shape.state), self._allocated(self.shape.state))
        self._encoding = self._context.io_binding()
        self._encoding.bind_ortvalue_input(seen, self._values["observation"])
        for name, value in self._given.items():
            self._encoding.bind_ortvalue_output(name, value)
        self._told = tuple(told)
        self._schedules: OrderedDict[tuple[int, ...], list[tuple[Any, Any]]] = OrderedDict()
        self._current: list[tuple[Any, Any]] = []
        self._next_graph = 1
        self._encode_options = self._run_options()

    def encode(self) -> None:
        self._values["observation"].update_inplace(self.observation)
        self._context.run_with_iobinding(self._encoding, self._encode_options)
        self.xyz[...] = self._given["xyz"].numpy()
        if self.features is not None:
            self.features[...] = self._given["feature"].numpy()

    def begin(self, timesteps: tuple[int, ...], coefficients: Array) -> None:
        if timesteps not in self._schedules:
            if len(self._schedules) >= KEPT_SCHEDULES:
                self._schedules.popitem(last=False)
            self._schedules[timesteps] = self._bindings(timesteps, np.ascontiguousarray(coefficients, np.float32))
        self._schedules.move_to_end(timesteps)
        self._current = self._schedules[timesteps]

    def walk(self, step_ns: NDArray[np.float64], trajectory: Array | None) -> Array:
        told = {"feature": self.feature, "start": self.start}
        for name in self._told:
            self._values[name].update_inplace(told[name])
        self._states[0].update_inplace(self.x)
        return reverse_process(self, len(self._current), step_ns, trajectory)

    def step(self, k: int) -> None:
        """Run step k; ONNX Runtime waits for it."""
        self._step.run_with_iobinding(*self._current[k])

    def state(self, k: int) -> Array:
        """Return a copy of the state after k steps."""
        state: Array = self._states[k % 2].numpy()
        return state

    def describe(self) -> dict[str, Any]:
        providers = self._step.get_providers()
        return {"backend": "onnxruntime-cuda", "version": ort.__version__, "provider": providers[0], "device": self._device}

    def close(self) -> None:
        # Bindings hold their session and their buffers: everything goes together.
        self._current = []
        self._schedules.clear()
        self._values, self._given, self._states = {}, {}, ()
        self._encoding = self._context = self._step = None

    def _allocated(self, shape: tuple[int, ...]) -> Any:
        value = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, self._kind, 0 if self._kind == "cpu" else self._device)
        value.update_inplace(np.zeros(shape, np.float32))
        return value

    def _on_device(self, array: Array) -> Any:
        value = self._allocated(array.shape)
        value.update_inplace(array)
        return value

    def _bindings(self, timesteps: tuple[int, ...], coefficients: Array) -> list[tuple[Any, Any]]:
        bindings = []
        for k, timestep in enumerate(timesteps):
            binding = self._step.io_binding()
            binding.bind_ortvalue_input("x", self._states[k % 2])
            binding.bind_ortvalue_input("timestep", self._on_device(np.array([timestep], np.float32)))
            binding.bind_ortvalue_input("coefficients", self._on_device(coefficients[k]))
            for name in self._told:
                binding.bind_ortvalue_input(name, self._values[name])
            binding.bind_ortvalue_output("x_next", self._states[(k + 1) % 2])
            bindings.append((binding, self._run_options()))
        return bindings

    def _run_options(self) -> Any:
        """Return options with the number of a graph that is captured at the first run of these addresses, and replayed from then on."""
        options = ort.RunOptions()
        if self._graphs:
            options.add_run_config_entry("gpu_graph_id", str(self._next_graph))
            self._next_graph += 1
        return options

    def _session(self, role: str, content: bytes) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        # TF32 would round FP32 matmuls to 10 bits.
        cuda = {"device_id": str(self._device), "enable_cuda_graph": "1", "use_tf32": "0"}
        chosen: Any = [(PROVIDER, cuda)] if self._kind == "cuda" else ["CPUExecutionProvider"]
        try:
            session = ort.InferenceSession(content, options, providers=chosen)
        except Exception as err:  # ONNX Runtime's own exception types share no base; the cause stays attached
            raise BundleError(f"ONNX Runtime {ort.__version__} cannot load the {role} graph: {err}") from err
        if self._kind == "cuda" and session.get_providers()[0] != PROVIDER:
            raise CudaError(
                f"ONNX Runtime {ort.__version__} fell back to the CPU: its CUDA provider did not start (driver, CUDA or cuDNN is missing)"
            )
        return session
