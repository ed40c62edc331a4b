"""``diffpose-edge bench sweep``: backend x precision x N x K x threads x P in one command."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from diffpose_edge.cli.bench import (
    Backends,
    HtmlPath,
    OutPath,
    PlotFolder,
    Precisions,
    Rounds,
    Steps,
    Threads,
    WarmUp,
    WithFloors,
    check_outputs,
    measure,
    write_outputs,
)
from diffpose_edge.cli.terminal import say, stages
from diffpose_edge.clips import trained_pair
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.extras import require

if TYPE_CHECKING:
    from diffpose_edge.benchmarks.sweep_bundles import Checkpoints

PAIRS = ("frame", "video")
Value = TypeVar("Value")


def sweep(
    samples: Annotated[list[int] | None, typer.Option(help="N; may be given more than once (default: 1, 5 and 20).", min=1)] = None,
    persons: Annotated[list[int] | None, typer.Option(help="P; may be given more than once (default: 1).", min=1)] = None,
    backend: Backends = None,
    precision: Precisions = None,
    steps: Steps = None,
    threads: Threads = None,
    pair: Annotated[str | None, typer.Option(help="The weights that ship: frame or video (default: frame).")] = None,
    denoiser: Annotated[Path | None, typer.Option(help="A denoiser of your own, with --context.")] = None,
    context: Annotated[Path | None, typer.Option(help="The encoder that belongs to it.")] = None,
    heads: Annotated[int, typer.Option(help="Attention heads of --denoiser and a frame encoder, if released.", min=1)] = 4,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Weights of the released size, every parameter drawn anew.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of --random-weights.", min=0)] = 0,
    bundles: Annotated[
        Path | None,
        typer.Option(help="Folder for the bundles; those that are there already are used (default: a temporary one)."),
    ] = None,
    rounds: Rounds = 60,
    warm_up: WarmUp = 10,
    floors: WithFloors = True,
    only_list: Annotated[bool, typer.Option("--list", help="Print the rows and how long it may take; measure nothing.")] = False,
    out_path: OutPath = None,
    html_path: HtmlPath = None,
    plot_folder: PlotFolder = None,
) -> None:
    """Export the bundles for every N and P, and measure every combination. Exporting needs PyTorch; 'bench run' does not."""
    from diffpose_edge.benchmarks.bench_variant import variants_of
    from diffpose_edge.benchmarks.sweep_bundles import expected_minutes, sweep_bundles

    check_outputs(out_path, html_path, plot_folder)
    chosen = _one_of(pair, denoiser, context, random_weights)
    sizes = [(N, P) for P in _each(persons, [1]) for N in _each(samples, [1, 5, 20])]
    options = (_each(backend, ["onnxruntime"]), _each(precision, ["fp32"]), _each(steps, [5]), _each(threads, [1]))
    if only_list:
        rows = [(N, P, variant) for N, P in sizes for variant in variants_of([f"{chosen}-n{N}-p{P}"], *options)]
        for N, P, variant in rows:
            say(f"N={N} P={P} {variant}")
        minutes = expected_minutes([(N, P, variant.K, variant.threads or 1) for N, P, variant in rows], rounds + warm_up, floors)
        say(
            f"{len(rows)} rows, {len(sizes)} bundles; about {minutes:.0f} minutes on the CPU for networks of the released size, "
            f"and the export of what is not there yet"
        )
        return
    require("torch", "onnx", "onnxscript", "onnx_ir", "onnxruntime", extra="export")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if bundles is None else bundles
        if not folder.is_dir():
            raise DiffPoseEdgeError(f"expected a folder for the bundles, got {folder}: create it first")
        checkpoints = _checkpoints(chosen, denoiser, context, heads, seed, folder)
        with stages("bundles", len(sizes)) as stage:
            made = sweep_bundles(checkpoints, sizes, options[1], folder, stage)
        write_outputs(measure(variants_of(made, *options), rounds, warm_up, floors), out_path, html_path, plot_folder)


def _each(given: Sequence[Value] | None, default: Sequence[Value]) -> list[Value]:
    """Return what was given, once each, or the default."""
    return list(dict.fromkeys(given or default))


def _one_of(pair: str | None, denoiser: Path | None, context: Path | None, random_weights: bool) -> str:
    """Return the name of the weights that were asked for: frame, video, own or random. Raises DiffPoseEdgeError for none or two."""
    if (denoiser is None) != (context is None):
        raise DiffPoseEdgeError("expected both --denoiser and --context, or neither")
    asked = [pair is not None, denoiser is not None, random_weights]
    if sum(asked) > 1:
        raise DiffPoseEdgeError("expected one of --pair, --denoiser with --context, and --random-weights; got more than one")
    if pair is not None and pair not in PAIRS:
        raise DiffPoseEdgeError(f"expected a pair out of {', '.join(PAIRS)}, got {pair!r}")
    return "own" if denoiser is not None else "random" if random_weights else pair or "frame"


def _checkpoints(chosen: str, denoiser: Path | None, context: Path | None, heads: int, seed: int, folder: Path) -> Checkpoints:
    from diffpose_edge.benchmarks.sweep_bundles import Checkpoints, random_checkpoints

    if chosen == "random":
        return random_checkpoints(folder, seed)
    if denoiser is not None and context is not None:
        return Checkpoints(denoiser.stem, denoiser, context, heads)
    return Checkpoints(chosen, *trained_pair(chosen))
