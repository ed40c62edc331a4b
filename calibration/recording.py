"""Records what flows through a bundle's FP32 graphs while the runtime walks its reverse process on real poses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from diffpose_edge.bundle import Bundle
from diffpose_edge.export.onnx_models import with_taps_as_outputs
from diffpose_edge.manifest import GRAPHS
from diffpose_edge.runtime.frame_caches import FrameCaches
from diffpose_edge.runtime.loop import reverse_process
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend

Array = NDArray[Any]
# Hears (role, timestep, values by name); the timestep is None for the context graph. The arrays are the hearer's own.
Observer = Callable[[str, int | None, dict[str, Array]], None]


class RecordingBackend(OnnxRuntimeBackend):
    """The FP32 graphs of a bundle; ``observer`` hears the ``watched`` values, by role, of every run of a graph.

    The states are those of the plain backend: what is recorded are the trajectories that a robot walks.
    """

    def __init__(self, bundle: Bundle, watched: Mapping[str, Iterable[str]], observer: Observer, threads: int | None = None):
        import onnx

        graphs = {role: bundle.read(role) for role in GRAPHS}
        super().__init__(bundle.manifest, graphs, threads, side_by_side=False)
        self.bundle, self._observer = bundle, observer
        self._seen = next(iter(bundle.manifest.context_io[0]))
        self._watched = {role: list(watched.get(role, ())) for role in GRAPHS}
        self._began: tuple[tuple[int, ...], Array] = (), np.empty((0, 3), np.float32)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        self._recorders = {}
        for role, names in self._watched.items():
            model = onnx.load_model_from_string(graphs[role])
            given = {value.name for value in (*model.graph.input, *model.graph.output)}
            model = with_taps_as_outputs(model, [name for name in names if name not in given])
            self._recorders[role] = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def encode(self) -> None:
        super().encode()
        if self.bundle.manifest.causal is None:
            self._tell("context", None, {self._seen: self.observation})

    def encode_after(self, caches: FrameCaches) -> None:
        super().encode_after(caches)
        self._tell("context", None, {self._seen: self.observation, **caches.taken})

    def begin(self, timesteps: tuple[int, ...], coefficients: Array) -> None:
        super().begin(timesteps, coefficients)
        self._began = timesteps, coefficients

    def walk(self, step_ns: NDArray[np.float64], trajectory: Array | None) -> Array:
        return reverse_process(self, len(self._began[0]), step_ns, trajectory)

    def state(self, k: int) -> Array:
        """Return the state after k steps."""
        return self.steps.state(k)

    def step(self, k: int) -> None:
        """Run step k, and tell."""
        timestep, coefficients = (rows[k] for rows in self.steps.scalars(*self._began))
        inputs = {"x": self.state(k), "timestep": timestep, "coefficients": coefficients, "previous": self.steps.previous(k)}
        told = {"feature": self.feature, "start": self.start}
        inputs |= {name: array for name, array in told.items() if array is not None}
        self._tell("step", self._began[0][k], inputs)
        self.steps.step(k)

    def close(self) -> None:
        super().close()
        self._recorders = {}

    def _tell(self, role: str, timestep: int | None, inputs: dict[str, Array]) -> None:
        names = self._watched[role]
        computed = [name for name in names if name not in inputs]
        values = dict(zip(computed, self._recorders[role].run(computed, inputs), strict=True)) if computed else {}
        values |= {name: np.array(inputs[name]) for name in names if name in inputs}
        if values:
            self._observer(role, timestep, values)
