"""One way of answering a video frame by frame, in a process of its own: what the streaming benchmark measures.

A :class:`StreamCandidate` takes its turns in :mod:`diffpose_edge.benchmarks.bench_rounds`; each of its estimates is the next frame of
the street clip.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.benchmarks.bench_candidate import Estimator
from diffpose_edge.benchmarks.bench_variant import Variant
from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.clips import street_walk
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.runtime import PoseEstimate, PoseRuntime, Timings
from diffpose_edge.runtime.estimate import aggregate
from diffpose_edge.runtime.start import draw_starts
from diffpose_edge.skeleton import ROOT, J

Array = NDArray[Any]
# How a variant names its way: these, or "hop <H>".
WINDOW, CAUSAL, TORCH_WINDOW, TORCH_CAUSAL = "every window", "causal", "PyTorch, every window", "PyTorch, causal"


def street_frames() -> Array:
    """Return the frames of the street clip in which everything was seen, (frames, 17, 3)."""
    clip = street_walk().keypoints
    seen = np.flatnonzero(clip.confidence.min(axis=1) > 0)
    return np.concatenate([clip.uv, clip.confidence[..., None]], axis=-1)[seen]


def hop_of(way: str) -> int:
    """Return how many frames a way lets pass between two runs of its encoder of windows. Raises DiffPoseEdgeError."""
    if way in (WINDOW, CAUSAL):
        return 1
    if found := re.fullmatch(r"hop (\d+)", way):
        return int(found[1])
    raise DiffPoseEdgeError(f"expected a way out of {WINDOW!r}, {CAUSAL!r}, 'hop <H>', {TORCH_WINDOW!r} and {TORCH_CAUSAL!r}; got {way!r}")


class RuntimeStream:
    """The runtime's streams: each ``estimate`` pushes the next frame, whatever it is given."""

    def __init__(self, runtime: PoseRuntime, way: str, timesteps: tuple[int, ...]):
        self.runtime, self.bundle = runtime, runtime.bundle
        self.stream = runtime.stream(hop=hop_of(way), seed=0, timesteps=timesteps)
        self.frames, self.at = street_frames(), 0

    def estimate(self, *_: Any, **__: Any) -> PoseEstimate:
        self.at += 1
        return self.stream.push(self.frames[self.at % len(self.frames)])

    def describe(self) -> dict[str, Any]:
        return self.runtime.describe()

    def __enter__(self) -> RuntimeStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        self.stream.close()
        self.runtime.close()


