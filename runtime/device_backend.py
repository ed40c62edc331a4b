"""The K-step loop on a GPU: fixed buffers, one stream, and a whole frame as one captured graph.

A frame is: copy in → context encoder → start → K steps → copy out. It is enqueued once for real, then captured, and from
then on replayed by a single launch. Between start and end nothing allocates, synchronises or asks the host anything.
What runs the graphs of the bundle is an :class:`Engine`; :mod:`diffpose_edge.runtime.tensorrt_engine` has TensorRT's.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import CudaError, EngineError, RuntimeClosed
from diffpose_edge.manifest import Manifest
from diffpose_edge.runtime.backend import CLOSED, KEPT_SCHEDULES, Array, ScheduleKey, schedule_key
from diffpose_edge.runtime.cuda import Cuda, Graph, Stream
from diffpose_edge.runtime.device_memory import Region
from diffpose_edge.runtime.device_schedule import Schedule
from diffpose_edge.runtime.loop import reverse_process
from diffpose_edge.runtime.start_graph import start_io

log = logging.getLogger(__name__)


class Engine(Protocol):
    """A compiled graph. It reads and writes the addresses that it was last told of."""

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Set the addresses of some inputs and outputs, for every ``enqueue`` from now on."""

    def enqueue(self, stream: int) -> None:
        """Put one run into a stream. Raises EngineError when it is refused."""

    def describe(self) -> dict[str, Any]:
        """Return name and version of what runs it."""

    def close(self) -> None:
        """Release it; a second call does nothing."""


