"""A model of 2D keypoint detectors: noise, bias, occlusion, exchanged sides, and the confidence that goes with them.

Sizes are shares of the person's size in the image (its root mean square extent, about a quarter of the standing height).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.skeleton import MIRROR, J

Array = NDArray[np.float32]

# How much harder each joint is than the average one: hands, feet and hips are.
HARDNESS = np.array([1.0, 1.1, 1.0, 1.2, 1.1, 1.0, 1.2, 1.0, 0.8, 0.9, 1.0, 0.9, 1.0, 1.2, 0.9, 1.0, 1.2], np.float32)
# What disappears together behind a table, a door or the own body.
PARTS = (
    (3,), (6,), (13,), (16,), (12, 13), (15, 16), (2, 3), (5, 6), (2, 3, 5, 6), (3, 6), (1, 2, 3), (4, 5, 6),
    (11, 12, 13), (14, 15, 16), (1, 2, 3, 4, 5, 6), (9, 10), (1, 2, 3, 14, 15, 16), (4, 5, 6, 11, 12, 13), (0, 1, 4),
)  # fmt: skip
LEGS_SWAPPED = np.array([0, 4, 5, 6, 1, 2, 3, *range(7, 17)])
ARMS_SWAPPED = np.array([*range(11), 14, 15, 16, 11, 12, 13])


@dataclass(frozen=True)
class Detections:
    """What a detector says: ``uv`` (B, F, 17, 2) and ``confidence`` (B, F, 17), 0 where it found nothing; and its second
    guess ``other`` (B, F, 17, 2) with the share ``other_weight`` (B, F, 17) of the heatmap that lies there.
    """

    uv: Array
    confidence: Array
    other: Array
    other_weight: Array


def detect(uv: Array, aspect: Array, rng: np.random.Generator) -> Detections:
    """Draw detections of true keypoints uv (B, F, 17, 2), normalised; ``aspect`` (B,) is image height over width."""
    B, F = uv.shape[:2]
    size = _size(uv)
    hidden = _occlusion(B, F, rng)
    # Beyond the image's border a detector guesses, or finds nothing.
    outside = (np.abs(uv[..., 0]) > 1.0) | (np.abs(uv[..., 1]) > aspect[:, None, None])
    hidden = np.maximum(hidden, outside * rng.uniform(0.5, 1.0, (B, 1, 1)))
    quality = np.exp(rng.uniform(np.log(0.008), np.log(0.06), (B, 1, 1)))
    sigma = HARDNESS * quality * rng.gamma(2.0, 0.5, (B, F, J)) + hidden * rng.uniform(0.05, 0.5, (B, 1, J))
    noise = _correlated((B, F, J, 2), rng) * sigma[..., None]
    # Every detector puts its joints a little elsewhere: the same in all frames.
    noise += (0.6 * quality * HARDNESS)[..., None] * rng.standard_normal((B, 1, J, 2))
    found = uv + noise * size[:, None, None, None]

    legs, arms = rng.random((2, B, 1)) < 0.025
    when = _interval(B, F, rng)
    swapped = np.zeros((B, F, J), bool)
    for happens, order, joints in ((legs, LEGS_SWAPPED, range(1, 7)), (arms, ARMS_SWAPPED, range(11, 17))):
        wrong = happens & when
        found = np.where(wrong[..., None, None], found[:, :, order], found)
        swapped[:, :, joints] |= wrong[..., None]
    ambiguous = swapped | ((rng.random((B, 1, J)) < 0.06) & when[..., None])
    other_weight = np.where(ambiguous, rng.uniform(0.1, 0.6, (B, F, J)), 0.0)
    other = found[:, :, MIRROR]

    # The confidence knows part of the error, as real ones do.
    confidence = np.exp(-sigma / rng.uniform(0.08, 0.3, (B, 1, 1))) * rng.uniform(0.85, 1.0, (B, F, J)) * (1.0 - 0.5 * other_weight)
    # Some detectors are overconfident, some give none: everything they report then counts as seen.
    confidence = np.clip(confidence, 0.02, 1.0) ** rng.uniform(0.3, 1.2, (B, 1, 1))
    confidence = np.where(rng.random((B, 1, 1)) < 0.25, 1.0, confidence)
    missing = (hidden > 0.3) & (rng.random((B, 1, 1)) < 0.5)
    missing |= rng.random((B, F, J)) < np.where(rng.random((B, 1, 1)) < 0.15, 0.08, 0.0)
    confidence = np.where(missing, 0.0, confidence)
    return Detections(
        found.astype(np.float32), confidence.astype(np.float32), other.astype(np.float32), (other_weight * ~missing).astype(np.float32)
    )


def _size(uv: Array) -> Array:
    """Root mean square extent of each person (B,), over the window."""
    centred = uv - uv.mean(axis=2, keepdims=True)
    return np.sqrt(np.square(centred).sum(axis=-1).mean(axis=(1, 2)))


def _correlated(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Normal noise of unit variance along axis 1, correlated in time as far as a drawn coefficient says (AR(1))."""
    noise = rng.standard_normal(shape).astype(np.float32)
    if shape[1] == 1:
        return noise
    keep = rng.uniform(0.0, 0.95, (shape[0], 1, 1)).astype(np.float32)
    fresh = np.sqrt(1.0 - keep**2)
    for f in range(1, shape[1]):
        noise[:, f] = keep * noise[:, f - 1] + fresh * noise[:, f]
    return noise


def _interval(B: int, F: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A stretch of frames (B, F) for each window: all of them half of the time."""
    begin, end = np.sort(rng.uniform(0.0, F, (2, B, 1)), axis=0)
    always = rng.random((B, 1)) < (1.0 if F == 1 else 0.5)
    frame = np.arange(F)
    return always | ((frame >= begin) & (frame < end))


def _occlusion(B: int, F: int, rng: np.random.Generator) -> Array:
    """How hidden each joint is (B, F, 17), 0 to 1."""
    members = np.zeros((len(PARTS), J), np.float32)
    for i, joints in enumerate(PARTS):
        members[i, list(joints)] = 1.0
    hidden = np.zeros((B, F, J), np.float32)
    for share in (0.3, 0.1):
        part = members[rng.integers(len(PARTS), size=B)]
        happens = (rng.random((B, 1)) < share) & _interval(B, F, rng)
        hidden = np.maximum(hidden, happens[..., None] * part[:, None] * rng.uniform(0.2, 1.0, (B, 1, 1)))
    return hidden
