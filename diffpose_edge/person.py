"""The person's own frame of reference: keypoints centred on the person and divided by the person's size in the image.

A network that sees u, v of the whole image has to learn the same pose again for every place and distance. Seen from the
person's own centre and scale it is the same pose, whatever the image. Where the person stands and how large they appear
still tell something (perspective), and go along as three further numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# u, v in the person's frame, confidence, centre u, centre v, log of the scale: what a context encoder of this kind takes.
CHANNELS = 6
# Brings log(scale) of usual people, 0.02 to 1 of half an image's width, to within about +-2.
LOG_SCALE_SHIFT = 2.0
# No person is smaller than this in half image widths: keeps the division safe when all joints fall on one point.
LEAST_SCALE = 1e-3


@dataclass(frozen=True)
class PersonView:
    """Where people are in the image: ``centre`` (B, 2) in normalised image coordinates, ``scale`` (B,) in half image widths.

    Of windows in which every frame has its own (:func:`frame_views`) they are (B, F, 2) and (B, F).
    """

    centre: Array
    scale: Array

    def to_person(self, uv: Array) -> Array:
        """Map image coordinates (B, …, 2) to the person's frame."""
        axes = self._axes(uv)
        return ((uv - self.centre[axes]) / self.scale[(*axes, None)]).astype(np.float32)

    def to_image(self, uv: Array) -> Array:
        """Map coordinates (B, …, 2) in the person's frame back to the image."""
        axes = self._axes(uv)
        return (uv * self.scale[(*axes, None)] + self.centre[axes]).astype(np.float32)

    def _axes(self, uv: Array) -> tuple[slice | None, ...]:
        """What brings ``scale`` to the axes of uv (B, …, 2) but the last."""
        own = self.scale.ndim
        return (*(slice(None),) * own, *(None,) * (uv.ndim - 1 - own))


def person_view(uv: Array, confidence: Array) -> PersonView:
    """Return the centre and scale of B people, from the joints that were seen (confidence above 0).

    uv: (B, 17, 2), or windows (B, F, 17, 2) that share one centre and one scale; confidence: the same without the last
    axis. The centre is the mean of the seen joints, the scale their root mean square distance from it. A person of whom
    nothing was seen gets centre 0 and scale 1.
    """
    seen = (confidence > 0).astype(np.float32)
    axes = tuple(range(1, confidence.ndim))
    count = np.maximum(seen.sum(axis=axes), 1.0)
    centre = np.where(seen[..., None] > 0, uv, 0.0).sum(axis=axes) / count[:, None]
    shape = (-1, *(1,) * (uv.ndim - 2), 2)
    squared = np.square(np.where(seen[..., None] > 0, uv - centre.reshape(shape), 0.0)).sum(axis=-1)
    scale = np.sqrt(squared.sum(axis=axes) / count)
    scale = np.where(seen.sum(axis=axes) > 0, np.maximum(scale, LEAST_SCALE), 1.0)
    return PersonView(centre.astype(np.float32), scale.astype(np.float32))


def frame_views(uv: Array, confidence: Array) -> PersonView:
    """Return the centre and scale of B people in each of F frames: uv (B, F, 17, 2), confidence (B, F, 17).

    A frame's view depends on that frame alone, so that what a causal encoder has made of it need not be made again.
    """
    flat = person_view(uv.reshape(-1, *uv.shape[2:]), confidence.reshape(-1, confidence.shape[-1]))
    return PersonView(flat.centre.reshape(*uv.shape[:2], 2), flat.scale.reshape(uv.shape[:2]))


def context_channels(uv: Array, confidence: Array, view: PersonView) -> Array:
    """Return what the context encoder takes, (B, …, 17, 6): see CHANNELS. Joints of confidence 0 have u = v = 0 there."""
    own = np.where(confidence[..., None] > 0, view.to_person(np.where(confidence[..., None] > 0, uv, 0.0).astype(np.float32)), 0.0)
    own_axes, between = view.scale.shape, uv.shape[view.scale.ndim : -1]
    place = np.concatenate([view.centre, np.log(view.scale)[..., None] + LOG_SCALE_SHIFT], axis=-1)
    place = np.broadcast_to(place.reshape(*own_axes, *(1,) * len(between), 3), (*own_axes, *between, 3))
    return np.concatenate([own, confidence[..., None], place], axis=-1).astype(np.float32)