class TorchStream:
    """The reference in PyTorch, eager: the window that ends at each frame, or one causal frame over caches.

    The start is drawn, and the samples are averaged, by the runtime's own functions.
    """

    def __init__(self, bundle: Bundle, checkpoints: tuple[Path, Path], way: str, timesteps: tuple[int, ...], threads: int | None):
        import torch

        from diffpose_edge.export.causal_step import CausalStep
        from diffpose_edge.reference.causal_mixste import CausalMixSTE
        from diffpose_edge.reference.trained import load_conditioned
        from diffpose_edge.runtime.frame_caches import FrameCaches

        if threads is not None:
            torch.set_num_threads(threads)
        self.torch, self.bundle, self.timesteps = torch, bundle, timesteps
        self.model = load_conditioned(*checkpoints)
        self.rng = np.random.default_rng(0)
        self.frames, self.at = street_frames(), 0
        self.causal: Any = None
        if way == TORCH_CAUSAL:
            assert isinstance(self.model.context_network, CausalMixSTE)
            assert bundle.manifest.causal is not None
            self.causal = CausalStep(self.model.context_network).eval()
            self.caches = FrameCaches(bundle.manifest.causal, 1)
            self.taken = [torch.from_numpy(array) for array in self.caches.taken.values()]

    def estimate(self, *_: Any, **__: Any) -> PoseEstimate:
        with self.torch.no_grad():
            return self._estimate()

    def _estimate(self) -> PoseEstimate:
        from diffpose_edge.distribution import sigma_of, start_channels, unwhitened
        from diffpose_edge.person import context_channels, person_view

        torch, N = self.torch, self.bundle.manifest.shape.N
        began = perf_counter_ns()
        self.at += 1
        length = 1 if self.causal is not None else self.bundle.manifest.shape.F
        window = self.frames[np.arange(self.at - length + 1, self.at + 1) % len(self.frames)][None]
        uv, confidence = window[..., :2], window[..., 2]
        view = person_view(uv, confidence)
        observation = torch.from_numpy(context_channels(uv, confidence, view))
        seen = perf_counter_ns()
        if self.causal is None:
            xyz, feature = (given[:, -1] for given in self.model.context_and_feature(observation))
        else:
            xyz, feature, *own = self.causal(observation[:, 0], *self.taken)
            for array, given in zip(self.caches.given.values(), own, strict=False):
                array[...] = given.numpy()
            self.caches.store(0)
        encoded = perf_counter_ns()
        context = (xyz - xyz[:, ROOT : ROOT + 1]).numpy()
        draws = draw_starts(uv[:, -1], confidence[:, -1], view, None, N, self.rng)
        mu, cholesky = (p.reshape(N, J, -1) for p in draws.parameters(slice(None), context, self.model.spread))
        start = torch.from_numpy(start_channels(mu, sigma_of(cholesky)))
        r = torch.from_numpy(draws.r.reshape(N, J, 5))
        walked = perf_counter_ns()
        states = self.model.sample(r, feature.repeat_interleave(N, dim=0), start, self.timesteps)
        final = perf_counter_ns()
        samples, joints = np.empty((1, N, J, 3), np.float32), np.empty((1, J, 3), np.float32)
        covariance = np.empty((1, J, 3, 3), np.float32)
        aggregate(unwhitened(states[-1].numpy(), mu, cholesky), samples, joints, covariance)
        ended, second = perf_counter_ns(), 1e-9
        steps = np.full(len(self.timesteps), (final - walked) / len(self.timesteps) * second)
        timings = Timings((encoded - seen) * second, steps, 0.0, (ended - final) * second, (ended - began) * second, 1)
        return PoseEstimate(joints, covariance, samples, np.ones((1, J), bool), timings, context, None)

    def describe(self) -> dict[str, Any]:
        return {"backend": "torch", "version": self.torch.__version__, "threads": self.torch.get_num_threads()}

    def __enter__(self) -> TorchStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        self.causal = None


@dataclass(frozen=True)
class StreamCandidate(Variant):
    """A variant whose ``backend`` names a way; a :class:`diffpose_edge.benchmarks.bench_candidate.Candidate`."""

    @contextmanager
    def load(self) -> Iterator[Estimator]:
        """Load it; see :class:`diffpose_edge.benchmarks.bench_candidate.Candidate`."""
        with load_stream(self) as stream:
            yield StreamEstimator(stream, self.K)

    def graphs(self) -> dict[str, bytes]:
        """Return the graphs that it runs, by role: none of PyTorch's ways. Raises BundleError."""
        if self.backend in (TORCH_WINDOW, TORCH_CAUSAL):
            return {}
        return load_bundle(self.bundle).graphs(self.precision, for_cpu=True)


class StreamEstimator:
    """A stream that goes on by a frame whenever it is told to."""

    def __init__(self, stream: RuntimeStream | TorchStream, K: int):
        shape = stream.bundle.manifest.shape
        self.N, self.P, self.F = shape.N, shape.P, shape.F
        self.timesteps = steps_of(stream.bundle, K)
        self._stream = stream

    def estimate(self) -> NDArray[np.float64]:
        timings = self._stream.estimate().timings
        return np.array([*timings.steps, timings.context, timings.aggregate, timings.total])

    def describe(self) -> dict[str, Any]:
        return self._stream.describe()


def load_stream(variant: Variant) -> RuntimeStream | TorchStream:
    """Load a variant whose ``backend`` names a way. PyTorch's are made of the checkpoints that lie beside the bundle."""
    bundle = load_bundle(variant.bundle)
    timesteps = steps_of(bundle, variant.K)
    if variant.backend in (TORCH_WINDOW, TORCH_CAUSAL):
        folder = Path(variant.bundle).parent / "checkpoints" / Path(variant.bundle).name
        pair = folder / "denoiser.safetensors", folder / "context.safetensors"
        return TorchStream(bundle, pair, variant.backend, timesteps, variant.threads)
    runtime = PoseRuntime.load(bundle, precision=variant.precision, threads=variant.threads)
    return RuntimeStream(runtime, variant.backend, timesteps)


def steps_of(bundle: Bundle, K: int) -> tuple[int, ...]:
    """Return K timesteps of a bundle's schedule."""
    from diffpose_edge.schedule import trailing_timesteps

    return trailing_timesteps(bundle.manifest.T, K)
