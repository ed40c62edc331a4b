"""Pictures of a report of ``diffpose-edge bench``: how latencies spread, drift, go over the steps, and grow."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_edge.atomic import atomic_file
from diffpose_edge.benchmarks.bench_compare import samples_of
from diffpose_edge.benchmarks.bench_labels import labels_of
from diffpose_edge.evaluation_plot import LINES
from diffpose_edge.extras import require

GREY, GRID = "#9a9a9a", "#e5e5e5"
# More lines than these cannot be told apart: the rest is drawn in grey.
MOST_LINES = len(LINES)
STAGES = (("frame", "frame"), ("step", "step, mean of a round"), ("encoder", "encoder"))
Report = Mapping[str, Any]


def pictures_of(report: Report) -> dict[str, bytes]:
    """Return PNGs by name, of what the report's rows show; none for a report without rows. Raises MissingPackage."""
    require("matplotlib")
    if not report["rows"]:
        return {}
    drawn = {name: draw(report) for name, draw in PICTURES.items()}
    return {name: _png(figure) for name, figure in drawn.items() if figure is not None}


def save_pictures(report: Report, folder: str | Path) -> list[Path]:
    """Write the pictures as ``folder/<name>.png``; return where. Raises OutputError, MissingPackage."""
    written = []
    for name, content in pictures_of(report).items():
        path = Path(folder) / f"{name}.png"
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)
        written.append(path)
    return written


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Made without pyplot: no display is looked for, and nothing global is left behind.
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _tidy(axes: Any, axis: str = "both") -> None:
    axes.grid(True, axis=axis, which="major", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def distribution(report: Report) -> Any:
    """Each row's spread by stage: the box holds half of the rounds, the bar reaches to p99, the cross is the slowest."""
    rows = report["rows"]
    common, labels = labels_of(rows)
    stages = [(stage, title) for stage, title in STAGES if any(np.isfinite(samples_of(row, stage)).any() for row in rows)]
    figure = _figure(11.0, 1.6 + 0.32 * len(rows))
    for column, (axes, (stage, title)) in enumerate(
        zip(figure.subplots(1, len(stages), sharey=True, squeeze=False)[0], stages, strict=True)
    ):
        for y, row in enumerate(rows):
            ms = samples_of(row, stage)
            if not np.isfinite(ms).all():
                continue
            colour = LINES[column][0]
            low, middle, high, p99 = np.percentile(ms, [25, 50, 75, 99])
            axes.plot([ms.min(), p99], [y, y], color=colour, linewidth=1.2, solid_capstyle="butt", zorder=2)
            axes.plot([p99, p99], [y - 0.18, y + 0.18], color=colour, linewidth=1.2, zorder=2)
            axes.barh(y, high - low, 0.5, left=low, color=colour, alpha=0.45, zorder=3)
            axes.plot([middle, middle], [y - 0.25, y + 0.25], color=colour, linewidth=2.2, zorder=4)
            axes.plot(ms.max(), y, marker="x", markersize=4, color=colour, alpha=0.7, zorder=2)
        values = np.concatenate([ms for ms in (samples_of(row, stage) for row in rows) if np.isfinite(ms).all()])
        if values.max() > 5 * values.min():
            from matplotlib.ticker import LogLocator, NullFormatter

            # Within one decade powers of ten would be a single tick.
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("ms", fontsize=8)
        _tidy(axes, "x")
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    figure.suptitle(f"Latency by stage: quartiles, median, p99 (bar), slowest (cross)\n{common}", fontsize=10)
    return figure


def rounds(report: Report) -> Any:
    """Each row's frames over the rounds, relative to the row's median: a drift of the machine moves all alike."""
    rows = report["rows"]
    common, labels = labels_of(rows)
    figure = _figure(11.0, 4.4)
    axes = figure.subplots()
    relative = [samples_of(row, "frame") / np.median(samples_of(row, "frame")) for row in rows]
    for index, (ratio, label) in enumerate(zip(relative, labels, strict=True)):
        named = index < MOST_LINES
        colour = LINES[index][0] if named else GREY
        axes.plot(ratio, ".", color=colour, markersize=3.5, alpha=0.55, label=label if named else None)
    if len(rows) > MOST_LINES:
        axes.plot([], [], ".", color=GREY, label=f"the other {len(rows) - MOST_LINES}")
    if len({len(ratio) for ratio in relative}) == 1:
        axes.plot(np.median(relative, axis=0), color="black", linewidth=1.4, label="median of the rows")
    for index, floor in enumerate((report.get("floors") or {}).values()):
        sgemm = np.array([one["sgemm_gflops"] for one in floor["measured"]])
        at = [one["round"] for one in floor["measured"]]
        threads = f"{floor['threads']} thr."
        axes.plot(
            at, np.median(sgemm) / sgemm, "D", color="black", markerfacecolor=("white", "silver")[index % 2], label=f"sgemm, {threads}"
        )
    above = np.percentile(np.concatenate(relative), 99)
    axes.set_ylim(min(0.9, min(ratio.min() for ratio in relative) - 0.02), max(1.2, 1.15 * above))
    axes.axhline(1.0, color=GREY, linewidth=0.8, zorder=1)
    axes.set(xlabel="round", ylabel="frame / its median")
    beyond = sum(int((ratio > axes.get_ylim()[1]).sum()) for ratio in relative)
    note = f" ({beyond} frames lie above the picture)" if beyond else ""
    axes.set_title(f"Drift over the rounds{note}\n{common}", fontsize=10)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    _tidy(axes)
    return figure


def steps(report: Report) -> Any:
    """Milliseconds of each of the K steps: medians, and the middle nine tenths of the rounds; a panel for each N and P."""
    told = [row for row in report["rows"] if len(row["timesteps"]) > 1 and np.isfinite(samples_of(row, "step")).all()]
    if not told:
        return None
    sizes = sorted({(row["N"], row["P"]) for row in told})
    figure = _figure(max(6.5, 4.4 * len(sizes)), 4.6)
    for axes, (N, P) in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        rows = [row for row in told if (row["N"], row["P"]) == (N, P)]
        most = 0.0
        for index, (label, row) in enumerate(zip(labels_of(rows)[1], rows, strict=True)):
            named = index < MOST_LINES
            colour, marker = LINES[index] if named else (GREY, "")
            ms = np.asarray(row["samples_ms"]["steps"], float)
            at, (low, middle, high) = np.arange(ms.shape[1]), np.percentile(ms, [5, 50, 95], axis=0)
            if len(rows) <= MOST_LINES // 2:  # more of them hide each other
                axes.fill_between(at, low, high, color=colour, alpha=0.13, linewidth=0)
                most = max(most, float(high.max()))
            axes.plot(at, middle, color=colour, marker=marker, markersize=3.5, linewidth=1.3, label=label if named else None)
            most = max(most, float(middle.max()))
        axes.set_ylim(0, 1.1 * most)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel="step k, first to last", ylabel="ms" if sizes[0] == (N, P) else "")
        axes.set_title(f"N={N} P={P}", fontsize=9)
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
        _tidy(axes)
    figure.suptitle("Each diffusion step: median, and 5 to 95 % of the rounds", fontsize=10)
    return figure


