"""What a peer is: the released DiffPose, computed by something else than our runtime."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import CheckpointError, DiffPoseEdgeError
from diffpose_edge.extras import require

if TYPE_CHECKING:
    from diffpose_edge.reference.released import ReleasedDiffPose

Array = NDArray[np.float32]

# By the name that a user gives, the module below this package and the packages that it needs. In the order of a report.
PEERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "eager-released": ("eager_released", ("torch",)),
    "torch-compiled": ("torch_compiled", ("torch",)),
    "folded-torch": ("folded_torch", ("torch",)),
    "plain-onnx": ("plain_onnx", ("torch", "onnxscript", "onnxruntime")),
    "openvino": ("openvino_peer", ("openvino",)),
    "torch-cuda-graph": ("torch_cuda_graph", ("torch",)),
}


@dataclass(frozen=True)
class Setting:
    """What all peers are given: a released pair of checkpoints, and the bundle made of it, which fixes P and N.

    ``heads`` is the number of attention heads, which is not in a checkpoint; ``threads`` that of CPU threads within an operator;
    ``scratch`` a folder for what a peer makes on the way, a compiler's cache say.
    """

    denoiser: str
    context: str
    bundle: str
    scratch: str
    heads: int = 4
    threads: int = 1


class Peer(Protocol):
    """One way to compute the released DiffPose in float32. Arrays go in and come out; what it holds, it holds until ``close``."""

    def encode(self, uv: Array) -> Array:
        """Lift uv (P, 17, 2) to xyz (P, 17, 3), metres, as trained: not yet root-relative."""

    def epsilon(self, x: Array, t: int) -> Array:
        """Predict epsilon of x (P N, 17, 5) at timestep t."""

    def walk(self, x_K: Array, timesteps: Sequence[int], step_s: NDArray[np.float64]) -> Array:
        """Walk x_K (P N, 17, 5) through the reverse process; return the last state. ``step_s`` (K,) receives seconds."""

    def describe(self) -> dict[str, Any]:
        """Return versions and settings."""

    def close(self) -> None:
        """Release everything; a second call does nothing."""


def load_peer(name: str, setting: Setting) -> Peer:
    """Load a peer by its name. Raises DiffPoseEdgeError with the reason when it is not known or does not run here."""
    module, needed = PEERS[checked_peer(name)]
    require(*needed, extra="peers")
    peer: Peer = importlib.import_module(f"diffpose_edge.benchmarks.peers.{module}").load(setting)
    return peer


def checked_peer(name: str) -> str:
    """Return the name of a peer. Raises DiffPoseEdgeError naming those that there are."""
    if name not in PEERS:
        raise DiffPoseEdgeError(f"expected a peer out of {', '.join(PEERS)}, got {name!r}")
    return name


def released_pair(setting: Setting) -> ReleasedDiffPose:
    """Load the checkpoints. Raises CheckpointError, also for a pair that is not a released denoiser with its frame encoder."""
    from diffpose_edge.reference import load_released
    from diffpose_edge.reference.graph_networks import FrameEncoder

    model = load_released(setting.denoiser, setting.context, setting.heads)
    if not isinstance(model.context_network, FrameEncoder):
        raise CheckpointError(f"{Path(setting.context).name} is a video encoder; expected a frame encoder, which is what the peers run")
    return model
