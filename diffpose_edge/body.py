"""One person at one moment, as a robot takes it: what bridges, files and pictures of results all speak of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.keypoints import Keypoints

if TYPE_CHECKING:
    from diffpose_edge.runtime.estimate import PoseEstimate

Array = NDArray[np.float32]


@dataclass(frozen=True)
class BodyEstimate:
    """The 3D pose of one person in one image.

    ``stamp_ns``: when the image was taken, nanoseconds of the clock that the images are stamped by. ``frame_id``: the coordinate frame
    of all that is in metres; from a camera: x right, y down, z forward. ``body_id``: the same number is the same person.

    ``joints`` (17, 3), metres relative to the hip, NaN throughout where too little of the person was seen; ``covariance`` (17, 3, 3),
    square metres, NaN where nothing is known of it; ``observed`` (17,): which joints the detector saw; ``samples`` (N, 17, 3), whose
    mean ``joints`` is; ``keypoints`` (17, 3): u, v normalised to the image, and confidence, as they went in.

    ``root`` (3,), metres: where the hip is in ``frame_id``, and ``root_covariance`` (3, 3); None where nobody worked it out.
    ``steps``: the diffusion steps that were walked, fewer than K where a deadline cut them short (``truncated``). ``latency_ns``: from the
    keypoints' arrival to this estimate. ``out_of_range``, ``non_finite``: see :class:`diffpose_edge.runtime.estimate.PoseEstimate`.
    """

    stamp_ns: int
    frame_id: str
    body_id: int
    joints: Array
    covariance: Array
    observed: NDArray[np.bool_]
    samples: Array | None = None
    keypoints: Array | None = None
    root: Array | None = None
    root_covariance: Array | None = None
    steps: int = 0
    truncated: bool = False
    latency_ns: int = 0
    out_of_range: bool = False
    non_finite: bool = False

    @property
    def found(self) -> bool:
        """Whether there is a pose."""
        return bool(np.isfinite(self.joints).all())

    @property
    def placed_joints(self) -> Array:
        """Joints (17, 3) in ``frame_id``: with the root where it is known, around the hip at the origin where it is not."""
        return self.joints if self.root is None else self.joints + self.root


def bodies_of(
    estimate: PoseEstimate,
    body_ids: Sequence[int],
    stamp_ns: int,
    frame_id: str,
    keypoints: Keypoints | None = None,
    latency_ns: int = 0,
) -> list[BodyEstimate]:
    """Return the people of an estimate of one image, B of them, each a :class:`BodyEstimate`; those without a pose too.

    ``keypoints`` (B, 17, 2), if given, are kept with them. Raises DiffPoseEdgeError where the numbers of people differ.
    """
    B = len(estimate.joints)
    if len(body_ids) != B or (keypoints is not None and len(keypoints) != B):
        told = f"{len(body_ids)} body ids" + ("" if keypoints is None else f" and keypoints of {len(keypoints)} people")
        raise DiffPoseEdgeError(f"expected as many as the estimate has people, {B}; got {told}")
    seen = None if keypoints is None else np.concatenate([keypoints.uv, keypoints.confidence[..., None]], axis=-1)
    return [
        BodyEstimate(
            stamp_ns,
            frame_id,
            int(body_id),
            estimate.joints[b],
            estimate.covariance[b],
            estimate.observed[b],
            samples=estimate.samples[b],
            keypoints=None if seen is None else seen[b],
            steps=len(estimate.timings.steps) if estimate.walked is None else int(estimate.walked[b]),
            truncated=estimate.truncated,
            latency_ns=latency_ns,
            out_of_range=bool(estimate.out_of_range[b]),
            non_finite=bool(estimate.non_finite[b]),
        )
        for b, body_id in enumerate(body_ids)
    ]
