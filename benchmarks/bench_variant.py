"""A variant of the runtime, for ``diffpose-edge bench``: a bundle on a backend, in a precision, with K steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.benchmarks.bench_candidate import Estimator
from diffpose_edge.bundle import load_bundle
from diffpose_edge.clips import street_walk
from diffpose_edge.manifest import Manifest
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.schedule import trailing_timesteps


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

    def runtime(self) -> PoseRuntime:
        """Load the runtime that it names. On a GPU its steps are timed on the device."""
        options: dict[str, Any] = {"threads": self.threads} if self.backend == "onnxruntime" else {}
        timed = self.backend in ("tensorrt", "auto")
        return PoseRuntime.load(load_bundle(self.bundle), self.backend, precision=self.precision, timed=timed, **options)

    @contextmanager
    def load(self) -> Iterator[Estimator]:
        """Load it; see :class:`diffpose_edge.benchmarks.bench_candidate.Candidate`."""
        with self.runtime() as runtime:
            yield RuntimeEstimator(runtime, self.K)

    def graphs(self) -> dict[str, bytes]:
        """Return the graphs that it runs, by role. Raises BundleError."""
        return load_bundle(self.bundle).graphs(self.precision, for_cpu=self.backend == "onnxruntime")


def variants_of(
    bundles: Iterable[str | Path], backends: Sequence[str], precisions: Sequence[str], steps: Sequence[int], threads: Sequence[int]
) -> list[Variant]:
    """Return every combination; numbers of threads count for ONNX Runtime on the CPU alone."""
    return [
        Variant(str(bundle), backend, precision, K, count)
        for bundle in bundles
        for backend in backends
        for precision in precisions
        for K in steps
        for count in (threads if backend == "onnxruntime" else [None])
    ]


class RuntimeEstimator:
    """A loaded runtime, which the caller closes, that estimates the same people again and again.

    Raises TimestepError where the schedule has fewer than K timesteps.
    """

    def __init__(self, runtime: PoseRuntime, K: int):
        manifest = runtime.bundle.manifest
        self.N, self.P, self.F = manifest.shape.N, manifest.shape.P, manifest.shape.F
        self.timesteps = trailing_timesteps(manifest.T, K)
        self._runtime, self._people, self._weights = runtime, people_of_clip(manifest), weights_of(manifest)

    def estimate(self) -> NDArray[np.float64]:
        timings = self._runtime.estimate(self._people, seed=0, timesteps=self.timesteps).timings
        return np.array([*timings.steps, timings.context, timings.aggregate, timings.total])

    def describe(self) -> dict[str, Any]:
        return {**self._runtime.describe(), "weights": self._weights}


def weights_of(manifest: Manifest) -> str:
    """Return a short name of the checkpoints that a bundle was made from: bundles of other N and P have the same."""
    made_from = manifest.provenance.get("checkpoints", {})
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:8] if made_from else ""


def people_of_clip(manifest: Manifest) -> NDArray[np.float32]:
    """Return keypoints of P people, or P windows of F frames, from the street clip that ships: (P, 17, 3) or (P, F, 17, 3)."""
    clip, F, P = street_walk().keypoints, manifest.shape.F, manifest.shape.P
    seen = np.flatnonzero(clip.confidence.min(axis=1) > 0)
    frames = np.concatenate([clip.uv, clip.confidence[..., None]], axis=-1)[seen]
    if F == 1:
        return frames[np.arange(P) % len(frames)]
    return np.stack([frames[(p + np.arange(F)) % len(frames)] for p in range(P)])
