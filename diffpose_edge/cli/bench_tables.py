"""What the commands of ``diffpose-edge bench`` print: a report, a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from diffpose_edge.cli.terminal import out, say

if TYPE_CHECKING:
    from diffpose_edge.benchmarks.bench_compare import Comparison

# Rows that agree in these do the same work: their ratios mean something, and they stand together.
SAME_WORK = ("N", "P", "K")
COLUMNS = (
    "N",
    "P",
    "K",
    "thr.",
    "frame\np50",
    "p99",
    "step\np50",
    "p99",
    "/ floor",
    "encoder\np50",
    "jitter",
    "ratio",
    "load\ns",
    "first",
    "MB",
)


def print_report(report: Mapping[str, Any]) -> None:
    """Print the rows. A ratio is to the first row of the same N, P and K; ``/ floor`` how many floors a step takes (docs/bench.md)."""
    rows = report["rows"]
    same = [name for name in ("backend", "precision") if len({row[name] for row in rows}) == 1]
    table = Table(title=" ".join(("latency, ms:", *(rows[0][name] for name in same))) if same else "latency, ms")
    table.add_column("variant")
    for heading in COLUMNS:
        table.add_column(heading, justify="right")
    first_p50: dict[tuple[Any, ...], float] = {}
    before: tuple[Any, ...] | None = None
    for row in rows:
        frame, step, encoder = row["ms"]["frame"], row["ms"]["step"], row["ms"]["encoder"]
        work = tuple(row[name] for name in SAME_WORK)
        if before is not None and work[:2] != before[:2]:
            table.add_section()
        before = work
        floor = ((row.get("floor") or {}).get("ratio") or {}).get("step")
        table.add_row(
            escape(" ".join((Path(row["bundle"]).name, *(row[name] for name in ("backend", "precision") if name not in same)))),
            *(str(row[name]) for name in "NPK"),
            "-" if row["threads"] is None else str(row["threads"]),
            *(_ms(value) for value in (frame["p50"], frame["p99"], step["p50"], step["p99"])),
            "-" if floor is None else f"{floor:.2f}",
            _ms(encoder["p50"]),
            f"{row['jitter']:.2f}",
            f"{frame['p50'] / first_p50.setdefault(work, frame['p50']):.2f}",
            f"{row['load_s']:.2f}",
            _ms(row["first_ms"]),
            f"{row['resident_mb']:.0f}",
        )
    if rows:
        out.print(table)
    for row in rows:
        if energy := row.get("energy_per_frame"):
            names = f"{Path(row['bundle']).name} {row['backend']} {row['precision']} K={row['K']}"
            say(f"{names}: {energy['joules']:.4f} J a frame, {energy['of']} ({energy['how']})")
    for refused in report["refused"]:
        say(f"refused: {Path(refused['bundle']).name} {refused['backend']} {refused['precision']} K={refused['K']}: {refused['reason']}")
    for floor in (report.get("floors") or {}).values():
        say(
            f"at best with {floor['threads']} thr.: {floor['sgemm_gflops']:.0f} GFLOP/s in matmuls, "
            f"memory {floor['memory_gb_per_s']:.1f} GB/s, {floor['node_us']:.2f} µs for an empty operator"
        )
    if not report.get("floors") and report.get("floors_missing"):
        say(f"no floors: {report['floors_missing']}")
    where = report["machine"]
    say(f"{where['processor']}, {where['cores']} cores, governor {where['governor'] or 'unknown'}, load {where['load_1min']} when it ended")
    for flag in report.get("flags") or []:
        say(f"doubtful: {flag}")


def print_scaling(report: Mapping[str, Any]) -> None:
    """Print how cost grows over N, P, K and threads, where three rows or more tell."""
    from diffpose_edge.benchmarks.scaling_fit import FEW, said

    for one in report.get("scaling") or []:
        if one["verdict"] != FEW:
            say(said(one))


def print_comparison(found: Comparison, a: Path, b: Path) -> None:
    """Print the changes between two reports, and what only one has."""
    table = Table(title=f"{escape(a.name)} → {escape(b.name)}")
    for heading, justify in (("row", "left"), ("stage", "left"), ("A ms", "right"), ("B ms", "right"), ("B/A", "right"), ("99 %", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_column("")
    previous: tuple[Any, ...] = ()
    for change in found.changes:
        if change.row != previous and previous:
            table.add_section()
        bundle, backend, precision, K, threads, N, P = change.row
        name = f"{bundle} {backend} {precision} N={N} P={P} K={K}" + ("" if threads is None else f" {threads} thr.")
        table.add_row(
            escape(name if change.row != previous else ""),
            change.stage,
            f"{change.a:.3f}",
            f"{change.b:.3f}",
            f"{change.ratio:.3f}",
            f"{change.low:.3f}-{change.high:.3f}",
            change.verdict,
        )
        previous = change.row
    out.print(table)
    for path, rows in ((a, found.only_a), (b, found.only_b)):
        for row in rows:
            say(f"only in {path.name}: {' '.join(map(str, row))}")


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
