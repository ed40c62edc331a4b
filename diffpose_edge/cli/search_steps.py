"""``diffpose-edge search-steps``"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from diffpose_edge.atomic import atomic_file, check_file_place
from diffpose_edge.bundle import load_bundle
from diffpose_edge.bundle_writing import record_fitted
from diffpose_edge.cli.terminal import counting, out, say, telling
from diffpose_edge.clips import calibration_keypoints, held_out_path
from diffpose_edge.errors import BundleError
from diffpose_edge.evaluation import load_evaluation
from diffpose_edge.fitted import FittedSchedule, schedules_json
from diffpose_edge.keypoints import load_keypoints

if TYPE_CHECKING:
    from diffpose_edge.manifest import Manifest


def search_steps(
    bundle: Annotated[Path, typer.Argument(help="A bundle made by export; the schedules are put into its manifest.")],
    steps: Annotated[list[int] | None, typer.Option(help="K to search for; may be given several times (default: 2, 3, 4, 5, 8).")] = None,
    keypoints: Annotated[
        Path | None, typer.Option(help="npz with the keypoints to search on, as for run (default: frames that ship with the package).")
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="npz of clips to measure on, as for evaluate (default: the held-out clips that ship).")
    ] = None,
    frames: Annotated[int, typer.Option(help="Frames to search on, at most.", min=1)] = 54,
    each: Annotated[int, typer.Option(help="Frames of each held-out clip to measure on.", min=1)] = 10,
    save: Annotated[
        Path | None,
        typer.Option(help="Also write all schedules of the bundle to this schedules.json: beside the denoiser, exports will take it."),
    ] = None,
) -> None:
    """Search timesteps and fit coefficients so that few steps lead where every timestep of DDIM leads, on real poses.

    Needs a CPU only. `run --steps K` then takes what was found for K.
    """
    from diffpose_edge.calibration.step_search import Denoiser, search_trial, searched_schedule
    from diffpose_edge.calibration.step_search import held_out as held_out_poses

    loaded = load_bundle(bundle)
    checkpoints = _checkpoints(loaded.manifest) if save is not None else {}
    if save is not None:
        check_file_place(save)
    clip = load_keypoints(keypoints) if keypoints else calibration_keypoints()
    clips = load_evaluation(held_out or held_out_path())
    denoiser, dense = Denoiser(loaded), loaded.manifest.timesteps[0] + 1
    with counting("every timestep, by ddim", 2 * dense) as done:
        trial = search_trial(loaded, denoiser, clip, frames, done)
        held = held_out_poses(loaded, denoiser, clips, each, done)
    found = []
    for K in sorted(set(steps or (2, 3, 4, 5, 8))):
        # How many schedules will be tried is not known beforehand: about twelve for each timestep.
        with counting(f"K = {K}: schedules tried", 12 * K) as done:
            found.append(searched_schedule(trial, held, K, done))
        # At once: a search for many steps takes long, and what was found before it is whole without it.
        with telling():
            loaded = record_fitted(loaded, found[-1:])
    print_schedules(found)
    say(f"wrote {bundle}: diffpose-edge run --steps K takes what was found for K")
    if save is not None:
        with atomic_file(save) as temporary:
            temporary.write_text(schedules_json(loaded.manifest.fitted, checkpoints), encoding="utf-8")
        say(f"wrote {save}")


def print_schedules(schedules: Sequence[FittedSchedule]) -> None:
    """Print what each schedule reaches on held-out poses, beside even timesteps of DDIM."""
    table = Table(title="distance from every timestep of DDIM, held-out poses, mm")
    for heading in ("K", "timesteps", "a sample\nfitted", "\nddim", "the mean pose\nfitted", "\nddim", "MPJPE\nfitted", "\nddim"):
        table.add_column(heading, justify="left" if heading == "timesteps" else "right")
    for schedule in schedules:
        fitted, ddim = schedule.accuracy["fitted"], schedule.accuracy["ddim"]
        figures = [f"{of[name]:.2f}" for name in ("sample_mm", "pose_mm", "mpjpe_mm") for of in (fitted, ddim)]
        table.add_row(str(len(schedule.timesteps)), ", ".join(map(str, schedule.timesteps)), *figures)
    out.print(table)


def _checkpoints(manifest: Manifest) -> dict[str, str]:
    """Return the SHA-256 of the checkpoints that a bundle was made of, by role."""
    try:
        return {role: str(manifest.provenance["checkpoints"][role]["sha256"]) for role in ("denoiser", "context")}
    except (KeyError, TypeError):
        raise BundleError("the bundle does not say which checkpoints it was made of: leave --save out, or export it again") from None
