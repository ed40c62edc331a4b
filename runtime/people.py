"""The people that a caller asks about: checked, and as the networks are shown them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.errors import KeypointError
from diffpose_edge.keypoints import Keypoints, checked_keypoints, numbers_of
from diffpose_edge.mixtures import Mixture
from diffpose_edge.person import PersonView, context_channels, person_view
from diffpose_edge.runtime.backend import Array
from diffpose_edge.runtime.start import fill_missing


def checked_people(keypoints: ArrayLike | None, confidence: ArrayLike | None, mixture: Mixture | None, F: int) -> Keypoints:
    """Return B people, uv (B, 17, 2), or windows (B, F, 17, 2) where F > 1, from what ``PoseRuntime.estimate`` takes.

    Without keypoints: the means of the mixture's heaviest components. Raises KeypointError.
    """
    if mixture is not None and (not isinstance(mixture, Mixture) or mixture.weight.ndim != 3):
        got = f"weights {mixture.weight.shape}" if isinstance(mixture, Mixture) else type(mixture).__name__
        raise KeypointError(f"expected a diffpose_edge.mixtures.Mixture of people, weights (B, 17, M); got {got}")
    if keypoints is None:
        if mixture is None:
            raise KeypointError("expected keypoints or a mixture, got neither")
        if F > 1:
            raise KeypointError(f"expected windows of keypoints (B, {F}, 17, 2|3) beside the mixture: it tells of the newest frame alone")
        if confidence is not None:
            raise KeypointError("expected no confidence beside a mixture alone: the mixture has its own")
        heaviest = mixture.weight.argmax(axis=-1)[..., None, None]
        keypoints = np.take_along_axis(mixture.mean, heaviest, axis=-2)[..., 0, :]
        confidence = mixture.confidence
    array: NDArray[np.float32] = numbers_of(keypoints, "keypoints")
    single = 2 if F == 1 else 3
    if array.ndim == single:
        array = array[None]
        confidence = None if confidence is None else numbers_of(confidence, "confidence")[None]
    checked = checked_keypoints(array, confidence, window=F > 1)
    if F > 1 and checked.uv.shape[1] != F:
        raise KeypointError(f"expected windows of F={F} frames for this bundle's video encoder, got {checked.uv.shape[1]}")
    if mixture is not None and len(mixture) != len(checked.uv):
        raise KeypointError(f"expected a mixture for each of the {len(checked.uv)} people of the keypoints, got {len(mixture)}")
    return checked


def observed(keypoints: Keypoints, kind: str) -> tuple[Array, Array, PersonView | None]:
    """Return what the context encoder takes, the keypoints of the samples' starts, and where the people are.

    ``kind``: the process of the bundle's pair. Released weights get the image's coordinates and no view.
    """
    if kind == "released":
        uv = _filled(keypoints)
        return uv, uv, None
    view = person_view(keypoints.uv, keypoints.confidence)
    return context_channels(keypoints.uv, keypoints.confidence, view), keypoints.uv, view


def _filled(keypoints: Keypoints) -> Array:
    """Return uv with unseen joints filled in; windows are filled frame by frame."""
    seen = keypoints.confidence > 0
    flat = fill_missing(keypoints.uv.reshape(-1, *keypoints.uv.shape[-2:]), seen.reshape(-1, seen.shape[-1]))
    return flat.reshape(keypoints.uv.shape)
