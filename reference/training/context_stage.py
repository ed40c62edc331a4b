"""Stage one: the context encoder, which lifts detections to a first pose."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from diffpose_edge.reference.causal_mixste import CausalMixSTE
from diffpose_edge.reference.graph_networks import FrameEncoder
from diffpose_edge.reference.mixste import MixSTE
from diffpose_edge.reference.training.batches import Batch
from diffpose_edge.reference.training.fast_forward import encoded
from diffpose_edge.skeleton import ROOT

Encoder = FrameEncoder | MixSTE | CausalMixSTE
# Velocity counts little beside position: it steadies a video encoder without slowing it.
VELOCITY_SHARE = 0.3


def context_of(network: Encoder, channels: Tensor) -> tuple[Tensor, Tensor]:
    """channels (B, F, 17, 6) → root-relative xyz (B, F, 17, 3) metres and f_ST (B, F, 17, C)."""
    if isinstance(network, MixSTE | CausalMixSTE):
        feature = network.feature_of(network.blocks(channels)[-1])
        xyz = network.head(feature)
    else:
        flat = channels.flatten(0, 1)
        xyz, feature = encoded(network, flat)
        xyz, feature = xyz.unflatten(0, channels.shape[:2]), feature.unflatten(0, channels.shape[:2])
    return xyz - xyz[..., ROOT : ROOT + 1, :], feature


def context_loss(network: Encoder, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Return the mean distance between predicted and true joints, metres (MPJPE), and in windows that of their velocities."""
    xyz, _ = context_of(network, torch.from_numpy(batch.channels))
    truth = torch.from_numpy(batch.xyz)
    mpjpe = (xyz - truth).norm(dim=-1).mean()
    loss = mpjpe
    if truth.shape[1] > 1:
        loss = loss + VELOCITY_SHARE * (xyz.diff(dim=1) - truth.diff(dim=1)).norm(dim=-1).mean()
    return loss, {"mpjpe_mm": 1000.0 * float(mpjpe.detach())}


@torch.no_grad()
def context_error(network: nn.Module, batches: list[Batch]) -> dict[str, float]:
    """Return the held-out MPJPE in millimetres."""
    assert isinstance(network, FrameEncoder | MixSTE | CausalMixSTE)
    errors = []
    for batch in batches:
        xyz, _ = context_of(network, torch.from_numpy(batch.channels))
        errors.append(np.linalg.norm(xyz.numpy() - batch.xyz, axis=-1).mean())
    return {"held_out_mm": 1000.0 * float(np.mean(errors))}
