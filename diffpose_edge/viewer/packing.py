"""Arrays as text in a page: whole multiples of a quantum, 16 bits each, one after another in base64.

What is drawn needs no more: 0.1 mm is less than a pixel of the 3D view. A page as JSON would be five times as large.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Stands for NaN; the largest magnitude of a number is one less.
NOTHING = -32768
LARGEST = 32767


def quantum(values: ArrayLike, least: float) -> float:
    """Return the smallest of least x (1, 2, 5, 10, …) whose multiples, 16 bits of them, reach all finite values."""
    array = np.abs(np.asarray(values, np.float64))
    reach = float(array[np.isfinite(array)].max(initial=0.0))
    power = 1.0
    while True:
        for step in (1.0, 2.0, 5.0):
            # A value of exactly LARGEST quanta may round up in the division.
            if reach <= least * step * power * (LARGEST - 0.5):
                return least * step * power
        power *= 10.0


def principal_axes(covariance: ArrayLike) -> NDArray[np.float64]:
    """Return axes (…, 3, 3) of covariances (…, 3, 3): their columns are the principal directions times the deviations along them.

    They map the unit sphere to the ellipsoid of one standard deviation, by a rotation and a stretch (the directions are
    right-handed). NaN where the covariance is not finite.
    """
    c = np.asarray(covariance, np.float64)
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(c).all(axis=(-2, -1)))
    variances, directions = np.linalg.eigh(np.where(finite[..., None, None], c, 0.0))
    directions[..., 0] *= np.sign(np.linalg.det(directions))[..., None]
    axes: NDArray[np.float64] = directions * np.sqrt(np.maximum(variances, 0.0))[..., None, :]
    axes[~finite] = np.nan
    return axes


class Packing:
    """Arrays gathered for a page: ``index`` says where in ``base64()`` each is, of which type, and what one unit of it is worth."""

    def __init__(self) -> None:
        self.index: dict[str, dict[str, Any]] = {}
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes, before base64 makes four of each three."""
        return self._size

    def add_numbers(self, name: str, values: ArrayLike, least: float) -> None:
        """Add numbers to half a quantum, which is ``least`` or the next of 1, 2, 5, 10, … times it that suffices; NaN stays NaN."""
        array = np.asarray(values, np.float64)
        worth = quantum(array, least)
        counted = np.full(array.shape, NOTHING, "<i2")
        finite = np.isfinite(array)
        counted[finite] = np.rint(array[finite] / worth).astype("<i2")
        self._add(name, counted, "i2", worth)

    def add_shares(self, name: str, values: ArrayLike) -> None:
        """Add numbers within 0..1, to 1/510; only 0 becomes 0."""
        array = np.asarray(values, np.float64)
        self._add(name, np.where(array > 0, np.maximum(np.rint(array * 255), 1), 0).astype("u1"), "u1", 1 / 255)

    def add_whole(self, name: str, values: ArrayLike, worth: float = 1.0) -> None:
        """Add whole numbers, 32 bits each, of which one is ``worth`` that much."""
        self._add(name, np.asarray(values).astype("<i4"), "i4", worth)

    def _add(self, name: str, array: NDArray[Any], kind: str, worth: float) -> None:
        content = array.tobytes()
        # A typed array in the page begins at a multiple of its numbers' size.
        content += bytes(-len(content) % 4)
        self.index[name] = {"type": kind, "shape": list(array.shape), "at": self._size, "worth": worth}
        self._parts.append(content)
        self._size += len(content)

    def base64(self) -> str:
        """Return all of them as text."""
        return base64.b64encode(b"".join(self._parts)).decode("ascii")
