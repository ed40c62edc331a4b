"""From other keypoint layouts to Human3.6M-17.

One rule for all of them. A keypoint that a layout has is taken as it is: the ankle for Human3.6M's foot, and the nose for joint 9, which
Human3.6M puts between neck and nose. What a layout lacks is derived: the hip is the mean of both hips, the thorax the mean of both
shoulders, the spine the mean of hip and thorax; the head's top continues the line from the thorax through the mean of the ears, by the
proportions of an upright person. A derived joint is as confident as the least of its sources. "Left" and "right" are the person's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.arrays import real_array
from diffpose_edge.errors import KeypointError
from diffpose_edge.keypoints import Keypoints, normalise_pixels
from diffpose_edge.skeleton import JOINTS

# Which keypoint of another layout stands for a Human3.6M joint, where the layout has it.
STANDS_FOR = {
    "hip": "mid_hip",
    "right_hip": "right_hip",
    "right_knee": "right_knee",
    "right_foot": "right_ankle",
    "left_hip": "left_hip",
    "left_knee": "left_knee",
    "left_foot": "left_ankle",
    "thorax": "neck_base",
    "neck": "nose",
    "head": "head_top",
    "left_shoulder": "left_shoulder",
    "left_elbow": "left_elbow",
    "left_wrist": "left_wrist",
    "right_shoulder": "right_shoulder",
    "right_elbow": "right_elbow",
    "right_wrist": "right_wrist",
}

# Height of the head's top above the shoulders, over that of the eyes and ears, for an upright person: (1 - 0.818) /
# (0.936 - 0.818) of the stature. Source: Drillis and Contini 1966, body segment lengths, after Winter, Biomechanics.
HEAD_TOP_OVER_EARS = (1.0 - 0.818) / (0.936 - 0.818)


@dataclass(frozen=True)
class Layout:
    """A detector's keypoints by name, in its order. ``direct``: at which place the one lies that stands for a Human3.6M joint."""

    name: str
    points: tuple[str, ...]
    direct: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        own = {joint: joint for joint in JOINTS} if self.points == JOINTS else STANDS_FOR
        object.__setattr__(self, "direct", {joint: self.points.index(point) for joint, point in own.items() if point in self.points})

    def __len__(self) -> int:
        return len(self.points)

    def told(self, point: int) -> str:
        """Return a keypoint as messages name it."""
        return f"keypoint {point} ({self.points[point]})"


# fmt: off
H36M17 = Layout("h36m17", JOINTS)
# Source: COCO's keypoint annotations, category "person" (cocodataset.org, data format).
COCO17 = Layout("coco17", (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist",
    "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
))
# Source: OpenPose, doc/02_output.md, POSE_BODY_25_BODY_PARTS. Its Neck lies between the shoulders: the base of the neck.
BODY25 = Layout("body25", (
    "nose", "neck_base", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist", "mid_hip",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye", "right_ear", "left_ear",
    "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel",
))
# Source: Halpe-FullBody (github.com/Fang-Haoshu/Halpe-FullBody): COCO-17, then Head (its top), Neck, Hip and feet.
HALPE26 = Layout("halpe26", (
    *COCO17.points, "head_top", "neck_base", "mid_hip", "left_big_toe", "right_big_toe", "left_small_toe", "right_small_toe",
    "left_heel", "right_heel",
))
# Source: MediaPipe Pose Landmarker documentation.
MEDIAPIPE33 = Layout("mediapipe33", (
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer", "left_ear", "right_ear",
    "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_pinky", "right_pinky", "left_index", "right_index", "left_thumb", "right_thumb", "left_hip", "right_hip", "left_knee",
    "right_knee", "left_ankle", "right_ankle", "left_heel", "right_heel", "left_foot_index", "right_foot_index",
))
# fmt: on
LAYOUTS = {layout.name: layout for layout in (H36M17, COCO17, BODY25, HALPE26, MEDIAPIPE33)}
MEDIAPIPE33_DIRECT = MEDIAPIPE33.direct


def h36m17_from_mediapipe33(landmarks: ArrayLike, image_size: tuple[float, float]) -> Keypoints:
    """Convert MediaPipe Pose landmarks (frames, 33, 3), pixels x, y and visibility, to normalised Human3.6M-17 keypoints.

    See :func:`h36m17_from`.
    """
    return h36m17_from(MEDIAPIPE33, landmarks, image_size)


def h36m17_from(layout: Layout, points: ArrayLike, image_size: tuple[float, float]) -> Keypoints:
    """Convert keypoints (frames, n, 3) of a layout, pixels x, y and confidence, to normalised Human3.6M-17 keypoints.

    Keypoints with NaN anywhere, or of confidence 0, count as not seen: the joints that come of them have confidence 0, and NaN for
    coordinates. Raises KeypointError for another shape, no frames, or confidences outside 0..1.
    """
    array = real_array(points, f"{layout.name} keypoints", KeypointError)
    if array.ndim != 3 or array.shape[1:] != (len(layout), 3):
        raise KeypointError(f"expected {layout.name} keypoints of shape (frames, {len(layout)}, 3), got {array.shape}")
    if len(array) == 0:
        raise KeypointError(f"expected at least one frame of {layout.name} keypoints, got none")
    # A sum is finite exactly when every term is: pixels and confidences are far from overflowing float64.
    missing: NDArray[np.bool_] = ~np.isfinite(array.sum(axis=-1))
    confidences = np.where(missing, 0.0, array[..., 2])
    if ((confidences < 0) | (confidences > 1)).any():
        raise KeypointError(f"expected confidences within 0..1, got {confidences.min():.3g}..{confidences.max():.3g}")
    xy = np.where((confidences == 0)[..., None], np.nan, array[..., :2])

    at = {joint: xy[:, i] for joint, i in layout.direct.items()}
    seen = {joint: confidences[:, i] for joint, i in layout.direct.items()}
    for joint, (a, b) in {
        "hip": ("right_hip", "left_hip"),
        "thorax": ("right_shoulder", "left_shoulder"),
        "spine": ("hip", "thorax"),
    }.items():
        if joint not in at:
            at[joint], seen[joint] = (at[a] + at[b]) / 2, np.minimum(seen[a], seen[b])
    if "head" not in at:
        pair = [layout.points.index("left_ear"), layout.points.index("right_ear")]
        ears, ears_seen = xy[:, pair].mean(axis=1), confidences[:, pair].min(axis=1)
        at["head"] = at["thorax"] + HEAD_TOP_OVER_EARS * (ears - at["thorax"])
        seen["head"] = np.minimum(ears_seen, seen["thorax"])

    with np.errstate(over="ignore"):
        uv = normalise_pixels(np.stack([at[name] for name in JOINTS], axis=1), image_size).astype(np.float32)
    confidence = np.stack([seen[name] for name in JOINTS], axis=1)
    # A coordinate that does not exist has no confidence, whatever its source said.
    confidence = np.where(np.isfinite(uv).all(axis=-1), confidence, 0.0)
    return Keypoints(uv, confidence.astype(np.float32))
