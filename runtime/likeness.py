"""How alike the keypoints of two people are in the image: what identities are kept by.

*OKS*, the object keypoint similarity of COCO (Lin et al., *Microsoft COCO*, ECCV 2014; cocodataset.org/#keypoints-eval): the mean over
the joints of exp(-d^2 / (2 s^2 k^2)), d the distance, s^2 the person's area, k = 2 sigma, and sigma how far two annotators of that joint
differ. *IoU*: the area that two boxes share over the area that they cover.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.keypoints import Keypoints
from diffpose_edge.skeleton import JOINTS

Array = NDArray[np.float64]

# COCO's sigmas (pycocotools' kpt_oks_sigmas) for the joints that both layouts have; a foot is COCO's ankle. Of the others: root and spine
# are derived from the hips in most layouts and get theirs; thorax, neck and head get the 0.079 that CrowdPose's evaluation (Li et al.,
# CVPR 2019) gives to neck and head, which is that of shoulders. COCO's 0.026 for a nose would be too strict for joint 9, "neck/nose",
# which two detectors put into different places.
SIGMAS = {
    "hip": 0.107,
    "right_hip": 0.107,
    "right_knee": 0.087,
    "right_foot": 0.089,
    "left_hip": 0.107,
    "left_knee": 0.087,
    "left_foot": 0.089,
    "spine": 0.107,
    "thorax": 0.079,
    "neck": 0.079,
    "head": 0.079,
    "left_shoulder": 0.079,
    "left_elbow": 0.072,
    "left_wrist": 0.062,
    "right_shoulder": 0.079,
    "right_elbow": 0.072,
    "right_wrist": 0.062,
}
_VARIANCES: Array = np.square(2.0 * np.array([SIGMAS[name] for name in JOINTS]))

# With fewer joints seen in both, a likeness would say little: it is 0.
LEAST_COMMON = 3
# A person seen edge-on, arms down, is narrow, not small: boxes are at least this wide for their length, or long for their width.
LEAST_ASPECT = 0.25
# A box without any extent still has an area to divide by.
LEAST_SIDE = 1e-3


def boxes_of(people: Keypoints) -> Array:
    """Return the boxes (B, 4) around the joints that were seen of B people, as left, top, right, bottom in the keypoints' units.

    Narrow ones are widened to LEAST_ASPECT. Somebody of whom nothing was seen has a box of zeros.
    """
    seen = people.confidence > 0
    uv = people.uv.astype(np.float64)
    low = np.where(seen[..., None], uv, np.inf).min(axis=1)
    high = np.where(seen[..., None], uv, -np.inf).max(axis=1)
    nobody = ~seen.any(axis=1)
    low[nobody] = high[nobody] = 0.0
    side = high - low
    least = np.maximum(side, LEAST_ASPECT * side.max(axis=1, keepdims=True))
    grown = (least - side) / 2.0
    return np.concatenate([low - grown, high + grown], axis=1)


def areas_of(boxes: Array) -> Array:
    """Return the areas (B,) of boxes (B, 4)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def oks(a: Keypoints, b: Keypoints) -> Array:
    """Return the object keypoint similarities (A, B), within 0..1, of A people and B others: over the joints seen in both of a pair.

    s^2 is the mean of the two boxes' areas. Pairs with fewer than LEAST_COMMON joints in common have 0.
    """
    both = (a.confidence > 0)[:, None] & (b.confidence > 0)[None]
    d = np.where(both[..., None], a.uv[:, None].astype(np.float64) - b.uv[None], 0.0)
    s2 = (areas_of(boxes_of(a))[:, None] + areas_of(boxes_of(b))[None]) / 2.0
    e = np.square(d).sum(axis=-1) / (2.0 * np.maximum(s2, LEAST_SIDE**2)[..., None] * _VARIANCES)
    common = both.sum(axis=-1)
    similarity: Array = np.where(both, np.exp(-e), 0.0).sum(axis=-1) / np.maximum(common, 1)
    return np.where(common >= LEAST_COMMON, similarity, 0.0)


def iou(a: Keypoints, b: Keypoints) -> Array:
    """Return the intersections over unions (A, B), within 0..1, of the boxes of A people and B others."""
    one, other = boxes_of(a)[:, None], boxes_of(b)[None]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    shared = np.clip(sides, 0.0, None).prod(axis=-1)
    covered = areas_of(boxes_of(a))[:, None] + areas_of(boxes_of(b))[None] - shared
    return np.where(covered > 0, shared / np.where(covered > 0, covered, 1.0), 0.0)


def oks_and_iou(a: Keypoints, b: Keypoints) -> Array:
    """Return the mean of both (A, B)."""
    return (oks(a, b) + iou(a, b)) / 2.0


LIKENESS = {"oks": oks, "iou": iou, "both": oks_and_iou}
