"""Holds the one-frame graph of a causal encoder, run frame after frame over its caches, against PyTorch's run of the whole clip."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from diffpose_edge.config import CausalConfig
from diffpose_edge.reference.causal_mixste import CausalMixSTE
from diffpose_edge.reference.taps import outputs_with_taps
from diffpose_edge.runtime.frame_caches import FrameCaches
from diffpose_edge.skeleton import J

Array = NDArray[Any]


def clip_length(config: CausalConfig) -> int:
    """Return how many frames show everything that a ring does: it fills, turns over twice, and goes on."""
    return 2 * config.frames + 3


def streamed(session: ort.InferenceSession, clip: Array, caches: FrameCaches) -> dict[str, Array]:
    """Run the one-frame graph over a clip (S, P, 17, c), from what ``caches`` remember; return every output, stacked (S, …)."""
    names = [output.name for output in session.get_outputs()]
    frames: dict[str, list[Array]] = {name: [] for name in names}
    for observation in clip:
        results = dict(zip(names, session.run(names, {"observation": observation, **caches.taken}), strict=True))
        for name in names:
            frames[name].append(results[name])
        for name, array in caches.given.items():
            array[...] = results[name]
        for person in range(len(observation)):
            caches.store(person)
    return {name: np.stack(values) for name, values in frames.items()}


def expected_of(network: CausalMixSTE, clip: Array) -> dict[str, Array]:
    """Return PyTorch's outputs for a clip (S, P, 17, c), all frames in one pass under the banded mask: ``xyz``, ``feature`` and the
    blocks' by name, each (S, P, 17, …), the last of which is the feature.
    """
    S, P = clip.shape[:2]
    xyz, layers = outputs_with_taps(network, torch.from_numpy(np.ascontiguousarray(clip.swapaxes(0, 1))))
    arranged = {}
    for name, value in layers.items():
        if name.startswith("spatial"):
            arranged[name] = value.view(P, S, J, -1).transpose(0, 1).numpy()
        else:
            arranged[name] = value.view(P, J, S, -1).permute(2, 0, 1, 3).numpy()
    feature = arranged.pop(f"temporal{network.depth - 1}")
    return {**arranged, "xyz": xyz.transpose(0, 1).numpy(), "feature": feature}
