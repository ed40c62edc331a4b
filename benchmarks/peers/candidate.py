"""A peer as a candidate of ``diffpose-edge bench``: the same people, start, timesteps and aggregation as the runtime's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.benchmarks.bench_variant import people_of_clip
from diffpose_edge.benchmarks.peers.peer import Array, Peer, Setting, load_peer
from diffpose_edge.bundle import load_bundle
from diffpose_edge.manifest import Manifest
from diffpose_edge.runtime.estimate import aggregate
from diffpose_edge.runtime.start import released_start
from diffpose_edge.schedule import trailing_timesteps
from diffpose_edge.skeleton import J


def frame(peer: Peer, uv: Array, N: int, timesteps: Sequence[int]) -> tuple[Array, NDArray[np.float64]]:
    """Estimate poses (P, 17, 3), metres, relative to the hip, of people uv (P, 17, 2), as the runtime does in its mode ``released``.

    Returns them with the seconds of the K steps, the encoder, the aggregation and the whole.
    """
    began = perf_counter()
    P, K = len(uv), len(timesteps)
    seconds = np.zeros(K + 3)
    xyz = peer.encode(uv)
    seconds[K] = perf_counter() - began
    x_K = np.empty((P * N, J, 5), np.float32)
    released_start(uv, xyz, x_K)
    last = peer.walk(x_K, timesteps, seconds[:K])
    walked = perf_counter()
    samples = np.empty((P, N, J, 3), np.float32)
    joints, covariance = np.empty((P, J, 3), np.float32), np.empty((P, J, 3, 3), np.float32)
    aggregate(last, samples, joints, covariance)
    ended = perf_counter()
    seconds[K + 1 :] = ended - walked, ended - began
    return joints, seconds


@dataclass(frozen=True)
class PeerCandidate:
    """A peer with its setting and K; see :class:`diffpose_edge.benchmarks.bench_candidate.Candidate`."""

    backend: str
    setting: Setting
    K: int
    precision: str = "fp32"

    def __str__(self) -> str:
        return f"{self.backend} K={self.K}"

    @property
    def bundle(self) -> str:
        """What it runs: a bundle, or the checkpoints that it was made of."""
        return self.setting.bundle

    @property
    def threads(self) -> int:
        """CPU threads within an operator."""
        return self.setting.threads

    @contextmanager
    def load(self) -> Iterator[PeerEstimator]:
        """Load the peer. Raises DiffPoseEdgeError with the reason where it does not run."""
        with closing(load_peer(self.backend, self.setting)) as peer:
            yield PeerEstimator(peer, load_bundle(self.setting.bundle).manifest, self.K)


class PeerEstimator:
    """A loaded peer, which the caller closes, that estimates the same people again and again.

    Raises TimestepError where the schedule has fewer than K timesteps.
    """

    def __init__(self, peer: Peer, manifest: Manifest, K: int):
        self.N, self.P, self.F = manifest.shape.N, manifest.shape.P, manifest.shape.F
        self.timesteps = trailing_timesteps(manifest.T, K)
        self._peer = peer
        # Everybody is seen: there is nothing to fill in, as the runtime would.
        self._uv = np.ascontiguousarray(people_of_clip(manifest)[..., :2])

    def estimate(self) -> NDArray[np.float64]:
        return frame(self._peer, self._uv, self.N, self.timesteps)[1]

    def describe(self) -> dict[str, Any]:
        return self._peer.describe()
