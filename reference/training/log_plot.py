"""The curves of a training, drawn from the logs that its stages write."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from diffpose_edge.atomic import atomic_file
from diffpose_edge.errors import TrainingError
from diffpose_edge.extras import require
from diffpose_edge.plain_json import json_of
from diffpose_edge.reading import read_file, reason_of

# Told apart by hue and by lightness, and in a print without colours by dashes.
STYLES = (("#1f5fa8", "-"), ("#e08214", "--"), ("#333333", ":"), ("#7b4fa3", "-."))
# What the log calls it, and what it is, in millimetres.
ERRORS = {
    "mpjpe_mm": "encoder, training batches",
    "x0_mm": "one step from a drawn timestep, training batches",
    "held_out_mm": "held out",
    "held_out_one_sample_mm": "held out, one sample",
}


# Of a line for each epoch.
MOST_BYTES = 64 << 20


def read_log(path: str | Path) -> list[dict[str, float]]:
    """Return the epochs of a ``<stage>.log.jsonl``, in order: each has ``epoch``, ``loss`` and further numbers.

    Raises TrainingError when it is not such a log.
    """
    path = Path(path)
    try:
        lines = read_file(path, MOST_BYTES).decode("utf-8").splitlines()
    except (OSError, ValueError) as err:
        raise TrainingError(f"{path} cannot be read as a training log: {reason_of(err)}") from None
    return [_epoch(line, f"{path}, line {i + 1}") for i, line in enumerate(lines)]


def _epoch(line: str, where: str) -> dict[str, float]:
    try:
        epoch = json_of(line)
    except ValueError:
        epoch = None
    if not isinstance(epoch, dict) or not {"epoch", "loss"} <= epoch.keys() or not all(_is_number(v) for v in epoch.values()):
        raise TrainingError(f"{where}: expected the figures of an epoch as JSON with epoch and loss, got {line[:80]!r}")
    return epoch


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def plot_logs(folder: str | Path, path: str | Path) -> None:
    """Draw the logs ``*.log.jsonl`` in ``folder`` as a PNG: a row for each stage, the loss and the errors over the epochs.

    Raises TrainingError when there is no log or one cannot be read; OutputError, MissingPackage.
    """
    logs = {log.name.removesuffix(".log.jsonl"): read_log(log) for log in sorted(Path(folder).glob("*.log.jsonl"))}
    logs = {stage: epochs for stage, epochs in logs.items() if epochs}
    if not logs:
        raise TrainingError(f"{folder} has no training log with an epoch in it (*.log.jsonl); nothing to draw")
    require("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Made without pyplot: no display is looked for, and nothing global is left behind.
    figure = Figure(figsize=(10.0, 3.6 * len(logs)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for (stage, epochs), (left, right) in zip(logs.items(), figure.subplots(len(logs), 2, squeeze=False), strict=True):
        _draw(left, epochs, {"loss": "training batches"})
        left.set(title=f"{stage}: loss", ylabel="loss")
        _draw(right, epochs, {name: label for name, label in ERRORS.items() if name in epochs[-1]})
        last = epochs[-1]
        reached = f", held out {last['held_out_mm']:.1f} mm after epoch {last['epoch']:g}" if "held_out_mm" in last else ""
        right.set(title=f"{stage}: error{reached}", ylabel="mm")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw(axes: Any, epochs: list[dict[str, float]], curves: dict[str, str]) -> None:
    for (name, label), (colour, line) in zip(curves.items(), STYLES, strict=False):
        known = [(epoch["epoch"], epoch[name]) for epoch in epochs if name in epoch]
        # With markers: a first epoch alone makes no line.
        axes.plot(*zip(*known, strict=True), color=colour, linestyle=line, marker=".", linewidth=1.4, label=label)
    axes.set(xlabel="epoch")
    axes.grid(True, color="#e5e5e5", linewidth=0.6)
    axes.tick_params(labelsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if curves:
        axes.legend(fontsize=8)