class DeviceBackend:
    """Engines for "context", "step" and "start", by role, over buffers on one GPU; see :class:`diffpose_edge.runtime.backend.Backend`.

    It owns the engines and ``cuda`` from the moment that it is made, and gives them back when it is closed. ``timed``: take
    the time of encoder, steps and copies on the device, by events; without it a frame has no events in it, and these times
    are NaN. ``capture``: False enqueues every frame piece by piece.
    """

    base: Array | None

    def __init__(self, manifest: Manifest, cuda: Cuda, engines: Mapping[str, Engine], *, timed: bool = False, capture: bool = True):
        self.shape, self.timed = manifest.shape, timed
        self._cuda, self._engines = cuda, engines
        self._conditioned = manifest.process.kind == "distribution"
        self._eager_reason = None if capture else "not asked for"
        self._schedules: OrderedDict[ScheduleKey, Schedule] = OrderedDict()
        self._current: Schedule | None = None
        self._closed = False
        self._owned = ExitStack()
        with ExitStack() as stack:
            # Given back in the reverse order; graphs and rows, which hold addresses, go before all of them.
            stack.callback(cuda.close)
            for engine in engines.values():
                stack.callback(_close, engine, cuda)
            self._stream = stack.enter_context(Stream(cuda))
            with cuda.current():
                self._lay_out(manifest, stack)
            self._owned = stack.pop_all()
        if capture and not cuda.graphs:
            self._stay_eager(f"the provider {cuda.name} has no graphs")

    def _lay_out(self, manifest: Manifest, stack: ExitStack) -> None:
        cuda, state = self._cuda, manifest.shape.state
        mapped = cuda.device.integrated and cuda.device.maps_host
        (seen, observed), given = next(iter(manifest.context_io[0].items())), manifest.context_io[1]
        taken, started = manifest.step_io[0], start_io(manifest)
        ins = {"observation": observed, "base": started[0]["base"], "scale": started[0]["scale"]}
        # What each step reads again is never in mapped memory, which the GPU would not cache.
        told = {name: taken[name] for name in ("feature", "start") if name in taken}
        video = manifest.shape.F > 1
        self._given = stack.enter_context(Region(cuda, ins | ({"x": state} if self._conditioned else {}), mapped=mapped))
        self._told = stack.enter_context(Region(cuda, told | ({} if self._conditioned else {"x": state})))
        self._results = stack.enter_context(Region(cuda, {"xyz": started[0]["xyz"], "final": state}, mapped=mapped))
        self._encoded = stack.enter_context(Region(cuda, given if video else {}))
        self._states = stack.enter_context(Region(cuda, {"0": state, "1": state}, device_only=True))
        # What the network said takes turns too. Before the first step it said nothing: zeros that nobody writes, because what
        # an earlier frame left need not be finite, and then 0 times it is not 0.
        self._said = stack.enter_context(Region(cuda, {"0": state, "1": state}, device_only=True))
        self._nothing = stack.enter_context(Region(cuda, {"previous": state}))
        self._nothing.host["previous"][...] = 0.0
        self._nothing.upload(self._stream.handle)
        self._stream.synchronize()
        self._seen_state = stack.enter_context(Region(cuda, {"state": state}))

        self.observation, self.base, self.scale = (self._given.host[name] for name in ins)
        self.x = (self._given if self._conditioned else self._told).host["x"]
        self._x_address = (self._given if self._conditioned else self._told).address["x"]
        self.feature, self.start = (self._told.host.get(name) for name in ("feature", "start"))
        self.newest = self._results.host["xyz"]
        # One frame: what the encoder says is what the start and the steps read. A window: its newest frame is picked.
        self.xyz = self._encoded.host["xyz"] if video else self.newest
        self.features = self._encoded.host.get("feature") if video else self.feature
        addresses = self._encoded.address if video else {"xyz": self._results.address["xyz"], **self._told.address}
        outputs = {name: addresses[name] for name in given}
        self._engines["context"].bind({seen: self._given.address["observation"], **outputs})
        out = "start" if self._conditioned else "x"
        self._started_address = self._told.address["start"] if self._conditioned else self._states.address["0"]
        self._engines["start"].bind(
            {
                "xyz": self._results.address["xyz"],
                "base": self._given.address["base"],
                "scale": self._given.address["scale"],
                out: self._started_address,
            }
        )
        self._engines["step"].bind({name: self._told.address[name] for name in told})

    # -- the calls of a backend ------------------------------------------------------------------------------------------

    def encode(self) -> None:
        self._check_open()
        with self._cuda.current():
            self._given.upload(self._stream.handle, ("observation",))
            self._engines["context"].enqueue(self._stream.handle)
            if self.shape.F > 1:
                self._encoded.download(self._stream.handle)
            else:
                self._results.download(self._stream.handle, ("xyz",))
                if self.feature is not None:
                    self._told.download(self._stream.handle, ("feature",))
            self._stream.synchronize()

    def begin(self, timesteps: tuple[int, ...], coefficients: Array) -> None:
        self._check_open()
        key = schedule_key(timesteps, coefficients)
        if key not in self._schedules:
            if len(self._schedules) >= KEPT_SCHEDULES:
                self._schedules.popitem(last=False)[1].close()
            with self._cuda.current():
                made = Schedule(self._cuda, timesteps, coefficients, self._stream, timed=self.timed)
            self._schedules[key] = made
        self._schedules.move_to_end(key)
        self._current = self._schedules[key]

    def frame(self, spent: NDArray[np.float64]) -> Array:
        """Run a whole frame: ``observation``, ``base``, ``scale`` and, for a conditioned denoiser, ``x`` were written by the
        caller; afterwards ``newest`` holds the encoder's xyz (P, 17, 3) of the newest frame. Returns the final state.

        ``spent`` (K + 2,) gains the nanoseconds of the encoder, of each step, and of everything else on the device.
        """
        schedule = self._schedule()
        with self._cuda.current():
            spent += self._run(schedule, "frame", lambda capturing: self._enqueue_frame(schedule, capturing))
        return self._results.host["final"]

    def warm_up(self, timesteps: tuple[int, ...], coefficients: Array) -> None:
        """Run one frame of nobody as often as it takes until a schedule's frames are replayed: kernels are compiled and loaded,
        memory is allocated and the graph is where it will be launched.
        """
        self.begin(timesteps, coefficients)
        for _ in range(2):
            self.frame(np.zeros(len(timesteps) + 2))

    def walk(self, step_ns: NDArray[np.float64], trajectory: Array | None) -> Array:
        schedule = self._schedule()
        with self._cuda.current():
            if trajectory is not None:
                self._upload_start()
                return reverse_process(self, len(schedule), step_ns, trajectory)
            step_ns += self._run(schedule, "steps", lambda capturing: self._enqueue_steps_alone(schedule, capturing))[1:-1]
        return self._results.host["final"]

    def step(self, k: int) -> None:
        """Run step k and wait for it: for traces, which look at every state."""
        self._enqueue_step(self._schedule(), k, self._x_address, None)
        self._stream.synchronize()

    def state(self, k: int) -> Array:
        self._check_open()
        if k == 0:
            return self.x
        seen = self._seen_state.host["state"]
        self._cuda.copy_to_host(seen, self._states.address[str(k % 2)], self._stream.handle)
        self._stream.synchronize()
        return seen

    def describe(self) -> dict[str, Any]:
        device = self._cuda.device
        return {
            **self._engines["step"].describe(),
            "device": device.name,
            "sm": device.sm,
            "driver": device.driver,
            "provider": self._cuda.name,
            "one_launch": self._eager_reason is None,
            **({} if self._eager_reason is None else {"eager_because": self._eager_reason}),
        }

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with self._owned, ExitStack() as schedules:  # what fails to go does not keep the rest
            for schedule in self._schedules.values():
                schedules.callback(schedule.close)
            self._schedules.clear()
            self._current = None

    # -- what goes into the stream ---------------------------------------------------------------------------------------

    def _run(self, schedule: Schedule, name: str, enqueue: Callable[[bool], None]) -> NDArray[np.float64]:
        """Replay the graph of this name, or enqueue its work and, the first time, capture it for the next call. Returns the
        nanoseconds that it took, as :meth:`frame` gives them.
        """
        graph = schedule.graphs.get(name)
        if graph is not None:
            graph.launch(self._stream)
        else:
            enqueue(False)
        self._stream.synchronize()
        spent = schedule.spent_ns()  # before a capture, which has the same events in it
        if graph is None and self._eager_reason is None:
            self._capture(schedule, name, enqueue)
        return spent

    def _capture(self, schedule: Schedule, name: str, enqueue: Callable[[bool], None]) -> None:
        """Capture what has just run for real: engines allocate at their first run, which no capture can hold."""
        try:
            self._cuda.begin_capture(self._stream.handle)
            enqueue(True)
            handle = self._cuda.end_capture(self._stream.handle)
        except BaseException as refused:
            # Whatever it was, an interrupt included: a stream that is left in a capture does nothing else any more.
            self._cuda.abandon_capture(self._stream.handle)
            if not isinstance(refused, CudaError | EngineError):
                raise
            self._stay_eager(str(refused))
        else:
            schedule.keep(name, Graph(self._cuda, handle))

    def _stay_eager(self, reason: str) -> None:
        self._eager_reason = reason
        log.warning("work cannot be captured as a CUDA graph, so each frame is enqueued piece by piece: %s", reason)

    def _enqueue_frame(self, schedule: Schedule, capturing: bool) -> None:
        stream = self._stream.handle
        schedule.mark("begin", capturing)
        self._given.upload(stream)
        schedule.mark("given", capturing)
        self._engines["context"].enqueue(stream)
        schedule.mark("encoded", capturing)
        if self.shape.F > 1:
            self._pick_newest("xyz", self._results.address["xyz"], stream)
            if self.feature is not None:
                self._pick_newest("feature", self._told.address["feature"], stream)
        self._engines["start"].enqueue(stream)
        self._enqueue_steps(schedule, self._x_address if self._conditioned else self._started_address, capturing)
        self._results.download(stream)
        schedule.mark("end", capturing)

    def _enqueue_steps_alone(self, schedule: Schedule, capturing: bool) -> None:
        # The encoder ran before; its marks stand here so that every frame has all of them.
        for name in ("begin", "given", "encoded"):
            schedule.mark(name, capturing)
        self._upload_start()
        self._enqueue_steps(schedule, self._x_address, capturing)
        self._results.download(self._stream.handle, ("final",))
        schedule.mark("end", capturing)

    def _enqueue_steps(self, schedule: Schedule, x: int, capturing: bool) -> None:
        schedule.mark("started", capturing)
        for k in range(len(schedule)):
            self._enqueue_step(schedule, k, x, self._results.address["final"])
            schedule.mark(k, capturing)

    def _enqueue_step(self, schedule: Schedule, k: int, x: int, final: int | None) -> None:
        """Enqueue step k: from ``x`` for k = 0, into ``final``, if given, for the last; in between two states take turns."""
        states, said = self._states.address, self._said.address
        last = final is not None and k == len(schedule) - 1
        timestep, coefficients = schedule.row(k)
        step = self._engines["step"]
        step.bind(
            {
                "x": x if k == 0 else states[str(k % 2)],
                "x_next": final if last and final is not None else states[str((k + 1) % 2)],
                "timestep": timestep,
                "coefficients": coefficients,
                "previous": said[str(k % 2)] if k else self._nothing.address["previous"],
                "eps": said[str((k + 1) % 2)],
            }
        )
        step.enqueue(self._stream.handle)

    def _upload_start(self) -> None:
        self._told.upload(self._stream.handle)
        if self._conditioned:
            self._given.upload(self._stream.handle, ("x",))

    def _pick_newest(self, name: str, target: int, stream: int) -> None:
        """Copy each person's newest frame out of the encoder's windows (P, F, …)."""
        P, F = self.shape.P, self.shape.F
        size = self._encoded.host[name].nbytes // (P * F)
        for p in range(P):
            self._cuda.copy(target + p * size, self._encoded.address[name] + (p * F + F - 1) * size, size, stream)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeClosed(CLOSED)

    def _schedule(self) -> Schedule:
        self._check_open()
        assert self._current is not None
        return self._current


def _close(engine: Engine, cuda: Cuda) -> None:
    with cuda.current():
        engine.close()
