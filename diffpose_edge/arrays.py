"""Arrays of real numbers out of whatever a user calls one."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.errors import DiffPoseEdgeError


def real_array(values: ArrayLike, what: str, error: type[DiffPoseEdgeError] = DiffPoseEdgeError) -> NDArray[np.float64]:
    """Return ``values`` as a float64 array. Raises ``error`` for what is no array of real numbers: texts, dates, rows of unequal lengths.

    Complex numbers are refused too: numpy would drop a part of them.
    """
    try:
        array = np.asarray(values)
        # Whole numbers beyond 64 bits come as objects, and are refused when they do not fit into a float.
        if array.dtype.kind not in "fiubO":
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise error(f"expected {what} as an array of real numbers, got {type(values).__name__}") from None
