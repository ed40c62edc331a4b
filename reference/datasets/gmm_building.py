"""Mixtures in the layout of a ``*_gmm.npz``, made from what a 2D detector gives: keypoints with confidence, or heatmaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.errors import DatasetError
from diffpose_edge.keypoints import normalise_pixels
from diffpose_edge.mixtures import COMPONENTS, mixture_from_heatmaps
from diffpose_edge.reference.datasets.gmm_files import save_gmm
from diffpose_edge.reference.datasets.h36m_cameras import IMAGE_SIZES
from diffpose_edge.reference.datasets.sequences import Mixture2D
from diffpose_edge.reference.datasets.videopose3d import detections_2d
from diffpose_edge.skeleton import J

# Standard deviation of a joint that was surely found, normalised: five pixels of an image 1000 wide. An assumption, not a
# measurement; give the detector's own when it is known.
SEEN = 0.01


def mixtures_of_detections(
    pixels: ArrayLike, image_size: tuple[float, float], confidence: ArrayLike | None = None, *, seen: float = SEEN
) -> Mixture2D:
    """Return M = 1 Gaussian for each joint of ``pixels`` (frames, 17, 2), wider where ``confidence`` (frames, 17), 0..1, is low.

    With probability c, the confidence, the joint is where it was detected, up to ``seen`` (normalised); else it is
    somewhere on the person, whose spread along u and v is the standard deviation of the frame's seen joints. The
    component has the mean of the first and the variance of both: scale^2 = c seen^2 + (1 - c) spread^2. A joint with
    confidence 0 has the mean of the seen joints; its pixels are not looked at. Without ``confidence`` all is seen.

    Raises DatasetError for shapes that do not fit, pixels of a seen joint that are not finite, confidences outside 0..1,
    ``seen`` that is not above 0, and a frame in which nothing was seen; KeypointError for an image without area.
    """
    xy = np.asarray(pixels, np.float64)
    if xy.ndim != 3 or xy.shape[1:] != (J, 2) or not len(xy):
        raise DatasetError(f"expected pixels of shape (frames, {J}, 2) with at least one frame, got {xy.shape}")
    c = np.ones(xy.shape[:2]) if confidence is None else np.asarray(confidence, np.float64)
    if c.shape != xy.shape[:2] or not ((c >= 0) & (c <= 1)).all():
        raise DatasetError(f"expected confidences within 0..1 of shape {xy.shape[:2]}, got shape {c.shape}, {c.min():.4g}..{c.max():.4g}")
    if not (np.isfinite(seen) and seen > 0):
        raise DatasetError(f"expected seen, a standard deviation in normalised units, above 0, got {seen}")
    found = c > 0
    if not np.isfinite(xy[found]).all():
        raise DatasetError("expected finite pixels for joints that were seen; say with confidence 0 that a joint was not")
    if not found.any(axis=1).all():
        raise DatasetError(
            f"in frame {int((~found.any(axis=1)).argmax())} no joint was seen: nothing says where the person is. Leave it out"
        )
    uv = np.where(found[..., None], normalise_pixels(xy, image_size), 0.0)
    share = found[..., None] / found.sum(axis=1)[:, None, None]
    centre = (share * uv).sum(axis=1, keepdims=True)
    spread2 = (share * (uv - centre) ** 2).sum(axis=1, keepdims=True)
    mean = np.where(found[..., None], uv, centre)
    scale = np.sqrt(c[..., None] * seen**2 + (1 - c[..., None]) * np.maximum(spread2, seen**2))
    return _mixture(np.ones((*c.shape, 1)), mean[:, :, None], scale[:, :, None])


def mixtures_of_heatmaps(
    heatmaps: ArrayLike, affine: ArrayLike, image_size: tuple[float, float], components: int = COMPONENTS
) -> Mixture2D:
    """Fit M = ``components`` Gaussians to each of a detector's heatmaps (frames, 17, H, W), by EM.

    ``affine`` and the errors are those of :func:`diffpose_edge.mixtures.mixture_from_heatmaps`. The layout has no place for
    the correlation of u and v within a component: it is left out, the two standard deviations are kept.
    """
    fitted = mixture_from_heatmaps(heatmaps, affine, image_size, components)
    return _mixture(fitted.weight, fitted.mean, np.sqrt(np.diagonal(fitted.covariance, axis1=-2, axis2=-1)))


def gmm_file_of_detections(
    path_2d: str | Path, path: str | Path, *, seen: float = SEEN, pickled: bool = False, allow_pickle: bool = False
) -> None:
    """Write a ``*_gmm.npz`` of one component for each joint from a ``data_2d_h36m_*.npz``, whose third number is the confidence.

    Raises what :func:`~diffpose_edge.reference.datasets.videopose3d.detections_2d`, :func:`mixtures_of_detections` and
    :func:`~diffpose_edge.reference.datasets.gmm_files.save_gmm` raise.
    """
    mixtures = {
        subject: {
            action: [
                mixtures_of_detections(array[..., :2], size, array[..., 2] if array.shape[-1] == 3 else None, seen=seen)
                for array, size in zip(arrays, IMAGE_SIZES, strict=True)
            ]
            for action, arrays in actions.items()
        }
        for subject, actions in detections_2d(path_2d, allow_pickle=allow_pickle).items()
    }
    save_gmm(path, mixtures, pickled=pickled)


def _mixture(weight: NDArray[np.float64], mean: NDArray[np.float64], scale: NDArray[np.float64]) -> Mixture2D:
    return Mixture2D(weight.astype(np.float32), mean.astype(np.float32), scale.astype(np.float32))
