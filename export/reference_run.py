"""What PyTorch makes of a clip, sample by sample: the other side of a bundle's verification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffpose_edge.config import BatchShape
from diffpose_edge.distribution import sigma_of, start_channels, unwhitened
from diffpose_edge.export.graphs import DiffPose
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.person import PersonView, context_channels, person_view
from diffpose_edge.reference.causal_mixste import CausalMixSTE
from diffpose_edge.reference.released import ReleasedDiffPose, pose_of
from diffpose_edge.reference.trained import ConditionedDiffPose
from diffpose_edge.runtime.start import draw_starts, fill_missing
from diffpose_edge.skeleton import ROOT, J

Array = NDArray[Any]


@dataclass(frozen=True)
class ReferenceRun:
    """``observation`` (frames, 17, c) as the encoder took it; ``network_start`` (frames N, 17, 5) as the denoiser saw it
    first; ``told`` what a conditioned one was told besides, by name; ``trajectory`` (K + 1, frames, N, 17, 5) the states h;
    ``joints`` (frames, 17, 3) metres.
    """

    observation: Array
    network_start: Array
    told: dict[str, Array]
    trajectory: Array
    joints: Array


def expected_run(model: DiffPose, clip: Keypoints, timesteps: Sequence[int], shape: BatchShape, seed: int = 0) -> ReferenceRun:
    """Run the reference on every frame of a clip; for a video encoder (F > 1) the clip is one window of it, and a causal encoder sees
    all of it in one pass, under its mask.

    The draws are those that the runtime makes for the seed: they are data, and not what is compared.
    """
    if isinstance(model, ReleasedDiffPose):
        return _released(model, clip, timesteps, shape)
    return _conditioned(model, clip, timesteps, shape, seed)


def _released(model: ReleasedDiffPose, clip: Keypoints, timesteps: Sequence[int], shape: BatchShape) -> ReferenceRun:
    uv = fill_missing(clip.uv, clip.confidence > 0)
    windows = torch.from_numpy(uv) if shape.F == 1 else torch.from_numpy(uv)[None]
    xyz = model.context(windows).reshape(-1, J, 3)
    states = model.sample(torch.from_numpy(uv), timesteps, xyz)
    # The samples of a person are equal: one of them is computed.
    trajectory = np.broadcast_to(states.numpy()[:, :, None], (len(states), len(uv), shape.N, J, 5))
    return ReferenceRun(uv, np.repeat(states[0].numpy(), shape.N, axis=0), {}, trajectory, pose_of(states[-1]).numpy())


def _conditioned(model: ConditionedDiffPose, clip: Keypoints, timesteps: Sequence[int], shape: BatchShape, seed: int) -> ReferenceRun:
    frames, N = len(clip), shape.N
    if shape.F == 1:
        view = person_view(clip.uv, clip.confidence)
        observation = context_channels(clip.uv, clip.confidence, view)
        if isinstance(model.context_network, CausalMixSTE):
            xyz, feature = (given[0] for given in model.context_and_feature(torch.from_numpy(observation)[None]))
        else:
            xyz, feature = model.context_and_feature(torch.from_numpy(observation))
    else:
        window = person_view(clip.uv[None], clip.confidence[None])
        observation = context_channels(clip.uv[None], clip.confidence[None], window)[0]
        xyz, feature = (given[0] for given in model.context_and_feature(torch.from_numpy(observation)[None]))
        view = PersonView(np.repeat(window.centre, frames, axis=0), np.repeat(window.scale, frames))
    context = (xyz - xyz[:, ROOT : ROOT + 1]).numpy()
    draws = draw_starts(clip.uv, clip.confidence, view, None, N, np.random.default_rng(seed))
    rows = frames * N
    mu, cholesky = (p.reshape(rows, J, -1) for p in draws.parameters(slice(None), context, model.spread))
    start = start_channels(mu, sigma_of(cholesky))
    features = feature.repeat_interleave(N, dim=0)
    states = model.sample(torch.from_numpy(draws.r.reshape(rows, J, 5)), features, torch.from_numpy(start), timesteps).numpy()
    h = unwhitened(states, mu, cholesky)
    poses = (h[-1, ..., 2:] - h[-1, :, ROOT : ROOT + 1, 2:]).reshape(frames, N, J, 3)
    own = PersonView(np.repeat(view.centre, N, axis=0), np.repeat(view.scale, N))
    for state in h:
        state[..., :2] = own.to_image(state[..., :2])
    told = {"feature": feature.numpy(), "start": start}
    trajectory = h.reshape(len(h), frames, N, J, 5)
    joints = np.asarray(np.mean(poses, axis=1, dtype=np.float64))
    first = np.float32(model.alpha_bar[timesteps[0]] ** 0.5) * states[0]
    return ReferenceRun(observation, first, told, trajectory, joints.astype(np.float32))
