"""Compares whole tensors: how far apart, where, and which tolerance would have passed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.tolerances import MILLIMETRES


@dataclass(frozen=True)
class Comparison:
    """The result of holding one tensor against its reference.

    ``error`` is the largest absolute difference, in ``unit``; ``where`` its index; ``relative`` is ``error`` over the
    reference's largest magnitude (``scale``); ``passed`` tells whether ``measured`` (one of the two, as ``criterion``
    says) is within ``budget``. A value that is not finite on either side fails, at its own index, with infinite error.
    """

    name: str
    error: float
    relative: float
    scale: float
    where: tuple[int, ...]
    criterion: str
    measured: float
    budget: float
    unit: str
    passed: bool

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain values; numbers that are not finite become None, which JSON can hold."""
        fields = asdict(self)
        fields["where"] = list(self.where)
        return {k: (None if isinstance(v, float) and not np.isfinite(v) else v) for k, v in fields.items()}

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "FAILED"
        return (
            f"{self.name}: {verdict}: largest error {self.error:.3g} {self.unit} at {list(self.where)}, relative {self.relative:.3g}; "
            f"{self.criterion} {self.measured:.3g} against a budget of {self.budget:.3g}"
        )


def _difference(actual: NDArray[Any], expected: NDArray[Any], name: str) -> tuple[float, tuple[int, ...], float]:
    if actual.shape != expected.shape:
        raise ValueError(f"{name}: expected shape {expected.shape}, got {actual.shape}")
    if actual.size == 0:
        raise ValueError(f"{name}: nothing to compare, the tensors are empty")
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.abs(a - e)
    # NaN compares false with everything: a plain maximum would let it pass.
    off = np.where(np.isfinite(a) & np.isfinite(e), off, np.inf)
    at = np.unravel_index(int(np.argmax(off)), off.shape)
    finite = np.abs(e[np.isfinite(e)])
    return float(off[at]), tuple(int(i) for i in at), float(finite.max()) if finite.size else 0.0


def compare_relative(name: str, actual: NDArray[Any], expected: NDArray[Any], budget: float) -> Comparison:
    """Compare by the largest error over the reference's largest magnitude. Raises ValueError when the shapes differ."""
    error, where, scale = _difference(actual, expected, name)
    relative = error / scale if scale > 0 else (0.0 if error == 0 else float("inf"))
    return Comparison(name, error, relative, scale, where, "relative", relative, budget, "", math.isfinite(error) and relative <= budget)


def compare_poses(name: str, actual: NDArray[Any], expected: NDArray[Any], budget_mm: float) -> Comparison:
    """Compare poses (…, 17, 3) in metres by the largest distance between a joint and its reference, in millimetres.

    ``where`` is the index of that joint. Raises ValueError when the shapes differ.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"{name}: expected shape {expected.shape}, got {actual.shape}")
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.linalg.norm(a - e, axis=-1) * MILLIMETRES
    error, where, _ = _difference(distance, np.zeros_like(distance), name)
    _, _, scale = _difference(e, e, name)
    relative = error / (scale * MILLIMETRES) if scale > 0 else float(error > 0)
    return Comparison(
        name, error, relative, scale, where, "distance in mm", error, budget_mm, "mm", math.isfinite(error) and error <= budget_mm
    )


@dataclass(frozen=True)
class AddedError:
    """How far poses are from those that they should be, millimetres, over joints and frames: the ``mean``, the 99th
    percentile ``p99``, the ``worst``, and where that is (frame, joint). ``drift`` (K + 1,): the mean distance of the
    samples' x, y, z after each step, start first.
    """

    mean: float
    p99: float
    worst: float
    where: tuple[int, ...]
    drift: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain values; numbers that are not finite become None, which JSON can hold."""
        numbers = {"mean_mm": self.mean, "p99_mm": self.p99, "worst_mm": self.worst}
        plain: dict[str, Any] = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
        return {**plain, "worst_at": list(self.where), "drift_mm": [d if math.isfinite(d) else None for d in self.drift]}


def added_error(joints: NDArray[Any], exact: NDArray[Any], trajectory: NDArray[Any], exact_trajectory: NDArray[Any]) -> AddedError:
    """Compare joints (frames, 17, 3) and states (K + 1, frames, N, 17, 5), metres, with those that they should be.

    Frames without a pose in ``exact`` do not count; a pose that is missing where there should be one is infinitely far.
    """
    posed = np.isfinite(exact).all(axis=(-2, -1))
    distance = MILLIMETRES * np.linalg.norm(joints.astype(np.float64)[posed] - exact[posed], axis=-1)
    distance = np.where(np.isfinite(distance), distance, np.inf)
    moved = MILLIMETRES * np.linalg.norm(trajectory[:, posed, ..., 2:].astype(np.float64) - exact_trajectory[:, posed, ..., 2:], axis=-1)
    frame, joint = np.unravel_index(int(np.argmax(distance)), distance.shape)
    return AddedError(
        float(distance.mean()),
        float(np.quantile(distance, 0.99, method="higher")),
        float(distance.max()),
        (int(np.flatnonzero(posed)[frame]), int(joint)),
        tuple(float(step.mean()) for step in np.where(np.isfinite(moved), moved, np.inf)),
    )
