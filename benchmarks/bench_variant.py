"""One variant of the runtime in a process of its own: what ``diffpose-edge bench`` measures.

Sessions in one process disturb each other: the threads of one spin on while another's run. So each variant is loaded by its own
process, and runs one estimate whenever it is told to.
"""

from __future__ import annotations

import gc
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.bundle import load_bundle
from diffpose_edge.clips import street_walk
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.manifest import Manifest
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.schedule import trailing_timesteps

# After the K steps of a run come these stages, in seconds.
AFTER_STEPS = ("encoder", "aggregate", "frame")


@dataclass(frozen=True)
class Variant:
    """What is run: a bundle, which fixes N and P, on a backend in a precision, with K steps and a number of CPU threads."""

    bundle: str
    backend: str = "onnxruntime"
    precision: str = "fp32"
    K: int = 5
    threads: int | None = 1

    def __str__(self) -> str:
        threads = "" if self.threads is None or self.backend != "onnxruntime" else f" {self.threads} thr."
        return f"{Path(self.bundle).name} {self.backend} {self.precision} K={self.K}{threads}"


@dataclass(frozen=True)
class Loaded:
    """What a variant is once it is loaded. ``load_s`` and ``first_ms``: seconds to load, milliseconds of the first estimate;
    ``resident_mb``: the process's memory after it, at its highest.
    """

    N: int
    P: int
    F: int
    timesteps: tuple[int, ...]
    described: dict[str, Any]
    load_s: float
    first_ms: float
    resident_mb: float

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "timesteps": list(self.timesteps)}


Load = Callable[[Variant], PoseRuntime]


def load_variant(variant: Variant) -> PoseRuntime:
    """Load what a variant names. On a GPU its steps are timed on the device."""
    options: dict[str, Any] = {"threads": variant.threads} if variant.backend == "onnxruntime" else {}
    timed = variant.backend in ("tensorrt", "auto")
    return PoseRuntime.load(load_bundle(variant.bundle), variant.backend, precision=variant.precision, timed=timed, **options)


def people_of_clip(manifest: Manifest) -> NDArray[np.float32]:
    """Return keypoints of P people, or P windows of F frames, from the street clip that ships: (P, 17, 3) or (P, F, 17, 3)."""
    clip, F, P = street_walk().keypoints, manifest.shape.F, manifest.shape.P
    seen = np.flatnonzero(clip.confidence.min(axis=1) > 0)
    frames = np.concatenate([clip.uv, clip.confidence[..., None]], axis=-1)[seen]
    if F == 1:
        return frames[np.arange(P) % len(frames)]
    return np.stack([frames[(p + np.arange(F)) % len(frames)] for p in range(P)])


def serve(connection: Connection, variant: Variant, load: Load = load_variant) -> None:
    """Load a variant, tell what came of it, and run one estimate for each message, answering with its stages in seconds.

    The answer to the first message is a :class:`Loaded`, or the text of what refused the variant. It ends at a None.
    """
    # Ctrl-C reaches every process of the terminal: who asked for the measurement ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with connection, ExitStack() as stack:
        try:
            began = perf_counter()
            runtime = stack.enter_context(load(variant))
            load_s = perf_counter() - began
            manifest = runtime.bundle.manifest
            people, timesteps = people_of_clip(manifest), trailing_timesteps(manifest.T, variant.K)
            began = perf_counter()
            runtime.estimate(people, seed=0, timesteps=timesteps)
            first_ms = 1000 * (perf_counter() - began)
        except DiffPoseEdgeError as refused:
            connection.send(str(refused))
            return
        shape, described = manifest.shape, runtime.describe()
        connection.send(Loaded(shape.N, shape.P, shape.F, timesteps, described, load_s, first_ms, _resident_mb()))
        # A collection in the middle of a frame is a matter of luck, and of everything else in the process. A robot that cares
        # does the same: what is loaded stays, and nothing that a frame makes has cycles.
        gc.collect()
        gc.freeze()
        gc.disable()
        while connection.recv() is not None:
            timings = runtime.estimate(people, seed=0, timesteps=timesteps).timings
            stages = (timings.context, timings.aggregate, timings.total)
            connection.send(np.array([*timings.steps, *stages]))


def _resident_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak / (2**20 if sys.platform == "darwin" else 2**10))
