"""Values of the kind that an argument is declared with, and that nobody means: by the argument that is right.

A number for a number, an array for an array. What is of another type altogether, a text for a camera, is a mistake in a program, which
Python's own errors are for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

WHOLE: tuple[Any, ...] = (0, 1, -1, 2, 3, 17, 70, -(2**31))
REAL: tuple[Any, ...] = (0.0, -0.0, 0.5, -1.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf"), np.float32("nan"), 3, -2)
TEXTS = ("", " ", "0", "nan", "x" * 3000, "\x1b[31m", "\x00", "\ud800", "../..", "a/" * 120, "eps", "ab2", "fisheye", "é")
SHAPES: tuple[tuple[int, ...], ...] = (
    (), (0,), (1,), (2,), (3,), (4, 4), (16,), (17,), (17, 2), (17, 3), (1, 17, 2), (2, 17, 2), (2, 17, 3), (0, 17, 2), (2, 17), (2, 0, 2),
    (2, 18, 3), (2, 17, 1, 2), (2, 17, 2, 2), (2, 17, 3, 3), (1, 17, 4, 4), (2, 33, 3), (1, 2, 17, 2), (1, 1, 1, 1, 1, 1),
)  # fmt: skip
FILLS = (0.0, 1.0, -1.0, 0.3, 1e-30, 300.0, 1e30, -1e300, float("nan"), float("inf"))
TYPES = ("f8", "f4", "f2", "g", "i8", "u1", "?", "c16", "U3", "S2", "O", "M8[s]")
RAGGED: tuple[Any, ...] = ([[1, 2], [3]], [None], ["a"], [[]], [{}], [10**400], [1 + 2j])
SEQUENCES: tuple[Any, ...] = ((), [], (0,), (0, 1), (12, 12), (12, -1), (99, 0), (True, False), (1.5, 0), ("a",), range(3), np.arange(3))
RECORDS: tuple[Any, ...] = ({}, {"a": 1}, {"2": {}}, {"width": -1}, {"confidence": [[]]}, {"k": "x"})


def _array(shape: tuple[int, ...], fill: float, kind: str) -> Any:
    with np.errstate(all="ignore"):
        if kind in ("f8", "f4", "f2", "g", "c16", "O"):
            return np.full(shape, fill).astype(kind)
        return np.full(shape, fill if abs(fill) < 100 else 7).astype("i8").astype(kind)


arrays = st.builds(_array, st.sampled_from(SHAPES), st.sampled_from(FILLS), st.sampled_from(TYPES))


def instead_of(right: Any) -> st.SearchStrategy[Any]:
    """Return values of the kind of ``right``; only itself where it is a flag or an object of a class of ours."""
    if isinstance(right, np.ndarray) or right is None:
        return st.one_of(arrays, arrays.map(lambda array: array.tolist()), st.sampled_from(RAGGED))
    if isinstance(right, int) and not isinstance(right, bool):
        return st.one_of(st.sampled_from(WHOLE), st.integers(-10, 70))
    if isinstance(right, float):
        return st.one_of(st.sampled_from(REAL), st.floats())
    if isinstance(right, str):
        return st.one_of(st.sampled_from(TEXTS), st.text(max_size=8))
    if isinstance(right, tuple):
        return st.sampled_from(SEQUENCES)
    return st.sampled_from(RECORDS) if isinstance(right, dict) else st.just(right)
