"""One session of a step graph over fixed buffers: the reverse process on the CPU.

The state alternates between two buffers that ONNX Runtime reads and writes in place through IOBinding, and so does what the network
said. The bindings of a schedule's K steps are made once and kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from diffpose_edge.errors import RuntimeClosed
from diffpose_edge.runtime.backend import CLOSED, KEPT_SCHEDULES, Array, ScheduleKey, schedule_key
from diffpose_edge.runtime.deadline import Deadline
from diffpose_edge.runtime.loop import reverse_process, reverse_process_until
from diffpose_edge.runtime.onnxruntime_border import refusing


class OnnxRuntimeSteps:
    """Walks ``x`` (P n, 17, 5) through the K steps of a schedule; see :class:`diffpose_edge.runtime.backend.Backend` for its buffers.

    ``taken``: the shapes of what the step takes, by name, for the samples that it is to have.
    """

    def __init__(self, session: Any, taken: Mapping[str, tuple[int, ...]]):
        self._session: Any = session
        state = taken["x"]
        self.feature = np.zeros(taken["feature"], np.float32) if "feature" in taken else None
        self.start = np.zeros(taken["start"], np.float32) if "start" in taken else None
        self._states = (np.zeros(state, np.float32), np.zeros(state, np.float32))
        self.x = self._states[0]
        self._values = tuple(ort.OrtValue.ortvalue_from_numpy(array) for array in self._states)
        # What the network said takes turns as well. Before the first step it said nothing: zeros that nobody writes, because
        # what an earlier frame left need not be finite, and then 0 times it is not 0.
        nothing, *said = (np.zeros(state, np.float32) for _ in range(3))
        self._said = nothing, *said
        self._said_values = tuple(ort.OrtValue.ortvalue_from_numpy(array) for array in self._said)
        told = {"feature": self.feature, "start": self.start}
        self._told = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in told.items() if array is not None}
        self._schedules: OrderedDict[ScheduleKey, list[Any]] = OrderedDict()
        self._rows: dict[ScheduleKey, tuple[Array, Array]] = {}
        self._current: list[Any] = []
        self._clean, self._scratch = np.zeros(state, np.float32), np.zeros(state, np.float32)
        self._check_buffers()
        self._warm_up()

    def begin(self, timesteps: tuple[int, ...], coefficients: Array) -> None:
        """Make a schedule current: K timesteps and their coefficients (K, 3). Raises RuntimeClosed, as all that runs steps does."""
        self.check_open()
        key = schedule_key(timesteps, coefficients)
        if key not in self._schedules:
            if len(self._schedules) >= KEPT_SCHEDULES:
                oldest, _ = self._schedules.popitem(last=False)
                del self._rows[oldest]
            self._schedules[key] = self._bindings(timesteps, coefficients)
        self._schedules.move_to_end(key)
        self._current = self._schedules[key]

    def walk(self, step_ns: NDArray[np.float64], trajectory: Array | None) -> Array:
        """Walk all steps; see :func:`diffpose_edge.runtime.loop.reverse_process`."""
        self.check_open()
        return reverse_process(self, len(self._current), step_ns, trajectory)

    def walk_until(self, step_ns: NDArray[np.float64], trajectory: Array | None, deadline: Deadline) -> tuple[Array, int]:
        """Walk as far as the time reaches; see :class:`diffpose_edge.runtime.backend.StoppableWalk`."""
        self.check_open()
        K = len(self._current)
        walked = reverse_process_until(self, K, step_ns, deadline, trajectory)
        if walked in (0, K):
            return self.state(walked), walked
        self.clean(walked - 1, deadline.clean[walked - 1], self._clean)
        return self._clean, walked

    def step(self, k: int) -> None:
        """Run step k."""
        self._session.run_with_iobinding(self._current[k])

    def state(self, k: int) -> Array:
        """Return the state after k steps, in a buffer that the next but one overwrites."""
        return self._states[k % 2]

    def clean(self, k: int, row: Array, out: Array) -> None:
        """Write the clean state c0 x_t + c1 out of step k, which has just run; see :class:`diffpose_edge.runtime.backend.CleanSteps`."""
        np.multiply(self._states[k % 2], row[0], out=out)
        np.multiply(self._said[_turn(k + 1)], row[1], out=self._scratch)
        np.add(out, self._scratch, out=out)

    def previous(self, k: int) -> Array:
        """Return what the network said at the step before step k (P n, 17, 5): zeros for k = 0."""
        return self._said[_turn(k)]

    def scalars(self, timesteps: tuple[int, ...], coefficients: Array) -> tuple[Array, Array]:
        """Return the timesteps (K, 1) and coefficients (K, 3) that a schedule's steps read."""
        return self._rows[schedule_key(timesteps, coefficients)]

    def close(self) -> None:
        """Let go of the session; calling it again does nothing."""
        # Bindings hold their session and their buffers: everything goes together.
        self._current = []
        self._schedules.clear()
        self._rows.clear()
        self._values = self._said_values = ()
        self._told = {}
        self._session = None

    def check_open(self) -> None:
        """Raise RuntimeClosed after ``close()``."""
        if self._session is None:
            raise RuntimeClosed(CLOSED)

    def _bindings(self, timesteps: tuple[int, ...], coefficients: Array) -> list[Any]:
        # One row for each step, contiguous; ONNX Runtime reads these arrays themselves, so they live as long as the bindings.
        rows = np.array(timesteps, np.float32).reshape(-1, 1), np.ascontiguousarray(coefficients, np.float32)
        self._rows[schedule_key(timesteps, coefficients)] = rows
        bindings = []
        for k in range(len(timesteps)):
            binding = self._session.io_binding()
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
        """Run once, on zeros: at its first run ONNX Runtime lays out memory, starts threads and touches the weights."""
        (step,) = self._bindings((0,), np.zeros((1, 3), np.float32))
        self._rows.clear()
        with refusing("run the step graph"):
            self._session.run_with_iobinding(step)

    def _check_buffers(self) -> None:
        # The whole scheme rests on ONNX Runtime sharing these arrays' memory instead of copying them once.
        for value, state in zip((*self._values, *self._said_values), (*self._states, *self._said), strict=True):
            if value.data_ptr() != state.ctypes.data:
                raise RuntimeError(f"ONNX Runtime {ort.__version__} copies the arrays bound to it; a version that shares them is needed")


def _turn(k: int) -> int:
    """Return which buffer holds what was said before step k: 0 is silence, 1 and 2 take turns."""
    return 0 if k == 0 else 1 + k % 2
