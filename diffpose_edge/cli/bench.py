"""``diffpose-edge bench``: latency of estimates and of each diffusion step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffpose_edge.atomic import check_file_place
from diffpose_edge.bundle import load_bundle
from diffpose_edge.cli.bench_tables import print_comparison, print_report, print_scaling
from diffpose_edge.cli.terminal import counting, say
from diffpose_edge.errors import DiffPoseEdgeError, OutputError
from diffpose_edge.extras import require

if TYPE_CHECKING:
    from diffpose_edge.benchmarks.bench_candidate import Candidate

bench = typer.Typer(help="Measure latency: of an estimate, and of each diffusion step.", no_args_is_help=True)

Backends = Annotated[list[str] | None, typer.Option("--backend", help="May be given more than once (default: onnxruntime).")]
Precisions = Annotated[list[str] | None, typer.Option("--precision", help="May be given more than once (default: fp32).")]
Steps = Annotated[list[int] | None, typer.Option("--steps", help="K; may be given more than once (default: 5).", min=1)]
Threads = Annotated[
    list[int] | None, typer.Option("--threads", help="Cores to be used on the CPU; may be given more than once (default: 1).", min=1)
]
Rounds = Annotated[int, typer.Option("--rounds", help="Rounds that count.", min=12)]
WarmUp = Annotated[int, typer.Option("--warm-up", help="Rounds before them.", min=0)]
WithFloors = Annotated[bool, typer.Option("--floors/--no-floors", help="Measure what the processor can do at best, too.")]
OutPath = Annotated[Path | None, typer.Option("--out", help="Write every sample as JSON to this file, for 'bench compare'.")]
HtmlPath = Annotated[Path | None, typer.Option("--html", help="Write tables and pictures as one HTML file.")]
PlotFolder = Annotated[Path | None, typer.Option("--plots", help="Write the pictures as PNGs into this folder.")]


@bench.command("run")
def run(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles made by export; each has its own N and P.")],
    backend: Backends = None,
    precision: Precisions = None,
    steps: Steps = None,
    threads: Threads = None,
    rounds: Rounds = 60,
    warm_up: WarmUp = 10,
    floors: WithFloors = True,
    out_path: OutPath = None,
    html_path: HtmlPath = None,
    plot_folder: PlotFolder = None,
) -> None:
    """Measure every combination of bundle, backend, precision, K and threads, by turns, each in a process of its own."""
    from diffpose_edge.benchmarks.bench_variant import variants_of

    check_outputs(out_path, html_path, plot_folder)
    for path in bundles:
        load_bundle(path)
    variants = variants_of(bundles, backend or ["onnxruntime"], precision or ["fp32"], steps or [5], threads or [1])
    write_outputs(measure(variants, rounds, warm_up, floors), out_path, html_path, plot_folder)


def measure(candidates: Sequence[Candidate], rounds: int, warm_up: int, floors: bool) -> dict[str, Any]:
    """Measure candidates behind a progress bar and return the report."""
    from diffpose_edge.benchmarks.bench_run import bench_run

    with counting("rounds", warm_up + rounds) as done:
        return bench_run(candidates, rounds, warm_up=warm_up, floors=floors, progress=done)


def check_outputs(out_path: Path | None, html_path: Path | None, plot_folder: Path | None) -> None:
    """Raise OutputError or MissingPackage before anything is measured when its report could not be written."""
    for path in (out_path, html_path):
        if path is not None:
            check_file_place(path)
    if html_path is not None:
        require("jinja2", "matplotlib")
    if plot_folder is not None:
        require("matplotlib")
        if not plot_folder.is_dir():
            raise OutputError(f"cannot write pictures into {plot_folder}: expected a folder that exists")


def write_outputs(report: dict[str, Any], out_path: Path | None, html_path: Path | None, plot_folder: Path | None) -> None:
    """Print a report and write it wherever it was asked for. Raises DiffPoseEdgeError when it has no rows."""
    from diffpose_edge.benchmarks.bench_report import save_report

    print_report(report)
    print_scaling(report)
    if out_path is not None:
        save_report(report, out_path)
    if not report["rows"]:
        raise DiffPoseEdgeError("nothing could be measured: every variant was refused, for the reasons above")
    if html_path is not None:
        from diffpose_edge.benchmarks.bench_html import save_html

        save_html(report, html_path)
    if plot_folder is not None:
        from diffpose_edge.benchmarks.bench_plots import save_pictures

        for path in save_pictures(report, plot_folder):
            say(f"wrote {path}")


@bench.command("report")
def report(
    path: Annotated[Path, typer.Argument(metavar="REPORT", help="A report of 'bench run', 'bench sweep' or 'bench peers'.")],
    html_path: HtmlPath = None,
    plot_folder: PlotFolder = None,
) -> None:
    """Print a report that was written before, and draw it."""
    from diffpose_edge.benchmarks.bench_report import load_report

    check_outputs(None, html_path, plot_folder)
    write_outputs(load_report(path), None, html_path, plot_folder)


@bench.command("steps")
def steps(
    bundle: Annotated[Path, typer.Argument(help="A bundle made by export.")],
    backend: Annotated[str, typer.Option(help="onnxruntime, tensorrt, onnxruntime-cuda or auto.")] = "onnxruntime",
    precision: Annotated[str, typer.Option(help="Precision of the graphs.")] = "fp32",
    threads: Annotated[int, typer.Option(help="Cores to be used on the CPU.", min=1)] = 1,
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
    print_comparison(found, a, b)
    for path, one in zip((a, b), reports, strict=True):
        for flag in one.get("flags") or []:
            say(f"doubtful in {path.name}: {flag}")
    if fail_on_slower and any(change.verdict == "slower" for change in found.changes):
        raise typer.Exit(1)
