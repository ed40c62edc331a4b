"""``diffpose-edge verify``"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from diffpose_edge.atomic import atomic_file, check_file_place
from diffpose_edge.bundle import load_bundle
from diffpose_edge.bundle_writing import record_verification
from diffpose_edge.cli.terminal import err, out, parsed_timesteps, stages, telling
from diffpose_edge.clips import street_walk
from diffpose_edge.comparison import Comparison
from diffpose_edge.keypoints import load_keypoints
from diffpose_edge.signature_file import is_signed

if TYPE_CHECKING:
    from diffpose_edge.export.precision_verification import PrecisionReport


def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle made by export.")],
    denoiser: Annotated[Path, typer.Option(help="The denoiser checkpoint that it was exported from.")],
    context: Annotated[Path, typer.Option(help="The context encoder's checkpoint.")],
    keypoints: Annotated[
        Path | None, typer.Option(help="npz with the keypoints to compare on (default: the street clip that ships with the package).")
    ] = None,
    timesteps: Annotated[str | None, typer.Option(help="Timesteps, largest first (default: the bundle's).")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every comparison to this file.")] = None,
    record: Annotated[
        bool | None,
        typer.Option(
            "--record/--no-record", help="Keep the results in the bundle's manifest (default: unless it is signed; a signature is removed)."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Print every layer, not only the worst of each group.")] = False,
) -> None:
    """Compare a bundle, in every precision that it has, with PyTorch: every layer, every step, and the final pose in millimetres.

    Exit status: 0 when every value is within its budget, 1 when one is not, 2 when the comparison cannot be made.
    """
    from diffpose_edge.export.precision_verification import lower_precisions_of
    from diffpose_edge.export.verification import verify_bundle

    steps = parsed_timesteps(timesteps)
    if json_path is not None:
        check_file_place(json_path)
    clip = load_keypoints(keypoints) if keypoints else street_walk().keypoints
    loaded = load_bundle(bundle)
    with stages("verify", 5 + 2 * len(lower_precisions_of(loaded))) as stage:
        report = verify_bundle(loaded, denoiser, context, clip, timesteps=steps, progress=stage)
    if not report.same_checkpoints:
        err.print("note: these are not the checkpoint files that the bundle was exported from")
    print_comparisons(report.sections, everything)
    if report.precisions:
        print_precisions(report.sections["pose"][0], report.precisions, report.timesteps)
    if everything:
        print_comparisons({f"{p.precision} against fp32": p.layers for p in report.precisions}, everything)
    if record is None and is_signed(loaded.path):
        err.print("note: the bundle is signed, and its manifest was left as it is; --record would put the results there, unsigned")
    elif record is not False:
        with telling():
            record_verification(loaded, "verify", report.as_record())
    verdict = "[green]PASSED[/]" if report.passed else "[red]FAILED[/]"
    out.print(f"{verdict}: {report.frames} frames, timesteps {','.join(map(str, report.timesteps))}", soft_wrap=True)
    if json_path is not None:
        with atomic_file(json_path) as temporary:
            temporary.write_text(json.dumps(report.as_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if not report.passed:
        raise typer.Exit(1)


def print_precisions(fp32: Comparison, precisions: Sequence[PrecisionReport], timesteps: Sequence[int]) -> None:
    """Print every precision side by side: what it adds to PyTorch's poses, the drift, and the layer that errs most."""
    shown = sorted({0, len(timesteps) // 2, len(timesteps)})
    table = Table(title="precisions, added to PyTorch's poses")
    table.add_column("precision")
    for heading in (
        "mean mm",
        "99 % mm",
        "worst mm",
        "at frame, joint",
        *(f"drift mm\nafter {k} steps" for k in shown),
        "worst layer",
        "budget",
        "verdict",
    ):
        table.add_column(heading, justify="right")
    passed = "[green]ok[/]" if fp32.passed else "[red]FAILED[/]"
    table.add_row("fp32", "", "", f"{fp32.error:.4f}", str(list(fp32.where)), *("" for _ in shown), "", f"{fp32.budget:.3g} mm", passed)
    for p in precisions:
        worst = max(p.layers, key=lambda c: c.relative)
        pose = p.pose
        table.add_row(
            p.precision,
            *(f"{value:.3f}" for value in (pose.mean, pose.p99, pose.worst)),
            str(list(pose.where)),
            *(f"{pose.drift[k]:.3f}" for k in shown),
            f"{worst.name} {worst.relative:.1e}",
            f"{p.budget_mean:.3g} mm" + (f", {p.budget_worst:.3g} mm" if p.budget_worst != float("inf") else ""),
            "[green]ok[/]" if p.passed else "[red]FAILED[/]",
        )
    out.print(table)


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
