"""``diffpose-edge sensitivity``"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from diffpose_edge.atomic import atomic_file, check_file_place
from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.bundle_writing import check_target
from diffpose_edge.cli.terminal import counting, out, parsed_timesteps, say
from diffpose_edge.clips import calibration_keypoints
from diffpose_edge.errors import CalibrationError, DiffPoseEdgeError, OutputError
from diffpose_edge.extras import require
from diffpose_edge.keypoints import load_keypoints
from diffpose_edge.schedule import checked_timesteps

if TYPE_CHECKING:
    from diffpose_edge.calibration.budget_search import BudgetResult
    from diffpose_edge.calibration.scales_file import Calibration
    from diffpose_edge.calibration.sensitivity import GroupError
    from diffpose_edge.comparison import AddedError

# Frames to try on. A video encoder's frames come in windows, and those of one window are nearly one pose: what is found on a
# single one does not hold for others (1.0 mm there, 1.2 mm elsewhere).
FRAMES, WINDOWS = 24, 4


def sensitivity(
    bundle: Annotated[Path, typer.Argument(help="A bundle made by export; for INT8 and for --apply a calibrated one.")],
    precision: Annotated[str, typer.Option(help="int8 or fp16.")] = "int8",
    by: Annotated[
        str | None, typer.Option(help="Lower one matmul or one layer at a time (default: matmul for int8, layer for fp16).")
    ] = None,
    keypoints: Annotated[
        Path | None, typer.Option(help="npz with the keypoints to try on, as for run (default: those that calibrate records on).")
    ] = None,
    timesteps: Annotated[str | None, typer.Option(help="Timesteps, largest first (default: the bundle's).")] = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames to try on, at most (default: 24, or four windows of a video encoder).", min=1)
    ] = None,
    budget_mm: Annotated[
        float | None, typer.Option(help="Find the fewest to keep in higher precision for at most this mean error, millimetres.")
    ] = None,
    worst_mm: Annotated[float | None, typer.Option(help="Of --budget-mm: the worst joint may err by this much, millimetres.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Of --budget-mm: rebuild the bundle's graphs with what was found.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")] = None,
    plot_path: Annotated[Path | None, typer.Option("--plot", help="Draw the errors and their drift to this PNG.")] = None,
) -> None:
    """Say which layers low precision harms: one at a time is lowered, and the final poses are compared with FP32.

    With --budget-mm, also which to keep in higher precision (FP16 instead of INT8, FP32 instead of FP16) so that the poses
    err no more than that. Minutes on a CPU; nothing is changed without --apply.
    """
    from diffpose_edge.calibration.added_error import Trial
    from diffpose_edge.calibration.budget_search import added_together, most_trials, smallest_kept
    from diffpose_edge.calibration.observed import frames_to_use
    from diffpose_edge.calibration.sensitivity import estimate_macs, groups_to_try
    from diffpose_edge.calibration.sensitivity import sensitivity as tried_alone

    _check_options(budget_mm, worst_mm, apply, json_path, plot_path)
    by = by or ("layer" if precision == "fp16" else "matmul")
    loaded = load_bundle(bundle)
    if apply:
        check_target(bundle, replace_existing=True)
    calibration = _calibration(loaded, precision, apply)
    steps = checked_timesteps(parsed_timesteps(timesteps) or loaded.manifest.timesteps, loaded.manifest.T)
    F = loaded.manifest.stretch
    given = load_keypoints(keypoints) if keypoints else calibration_keypoints()
    clip = frames_to_use(given, F, frames or (FRAMES if F == 1 else WINDOWS * F))
    trial, plan = Trial(loaded, clip, steps), _plan(calibration, precision)
    with counting(f"{precision}, one {by} at a time", len(groups_to_try(trial, plan, precision, by))) as done:
        errors = tried_alone(trial, plan, precision, by, done)
    macs = estimate_macs(trial)
    _print_errors(errors, precision, macs)
    together = added_together(trial, plan, precision)
    lowered = sum(group.macs for group in errors if group.added is not None) / macs
    say(f"all of them together, as they ship: {_figures(together)}; {100 * lowered:.0f} % of the matmul work in {precision}")
    result = None
    if budget_mm is not None:
        most = most_trials(errors)
        with counting("searching, sets at most", most) as done:
            result = smallest_kept(trial, plan, precision, budget_mm, errors, worst_mm=worst_mm, progress=done)
            done(most - len(result.tried))
        _print_result(result, errors, precision, budget_mm, worst_mm)
    used = {
        "bundle": str(bundle),
        "precision": precision,
        "by": by,
        "keypoints": None if keypoints is None else str(keypoints),
        "frames": len(clip),
        "timesteps": list(steps),
        "budget_mm": budget_mm,
        "worst_mm": worst_mm,
    }
    if json_path is not None:
        _write_json(json_path, used, errors, macs, together, result)
    if plot_path is not None:
        from diffpose_edge.calibration.sensitivity_plot import plot_sensitivity

        kept = [(role, name) for role, names in result.kept.items() for name in names] if result else []
        caption = f"{bundle.name} in {precision}, one {by} at a time: {len(clip)} frames, K = {len(steps)}"
        plot_sensitivity(errors, plot_path, kept=kept, caption=caption)
    if apply and result is not None and calibration is not None:
        _apply(loaded, calibration, result, used)
        say(f"wrote {bundle}: its fp16 and int8 graphs now keep what is named above. Prove it with diffpose-edge verify")


def _check_options(budget_mm: float | None, worst_mm: float | None, apply: bool, *outputs: Path | None) -> None:
    if budget_mm is None and (apply or worst_mm is not None):
        raise DiffPoseEdgeError(f"{'--apply' if apply else '--worst-mm'} goes with --budget-mm, which says what is to be found")
    for name, value in (("--budget-mm", budget_mm), ("--worst-mm", worst_mm)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise DiffPoseEdgeError(f"{name}: expected millimetres above zero, got {value}")
    given = [path for path in outputs if path is not None]
    for path in given:
        check_file_place(path)
    if len({path.resolve() for path in given}) < len(given):
        raise OutputError(f"--json and --plot both name {given[0]}; choose two names")
    if outputs[-1] is not None:
        require("matplotlib")


def _calibration(bundle: Bundle, precision: str, apply: bool) -> Calibration | None:
    """Return the bundle's calibration; None where there is none and FP16 is only looked at."""
    from diffpose_edge.calibration.calibrate import calibration_of

    try:
        return calibration_of(bundle)
    except CalibrationError:
        if precision == "fp16" and not apply and not any(entry.role == "calibration" for entry in bundle.manifest.files.values()):
            return None
        raise


