"""A picture of a sensitivity analysis: millimetres for each layer, and how the error of the worst ones grows over the steps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_edge.atomic import atomic_file
from diffpose_edge.calibration.sensitivity import GroupError
from diffpose_edge.comparison import AddedError
from diffpose_edge.extras import require

COLOURS = {"context": "#e08214", "step": "#1f5fa8"}
# Told apart in a print without colours by shape.
LINES = (("#1f5fa8", "o"), ("#c1440e", "s"), ("#2c7d4f", "^"), ("#7b4fa3", "D"), ("#8a6d1d", "v"), ("#3a9bb5", "P"))
# More bars than this cannot be read.
MOST_BARS = 60


def plot_sensitivity(errors: Sequence[GroupError], path: str | Path, *, kept: Collection[tuple[str, str]] = (), caption: str = "") -> None:
    """Draw the mean error of each group, worst first, and the drift per step of the three worst of each graph, as a PNG.

    ``kept``: (role, name) of the groups that a budget keeps in higher precision; they are hatched. ``caption``: printed above.
    Groups that are float32 in any case are left out. Raises OutputError, MissingPackage; ValueError when no group is left.
    """
    shown = [(group, group.added) for group in worst_first(errors) if group.added is not None][:MOST_BARS]
    if not shown:
        raise ValueError("expected at least one group that was lowered, got none")
    require("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Made without pyplot: no display is looked for, and nothing global is left behind.
    figure = Figure(figsize=(12.0, max(4.5, 1.6 + 0.19 * len(shown))), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1.0))
    _draw_bars(left, shown, kept)
    _draw_drift(right, _worst_of_each_graph(shown))
    figure.suptitle(caption, fontsize=9, wrap=True)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def worst_first(errors: Sequence[GroupError]) -> list[GroupError]:
    """Return the groups by their mean error: what overflowed first, what stays float32 last, equals in the given order."""

    def key(group: GroupError) -> float:
        if group.added is None:
            return np.inf
        return -group.added.mean if np.isfinite(group.added.mean) else -np.inf

    return sorted(errors, key=key)


def _worst_of_each_graph(shown: Sequence[tuple[GroupError, AddedError]]) -> list[tuple[GroupError, AddedError]]:
    # What the encoder errs by is there at the start and fades, what the step errs by grows: both belong in the picture.
    each = len(LINES) // len(COLOURS)
    return [pair for role in COLOURS for pair in [pair for pair in shown if pair[0].role == role][:each]]


def _draw_bars(axes: Any, shown: Sequence[tuple[GroupError, AddedError]], kept: Collection[tuple[str, str]]) -> None:
    finite = [added.mean for _, added in shown if np.isfinite(added.mean)]
    longest = max(finite, default=1.0) or 1.0
    labelled = set()
    for at, (group, added) in enumerate(shown):
        is_kept, overflowed = (group.role, group.name) in kept, not np.isfinite(added.mean)
        label = group.role + (", kept in higher precision" if is_kept else "")
        style = {"hatch": "////", "edgecolor": "white"} if is_kept else {}
        axes.barh(
            at,
            longest if overflowed else added.mean,
            0.75,
            color=COLOURS[group.role],
            label=label if label not in labelled else None,
            **style,
        )
        labelled.add(label)
        if overflowed:
            axes.text(longest, at, " overflows", va="center", fontsize=6)
    axes.set(yticks=range(len(shown)), yticklabels=[f"{group.role}: {group.name}" for group, _ in shown], xlabel="mean joint error (mm)")
    axes.tick_params(axis="y", labelsize=6)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(True, axis="x", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title("Added to the final pose by each alone", fontsize=9)
    axes.legend(fontsize=8, loc="lower right")


def _draw_drift(axes: Any, shown: Sequence[tuple[GroupError, AddedError]]) -> None:
    for (group, added), (colour, marker) in zip(shown, LINES, strict=False):
        steps = range(len(added.drift))
        label = f"{group.role}: {group.name}"
        axes.plot(steps, added.drift, color=colour, marker=marker, markersize=4, linewidth=1.3, label=label)
    axes.set(xlabel="steps done", ylabel="mean distance of the samples (mm)")
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.tick_params(labelsize=8)
    axes.grid(True, color="#e5e5e5", linewidth=0.6)
    axes.set_title("Drift from the FP32 trajectory, the worst of each graph", fontsize=9)
    axes.legend(fontsize=7)
