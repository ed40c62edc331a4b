"""Pictures of an evaluation: error and spread of each joint, calibration, and accuracy against latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_edge.atomic import atomic_file
from diffpose_edge.extras import require
from diffpose_edge.scoring import Score, calibration, per_joint
from diffpose_edge.skeleton import ROOT
from diffpose_edge.uncertainty import expected_coverage

# Told apart by hue and by lightness, and in a print without colours by shape.
ERROR, SPREAD, IDEAL = "#333333", "#e08214", "#9a9a9a"
LINES = (("#1f5fa8", "o"), ("#c1440e", "s"), ("#2c7d4f", "^"), ("#7b4fa3", "D"), ("#8a6d1d", "v"), ("#3a9bb5", "P"))


@dataclass(frozen=True)
class SweepRow:
    """One setting of a sweep: N samples, K steps, the latency of an estimate in milliseconds, its MPJPE in millimetres."""

    N: int
    K: int
    latency_ms: float
    mpjpe: float


def plot_evaluation(scores: Sequence[Score], path: str | Path, *, samples: int | None = None, caption: str = "") -> None:
    """Draw error and predicted spread of each joint, and the calibration curve, as a PNG.

    samples: N; from 4 on the curve is shown that mean and covariance of N perfect samples would give, which lies below
    the diagonal. caption: printed above. Raises OutputError, MissingPackage; ValueError for no scores.
    """
    if not scores:
        raise ValueError("expected at least one score, got none")
    figure = _figure(11.0, 5.2)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1.0))
    _draw_joints(left, scores)
    _draw_calibration(right, scores, samples)
    figure.suptitle(caption, fontsize=9, wrap=True)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def plot_sweep(rows: Sequence[SweepRow], path: str | Path, *, context_mpjpe: float | None = None, caption: str = "") -> None:
    """Draw MPJPE against latency as a PNG: a line for each N, with its points marked by their K.

    context_mpjpe: the error of the context encoder alone, millimetres, drawn as a horizontal line. Raises OutputError,
    MissingPackage; ValueError for no rows.
    """
    if not rows:
        raise ValueError("expected at least one row, got none")
    figure = _figure(7.5, 5.0)
    axes = figure.subplots()
    for index, N in enumerate(sorted({row.N for row in rows})):
        line = sorted((row for row in rows if row.N == N), key=lambda row: row.K)
        colour, marker = LINES[index % len(LINES)]
        latency, error = [row.latency_ms for row in line], [row.mpjpe for row in line]
        axes.plot(latency, error, color=colour, marker=marker, markersize=5, linewidth=1.4, label=f"N = {N}")
        for row in line:
            at = (row.latency_ms, row.mpjpe)
            axes.annotate(f"K={row.K}", at, xytext=(4, 5), textcoords="offset points", fontsize=7, color=colour)
    if context_mpjpe is not None:
        axes.axhline(context_mpjpe, color=IDEAL, linestyle="--", linewidth=1.2, label="context encoder alone")
    # Latency grows with N K, and sweeps take both in doublings.
    axes.set(xscale="log", xlabel="latency of an estimate (ms)", ylabel="MPJPE (mm)", title="Accuracy against latency")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.08)
    axes.grid(True, which="major", color="#e5e5e5", linewidth=0.6)
    axes.legend(fontsize=8)
    figure.suptitle(caption, fontsize=9, wrap=True)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _figure(width: float, height: float) -> Any:
    require("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Made without pyplot: no display is looked for, and nothing global is left behind.
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_joints(axes: Any, scores: Sequence[Score]) -> None:
    rows = [row for j, row in enumerate(per_joint(scores)) if j != ROOT]
    at = np.arange(len(rows))
    axes.barh(at - 0.2, [row.rms_error for row in rows], 0.38, color=ERROR, label="error")
    axes.barh(at + 0.2, [row.rms_spread for row in rows], 0.38, color=SPREAD, hatch="///", edgecolor="white", label="predicted spread")
    axes.set(yticks=at, yticklabels=[row.joint.replace("_", " ") for row in rows], xlabel="root mean square (mm)")
    axes.tick_params(labelsize=8)
    axes.invert_yaxis()
    axes.grid(True, axis="x", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title("Error and predicted spread of each joint", fontsize=9)
    axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.09), frameon=False)


def _draw_calibration(axes: Any, scores: Sequence[Score], samples: int | None) -> None:
    levels, covered = (np.array(values) * 100 for values in zip(*calibration(scores), strict=True))
    axes.plot([0, 100], [0, 100], color=IDEAL, linestyle="--", linewidth=1.2, label="ideal")
    if samples is not None and samples >= 4:
        perfect = [100 * expected_coverage(level / 100, samples) for level in levels]
        axes.plot(levels, perfect, color=IDEAL, linestyle=":", linewidth=1.4, label=f"{samples} perfect samples")
    if np.isnan(covered).all():
        axes.text(50, 50, "no spread was predicted", ha="center", va="center", fontsize=9, bbox={"color": "white"})
    else:
        axes.plot(levels, covered, color=SPREAD, marker="o", markersize=5, linewidth=1.6, label="this estimate")
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="probability of the ellipsoid (%)", ylabel="truths within it (%)", aspect="equal")
    axes.tick_params(labelsize=8)
    axes.grid(True, color="#e5e5e5", linewidth=0.6)
    axes.set_title("Calibration, all joints but the hip", fontsize=9)
    axes.legend(fontsize=8, loc="upper left")
