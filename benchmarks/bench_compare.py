"""What changed between two reports of ``diffpose-edge bench``, and whether it is more than noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.errors import DiffPoseEdgeError

# Rounds that follow each other are alike, because a machine drifts. Of six batches of consecutive rounds the medians are nearly
# independent, and Student's t for five degrees of freedom makes a 99 % interval of them.
BATCHES, T_99 = 6, 4.032
# Below this a change is of no account, however certain it is: two loads of the same program differ by it.
LEAST = 0.02
KEY = ("bundle", "backend", "precision", "K", "threads", "N", "P")
STAGES = ("frame", "step", "encoder", "aggregate")


@dataclass(frozen=True)
class Change:
    """A stage of a row in both reports: medians in ms, their ratio B/A, and the interval of the ratio."""

    row: tuple[Any, ...]
    stage: str
    a: float
    b: float
    low: float
    high: float

    @property
    def ratio(self) -> float:
        """How many times as long B takes as A."""
        return self.b / self.a

    @property
    def verdict(self) -> str:
        """ "slower", "faster", or "no change" where noise or the least that counts would do as a reason."""
        if self.low > 1.0 and self.ratio > 1.0 + LEAST:
            return "slower"
        if self.high < 1.0 and self.ratio < 1.0 - LEAST:
            return "faster"
        return "no change"


@dataclass(frozen=True)
class Comparison:
    """The changes, and the rows that only one report has."""

    changes: tuple[Change, ...]
    only_a: tuple[tuple[Any, ...], ...]
    only_b: tuple[tuple[Any, ...], ...]


def compared(a: Mapping[str, Any], b: Mapping[str, Any]) -> Comparison:
    """Compare two reports row by row. Bundles are told apart by their folders' names. Raises DiffPoseEdgeError for too few rounds."""
    rows_a, rows_b = ({_key(row): row for row in report["rows"]} for report in (a, b))
    changes = []
    for key in rows_a.keys() & rows_b.keys():
        for stage in STAGES:
            of_a, of_b = (samples_of(rows[key], stage) for rows in (rows_a, rows_b))
            if np.isfinite(of_a).all() and np.isfinite(of_b).all():
                low, high = ratio_interval(of_a, of_b)
                changes.append(Change(key, stage, float(np.median(of_a)), float(np.median(of_b)), low, high))
    order = {key: index for index, key in enumerate(rows_a)}
    changes.sort(key=lambda change: (order[change.row], STAGES.index(change.stage)))
    return Comparison(tuple(changes), tuple(k for k in rows_a if k not in rows_b), tuple(k for k in rows_b if k not in rows_a))


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(str(row[name]).rstrip("/").rpartition("/")[2] if name == "bundle" else row[name] for name in KEY)


def samples_of(row: Mapping[str, Any], stage: str) -> NDArray[np.float64]:
    """Return a stage's milliseconds, one for each round; of the steps their mean within the round."""
    samples = row["samples_ms"]
    return np.asarray(samples["steps"], float).mean(axis=1) if stage == "step" else np.asarray(samples[stage], float)


def ratio_interval(a: ArrayLike, b: ArrayLike) -> tuple[float, float]:
    """Return the 99 % interval of median(b) / median(a), by the method of batch means (Schmeiser 1982), of logarithms.

    On simulated latencies that drift over ten rounds at a time it covers the truth in 97 to 99 % of cases; resampling, by blocks
    of rounds too, in 85 % (tests/benchmarks/test_bench_compare.py). Raises DiffPoseEdgeError for fewer than 12 rounds.
    """
    taken = [np.asarray(x, float) for x in (a, b)]
    if min(map(len, taken)) < 2 * BATCHES:
        raise DiffPoseEdgeError(f"expected at least {2 * BATCHES} rounds to compare, got {min(map(len, taken))}: measure again with more")
    batches = [np.log([np.median(batch) for batch in np.array_split(x, BATCHES)]) for x in taken]
    half = T_99 * sum(float(of.var(ddof=1)) / BATCHES for of in batches) ** 0.5
    middle = float(np.log(np.median(taken[1]) / np.median(taken[0])))
    return float(np.exp(middle - half)), float(np.exp(middle + half))