def scaling(report: Report) -> Any:
    """Latency over N, P, K and 1/threads with the fitted lines."""
    fits = report.get("scaling") or []
    axes_of = [axis for axis in ("N", "P", "K", "threads") if any(fit["axis"] == axis for fit in fits)]
    if not axes_of:
        return None
    same = set.intersection(*(set(fit["of"].split()) for fit in fits))
    figure = _figure(max(6.5, 5.0 * len(axes_of)), 5.2)
    for axes, axis in zip(figure.subplots(1, len(axes_of), squeeze=False)[0], axes_of, strict=True):
        along = [fit for fit in fits if fit["axis"] == axis]
        for index, fit in enumerate(along):
            named = index < MOST_LINES
            colour, marker = LINES[index] if named else (GREY, ".")
            ends = np.array([0.0, 1.06 * max(fit["x"])])
            of = " ".join(word for word in fit["of"].split() if word not in same)
            said = f"{of}: {fit['a']:.3g} {fit['b']:+.3g} x\noff by {fit['residual']:.1%}, noise {fit['noise']:.1%}: {fit['verdict']}"
            axes.plot(ends, fit["a"] + fit["b"] * ends, color=colour, linewidth=1.0, linestyle="--")
            axes.plot(fit["x"], fit["y"], marker, color=colour, markersize=6, label=said if named else None)
        axes.set_xlim(0, None)
        axes.set_ylim(0, None)
        axes.set(xlabel="1 / threads" if axis == "threads" else axis, ylabel=f"{along[0]['stage']}, ms")
        axes.set_title(f"{along[0]['stage']} over {'1 / threads' if axis == 'threads' else axis}", fontsize=9)
        axes.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
        _tidy(axes)
    common = " ".join(word for word in fits[0]["of"].split() if word in same)
    figure.suptitle(f"Cost against size: medians, and the line through them\n{common}", fontsize=10)
    return figure


PICTURES: Mapping[str, Callable[[Report], Any]] = {
    "distribution": distribution,
    "rounds": rounds,
    "steps": steps,
    "scaling": scaling,
}
