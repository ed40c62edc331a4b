"""``diffpose-edge lint``"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from diffpose_edge.atomic import atomic_file, check_file_place
from diffpose_edge.cli.terminal import out

if TYPE_CHECKING:
    from diffpose_edge.export.lint import Finding

_COLOURS = {"refused": "red", "bad": "magenta", "risk": "yellow", "note": "dim"}


def lint(
    model: Annotated[Path, typer.Argument(help="An ONNX file, or a bundle, of which every graph is looked at.")],
    target: Annotated[
        list[str] | None, typer.Option(help="8.6, 10.3, 10.13, 10.16, 11.4, rtx or all; may be given several times (default: all).")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every finding to this file.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Print every finding, not only the first of each rule and target.")] = False,
) -> None:
    """Say what TensorRT would refuse in an ONNX file, or silently do badly, with the reason and the remedy.

    Works on any ONNX file; nothing is run. Exit status: 0 when there is nothing but notes, 1 when there are findings, 2 when
    the file cannot be read. The rules and what they stand on: docs/lint.md.
    """
    from diffpose_edge.export.lint import SEVERITIES, TARGETS, counts, files_of, lint_all, target_of

    asked = dict.fromkeys(name for one in target or ["all"] for name in (TARGETS if one == "all" else [target_of(one).name]))
    if json_path is not None:
        check_file_place(json_path)
    found = {file: lint_all(file, [name for name in asked if name in meant]) for file, meant in files_of(model).items()}
    for file, findings in found.items():
        if findings:
            _print_table(str(file), findings, everything)
    total = counts([finding for findings in found.values() for finding in findings])
    faults = sum(number for severity, number in total.items() if severity != "note")
    if json_path is not None:
        report = {
            "targets": list(asked),
            "counts": total,
            "files": [{"file": str(file), "findings": [asdict(finding) for finding in findings]} for file, findings in found.items()],
        }
        with atomic_file(json_path) as temporary:
            temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    verdict = "[green]clean[/]" if not faults else "[red]findings[/]"
    numbers = ", ".join(f"{total[severity]} {severity}" for severity in SEVERITIES)
    out.print(f"{verdict}: {numbers} ({len(found)} files, targets {', '.join(asked)})", soft_wrap=True)
    if faults:
        raise typer.Exit(1)


def _print_table(title: str, findings: Sequence[Finding], everything: bool) -> None:
    """Print a table with every finding, or with one row for each rule and reason: its first place, and how many there are."""
    table = Table(title=escape(title))
    for heading in ("severity", "rule", "targets", "node", "op", "tensor", "reason, and remedy"):
        table.add_column(heading, overflow="fold")
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        # What several targets find in the same place is one row.
        place = (finding.node, finding.tensor, finding.reason) if everything else ()
        groups.setdefault((finding.severity, finding.rule, *place), []).append(finding)
    for group in groups.values():
        first = group[0]
        targets = ", ".join(dict.fromkeys(finding.target for finding in group))
        places = len({(finding.node, finding.tensor) for finding in group})
        more = f" (and {places - 1} more)" if places > 1 else ""
        severity = f"[{_COLOURS[first.severity]}]{first.severity}[/]"
        what = f"{escape(first.reason)}{more}\n[dim]{escape(first.remedy)}[/]"
        table.add_row(severity, first.rule, targets, escape(first.node), escape(first.op), escape(first.tensor), what)
    out.print(table)
