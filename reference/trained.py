"""A trained, conditioned DiffPose in PyTorch: the start distribution, the centred process, f_ST and the step embedding."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffpose_edge.config import MAX_T, CausalConfig, ContextConfig, GraphNetworkConfig, VideoConfig
from diffpose_edge.distribution import StartSpread, spread_from_record
from diffpose_edge.errors import BundleError, CheckpointError
from diffpose_edge.person import CHANNELS
from diffpose_edge.reference.causal_mixste import CausalMixSTE
from diffpose_edge.reference.diffusion import clean_of, noise_of
from diffpose_edge.reference.graph_networks import Denoiser, FrameEncoder
from diffpose_edge.reference.mixste import MixSTE
from diffpose_edge.reference.safetensors_files import load_trained
from diffpose_edge.schedule import checked_timesteps


class ConditionedDiffPose:
    """Both networks in evaluation mode on the CPU, float32.

    ``alpha_bar`` (T,) is the schedule's table, ``prediction`` what the denoiser predicts ("eps" or "v"), ``spread`` the
    start's.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        context: FrameEncoder | MixSTE | CausalMixSTE,
        alpha_bar: NDArray[np.float64],
        prediction: str,
        spread: StartSpread,
    ):
        self.denoiser_network = denoiser.eval().requires_grad_(False)
        self.context_network = context.eval().requires_grad_(False)
        self.alpha_bar, self.prediction, self.spread = alpha_bar, prediction, spread

    @property
    def denoiser_config(self) -> GraphNetworkConfig:
        """Size of the denoiser."""
        net = self.denoiser_network
        return GraphNetworkConfig(net.hidden, net.layers, net.heads, condition=net.condition_width)

    @property
    def context_config(self) -> ContextConfig:
        """Size of the context encoder."""
        net = self.context_network
        if isinstance(net, FrameEncoder):
            return GraphNetworkConfig(net.hidden, net.layers, net.heads, channels=net.channels)
        if isinstance(net, CausalMixSTE):
            return CausalConfig(net.frames, net.width, net.depth, net.heads, channels=net.channels)
        return VideoConfig(net.frames, net.width, net.depth, net.heads, mirror_average=False, channels=net.channels)

    @torch.no_grad()
    def context_and_feature(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """observation (B, 17, 6), for video (B, F, 17, 6), for a causal encoder with any number of frames → xyz (…, 17, 3) metres, as
        trained, and f_ST (…, 17, C').
        """
        net = self.context_network
        if isinstance(net, FrameEncoder):
            feature = net.features(observation)
            return net.gconv_output(feature), feature
        feature = net.feature_of(net.blocks(observation)[-1])
        return net.head(feature), feature

    @torch.no_grad()
    def sample(self, r_K: Tensor, feature: Tensor, start: Tensor, timesteps: Sequence[int]) -> Tensor:
        """Run the reverse process on whitened states r_K (B, 17, 5); return all of them (K + 1, B, 17, 5), start first.

        feature (B, 17, C') and start (B, 17, 10) belong to the same rows. Written as the formulas are: the network sees
        sqrt(a_t) x_t; the noise and the clean state that its output means; then x_s = sqrt(a_s) x0 + sqrt(1 - a_s) eps.
        Raises TimestepError.
        """
        steps = checked_timesteps(timesteps, len(self.alpha_bar))
        states = [r_K]
        for k, t in enumerate(steps):
            a_t = float(self.alpha_bar[t])
            a_s = float(self.alpha_bar[steps[k + 1]]) if k + 1 < len(steps) else 1.0
            x_t = states[-1]
            out = self.denoiser_network(a_t**0.5 * x_t, t, feature, start)
            x0, eps = clean_of(x_t, out, a_t, self.prediction), noise_of(x_t, out, a_t, self.prediction)
            states.append(a_s**0.5 * x0 + (1.0 - a_s) ** 0.5 * eps)
        return torch.stack(states)


def load_conditioned(denoiser: str | Path, context: str | Path) -> ConditionedDiffPose:
    """Load a pair written by ``diffpose-edge train``. Raises CheckpointError."""
    step, encoder = load_trained(denoiser), load_trained(context)
    if not isinstance(step.network, Denoiser) or not step.network.condition_width:
        raise CheckpointError(
            f"{denoiser} holds a {step.record['network']}; expected a conditioned denoiser. Is it the other file of the pair?"
        )
    if not isinstance(encoder.network, FrameEncoder | MixSTE | CausalMixSTE):
        raise CheckpointError(
            f"{context} holds a {encoder.record['network']}; expected a context encoder. Is it the other file of the pair?"
        )
    width = encoder.network.hidden if isinstance(encoder.network, FrameEncoder) else encoder.network.width
    if width != step.network.condition_width:
        raise CheckpointError(
            f"{denoiser} was trained on features of width {step.network.condition_width}, {context} gives {width}: they are not a pair"
        )
    recorded = step.record.get("context_sha256")
    if recorded is not None and recorded != hashlib.sha256(Path(context).read_bytes()).hexdigest():
        raise CheckpointError(f"{denoiser} was trained with another context encoder than {context}: take the two files of one training")
    if encoder.network.channels != CHANNELS:
        raise CheckpointError(f"{context}: expected an encoder of {CHANNELS} channels, got {encoder.network.channels}")
    try:
        alpha_bar = np.array(step.record["alpha_bar"], np.float64)
        prediction, spread = step.record["prediction"], spread_from_record(step.record["start"])
    except (KeyError, TypeError, ValueError, OverflowError, BundleError) as err:
        why = err if isinstance(err, BundleError) else "its alpha_bar, what it predicts or its start is missing, or is no such thing"
        raise CheckpointError(
            f"{denoiser} does not say what it was trained for ({why}); expected a file written by diffpose-edge train"
        ) from None
    if (
        alpha_bar.ndim != 1
        or not 1 <= len(alpha_bar) <= MAX_T
        or not ((alpha_bar > 0) & (alpha_bar <= 1)).all()
        or (np.diff(alpha_bar) > 0).any()
    ):
        raise CheckpointError(f"{denoiser}: its alpha_bar is not a decreasing table within (0, 1], of up to {MAX_T} values")
    if prediction not in ("eps", "v"):
        raise CheckpointError(f"{denoiser}: expected it to predict 'eps' or 'v', got {str(prediction)[:40]!r}")
    return ConditionedDiffPose(step.network, encoder.network, alpha_bar, prediction, spread)
