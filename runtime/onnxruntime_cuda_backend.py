"""ONNX Runtime on a GPU: for machines without TensorRT.

States and rows stay on the device, and each step is replayed by ONNX Runtime as a CUDA graph of its own. ONNX Runtime keeps
such graphs apart for every thread that runs a session, and forbids more than one: one thread of the backend does all of it.
"""

from __future__ import annotations

import io
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from typing import Any, ParamSpec, TypeVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from diffpose_edge.errors import CudaError, DiffPoseEdgeError, RuntimeClosed
from diffpose_edge.manifest import Manifest, Shapes
from diffpose_edge.runtime.backend import CLOSED, KEPT_SCHEDULES, Array, ScheduleKey, schedule_key
from diffpose_edge.runtime.loop import reverse_process
from diffpose_edge.runtime.onnxruntime_border import check_border, refusing

PROVIDER = "CUDAExecutionProvider"
OLDEST = (1, 18)  # the first with use_tf32 and gpu_graph_id
# The run option with the number of the graph that is captured at the first run of some addresses, and replayed from then on.
GRAPH, NOT_CAPTURED = "gpu_graph_id", -1
# How many schedules are ever captured. ONNX Runtime 1.31 has a call that releases a graph, but its CUDA provider destroys
# graphs only with their session; and capturing again and again would cost more than graphs save.
CAPTURED_SCHEDULES = 4 * KEPT_SCHEDULES
log = logging.getLogger(__name__)
Run = tuple[Any, Any]  # a binding, and the options to run it with
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class OnnxRuntimeCudaBackend:
    """A bundle's graphs, by role, in ONNX Runtime's CUDA provider; see :class:`diffpose_edge.runtime.backend.Backend`.

    Raises CudaError when this ONNX Runtime has no CUDA provider, is too old, or cannot start it; DiffPoseEdgeError for what is
    no number of a ``device``. ``on_cpu`` puts the same arrangement on the CPU, for tests of it.

    While ONNX Runtime captures (the encoder at load, a schedule when it is first used), an allocation or a synchronisation by
    another CUDA thread of the process fails, and so does the capture, without which this backend goes on.
    """

    base: Array | None = None

    def __init__(self, manifest: Manifest, graphs: Mapping[str, bytes], device: int = 0, *, on_cpu: bool = False):
        if type(device) is not int or device < 0:
            raise DiffPoseEdgeError(f"expected the number of a GPU, 0 or more, got {device!r}")
        missing = "" if on_cpu else _loaded_libraries()
        self.shape, self._device = manifest.shape, device
        self._provider = "CPUExecutionProvider" if on_cpu else PROVIDER
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="diffpose-edge-onnxruntime")
        try:
            self._sessions = self._run(_Sessions, manifest, graphs, None if on_cpu else device, missing)
        except BaseException:
            self._thread.shutdown()
            raise
        self.observation, self.xyz, self.x = self._sessions.observation, self._sessions.xyz, self._sessions.x
        self.features, self.feature, self.start = self._sessions.features, self._sessions.feature, self._sessions.start

    def encode(self) -> None:
        self._run(self._sessions.encode)

    def begin(self, timesteps: tuple[int, ...], coefficients: Array) -> None:
        self._run(self._sessions.begin, timesteps, coefficients)

    def walk(self, step_ns: NDArray[np.float64], trajectory: Array | None) -> Array:
        return self._run(self._sessions.walk, step_ns, trajectory)

    def describe(self) -> dict[str, Any]:
        because = self._sessions.eager_because
        told = {"backend": "onnxruntime-cuda", "version": ort.__version__, "provider": self._provider, "device": self._device}
        return {**told, "one_graph_per_step": because is None, **({} if because is None else {"eager_because": because})}

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._thread.submit(self._sessions.release).result()
        except RuntimeError:  # the thread has ended: the interpreter is at its end
            self._sessions.release()
        finally:
            self._thread.shutdown()

    def _run(self, call: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        if self._closed:
            raise RuntimeClosed(CLOSED)
        return self._thread.submit(call, *arguments, **options).result()


class _Sessions:
    """The sessions, their values on the device and their bindings: made, used and released by one thread."""

    def __init__(self, manifest: Manifest, graphs: Mapping[str, bytes], device: int | None, missing: str):
        self._graphs, self._device, self._missing = graphs, device, missing
        self._borders = {"context": manifest.context_io, "step": manifest.step_io}
        self.eager_because = "there are none on the CPU" if device is None else None
        (seen, observed), given = next(iter(manifest.context_io[0].items())), manifest.context_io[1]
        taken, state = manifest.step_io[0], manifest.shape.state
        told: Shapes = {name: taken[name] for name in ("feature", "start") if name in taken}
        hosts: Shapes = {"observation": observed, "xyz": given["xyz"], "x": state, **told}
        self._host = host = {name: np.zeros(shape, np.float32) for name, shape in hosts.items()}
        self.observation, self.xyz, self.x = host["observation"], host["xyz"], host["x"]
        self.feature, self.start = host.get("feature"), host.get("start")
        self.features: Array | None = np.zeros(given["feature"], np.float32) if "feature" in given else None
        self._made: dict[str, Any] = {}
        self._graphs_made = self._schedules_captured = 0
        self._schedules: OrderedDict[ScheduleKey, list[Run]] = OrderedDict()
        self._current: list[Run] = []
        self._session("context")  # before anything is allocated: a provider that does not start is named
        self._observed = self._on_device(self.observation)
        self._given = {name: self._on_device(np.zeros(shape, np.float32)) for name, shape in given.items()}
        self._told = {name: self._on_device(host[name]) for name in told}
        self._states: tuple[Any, ...] = (self._on_device(self.x), self._on_device(self.x))
        # What the network said takes turns too; before the first step, zeros that nobody writes.
        self._said: tuple[Any, ...] = (self._on_device(self.x), self._on_device(self.x))
        self._nothing = self._on_device(self.x)
        self._encoder = self._captured("context", lambda: [self._bound("context", {seen: self._observed}, self._given)])
        self._session("step")
        self.encode()  # what a first run does once is done before the first frame

    def encode(self) -> None:
        self._observed.update_inplace(self.observation)
        self._session("context").run_with_iobinding(*self._encoder[0])
        self.xyz[...] = self._given["xyz"].numpy()
        if self.features is not None:
            self.features[...] = self._given["feature"].numpy()

    def begin(self, timesteps: tuple[int, ...], coefficients: Array) -> None:
        key = schedule_key(timesteps, coefficients)
        if key not in self._schedules:
            if len(self._schedules) >= KEPT_SCHEDULES:
                self._let_go(self._schedules.popitem(last=False)[1])
            if self.eager_because is None and self._schedules_captured == CAPTURED_SCHEDULES:
                self._stay_eager(f"{CAPTURED_SCHEDULES} schedules were captured, and ONNX Runtime may keep their graphs until it is closed")
            self._schedules_captured += self.eager_because is None
            rows = np.ascontiguousarray(coefficients, np.float32)
            self._schedules[key] = self._captured("step", lambda: self._steps(timesteps, rows))
        self._schedules.move_to_end(key)
        self._current = self._schedules[key]

    def walk(self, step_ns: NDArray[np.float64], trajectory: Array | None) -> Array:
        for name, value in self._told.items():
            value.update_inplace(self._host[name])
        self._states[0].update_inplace(self.x)
        return reverse_process(self, len(self._current), step_ns, trajectory)

    def step(self, k: int) -> None:
        """Run step k; ONNX Runtime waits for it."""
        self._session("step").run_with_iobinding(*self._current[k])

    def state(self, k: int) -> Array:
        """Return a copy of the state after k steps."""
        state: Array = self._states[k % 2].numpy()
        return state

    def release(self) -> None:
        # Bindings hold their session and their buffers: everything goes together.
        self._current, self._encoder = [], []
        self._schedules.clear()
        self._observed, self._given, self._told, self._states, self._said, self._nothing = None, {}, {}, (), (), None
        self._made.clear()

    def _captured(self, role: str, bind: Callable[[], list[Run]]) -> list[Run]:
        """Return runs that have been captured; or, where that is refused, runs of a session without graphs."""
        runs = bind()
        if self.eager_because is not None:
            return runs
        try:
            for k in range(len(runs)):  # the first run warms up and captures
                self._session(role).run_with_iobinding(*runs[k])
            return runs
        except Exception as err:  # ONNX Runtime's own exception types share no base; other faults show again without graphs
            self._stay_eager(str(err))
        # The stream may be left in a broken capture: the session goes, with all that holds on to it, before the next one comes.
        runs.clear()
        self._schedules.clear()
        self._current = []
        del self._made[role]
        return bind()

    def _stay_eager(self, reason: str) -> None:
        self.eager_because = reason
        log.warning("ONNX Runtime goes on without further CUDA graphs: %s", reason)

    def _let_go(self, runs: list[Run]) -> None:
        session = self._session("step")
        if hasattr(session, "release_captured_graph"):  # since 1.31
            for graph in [int(options.get_run_config_entry(GRAPH)) for _, options in runs]:
                if graph != NOT_CAPTURED:
                    session.release_captured_graph(graph)

    def _steps(self, timesteps: tuple[int, ...], coefficients: Array) -> list[Run]:
        runs = []
        for k, timestep in enumerate(timesteps):
            row = {"timestep": self._on_device(np.array([timestep], np.float32)), "coefficients": self._on_device(coefficients[k])}
            read = {"x": self._states[k % 2], "previous": self._said[k % 2] if k else self._nothing, **row, **self._told}
            runs.append(self._bound("step", read, {"x_next": self._states[(k + 1) % 2], "eps": self._said[(k + 1) % 2]}))
        return runs

    def _bound(self, role: str, inputs: dict[str, Any], outputs: dict[str, Any]) -> Run:
        binding = self._session(role).io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        self._graphs_made += 1  # a graph of its own: with another's number, it would replay that one's addresses
        options = ort.RunOptions()
        options.add_run_config_entry(GRAPH, str(self._graphs_made if self.eager_because is None else NOT_CAPTURED))
        return binding, options

    def _on_device(self, array: Array) -> Any:
        kind, device = ("cpu", 0) if self._device is None else ("cuda", self._device)
        value = ort.OrtValue.ortvalue_from_shape_and_type(array.shape, np.float32, kind, device)
        value.update_inplace(array)
        return value

    def _session(self, role: str) -> Any:
        """Return the session of a role, which is made where there is none."""
        if role in self._made:
            return self._made[role]
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        # TF32 would round FP32 matmuls to 10 bits.
        cuda = {"device_id": str(self._device), "enable_cuda_graph": str(int(self.eager_because is None)), "use_tf32": "0"}
        chosen: Any = ["CPUExecutionProvider"] if self._device is None else [(PROVIDER, cuda)]
        with refusing(f"load the {role} graph"):
            session = ort.InferenceSession(self._graphs[role], options, providers=chosen)
        check_border(session, role, self._borders[role])
        if self._device is not None and session.get_providers()[0] != PROVIDER:
            raise CudaError(
                f"ONNX Runtime {ort.__version__} fell back to the CPU: its CUDA provider did not start (driver, CUDA or cuDNN is "
                f"missing). {self._missing}"
            )
        self._made[role] = session
        return session


def _loaded_libraries() -> str:
    """Load CUDA and cuDNN from pip's packages, in which the provider alone would not look. Return what could not be loaded."""
    command = "pip install 'onnxruntime-gpu>=1.18'"
    if PROVIDER not in ort.get_available_providers():
        raise CudaError(f"this ONNX Runtime {ort.__version__} has no CUDA provider. In its place run: pip uninstall onnxruntime; {command}")
    if tuple(int(part) for part in ort.__version__.split(".")[:2]) < OLDEST:
        raise CudaError(f"expected onnxruntime-gpu 1.18 or newer, got {ort.__version__}. Run: {command}")
    said = io.StringIO()
    if hasattr(ort, "preload_dlls"):  # since 1.21; before it, the loader's own path has to name them
        with redirect_stdout(said):  # it prints; what it says matters only if the provider does not start
            ort.preload_dlls()
    return said.getvalue().strip()
