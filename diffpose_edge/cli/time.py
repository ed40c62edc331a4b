"""``diffpose-edge time``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffpose_edge.bundle import load_bundle
from diffpose_edge.cli.terminal import counting, out, say, telling
from diffpose_edge.runtime.measuring import DEFAULT_PAUSE_MS, DEFAULT_ROUNDS, LEAST_ROUNDS


def time(
    bundle: Annotated[Path, typer.Argument(help="A bundle made by export.")],
    backend: Annotated[str, typer.Option(help="onnxruntime, tensorrt, onnxruntime-cuda or auto.")] = "onnxruntime",
    precision: Annotated[str, typer.Option(help="Precision of the graphs: fp32, fp16 or int8 (after 'calibrate').")] = "fp32",
    threads: Annotated[int | None, typer.Option(help="Cores to be used on the CPU (default: all).")] = None,
    steps: Annotated[
        list[int] | None, typer.Option(help="K; may be given more than once (default: all that a budget chooses among).", min=1)
    ] = None,
    rounds: Annotated[int, typer.Option(help="Frames of each K.", min=LEAST_ROUNDS)] = DEFAULT_ROUNDS,
    pause_ms: Annotated[float, typer.Option(help="Milliseconds between two frames.", min=0)] = DEFAULT_PAUSE_MS,
) -> None:
    """Measure what a frame takes on this machine, so that 'run --budget-ms' and 'estimate(budget_ms=…)' can choose K by it.

    Measure as the robot runs: the same backend, precision and threads, and whatever else runs beside it. The figures are kept in the
    bundle's folder 'timings', for machines like this one alone.
    """
    from diffpose_edge.cli.schedules import schedule_table
    from diffpose_edge.runtime import PoseRuntime
    from diffpose_edge.runtime.budget import offered_steps

    loaded = load_bundle(bundle)
    wanted = sorted(set(steps or offered_steps(loaded.manifest)))
    with (
        telling(),
        PoseRuntime.load(loaded, backend, precision=precision, threads=threads) as runtime,
        counting("frames", rounds * len(wanted)) as done,
    ):
        found = runtime.measure(wanted, rounds=rounds, pause_ms=pause_ms, progress=done)
    out.print(schedule_table(loaded.manifest, [found]))
    parts = {"encoder": found.encoder, "step": found.step, "after the last step": found.after}
    say("; ".join(f"{name} {part.p50:.2f} / {part.p99:.2f} ms" for name, part in parts.items() if part is not None))
    say(f"kept in {bundle / 'timings'}, for this machine, backend, precision and number of threads")
