"""Who is outside what training showed: the bounds of a bundle, held against what a call shows its networks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.keypoints import Keypoints
from diffpose_edge.manifest import Manifest
from diffpose_edge.person import PersonView, person_view
from diffpose_edge.runtime.start import LEAST_OBSERVED, StartDraws
from diffpose_edge.skeleton import J
from diffpose_edge.trained_range import H36M_IMAGE, MOST_BLOB, ROUGH, TrainedRange, image_values, person_values

Array = NDArray[np.float32]


class RangeCheck:
    """The range that a bundle's networks were trained in: its own where that was measured, else a rough one (``range.source``)."""

    def __init__(self, manifest: Manifest):
        self._released = manifest.process.kind == "released"
        self.range: TrainedRange = manifest.trained_range or (H36M_IMAGE if self._released else ROUGH)
        self._uv = self.range.low[: 2 * J].reshape(J, 2), self.range.high[: 2 * J].reshape(J, 2)
        spread = manifest.process.start
        # Training adds a blob's variance to what the detector errs by, as the runtime does: no start was told of more than this.
        self._most_variance = 0.0 if spread is None else float(np.square(spread.uv).max()) + MOST_BLOB**2

    def outside(self, uv: Array, confidence: Array, view: PersonView | None, mixed: StartDraws | None = None) -> NDArray[np.bool_]:
        """Return which of B people (B,) are shown to the networks as training showed nobody.

        uv (B, 17, 2) and confidence (B, 17) of the frames that are estimated; ``view``: where the people are, of windows the window's;
        ``mixed``: the components that a mixture's samples start from.
        """
        out = self.range.outside(self._values(uv, confidence, view))
        if mixed is not None and mixed.covariance is not None:
            # As far as a joint was seen: the others start anywhere on the person.
            seen = (mixed.confidence > 0)[:, None, :, None]
            low, high = self._uv
            away = seen & ((mixed.uv < low) | (mixed.uv > high))
            wide = seen & (np.diagonal(mixed.covariance, axis1=-2, axis2=-1) > self._most_variance)
            out |= (away | wide).any(axis=(1, 2, 3))
        return out

    def report(self, people: Keypoints) -> list[str]:
        """Say of each of B people (B, 17, 2) what is out of range and by how much; "" for those who are within."""
        view = None if self._released else person_view(people.uv, people.confidence)
        told = [self.range.told(values) for values in self._values(people.uv, people.confidence, view)]
        # Who has too few joints seen has no pose, and nothing to doubt.
        return [why if seen else "" for why, seen in zip(told, (people.confidence > 0).sum(axis=-1) >= LEAST_OBSERVED, strict=True)]

    def _values(self, uv: Array, confidence: Array, view: PersonView | None) -> Array:
        return image_values(uv, confidence) if view is None else person_values(uv, confidence, view)
