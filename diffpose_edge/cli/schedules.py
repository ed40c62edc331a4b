"""The schedules that a budget chooses among, as a table: what each reaches, and what it takes on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from diffpose_edge.manifest import Manifest
from diffpose_edge.runtime.budget import Offers
from diffpose_edge.runtime.plan import FITTED, StepPlan
from diffpose_edge.timings import MachineTimings, named_key

REACHED = (("sample_mm", "a sample"), ("pose_mm", "the mean pose"), ("pose_p99_mm", "its 99 %"), ("mpjpe_mm", "MPJPE"))
MOST_TIMESTEPS_SHOWN = 8


def schedule_table(manifest: Manifest, timings: Sequence[MachineTimings]) -> Table:
    """Return what is on offer, a row for each K: millimetres from where every timestep leads, as far as the bundle records them, and the
    milliseconds of one batch by each of ``timings``, median and 99th percentile.
    """
    table = Table(title="schedules on offer for a budget; mm: from where every timestep leads, and MPJPE, as recorded in the bundle")
    for heading in ("K", "schedule", *(f"{name}, mm" for _, name in REACHED)):
        table.add_column(heading, justify="left" if heading == "schedule" else "right")
    for each in timings:
        table.add_column(escape(f"ms, p50 / p99: {named_key(each.key, machine=False)}"), justify="right")
    plans = Offers(manifest).plans
    every = plans[max(plans)]
    for K, plan in plans.items():
        reached = _reached(manifest, plan, every=plan is every)
        cells = [f"{value:.1f}" if (value := reached.get(name)) is not None else "-" for name, _ in REACHED]
        taken = [f"{each.frame[K].p50:.2f} / {each.frame[K].p99:.2f}" if K in each.frame else "-" for each in timings]
        table.add_row(str(K), f"{plan.sampler}: {_shown(plan.timesteps)}", *cells, *taken)
    return table


def _reached(manifest: Manifest, plan: StepPlan, *, every: bool) -> dict[str, float]:
    """Return what the bundle records of a schedule; ``every``: it is the one that the fitted ones are held against. Nothing relies on
    records, so what is not a number there is not shown.
    """
    accuracy: Any = None
    if plan.sampler == FITTED:
        accuracy = next(schedule.accuracy for schedule in manifest.fitted if schedule.timesteps == plan.timesteps).get("fitted")
    elif manifest.fitted and every:
        accuracy = {
            **dict.fromkeys(("sample_mm", "pose_mm", "pose_p99_mm"), 0.0),
            "mpjpe_mm": manifest.fitted[0].accuracy.get("dense_mpjpe_mm"),
        }
    found = accuracy if isinstance(accuracy, dict) else {}
    return {name: value for name, value in found.items() if isinstance(value, float | int) and not isinstance(value, bool)}


def _shown(timesteps: tuple[int, ...]) -> str:
    if len(timesteps) <= MOST_TIMESTEPS_SHOWN:
        return ", ".join(map(str, timesteps))
    return f"{timesteps[0]}, {timesteps[1]}, … {timesteps[-1]}"
