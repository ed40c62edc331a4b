"""Estimates held against an evaluation set: errors of every frame, and their summary by clip, by action and over all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.evaluation import EvaluationClip
from diffpose_edge.metrics import (
    action_of,
    auc_of,
    checked_poses,
    joint_errors,
    mean_of,
    pck_of,
    procrustes,
    rescaled,
    valid_pairs,
    velocity_errors,
)
from diffpose_edge.skeleton import JOINTS, ROOT
from diffpose_edge.uncertainty import checked_covariance, coverage_of, mahalanobis2, rank_correlations, spread

Array = NDArray[np.float64]

# The levels at which the calibration is looked at.
LEVELS = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))
BODY = tuple(j for j in range(len(JOINTS)) if j != ROOT)


@dataclass(frozen=True)
class Score:
    """One clip's errors, for the frames that have a pose; ``frames`` counts all of them, ``posed`` (frames,) tells which have.

    ``errors``, ``rescaled``, ``aligned`` (n, 17), millimetres: the distance of each joint from the truth, as it is, after
    the best scale, and after the best similarity. ``velocity`` (pairs, 17), mm per frame: of neighbouring frames that both
    have a pose. ``distance2`` (n, 17): squared Mahalanobis distances. ``spread`` (n, 17), millimetres. ``context`` (n, 17),
    millimetres: the errors of the context encoder alone; None when it is not known.
    """

    name: str
    action: str
    posed: NDArray[np.bool_]
    errors: Array
    rescaled: Array
    aligned: Array
    velocity: Array
    distance2: Array
    spread: Array
    context: Array | None

    @property
    def frames(self) -> int:
        """How many frames the clip has, with a pose or without."""
        return len(self.posed)


def score(joints: ArrayLike, covariance: ArrayLike, context: ArrayLike | None, clip: EvaluationClip) -> Score:
    """Hold a clip's estimates against its truth.

    joints (frames, 17, 3) and context (frames, 17, 3), or None, in metres relative to the hip; covariance (frames, 17, 3,
    3) in square metres. A frame whose joints are not all finite has no pose: it is counted, and left out of every error.
    Raises ValueError when the shapes are not those of the clip.
    """
    p, t = checked_poses(joints, clip.truth)
    c = checked_covariance(covariance, p)
    encoder = None if context is None else joint_errors(context, t)
    posed: NDArray[np.bool_] = np.asarray(np.isfinite(p).all(axis=(-2, -1)))
    seen_p, seen_t, seen_c = p[posed], t[posed], c[posed]
    return Score(
        name=clip.name,
        action=action_of(clip.action),
        posed=posed,
        errors=joint_errors(seen_p, seen_t),
        rescaled=joint_errors(rescaled(seen_p, seen_t), seen_t),
        aligned=joint_errors(procrustes(seen_p, seen_t), seen_t),
        velocity=velocity_errors(p, t)[valid_pairs(posed)],
        distance2=mahalanobis2(seen_p, seen_c, seen_t),
        spread=spread(seen_c),
        context=None if encoder is None else encoder[posed],
    )


@dataclass(frozen=True)
class Row:
    """The summary of some clips. ``group`` is "all", "mean of actions", "action" or "clip"; ``name`` tells which.

    Errors in millimetres (``mpjve``: per frame); ``pck_150`` and ``auc`` in percent; ``coverage_50`` and ``coverage_90``
    0..1, over all joints but the hip; ``spearman`` -1..1, likewise; ``context_mpjpe``: the context encoder alone. What
    cannot be told is NaN. ``unposed`` counts the frames without a pose, which are in none of the figures.
    """

    group: str
    name: str
    clips: int
    frames: int
    unposed: int
    mpjpe: float
    p_mpjpe: float
    n_mpjpe: float
    mpjve: float
    pck_150: float
    auc: float
    coverage_50: float
    coverage_90: float
    spearman: float
    context_mpjpe: float

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain values; NaN becomes None, which JSON can hold."""
        return without_nan(asdict(self))


METRICS = tuple(field.name for field in fields(Row) if field.type == "float")


