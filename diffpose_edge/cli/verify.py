"""``diffpose-edge verify``"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from diffpose_edge.atomic import atomic_file, check_file_place
from diffpose_edge.cli.terminal import err, out, parsed_timesteps, stages
from diffpose_edge.clips import street_walk
from diffpose_edge.comparison import Comparison
from diffpose_edge.keypoints import load_keypoints


def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle made by export.")],
    denoiser: Annotated[Path, typer.Option(help="The denoiser checkpoint that it was exported from.")],
    context: Annotated[Path, typer.Option(help="The context encoder's checkpoint.")],
    keypoints: Annotated[
        Path | None, typer.Option(help="npz with the keypoints to compare on (default: the street clip that ships with the package).")
    ] = None,
    timesteps: Annotated[str | None, typer.Option(help="Timesteps, largest first (default: the bundle's).")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every comparison to this file.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Print every layer, not only the worst of each group.")] = False,
) -> None:
    """Compare a bundle with PyTorch: every layer, every step, and the final pose in millimetres.

    Exit status: 0 when every value is within its budget, 1 when one is not, 2 when the comparison cannot be made.
    """
    from diffpose_edge.export.verification import verify_bundle

    steps = parsed_timesteps(timesteps)
    if json_path is not None:
        check_file_place(json_path)
    clip = load_keypoints(keypoints) if keypoints else street_walk().keypoints
    with stages("verify", 5) as stage:
        report = verify_bundle(bundle, denoiser, context, clip, timesteps=steps, progress=stage)
    if not report.same_checkpoints:
        err.print("note: these are not the checkpoint files that the bundle was exported from")
    print_comparisons(report.sections, everything)
    verdict = "[green]PASSED[/]" if report.passed else "[red]FAILED[/]"
    out.print(f"{verdict}: {report.frames} frames, timesteps {','.join(map(str, report.timesteps))}", soft_wrap=True)
    if json_path is not None:
        with atomic_file(json_path) as temporary:
            temporary.write_text(json.dumps(report.as_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if not report.passed:
        raise typer.Exit(1)


def print_comparisons(sections: dict[str, tuple[Comparison, ...]], everything: bool = False) -> None:
    """Print a table with every comparison, or the worst of each section and all that failed."""
    table = Table(title="bundle against PyTorch")
    for heading, justify in (("part", "left"), ("value", "left"), ("largest error", "right"), ("at", "left"), ("relative", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_column("budget", justify="right")
    table.add_column("verdict")
    for section, comparisons in sections.items():
        worst = max(comparisons, key=lambda c: c.measured)
        shown = comparisons if everything or section == "steps" else [c for c in comparisons if not c.passed or c is worst]
        for c in shown:
            label = c.name if everything or section in ("steps", "pose") else f"{c.name} (worst of {len(comparisons)})"
            budget = f"{c.budget:.3g} mm" if c.unit == "mm" else f"{c.budget:.0e} rel."
            verdict = "[green]ok[/]" if c.passed else "[red]FAILED[/]"
            table.add_row(section, label, f"{c.error:.2e} {c.unit}", str(list(c.where)), f"{c.relative:.1e}", budget, verdict)
    out.print(table)
