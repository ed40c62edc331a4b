"""ONNX Runtime on the CPU: the embedded default.

State, inputs and outputs are numpy arrays that ONNX Runtime reads and writes in place through IOBinding. The state
alternates between two buffers, and so does what the network said; the bindings of a schedule's K steps are made once and kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from diffpose_edge.errors import BundleError
from diffpose_edge.manifest import Manifest, Shapes
from diffpose_edge.runtime.backend import KEPT_SCHEDULES, Array, ScheduleKey, schedule_key
from diffpose_edge.runtime.frame_caches import FrameCaches
from diffpose_edge.runtime.loop import reverse_process


class OnnxRuntimeBackend:
    """A bundle's graphs, by role, in ONNX Runtime's CPU provider; see :class:`diffpose_edge.runtime.backend.Backend`.

    Graphs with Q/DQ are computed in float, rounded where the graph says so: ONNX Runtime's own INT8 kernels saturate on
    processors without VNNI, and would show errors that no TensorRT makes.
    """

    base: Array | None = None

    def __init__(self, manifest: Manifest, graphs: Mapping[str, bytes], threads: int | None = None, spinning: bool = True):
        self.shape = manifest.shape
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        if not spinning:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._threads, self._spinning = threads, spinning
        self._context = self._session("context", graphs["context"], options, manifest.context_io)
        self._step = self._session("step", graphs["step"], options, manifest.step_io)
        (seen, shape), given = next(iter(manifest.context_io[0].items())), manifest.context_io[1]
        self.observation = np.zeros(shape, np.float32)
        self.xyz = np.zeros(given["xyz"], np.float32)
        self.features = np.zeros(given["feature"], np.float32) if "feature" in given else None
        taken = manifest.step_io[0]
        self.feature = np.zeros(taken["feature"], np.float32) if "feature" in taken else None
        self.start = np.zeros(taken["start"], np.float32) if "start" in taken else None
        self._states = (np.zeros(self.shape.state, np.float32), np.zeros(self.shape.state, np.float32))
        self.x = self._states[0]
        self._values = tuple(ort.OrtValue.ortvalue_from_numpy(state) for state in self._states)
        # What the network said takes turns as well. Before the first step it said nothing: zeros that nobody writes, because
        # what an earlier frame left need not be finite, and then 0 times it is not 0.
        nothing, *said = (np.zeros(self.shape.state, np.float32) for _ in range(3))
        self._said = nothing, *said
        self._said_values = tuple(ort.OrtValue.ortvalue_from_numpy(array) for array in self._said)
        self._encoding = self._context.io_binding()
        self._seen_as = seen
        self._bind_seen(self._encoding)
        self._causal = manifest.causal
        self._remembering: WeakKeyDictionary[FrameCaches, Any] = WeakKeyDictionary()
        # Of a causal encoder: what is known of people who have just come.
        self._nothing = None if self._causal is None else self.new_caches()
        told = {"feature": self.feature, "start": self.start}
        self._told = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in told.items() if array is not None}
        self._schedules: OrderedDict[ScheduleKey, list[Any]] = OrderedDict()
        self._rows: dict[ScheduleKey, tuple[Array, Array]] = {}
        self._current: list[Any] = []
        self._check_buffers()
        self._warm_up()

    def encode(self) -> None:
        if self._nothing is not None:
            self.encode_after(self._nothing)
        else:
            self._context.run_with_iobinding(self._encoding)

    def new_caches(self) -> FrameCaches:
        """Return empty caches of P people that the context graph of a causal encoder reads and writes in place."""
        assert self._causal is not None
        caches = FrameCaches(self._causal, self.shape.P)
        binding = self._context.io_binding()
        for arrays, bind in ((caches.taken, binding.bind_ortvalue_input), (caches.given, binding.bind_ortvalue_output)):
            for name, array in arrays.items():
                bind(name, ort.OrtValue.ortvalue_from_numpy(array))
        self._bind_seen(binding)
        self._remembering[caches] = binding
        return caches

    def encode_after(self, caches: FrameCaches) -> None:
        """Run a causal encoder: ``observation``, and what ``caches`` of this backend remember → ``xyz``, ``features``, ``caches.given``."""
        self._context.run_with_iobinding(self._remembering[caches])

    def begin(self, timesteps: tuple[int, ...], coefficients: Array) -> None:
        key = schedule_key(timesteps, coefficients)
        if key not in self._schedules:
            if len(self._schedules) >= KEPT_SCHEDULES:
                oldest, _ = self._schedules.popitem(last=False)
                del self._rows[oldest]
            self._schedules[key] = self._bindings(timesteps, coefficients)
        self._schedules.move_to_end(key)
        self._current = self._schedules[key]

    def walk(self, step_ns: NDArray[np.float64], trajectory: Array | None) -> Array:
        return reverse_process(self, len(self._current), step_ns, trajectory)

    def step(self, k: int) -> None:
        self._step.run_with_iobinding(self._current[k])

    def state(self, k: int) -> Array:
        return self._states[k % 2]

    def previous(self, k: int) -> Array:
        """Return what the network said at the step before step k (P N, 17, 5): zeros for k = 0."""
        return self._said[_turn(k)]

    def describe(self) -> dict[str, Any]:
        return {
            "backend": "onnxruntime",
            "version": ort.__version__,
            "provider": "CPUExecutionProvider",
            "threads": self._threads,
            "spinning": self._spinning,
        }

    def close(self) -> None:
        # Bindings hold their session and their buffers: everything goes together.
        self._current = []
        self._schedules.clear()
        self._rows.clear()
        self._values = self._said_values = ()
        self._told = {}
        self._remembering.clear()
        self._encoding = self._context = self._step = None

    def _bind_seen(self, binding: Any) -> None:
        """Bind what is observed and what is made of it to a run of the context graph."""
        binding.bind_ortvalue_input(self._seen_as, ort.OrtValue.ortvalue_from_numpy(self.observation))
        binding.bind_ortvalue_output("xyz", ort.OrtValue.ortvalue_from_numpy(self.xyz))
        if self.features is not None:
            binding.bind_ortvalue_output("feature", ort.OrtValue.ortvalue_from_numpy(self.features))

    def _bindings(self, timesteps: tuple[int, ...], coefficients: Array) -> list[Any]:
        # One row for each step, contiguous; ONNX Runtime reads these arrays themselves, so they live as long as the bindings.
        rows = np.array(timesteps, np.float32).reshape(-1, 1), np.ascontiguousarray(coefficients, np.float32)
        self._rows[schedule_key(timesteps, coefficients)] = rows
        bindings = []
        for k in range(len(timesteps)):
            binding = self._step.io_binding()
            binding.bind_ortvalue_input("x", self._values[k % 2])
            binding.bind_ortvalue_input("timestep", ort.OrtValue.ortvalue_from_numpy(rows[0][k]))
            binding.bind_ortvalue_input("coefficients", ort.OrtValue.ortvalue_from_numpy(rows[1][k]))
            binding.bind_ortvalue_input("previous", self._said_values[_turn(k)])
            for name, value in self._told.items():
                binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output("x_next", self._values[(k + 1) % 2])
            binding.bind_ortvalue_output("eps", self._said_values[_turn(k + 1)])
            bindings.append(binding)
        return bindings

    def _warm_up(self) -> None:
        """Run both graphs once, on zeros: at its first run ONNX Runtime lays out memory, starts threads and touches the weights."""
        (step,) = self._bindings((0,), np.zeros((1, 3), np.float32))
        self._rows.clear()
        encoding = self._encoding if self._nothing is None else self._remembering[self._nothing]
        self._context.run_with_iobinding(encoding)
        self._step.run_with_iobinding(step)

    def _check_buffers(self) -> None:
        # The whole scheme rests on ONNX Runtime sharing these arrays' memory instead of copying them once.
        for value, state in zip((*self._values, *self._said_values), (*self._states, *self._said), strict=True):
            if value.data_ptr() != state.ctypes.data:
                raise RuntimeError(f"ONNX Runtime {ort.__version__} copies the arrays bound to it; a version that shares them is needed")

    def _session(self, role: str, content: bytes, options: ort.SessionOptions, border: tuple[Shapes, Shapes]) -> Any:
        try:
            session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as err:  # ONNX Runtime's own exception types share no base; the cause stays attached
            raise BundleError(f"ONNX Runtime {ort.__version__} cannot load the {role} graph: {err}") from err
        for wanted, found in zip(border, (session.get_inputs(), session.get_outputs()), strict=True):
            actual = {value.name: tuple(value.shape) for value in found}
            if actual != wanted or any(value.type != "tensor(float)" for value in found):
                raise BundleError(f"the {role} graph takes or gives {actual}, the manifest's shapes mean {wanted}; export the bundle again")
        return session


def _turn(k: int) -> int:
    """Return which buffer holds what was said before step k: 0 is silence, 1 and 2 take turns."""
    return 0 if k == 0 else 1 + k % 2
