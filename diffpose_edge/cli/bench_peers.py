"""``diffpose-edge bench peers``: the runtime beside what one would take instead."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from diffpose_edge.atomic import check_file_place
from diffpose_edge.cli.terminal import counting, out, say
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.extras import require


def peers(
    samples: Annotated[list[int] | None, typer.Option(help="N; may be given more than once (default: 1, 5 and 20).", min=1)] = None,
    steps: Annotated[int, typer.Option("--steps", help="K.", min=1)] = 10,
    threads: Annotated[int, typer.Option(help="Cores to be used on the CPU.", min=1)] = 1,
    rounds: Annotated[int, typer.Option(help="Rounds that count.", min=12)] = 24,
    peer: Annotated[
        list[str] | None, typer.Option(help="Which, by name; may be given more than once (default: all). See docs/bench.md.")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="The runtime's own, besides fp32: fp16 or int8; may be given more than once.")
    ] = None,
    denoiser: Annotated[
        Path | None, typer.Option(help="A released denoiser, instead of random weights of the released size; with --context.")
    ] = None,
    context: Annotated[Path | None, typer.Option(help="The frame encoder that belongs to it.")] = None,
    heads: Annotated[int, typer.Option(help="Attention heads of the checkpoints, which do not record them.", min=1)] = 4,
    out_path: Annotated[Path | None, typer.Option("--out", help="Write every sample as JSON to this file, for 'bench compare'.")] = None,
) -> None:
    """Measure the runtime and its peers (PyTorch in several forms, a plain ONNX export, OpenVINO) by turns, on the same weights."""
    require("torch", "onnx", "onnxscript", "onnx_ir", "onnxruntime", extra="peers")
    from diffpose_edge.benchmarks.bench_report import save_report
    from diffpose_edge.benchmarks.peers.comparison import WARM_UP, peers_report
    from diffpose_edge.benchmarks.peers.peer import PEERS

    if out_path is not None:
        check_file_place(out_path)
    if (denoiser is None) != (context is None):
        raise DiffPoseEdgeError("expected --denoiser and --context, or neither: the pair is measured together")
    chosen = samples or [1, 5, 20]
    with counting("rounds (loading takes minutes before them)", WARM_UP + rounds) as done:
        report = peers_report(
            chosen,
            peers=peer or tuple(PEERS),
            precisions=precision or ("fp32",),
            K=steps,
            threads=threads,
            rounds=rounds,
            checkpoints=None if denoiser is None or context is None else (denoiser, context),
            heads=heads,
            progress=done,
        )
    print_peers(report)
    if out_path is not None:
        save_report(report, out_path)


def print_peers(report: dict[str, Any]) -> None:
    """Print a report of peers: milliseconds per step, and how many times the runtime's."""
    table = Table(title="latency per diffusion step, ms")
    for heading in ("N", "what", "p50", "p99", "times the runtime", "times the floor", "frame p50", "load s"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    previous = None
    for row in report["rows"]:
        if previous not in (None, row["N"]):
            table.add_section()
        previous = row["N"]
        step, frame = row["ms"]["step"], row["ms"]["frame"]
        what = f"runtime, {row['precision']}" if row["backend"] == "onnxruntime" else row["backend"]
        floor = "-" if row["network_floor"] is None else f"{row['network_floor']['ratio']:.2f}"
        figures = f"{step['p50']:.3f}", f"{step['p99']:.3f}", f"{row['ratio']:.2f}", floor, f"{frame['p50']:.2f}", f"{row['load_s']:.1f}"
        table.add_row(str(row["N"]), what, *figures)
    out.print(table)
    for reason, names in _reasons(report["refused"]).items():
        say(f"refused: {names}: {reason}")
    for flag in report["flags"]:
        say(f"note: {flag}")
    where, first = report["machine"], report["rows"][0]
    say(f"K={first['K']}, {first['threads']} thread{'s' if first['threads'] > 1 else ''}, each in a process of its own, by turns")
    say(f"{where['processor']}, {where['cores']} cores, load {where['load_1min']} when it ended")
    say(f"importing the runtime with numpy and ONNX Runtime: {report['import_s']:.2f} s")


def _reasons(refused: list[dict[str, Any]]) -> dict[str, str]:
    """Return who was refused by the reason: it is the same for every N."""
    reasons: dict[str, dict[str, None]] = {}
    for one in refused:
        name = f"runtime, {one['precision']}" if one["backend"] == "onnxruntime" else one["backend"]
        reasons.setdefault(one["reason"], {})[name] = None
    return {reason: "; ".join(names) for reason, names in reasons.items()}
