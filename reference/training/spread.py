"""What errs by how much: the tables of the start's spread, measured on fresh training data."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from diffpose_edge.distribution import StartSpread
from diffpose_edge.reference.training.batches import Batch
from diffpose_edge.reference.training.context_stage import Encoder, context_of
from diffpose_edge.skeleton import J

Array = NDArray[np.float32]

KNOTS = np.array([0.0, 0.25, 0.5, 0.75, 1.0], np.float32)
# Standard deviations are taken over errors cut here, in multiples of the joint's own median error: the far tail belongs to
# the loss, not to the width of the start.
TAIL = 6.0
# A table entry with fewer observations than this leans on the mean over all joints.
ENOUGH = 200.0


def table_of(errors: Array, confidence: Array) -> Array:
    """Return the root mean square of errors (n, 17, d) near each confidence knot, (5, 17, d).

    Every error counts towards the two knots around its confidence (n, 17), in proportion to how near it is.
    """
    distance = np.abs(confidence[None] - KNOTS[:, None, None]) / (KNOTS[1] - KNOTS[0])
    # What was not found at all (0) says nothing about what was found badly (0.1): the first knot is for the former only.
    weight = np.maximum(0.0, 1.0 - distance)
    weight[0] = confidence == 0.0
    low = (confidence > 0.0) & (confidence < KNOTS[1])
    weight[1] = np.where(low, 1.0, weight[1] * (confidence > 0.0))
    size = np.linalg.norm(errors, axis=-1)
    limit = TAIL * np.maximum(np.stack([np.median(size[:, j]) for j in range(J)]), 1e-6)
    kept = np.minimum(1.0, np.where(confidence > 0, limit / np.maximum(size, 1e-9), 1.0))[..., None] * errors
    squares = np.einsum("knj,njd->kjd", weight, np.square(kept))
    count = weight.sum(axis=1)[..., None]
    overall = squares.sum(axis=1, keepdims=True) / np.maximum(count.sum(axis=1, keepdims=True), 1.0)
    return np.sqrt((squares + ENOUGH * overall) / (count + ENOUGH)).astype(np.float32)


@torch.no_grad()
def measured_spread(encoder: Encoder, batches: list[Batch]) -> StartSpread:
    """Measure how far the detector's u, v and the encoder's x, y, z lie from the truth, for each joint and confidence.

    ``residual`` is set to the encoder's error until the diffusion stage has measured its own.
    """
    uv_errors, xyz_errors, confidences = [], [], []
    for batch in batches:
        xyz, _ = context_of(encoder, torch.from_numpy(batch.channels))
        uv_errors.append((batch.view.to_person(batch.uv) - batch.channels[..., :2]).reshape(-1, J, 2))
        xyz_errors.append((batch.xyz - xyz.numpy()).reshape(-1, J, 3))
        confidences.append(batch.detections.confidence.reshape(-1, J))
    confidence = np.concatenate(confidences)
    uv = table_of(np.concatenate(uv_errors), confidence)
    xyz_table = table_of(np.concatenate(xyz_errors), confidence)
    xyz_table[:, 0] = 0.0  # the hip is the origin
    return StartSpread(KNOTS, np.sqrt(np.square(uv).mean(axis=-1)), xyz_table, xyz_table.copy())