@dataclass(frozen=True)
class JointRow:
    """One joint over all frames: ``mpjpe``, root mean square error and spread (mm), coverage 0..1, Spearman -1..1.

    A spread that tells the truth has ``rms_spread`` equal to ``rms_error``; when it is that of N samples, and the estimate
    their mean, ``rms_error`` is greater by the factor sqrt(1 + 1/N), for the mean is itself uncertain.
    """

    joint: str
    mpjpe: float
    rms_error: float
    rms_spread: float
    coverage_50: float
    coverage_90: float
    spearman: float

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain values; NaN becomes None."""
        return without_nan(asdict(self))


def without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with every float that is not finite replaced by None."""
    return {key: (None if isinstance(value, float) and not np.isfinite(value) else value) for key, value in values.items()}


def _row(group: str, name: str, scores: Sequence[Score]) -> Row:
    errors, distance2 = _joined(scores, "errors"), _joined(scores, "distance2")
    context = np.concatenate([s.context for s in scores if s.context is not None] or [np.empty((0, len(JOINTS)))])
    frames = sum(s.frames for s in scores)
    return Row(
        group=group,
        name=name,
        clips=len(scores),
        frames=frames,
        unposed=frames - len(errors),
        mpjpe=mean_of(errors),
        p_mpjpe=mean_of(_joined(scores, "aligned")),
        n_mpjpe=mean_of(_joined(scores, "rescaled")),
        mpjve=mean_of(_joined(scores, "velocity")),
        pck_150=pck_of(errors),
        auc=auc_of(errors),
        coverage_50=mean_of(coverage_of(distance2, 0.5)[list(BODY)]),
        coverage_90=mean_of(coverage_of(distance2, 0.9)[list(BODY)]),
        spearman=rank_correlations(_joined(scores, "spread"), errors)[1],
        context_mpjpe=mean_of(context),
    )


def _joined(scores: Sequence[Score], field: str) -> Array:
    return np.concatenate([getattr(s, field) for s in scores])


def summary(scores: Iterable[Score]) -> tuple[Row, ...]:
    """Summarise scores: all frames, the mean of the actions, each action (by name), each clip (in order).

    Within a row every frame counts alike; the mean of the actions is what Human3.6M's results are quoted as (see
    :func:`diffpose_edge.metrics.by_action`). Raises ValueError for no scores.
    """
    given = tuple(scores)
    if not given:
        raise ValueError("expected at least one score, got none")
    whole = _row("all", "all frames", given)
    actions = [_row("action", name, [s for s in given if s.action == name]) for name in sorted({s.action for s in given})]
    means = {metric: float(np.mean([getattr(row, metric) for row in actions])) for metric in METRICS}
    mean = Row("mean of actions", f"mean of {len(actions)} actions", whole.clips, whole.frames, whole.unposed, **means)
    return (whole, mean, *actions, *(_row("clip", s.name, [s]) for s in given))


def per_joint(scores: Sequence[Score]) -> tuple[JointRow, ...]:
    """Return a row for each of the 17 joints, over the frames of all scores; spreads of the hip are NaN."""
    errors, spreads, distance2 = (_joined(scores, field) for field in ("errors", "spread", "distance2"))
    half, most = coverage_of(distance2, 0.5), coverage_of(distance2, 0.9)
    correlation, _ = rank_correlations(spreads, errors)
    return tuple(
        JointRow(
            joint=JOINTS[j],
            mpjpe=mean_of(errors[:, j]),
            rms_error=mean_of(errors[:, j] ** 2) ** 0.5,
            rms_spread=mean_of(spreads[:, j] ** 2) ** 0.5 if j != ROOT else float("nan"),
            coverage_50=float(half[j]),
            coverage_90=float(most[j]),
            spearman=float(correlation[j]),
        )
        for j in range(len(JOINTS))
    )


def calibration(scores: Sequence[Score], levels: Sequence[float] = LEVELS) -> tuple[tuple[float, float], ...]:
    """Return (level, coverage) for each level: over all frames, and all joints but the hip, 0..1; NaN without a spread."""
    distance2 = _joined(scores, "distance2")
    return tuple((level, mean_of(coverage_of(distance2, level)[list(BODY)])) for level in levels)
