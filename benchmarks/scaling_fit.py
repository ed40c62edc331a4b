"""Does cost grow as it should? Lines a + b x through latencies over N, P, K and 1/threads, and how far the points lie off.

A step's work is proportional to N P, a frame's to K, and threads share it: latency is a line in each of them, with what does not
grow in a. A cost that grows with the square of N, say an attention over samples, or copies that pile up over steps, is none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.benchmarks.bench_compare import BATCHES, T_99, samples_of

# How far a point may lie off its line. Kernels work in tiles and caches have edges: a few samples more do not cost exactly their
# share. A quadratic term that makes up a third of the cost at the largest of N = 1, 5, 20 is off by twice that.
OFF_LINE = 0.05
# What grows with which, and the stage whose latency shows it.
AXES = (("N", "step"), ("P", "frame"), ("K", "frame"), ("threads", "step"))
# A latency that is known no better than this cannot show a bend.
TOO_NOISY = 0.10
LINE, ABOVE, BELOW = "a line", "faster than a line", "slower than a line"
FEW, NOISY = "two points, which are always on a line", "too noisy to tell"


@dataclass(frozen=True)
class Fit:
    """The line a + b x through y (ms), with points weighted so that each counts by its relative distance.

    ``residual``: the largest distance of a point from the line, as a share of the point; ``noise``: how well the least certain
    point is known, the same way.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    a: float
    b: float
    residual: float
    noise: float
    verdict: str


@dataclass(frozen=True)
class Scaling:
    """A fit of a ``stage``'s median over an ``axis`` ("threads": x is 1/threads); ``of``: what was the same in all its rows."""

    axis: str
    stage: str
    of: str
    fit: Fit

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values, the fit's among them."""
        return {"axis": self.axis, "stage": self.stage, "of": self.of, **asdict(self.fit)}


def said(one: Mapping[str, Any]) -> str:
    """Return a scaling, as plain values, in words."""
    x = "1/threads" if one["axis"] == "threads" else one["axis"]
    return (
        f"{one['stage']} over {x}, {one['of']}: {one['a']:.3f} {one['b']:+.3f} {x} ms, points off by up to {one['residual']:.1%}, "
        f"noise {one['noise']:.1%}: {one['verdict']}"
    )


def fit_line(x: ArrayLike, y: ArrayLike, noise: float = 0.0) -> Fit:
    """Fit a line through points y > 0 at two or more different x; ``noise``: the relative uncertainty of the points.

    Raises ValueError for fewer, or for what is not positive.
    """
    at, ms = np.asarray(x, float), np.asarray(y, float)
    if len(np.unique(at)) < 2 or not (ms > 0).all():
        raise ValueError(f"expected positive latencies at two or more different x, got {ms.tolist()} at {at.tolist()}")
    a, b = _weighted(at, ms, 1)
    residual = float(np.abs((a + b * at) / ms - 1).max())
    return Fit(tuple(at.tolist()), tuple(ms.tolist()), float(a), float(b), residual, noise, _verdict(at, ms, residual, noise))


def _weighted(x: NDArray[np.float64], y: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """Return the coefficients, constant first, of the polynomial with the least relative squares."""
    powers = x[:, None] ** np.arange(degree + 1)
    return np.asarray(np.linalg.lstsq(powers / y[:, None], np.ones(len(y)), rcond=None)[0])


def _verdict(x: NDArray[np.float64], y: NDArray[np.float64], residual: float, noise: float) -> str:
    if len(np.unique(x)) < 3:
        return FEW
    if noise > TOO_NOISY:
        return NOISY
    if residual <= max(OFF_LINE, noise):
        return LINE
    return ABOVE if _weighted(x, y, 2)[2] > 0 else BELOW


def scalings(report: Mapping[str, Any]) -> list[Scaling]:
    """Return the fits over every axis along which rows of a report differ in nothing else."""
    found = []
    for axis, stage in AXES:
        for of, rows in _groups(report["rows"], axis).items():
            points: dict[float, tuple[float, float]] = {}
            for row in rows:
                samples = samples_of(row, stage)
                if np.isfinite(samples).all() and row[axis] is not None:
                    points[float(row[axis])] = float(np.median(samples)), median_noise(samples)
            if len(points) < 2:
                continue
            at = sorted(points)
            x = [1 / value for value in at] if axis == "threads" else at
            fit = fit_line(x, [points[value][0] for value in at], max(points[value][1] for value in at))
            found.append(Scaling(axis, stage, of, fit))
    return found


def _groups(rows: Sequence[Mapping[str, Any]], axis: str) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        # Bundles of other N or P are other folders: the same weights tell that they belong together.
        weights = row.get("described", {}).get("weights") or Path(row["bundle"]).name
        letters = " ".join(f"{name}={row[name]}" for name in "NPFK" if name != axis)
        threads = "" if axis == "threads" or row["threads"] is None else f" threads={row['threads']}"
        groups[f"{weights} {row['backend']} {row['precision']} {letters}{threads}"].append(row)
    return groups


def median_noise(samples: ArrayLike) -> float:
    """Return the half width of the 99 % interval of a median, as a share of it, by the medians of batches (see ``ratio_interval``)."""
    values = np.asarray(samples, float)
    medians = np.log([np.median(batch) for batch in np.array_split(values, min(BATCHES, len(values)))])
    return T_99 * float(medians.std(ddof=1)) / len(medians) ** 0.5 if len(medians) > 1 else 0.0