def _plan(calibration: Calibration | None, precision: str) -> Any:
    """Return the plan with everything lowered that can be: not only what the bundle lowers now, so that a larger budget gives back."""
    from diffpose_edge.export.precision import PrecisionPlan

    if calibration is None:
        return PrecisionPlan()
    if precision == "fp16":
        return PrecisionPlan(ranges=calibration.ranges)
    return PrecisionPlan(calibration.scales, calibration.fp32, calibration.ranges)


def _apply(bundle: Bundle, calibration: Calibration, result: BudgetResult, used: dict[str, Any]) -> None:
    from diffpose_edge.calibration.calibrate import apply_calibration

    record = {key: used[key] for key in ("budget_mm", "worst_mm", "by", "frames", "timesteps")} | {"added": result.added.as_json()}
    budgets = {**calibration.provenance.get("budget", {}), used["precision"]: record}
    provenance = {**calibration.provenance, "budget": budgets}
    if used["precision"] == "fp16":
        altered = replace(calibration, fp32=result.plan.fp32, provenance=provenance)
    else:
        int8 = {role: tuple(scales) for role, scales in result.plan.int8.items()}
        altered = replace(calibration, int8=int8, provenance=provenance)
    apply_calibration(bundle, altered)


def _figures(added: AddedError) -> str:
    return f"mean {added.mean:.2f} mm, worst joint {added.worst:.2f} mm"


def _print_errors(errors: Sequence[GroupError], precision: str, macs: int) -> None:
    from diffpose_edge.calibration.sensitivity_plot import worst_first

    table = Table(title=f"added to the pose by each alone in {precision}")
    for heading in ("graph", "layer", "mean mm", "worst mm", "drift after\nthe last step", "matmul\nwork %"):
        table.add_column(heading, justify="left" if heading in ("graph", "layer") else "right")
    for group in worst_first(errors):
        figures = ("float32", "in any", "case")
        if group.added is not None:
            figures = tuple(f"{value:.3f}" for value in (group.added.mean, group.added.worst, group.added.drift[-1]))  # type: ignore[assignment]
        table.add_row(group.role, group.name, *figures, f"{100 * group.macs / macs:.2f}")
    out.print(table)


def _print_result(result: BudgetResult, errors: Sequence[GroupError], precision: str, budget_mm: float, worst_mm: float | None) -> None:
    higher = "FP16" if precision == "int8" else "FP32"
    asked = f"{budget_mm:g} mm" + ("" if worst_mm is None else f", worst joint {worst_mm:g} mm")
    say(f"for {asked}: {_figures(result.added)}, after {len(result.tried)} sets tried")
    for role, names in result.kept.items():
        lowered = [group.name for group in errors if group.role == role and group.added is not None]
        listed = f"all {len(names)}" if len(names) == len(lowered) else ", ".join(names)
        say(f"  {role}: {f'{listed} stay {higher}' if names else 'nothing needs to be kept'}")
    say(f"  {100 * result.share_after:.1f} % of the matmul work in {precision}, {100 * result.share_before:.1f} % at most")


def _write_json(
    path: Path, used: dict[str, Any], errors: Sequence[GroupError], macs: int, together: AddedError, result: BudgetResult | None
) -> None:
    search = None
    if result is not None:
        search = {
            "kept": {role: list(names) for role, names in result.kept.items()},
            "added": result.added.as_json(),
            "share_before": result.share_before,
            "share_after": result.share_after,
            "tried": [tried.as_json() for tried in result.tried],
        }
    report = {
        "sensitivity": used,
        "macs": macs,
        "groups": [group.as_json() for group in errors],
        "together": together.as_json(),
        "search": search,
    }
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(_without_nan(report), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:
    """Replace every float that is not finite, as overflows leave, by None: JSON has no word for it."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
