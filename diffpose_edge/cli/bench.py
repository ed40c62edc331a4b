"""``diffpose-edge bench``: latency of estimates and of each diffusion step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from diffpose_edge.atomic import check_file_place
from diffpose_edge.bundle import load_bundle
from diffpose_edge.cli.terminal import counting, out, say
from diffpose_edge.errors import DiffPoseEdgeError

bench = typer.Typer(help="Measure latency: of an estimate, and of each diffusion step.", no_args_is_help=True)


@bench.command("run")
def run(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles made by export; each has its own N and P.")],
    backend: Annotated[list[str] | None, typer.Option(help="May be given more than once (default: onnxruntime).")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="May be given more than once (default: fp32).")] = None,
    steps: Annotated[list[int] | None, typer.Option("--steps", help="K; may be given more than once (default: 5).", min=1)] = None,
    threads: Annotated[
        list[int] | None, typer.Option(help="CPU threads within an operator; may be given more than once (default: 1).", min=1)
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds that count.", min=12)] = 60,
    warm_up: Annotated[int, typer.Option(help="Rounds before them.", min=0)] = 10,
    out_path: Annotated[Path | None, typer.Option("--out", help="Write every sample as JSON to this file, for 'bench compare'.")] = None,
) -> None:
    """Measure every combination of bundle, backend, precision, K and threads, by turns, each in a process of its own."""
    from diffpose_edge.benchmarks.bench_report import report_of, save_report
    from diffpose_edge.benchmarks.bench_rounds import measured
    from diffpose_edge.benchmarks.bench_variant import Variant

    if out_path is not None:
        check_file_place(out_path)
    for path in bundles:
        load_bundle(path)
    variants = [
        Variant(str(bundle), name, kind, K, count if name == "onnxruntime" else None)
        for bundle in bundles
        for name in backend or ["onnxruntime"]
        for kind in precision or ["fp32"]
        for K in steps or [5]
        for count in (threads or [1] if name == "onnxruntime" else [None])
    ]
    with counting("rounds", warm_up + rounds) as done:
        found, refused = measured(variants, rounds, warm_up=warm_up, progress=done)
    report = report_of(found, refused)
    print_report(report)
    if out_path is not None:
        save_report(report, out_path)
    if not found:
        raise DiffPoseEdgeError("nothing could be measured: every variant was refused, for the reasons above")


@bench.command("steps")
def steps(
    bundle: Annotated[Path, typer.Argument(help="A bundle made by export.")],
    backend: Annotated[str, typer.Option(help="onnxruntime, tensorrt, onnxruntime-cuda or auto.")] = "onnxruntime",
    precision: Annotated[str, typer.Option(help="Precision of the graphs.")] = "fp32",
    threads: Annotated[int, typer.Option(help="CPU threads within an operator.", min=1)] = 1,
    rounds: Annotated[int, typer.Option(help="Rounds that count.", min=12)] = 60,
) -> None:
    """Print milliseconds per diffusion step, in one line."""
    from diffpose_edge.benchmarks.bench_report import report_of
    from diffpose_edge.benchmarks.bench_rounds import measured
    from diffpose_edge.benchmarks.bench_variant import Variant

    K = min(10, load_bundle(bundle).manifest.T)
    count = threads if backend == "onnxruntime" else None
    found, refused = measured([Variant(str(bundle), backend, precision, K, count)], rounds)
    if refused:
        raise DiffPoseEdgeError(refused[0].reason)
    report = report_of(found, refused)
    row = report["rows"][0]
    ms = row["ms"]["step"]
    if ms["p50"] is None:
        raise DiffPoseEdgeError(f"backend {backend!r} does not tell the time of single steps")
    say(
        f"{ms['p50']:.3f} ms per diffusion step (p50; p99 {ms['p99']:.3f}), N={row['N']} P={row['P']}, {precision}, {backend}"
        + ("" if count is None else f" with {count} thread{'s' if count > 1 else ''}")
        + f", {report['machine']['processor']}"
    )


@bench.command("compare")
def compare(
    a: Annotated[Path, typer.Argument(help="A report of 'bench run'.")],
    b: Annotated[Path, typer.Argument(help="A later one.")],
    fail_on_slower: Annotated[bool, typer.Option("--fail-on-slower", help="Exit with 1 when a row has become slower.")] = False,
) -> None:
    """Say what changed between two reports, and whether it is more than noise (99 % interval, and at least 2 %)."""
    from diffpose_edge.benchmarks.bench_compare import compared
    from diffpose_edge.benchmarks.bench_report import load_report

    reports = load_report(a), load_report(b)
    found = compared(*reports)
    if not found.changes:
        raise DiffPoseEdgeError(f"{a} and {b} have no row in common: same bundle name, backend, precision, K, threads, N and P")
    machines = [report["machine"] for report in reports]
    for name in ("processor", "governor", "versions"):
        if machines[0][name] != machines[1][name]:
            say(f"not the same {name}: {machines[0][name]} and {machines[1][name]}")
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
    if fail_on_slower and any(change.verdict == "slower" for change in found.changes):
        raise typer.Exit(1)


def print_report(report: dict[str, Any]) -> None:
    """Print the rows, the first of which is what the others' ratios are to."""
    table = Table(title="latency, ms")
    table.add_column("variant")
    headings = (
        "N",
        "P",
        "K",
        "thr.",
        "frame\np50",
        "p99",
        "max",
        "step\np50",
        "p99",
        "encoder\np50",
        "jitter",
        "ratio",
        "load\ns",
        "first",
        "MB",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    rows = report["rows"]
    for row in rows:
        frame, step, encoder = row["ms"]["frame"], row["ms"]["step"], row["ms"]["encoder"]
        table.add_row(
            escape(f"{Path(row['bundle']).name} {row['backend']} {row['precision']}"),
            *(str(row[name]) for name in "NPK"),
            "-" if row["threads"] is None else str(row["threads"]),
            *(_ms(value) for value in (frame["p50"], frame["p99"], frame["max"], step["p50"], step["p99"], encoder["p50"])),
            f"{row['jitter']:.2f}",
            f"{frame['p50'] / rows[0]['ms']['frame']['p50']:.2f}",
            f"{row['load_s']:.2f}",
            _ms(row["first_ms"]),
            f"{row['resident_mb']:.0f}",
        )
    if rows:
        out.print(table)
    for refused in report["refused"]:
        say(f"refused: {Path(refused['bundle']).name} {refused['backend']} {refused['precision']} K={refused['K']}: {refused['reason']}")
    where = report["machine"]
    say(f"{where['processor']}, {where['cores']} cores, governor {where['governor'] or 'unknown'}, load {where['load_1min']} when it ended")


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
