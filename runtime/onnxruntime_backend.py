"""ONNX Runtime on the CPU: the embedded default.

Inputs and outputs are numpy arrays that ONNX Runtime reads and writes in place through IOBinding. The encoder has as many threads as
are allowed; the samples are dealt out to as many sessions of the step, if the bundle's step takes any number of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from diffpose_edge.errors import RuntimeClosed
from diffpose_edge.manifest import SAMPLES, Manifest, Shapes
from diffpose_edge.runtime.backend import CLOSED, Array
from diffpose_edge.runtime.deadline import Deadline
from diffpose_edge.runtime.frame_caches import FrameCaches
from diffpose_edge.runtime.integer_kernels import exact_integers
from diffpose_edge.runtime.onnxruntime_border import check_border, refusing
from diffpose_edge.runtime.onnxruntime_steps import OnnxRuntimeSteps
from diffpose_edge.runtime.samples_side_by_side import SamplesSideBySide, dealt_samples

# From this many poses at once threads that share an operator pay. Measured on two cores, against one thread: one pose 1.4 times as long,
# 5 poses 1.1 times, 20 poses 0.9 times (docs/bench.md).
SHARED_FROM = 12


class OnnxRuntimeBackend:
    """A bundle's graphs, by role, in ONNX Runtime's CPU provider; see :class:`diffpose_edge.runtime.backend.Backend`.

    ``threads``: how many cores it may use (default: all that the process may run on); fewer are used where more would be slower.
    ``side_by_side``: whether they deal the samples out (default), where the step graph lets them, or share each operator.
    ``spinning``: whether ONNX Runtime's idle threads wait busily for work; it takes the processor from everybody else, and on two
    busy cores it was slower for us too (docs/bench.md).

    INT8 is exact: graphs with Q/DQ, which are TensorRT's, are computed in float, rounded where the graph says so; those made for the CPU
    add integers, in kernels that do not saturate (the fastest of processors without VNNI would).
    """

    base: Array | None = None

    def __init__(
        self,
        manifest: Manifest,
        graphs: Mapping[str, bytes],
        threads: int | None = None,
        *,
        spinning: bool = False,
        side_by_side: bool = True,
    ):
        self.shape = manifest.shape
        self._threads, self._spinning = threads or available_cores(), spinning
        self._context = self._session(
            "context", graphs["context"], self._options(self._sharing(self.shape.P * self.shape.F)), manifest.context_io
        )
        (seen, shape), given = next(iter(manifest.context_io[0].items())), manifest.context_io[1]
        self.observation = np.zeros(shape, np.float32)
        self.xyz = np.zeros(given["xyz"], np.float32)
        self.features = np.zeros(given["feature"], np.float32) if "feature" in given else None
        self._encoding = self._context.io_binding()
        self._seen_as = seen
        self._bind_seen(self._encoding)
        self._causal = manifest.causal
        self._remembering: WeakKeyDictionary[FrameCaches, Any] = WeakKeyDictionary()
        # Of a causal encoder: what is known of people who have just come.
        self._nothing = None if self._causal is None else self.new_caches()
        self._steps = self._steps_of(manifest, graphs["step"], side_by_side)
        self.x, self.feature, self.start = self._steps.x, self._steps.feature, self._steps.start
        # Once, on zeros, as the steps have done: the first run is slow.
        with refusing("run the context graph"):
            self._context.run_with_iobinding(self._encoding if self._nothing is None else self._remembering[self._nothing])

    def encode(self) -> None:
        if self._nothing is not None:
            self.encode_after(self._nothing)
        else:
            self._encoder().run_with_iobinding(self._encoding)

    def new_caches(self) -> FrameCaches:
        """Return empty caches of P people that the context graph of a causal encoder reads and writes in place."""
        assert self._causal is not None
        caches = FrameCaches(self._causal, self.shape.P)
        binding = self._encoder().io_binding()
        for arrays, bind in ((caches.taken, binding.bind_ortvalue_input), (caches.given, binding.bind_ortvalue_output)):
            for name, array in arrays.items():
                bind(name, ort.OrtValue.ortvalue_from_numpy(array))
        self._bind_seen(binding)
        self._remembering[caches] = binding
        return caches

    def encode_after(self, caches: FrameCaches) -> None:
        """Run a causal encoder: ``observation``, and what ``caches`` of this backend remember → ``xyz``, ``features``, ``caches.given``."""
        self._encoder().run_with_iobinding(self._remembering[caches])

    def begin(self, timesteps: tuple[int, ...], coefficients: Array) -> None:
        self._steps.begin(timesteps, coefficients)

    def walk(self, step_ns: NDArray[np.float64], trajectory: Array | None) -> Array:
        return self._steps.walk(step_ns, trajectory)

    def walk_until(self, step_ns: NDArray[np.float64], trajectory: Array | None, deadline: Deadline) -> tuple[Array, int]:
        return self._steps.walk_until(step_ns, trajectory, deadline)

    @property
    def steps(self) -> OnnxRuntimeSteps:
        """The session that walks all samples. Raises RuntimeError where they are dealt out to several."""
        if not isinstance(self._steps, OnnxRuntimeSteps):
            raise RuntimeError("the samples are dealt out to several sessions: load with side_by_side=False to go single steps")
        return self._steps

    def describe(self) -> dict[str, Any]:
        return {
            "backend": "onnxruntime",
            "version": ort.__version__,
            "provider": "CPUExecutionProvider",
            "threads": self._threads,
            "spinning": self._spinning,
            "sessions": 1 if isinstance(self._steps, OnnxRuntimeSteps) else len(self._steps),
        }

    def close(self) -> None:
        # Bindings hold their session and their buffers: everything goes together.
        self._steps.close()
        self._remembering.clear()
        self._encoding = self._context = None

    def _encoder(self) -> Any:
        if self._context is None:
            raise RuntimeClosed(CLOSED)
        return self._context

    def _bind_seen(self, binding: Any) -> None:
        """Bind what is observed and what is made of it to a run of the context graph."""
        binding.bind_ortvalue_input(self._seen_as, ort.OrtValue.ortvalue_from_numpy(self.observation))
        binding.bind_ortvalue_output("xyz", ort.OrtValue.ortvalue_from_numpy(self.xyz))
        if self.features is not None:
            binding.bind_ortvalue_output("feature", ort.OrtValue.ortvalue_from_numpy(self.features))

    def _steps_of(self, manifest: Manifest, content: bytes, side_by_side: bool) -> OnnxRuntimeSteps | SamplesSideBySide:
        P, N = self.shape.P, self.shape.N
        parts = dealt_samples(N, self._threads if side_by_side else 1)
        shared = self._options(self._sharing(P * N))
        options = self._options(1) if len(parts) > 1 else shared
        session = self._session("step", content, options, manifest.step_io)
        if len(parts) > 1 and SAMPLES not in session.get_inputs()[0].shape:
            # Its number of samples is fixed: the threads share its operators.
            session, parts = self._session("step", content, shared, manifest.step_io), [N]
        if len(parts) == 1:
            return OnnxRuntimeSteps(session, manifest.step_io[0])
        sessions = [session, *(self._session("step", content, options, manifest.step_io) for _ in parts[1:])]
        # What there is of each person is the same for all; of each sample there is as much as the part has.
        taken = [
            {name: (P * n, *size[1:]) if len(size) > 2 and name != "feature" else size for name, size in manifest.step_io[0].items()}
            for n in parts
        ]
        return SamplesSideBySide([OnnxRuntimeSteps(*each) for each in zip(sessions, taken, strict=True)], P, N)

    def _sharing(self, poses: int) -> int:
        """Return how many threads share an operator on so many poses."""
        return self._threads if poses >= SHARED_FROM else 1

    def _options(self, threads: int) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        exact_integers(options)
        if not self._spinning:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _session(self, role: str, content: bytes, options: Any, border: tuple[Shapes, Shapes]) -> Any:
        with refusing(f"load the {role} graph"):
            session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        check_border(session, role, border)
        return session


def available_cores() -> int:
    """Return how many cores this process may run on; two processors that share one (hyper-threads) count once, where Linux says so."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    processors = os.sched_getaffinity(0)
    shared = (Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list") for number in processors)
    cores = {path.read_text() if path.exists() else path.parts[-3] for path in shared}
    return len(cores)
