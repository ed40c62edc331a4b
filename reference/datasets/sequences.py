"""What every reader returns: sequences of one person before one camera, in the project's conventions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import DatasetError
from diffpose_edge.keypoints import normalise_pixels
from diffpose_edge.mixtures import Mixture, mixture_from_parameters
from diffpose_edge.skeleton import ROOT, J

# How far from the hip a person's farthest joint is in the median frame, metres: a small child curled up to a tall adult
# with raised arms. Millimetres taken for metres, or the reverse, fall far outside.
PERSON = (0.15, 3.0)
# No detector's pixels all lie this close to the image's corner; normalised keypoints do.
LEAST_PIXELS = 5.0


@dataclass(frozen=True, eq=False)
class Mixture2D:
    """Where each joint may be in the image: ``weight`` (frames, 17, M), ``mean`` and ``scale`` (frames, 17, M, 2), float32.

    Weights are not negative and sum to one over the M components. Means are normalised u, v. Scales are what the
    released training multiplies unit noise with, for u and v.
    """

    weight: NDArray[np.float32]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.weight)

    def heaviest(self) -> NDArray[np.float32]:
        """Return the mean of each joint's heaviest component, (frames, 17, 2)."""
        best = self.weight.argmax(axis=-1)[..., None, None]
        return np.take_along_axis(self.mean, best, axis=2)[:, :, 0]

    def distribution(self) -> Mixture:
        """Return it as the runtime takes it, scales as standard deviations. Raises KeypointError for what is no mixture."""
        return mixture_from_parameters(self.weight, self.mean, self.scale)


@dataclass(frozen=True, eq=False)
class Sequence:
    """One person before one camera, Human3.6M-17 joints, camera frame (x right, y down, z forward).

    ``uv`` (frames, 17, 2) float32 is normalised as by :func:`diffpose_edge.keypoints.normalise_pixels`; ``xyz`` (frames, 17,
    3) float32 is in metres relative to the hip, as everywhere in this project, and ``root`` (frames, 3) float32 is the hip
    itself, so that ``xyz + root[:, None]`` is the pose before the camera. ``confidence`` (frames, 17) within 0..1 and
    ``mixture`` are there when the 2D file has them. ``valid`` (frames,) marks the frames that an evaluation counts, None
    when all do. ``fps`` is in Hz, None when the file does not say; ``image_size`` is (w, h) in pixels.
    """

    subject: str
    action: str
    camera: str
    uv: NDArray[np.float32]
    xyz: NDArray[np.float32]
    root: NDArray[np.float32]
    fps: float | None
    image_size: tuple[int, int]
    confidence: NDArray[np.float32] | None = None
    mixture: Mixture2D | None = None
    valid: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.uv)


def checked_frames(array: NDArray[Any], joints: tuple[int, ...], numbers: tuple[int, ...], where: str) -> NDArray[Any]:
    """Return ``array`` when it is (frames, one of ``joints``, one of ``numbers``), finite. Raises DatasetError."""
    wanted = f"(frames, {' or '.join(map(str, joints))}, {' or '.join(map(str, numbers))})"
    if array.ndim != 3 or array.shape[1] not in joints or array.shape[2] not in numbers or not len(array):
        raise DatasetError(f"{where}: expected an array of shape {wanted} with at least one frame, got {array.shape}")
    return finite(array, where)


def finite(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Return ``array`` when it holds finite real numbers. Raises DatasetError, which names the first that is not."""
    if array.dtype.kind not in "fiu":
        raise DatasetError(f"{where}: expected numbers, got {array.dtype}")
    if not np.isfinite(array).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise DatasetError(f"{where}: expected finite numbers, got {array[at]} at {list(at)}; the file is damaged or not finished")
    return array


def root_relative(xyz: NDArray[Any], where: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Split poses (frames, 17, 3), metres, into those relative to the hip and the hip (frames, 3).

    Raises DatasetError when the joints lie so near to or far from the hip that the unit cannot be the metre.
    """
    root = xyz[:, ROOT].astype(np.float64)
    relative = xyz.astype(np.float64) - root[:, None]
    size = float(np.median(np.linalg.norm(relative, axis=-1).max(axis=-1)))
    if not PERSON[0] <= size <= PERSON[1]:
        raise DatasetError(
            f"{where}: the joint farthest from the hip is {size:.4g} m away in the median frame, and a person's is within "
            f"{PERSON[0]}..{PERSON[1]} m; are the positions in the unit that this file should have?"
        )
    return relative.astype(np.float32), root.astype(np.float32)


def normalised(pixels: NDArray[Any], image_size: tuple[int, int], where: str) -> NDArray[np.float32]:
    """Normalise pixels (…, 2). Raises DatasetError when they can only be normalised already."""
    if np.abs(pixels).max() < LEAST_PIXELS:
        raise DatasetError(f"{where}: expected pixels, got numbers no larger than {np.abs(pixels).max():.4g}; normalised already?")
    return normalise_pixels(pixels, image_size).astype(np.float32)


def detections_of(array: NDArray[Any], image_size: tuple[int, int], where: str) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Split pixels (frames, 17, 2), or with a confidence as the third number, into normalised u, v and confidence or None.

    Raises DatasetError for another shape, and for confidences outside 0..1.
    """
    checked_frames(array, (J,), (2, 3), where)
    uv = normalised(array[..., :2], image_size, where)
    if array.shape[-1] == 2:
        return uv, None
    confidence = array[..., 2].astype(np.float32)
    if confidence.min() < 0 or confidence.max() > 1:
        raise DatasetError(
            f"{where}: expected confidences within 0..1 as the third number, got {confidence.min():.4g}..{confidence.max():.4g}; "
            f"map the detector's scores to 0..1, or leave them out"
        )
    return uv, confidence
