"""``diffpose-edge train``"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from diffpose_edge.atomic import check_file_place, output_error
from diffpose_edge.cli.terminal import err, say
from diffpose_edge.clips import mocap_clips_path
from diffpose_edge.config import CausalConfig
from diffpose_edge.errors import MissingPackage, TrainingError
from diffpose_edge.extras import install_command, is_installed, require

if TYPE_CHECKING:
    from diffpose_edge.reference.training.plans import StagePlan

PLOT = "training.png"
# As a shell reports a program that Ctrl-C ended.
INTERRUPTED = 130
MOST_THREADS = 1024


def train(
    plan_name: Annotated[
        str,
        typer.Argument(
            metavar="PLAN",
            help="What to train: frame, video or causal; tiny, tiny-video and tiny-causal show in a minute that all of it works.",
        ),
    ],
    folder: Annotated[Path, typer.Option("--out", help="Folder for the networks, the logs and what a stopped training goes on from.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="npz of motion clips (frames,17,3), metres, z up, Human3.6M order, each with fps_<clip> (default: those that ship)."
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(help="Threads of PyTorch. Weights are the same bit for bit only with the same number.", min=1, max=MOST_THREADS)
    ] = 1,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and batches (default: the plan's).", min=0, max=2**32 - 1)] = None,
    released: Annotated[bool, typer.Option("--released", help="Also write both networks in the released form (.pth).")] = False,
    plot: Annotated[bool, typer.Option(help=f"Draw the curves to {PLOT} after each stage; needs matplotlib.")] = True,
) -> None:
    """Train a context encoder and a conditioned denoiser on synthetic views of motion capture.

    --out gets context.safetensors and denoiser.safetensors, which export takes, and a log of each stage. Stop it at any
    time (Ctrl-C, kill): the same command goes on after the last whole epoch, to the same weights.
    """
    require("torch", "safetensors", extra="train")
    if plot and not is_installed("matplotlib"):
        raise MissingPackage(
            f"the curves need the package 'matplotlib': train with --no-plot, or run {install_command('matplotlib', 'train')}"
        )
    from diffpose_edge.reference.safetensors_files import read_safetensors
    from diffpose_edge.reference.training.motions import load_clips
    from diffpose_edge.reference.training.pair import parted, train_pair
    from diffpose_edge.reference.training.plans import PLANS

    if plan_name not in PLANS:
        raise TrainingError(f"expected a plan out of {', '.join(PLANS)}; got {plan_name!r}")
    if released and isinstance(PLANS[plan_name].context, CausalConfig):
        raise TrainingError(f"the plan {plan_name} has a causal encoder, which has no released form: leave --released out")
    plan = PLANS[plan_name] if seed is None else replace(PLANS[plan_name], seed=seed)
    source = mocap_clips_path() if data is None else data
    clips = load_clips(source)
    parted(plan, clips)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    outputs = [folder / name for name in ("context.safetensors", "denoiser.safetensors")]
    copies = [path.with_suffix(".pth") for path in outputs] if released else []
    _prepare(folder, [*outputs, *copies, folder / PLOT])
    draw = (lambda: _draw(folder)) if plot else (lambda: None)
    try:
        with _threads(threads), _shown({"context": plan.context_stage, "denoiser": plan.diffusion_stage}, draw) as progress:
            train_pair(plan, clips, folder, progress, digest)
    except KeyboardInterrupt:
        say(f"stopped; the same command goes on after the last whole epoch in {folder}")
        raise typer.Exit(INTERRUPTED) from None
    draw()
    for path, copy in zip(outputs, copies, strict=False):
        _write_released(path, copy)
    encoder_mm, pose_mm = (read_safetensors(path)[1]["held_out_mm"] for path in outputs)
    say(f"wrote {', '.join(map(str, [*outputs, *copies]))}")
    say(f"on clips held out: the encoder errs {encoder_mm:.1f} mm, the whole model {pose_mm:.1f} mm (MPJPE; 5 steps, mean of two samples)")


def _prepare(folder: Path, files: list[Path]) -> None:
    """Make the folder and find out whether it can be written to: the first epoch ends long after the start."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        raise output_error(folder, error) from error
    for path in files:
        check_file_place(path)


def _draw(folder: Path) -> None:
    from diffpose_edge.reference.training.log_plot import plot_logs

    plot_logs(folder, folder / PLOT)


def _write_released(path: Path, copy: Path) -> None:
    from diffpose_edge.reference.causal_mixste import CausalMixSTE
    from diffpose_edge.reference.checkpoints import save_released
    from diffpose_edge.reference.safetensors_files import load_trained

    network = load_trained(path).network
    assert not isinstance(network, CausalMixSTE)
    save_released(network, copy)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _shown(stages: dict[str, StagePlan], stage_done: Callable[[], None]) -> Iterator[Callable[[str, int, int, dict[str, float]], None]]:
    """Show a bar for each stage and a line for each epoch; yields the function that training reports to."""
    tasks: dict[str, TaskID] = {}
    held_out: dict[str, str] = {}
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TextColumn("batches{task.fields[note]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=err) as bar:

        def show(name: str, done: int, total: int, figures: dict[str, float]) -> None:
            epoch, epochs = done // stages[name].steps, stages[name].epochs
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total, completed=done, note="")
                if done:
                    bar.console.print(f"{name}: " + (f"resumed after epoch {epoch} of {epochs}" if done < total else "done already"))
                return
            if "held_out_mm" in figures:
                held_out[name] = f", held out {figures['held_out_mm']:.1f} mm"
            note = f", loss {figures['loss']:.3g}{held_out.get(name, '')}"
            bar.update(tasks[name], completed=done, note=note)
            if "seconds" in figures:
                # Also in a log file, where no bar is seen.
                bar.console.print(f"{name}: epoch {epoch} of {epochs}{note}, {figures['seconds']:.0f} s")
                if done == total:
                    stage_done()

        yield show
