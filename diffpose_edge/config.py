"""The sizes of the networks and of the batch, frozen: what a bundle's graphs were exported for."""

from __future__ import annotations

from dataclasses import dataclass

from diffpose_edge.errors import CheckpointError, ExportError
from diffpose_edge.person import CHANNELS

# Bounds on what a bundle may ask for, far above any use: a manifest is checked against them before memory is allocated.
MAX_BATCH = 65_536
MAX_WIDTH = 8_192
MAX_FRAMES = 4_096
MAX_DEPTH = 256
MAX_T = 100_000


def _check_size(**sizes: tuple[int, int]) -> None:
    for name, (value, most) in sizes.items():
        if not 1 <= value <= most:
            raise CheckpointError(f"expected {name} within 1..{most}, got {value}: not the size of a pose network")


def _check_heads(heads: int, width: int, what: str) -> None:
    if heads < 1 or width % heads:
        divisors = [h for h in range(1, 33) if width % h == 0]
        raise CheckpointError(
            f"expected a number of attention heads that divides the {what}'s width {width}, got {heads}; "
            f"possible: {divisors}. A checkpoint does not record its heads: take the number it was trained with"
        )


def _check_channels(channels: int) -> None:
    if channels not in (2, CHANNELS):
        raise CheckpointError(
            f"expected a context encoder of 2 channels (u, v of the image) or {CHANNELS} (the person's frame), got {channels}"
        )


@dataclass(frozen=True)
class GraphNetworkConfig:
    """Size of a denoiser or of a frame context encoder: C = ``hidden`` features, ``layers`` layers, attention ``heads``.

    ``channels`` (encoders): numbers that it takes for each joint, 2 for u, v of the image, 6 for the person's frame.
    ``condition`` (denoisers): width of the feature f_ST that it is conditioned on, 0 for none (released).
    """

    hidden: int
    layers: int
    heads: int
    channels: int = 2
    condition: int = 0

    def __post_init__(self) -> None:
        _check_size(hidden=(self.hidden, MAX_WIDTH), layers=(self.layers, MAX_DEPTH))
        _check_channels(self.channels)
        if not 0 <= self.condition <= MAX_WIDTH:
            raise CheckpointError(f"expected condition within 0..{MAX_WIDTH}, got {self.condition}")
        _check_heads(self.heads, self.hidden, "network")


@dataclass(frozen=True)
class VideoConfig:
    """Size of a MixSTE video context encoder over ``frames`` frames, and whether its answer is mirror-averaged."""

    frames: int
    width: int
    depth: int
    heads: int
    mirror_average: bool = True
    channels: int = 2

    def __post_init__(self) -> None:
        _check_channels(self.channels)
        _check_size(frames=(self.frames, MAX_FRAMES), width=(self.width, MAX_WIDTH), depth=(self.depth, MAX_DEPTH))
        _check_heads(self.heads, self.width, "video encoder")


@dataclass(frozen=True)
class CausalConfig:
    """Size of a causal video encoder, which takes one frame at a time and sees it and the ``frames`` - 1 before it in each layer."""

    frames: int
    width: int
    depth: int
    heads: int
    channels: int = CHANNELS

    def __post_init__(self) -> None:
        _check_channels(self.channels)
        _check_size(frames=(self.frames, MAX_FRAMES), width=(self.width, MAX_WIDTH), depth=(self.depth, MAX_DEPTH))
        if self.frames < 2:
            raise CheckpointError("expected a causal video encoder over at least 2 frames, got 1")
        _check_heads(self.heads, self.width, "causal video encoder")


ContextConfig = GraphNetworkConfig | VideoConfig | CausalConfig


@dataclass(frozen=True)
class BatchShape:
    """The fixed batch of an export: ``P`` persons, ``N`` samples of each, windows of ``F`` frames (1: one frame)."""

    P: int = 1
    N: int = 5
    F: int = 1

    def __post_init__(self) -> None:
        for name, value, most in (("P", self.P, MAX_BATCH), ("N", self.N, MAX_BATCH), ("F", self.F, MAX_FRAMES)):
            if not 1 <= value <= most:
                raise ExportError(f"expected {name} within 1..{most}, got {value}")
        if self.P * self.N > MAX_BATCH:
            raise ExportError(f"expected at most {MAX_BATCH} poses in a batch, got P x N = {self.P} x {self.N}")

    @property
    def uv(self) -> tuple[int, ...]:
        """Shape of the keypoints that a batch is about: (P, 17, 2), or (P, F, 17, 2) for video."""
        return (self.P, 17, 2) if self.F == 1 else (self.P, self.F, 17, 2)

    @property
    def xyz(self) -> tuple[int, ...]:
        """Shape of the context graph's output: (P, 17, 3), or (P, F, 17, 3) for video."""
        return (*self.uv[:-1], 3)

    @property
    def state(self) -> tuple[int, int, int]:
        """Shape of the diffusion state: (P N, 17, 5); sample n of person p is row p N + n."""
        return (self.P * self.N, 17, 5)
