"""What is trained, and how long: frozen plans."""

from __future__ import annotations

from dataclasses import dataclass

from diffpose_edge.config import CausalConfig, GraphNetworkConfig, VideoConfig
from diffpose_edge.person import CHANNELS
from diffpose_edge.reference.training.motions import HELD_OUT


@dataclass(frozen=True)
class StagePlan:
    """One stage: ``epochs`` of ``steps`` batches of ``batch`` windows; AdamW with linear warm-up and cosine decay."""

    epochs: int
    steps: int
    batch: int
    learning_rate: float = 1.5e-3
    warmup: int = 200
    weight_decay: float = 1e-2
    clip: float = 1.0
    ema: float = 0.998
    # Frames of each window that the diffusion stage learns from: the encoder's work is shared among them.
    frames_used: int = 1

    @property
    def total(self) -> int:
        """Number of batches in all."""
        return self.epochs * self.steps


@dataclass(frozen=True)
class TrainingPlan:
    """A pair of networks and the stages that train them."""

    name: str
    context: GraphNetworkConfig | VideoConfig | CausalConfig
    denoiser: GraphNetworkConfig
    context_stage: StagePlan
    diffusion_stage: StagePlan
    T: int = 50
    seed: int = 2023
    # Share of detectors that find landmarks (COCO, MediaPipe) and derive the other joints from them.
    landmark_share: float = 0.0
    held_out: tuple[str, ...] = HELD_OUT
    # Frames of the windows that a causal encoder learns from: more than a layer of it sees, so that it learns to begin as well as to
    # go on.
    causal_window: int = 0
    # The pair that ships whose weights this one begins with, as far as its networks have them.
    begins_with: str = ""

    @property
    def frames(self) -> int:
        """Frames of a window."""
        if isinstance(self.context, CausalConfig):
            return self.causal_window
        return self.context.frames if isinstance(self.context, VideoConfig) else 1


PLANS = {
    "frame": TrainingPlan(
        "frame",
        # A light encoder, run once, and a strong denoiser: what the encoder is given in time, the denoiser lacks.
        GraphNetworkConfig(hidden=32, layers=2, heads=4, channels=CHANNELS),
        GraphNetworkConfig(hidden=64, layers=5, heads=4, condition=32),
        StagePlan(epochs=8, steps=250, batch=256),
        StagePlan(epochs=20, steps=250, batch=256),
        landmark_share=0.5,
    ),
    "video": TrainingPlan(
        "video",
        VideoConfig(frames=27, width=64, depth=3, heads=4, mirror_average=False, channels=CHANNELS),
        GraphNetworkConfig(hidden=64, layers=4, heads=4, condition=64),
        StagePlan(epochs=18, steps=200, batch=24),
        StagePlan(epochs=10, steps=200, batch=32, frames_used=8),
    ),
    "causal": TrainingPlan(
        "causal",
        CausalConfig(frames=27, width=64, depth=3, heads=4),
        GraphNetworkConfig(hidden=64, layers=4, heads=4, condition=64),
        # Slower than from nothing: at 1e-3 it unlearned for two epochs what it begins with.
        StagePlan(epochs=8, steps=150, batch=12, learning_rate=5e-4, warmup=100),
        StagePlan(epochs=5, steps=120, batch=16, learning_rate=5e-4, warmup=60, frames_used=16),
        causal_window=54,
        begins_with="video",
    ),
    # Learns nothing worth having; shows within seconds that every part of training works.
    "tiny": TrainingPlan(
        "tiny",
        GraphNetworkConfig(hidden=8, layers=1, heads=2, channels=CHANNELS),
        GraphNetworkConfig(hidden=8, layers=1, heads=2, condition=8),
        StagePlan(epochs=3, steps=4, batch=16, warmup=4),
        StagePlan(epochs=3, steps=4, batch=16, warmup=4),
    ),
    "tiny-video": TrainingPlan(
        "tiny-video",
        VideoConfig(frames=5, width=8, depth=1, heads=2, mirror_average=False, channels=CHANNELS),
        GraphNetworkConfig(hidden=8, layers=1, heads=2, condition=8),
        StagePlan(epochs=3, steps=4, batch=8, warmup=4),
        StagePlan(epochs=3, steps=4, batch=8, warmup=4, frames_used=2),
    ),
    "tiny-causal": TrainingPlan(
        "tiny-causal",
        CausalConfig(frames=3, width=8, depth=2, heads=2),
        GraphNetworkConfig(hidden=8, layers=1, heads=2, condition=8),
        StagePlan(epochs=3, steps=4, batch=8, warmup=4),
        StagePlan(epochs=3, steps=4, batch=8, warmup=4, frames_used=2),
        causal_window=6,
    ),
}
