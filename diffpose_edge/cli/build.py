"""``diffpose-edge build``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from diffpose_edge.bundle import load_bundle
from diffpose_edge.cli.terminal import err, out, say
from diffpose_edge.engines import checked_flavour, checked_precision
from diffpose_edge.trust import trust_of_environment

if TYPE_CHECKING:
    from diffpose_edge.engines import EngineRecord


def build(
    bundle: Annotated[Path, typer.Argument(help="A bundle made by export; engines are put into its folder engines/.")],
    precision: Annotated[str, typer.Option(help="fp32, or fp16 or int8 after calibrate.")] = "fp32",
    flavour: Annotated[str | None, typer.Option(help="tensorrt or rtx (default: the one that is installed).")] = None,
    device: Annotated[int, typer.Option(help="Number of the GPU.", min=0)] = 0,
    workspace: Annotated[
        int | None, typer.Option(help="MiB that a tactic may use; on a small Jetson 512 (default: all of the GPU's memory).")
    ] = None,
    optimisation_level: Annotated[int | None, typer.Option(help="0 (quick build) to 5 (tries most); TensorRT's default is 3.")] = None,
    version_compatible: Annotated[bool, typer.Option(help="Engines for later versions of the same major TensorRT, too.")] = False,
    hardware_compatible: Annotated[bool, typer.Option(help="Engines for every GPU from SM 8.0 on.")] = False,
    timing_cache: Annotated[bool, typer.Option(help="Keep measured tactics in engines/, so that the next build is faster.")] = True,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build engines that fit this machine already, too.")] = False,
    prove: Annotated[
        bool, typer.Option(help="Run real poses through the engines and compare with ONNX Runtime, where there is a GPU.")
    ] = True,
) -> None:
    """Build TensorRT engines of a bundle for this machine: the context encoder, one denoiser step, and the start between them.

    TensorRT builds on the GPU that it is for; TensorRT-RTX needs none to build. Each engine is written whole or not at all,
    with a record beside it that says where it belongs. Engines that fit are kept.
    """
    from diffpose_edge.export.bundle_engines import build_engines, default_flavour, device_here, prove_engines
    from diffpose_edge.export.engine_build import BuildOptions

    checked_precision(precision)
    if flavour is not None:
        checked_flavour(flavour)
    loaded = load_bundle(bundle, trust_of_environment())
    chosen = flavour or default_flavour()
    options = BuildOptions(workspace, optimisation_level, version_compatible, hardware_compatible)
    with Progress(
        TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), console=err
    ) as bar:
        shown = _Phases(bar)
        records = build_engines(
            loaded,
            precision,
            chosen,
            options,
            device=device,
            keep_timing_cache=timing_cache,
            rebuild=rebuild,
            heard=shown.role,
            progress=shown.phase,
        )
    out.print(table_of(records, shown.built))
    found = device_here(device) if prove else None
    if not prove:
        return
    if found is None:
        say("Not run: there is no GPU here. On the machine that the engines are for, run this again: it proves them there.")
        return
    record = prove_engines(loaded, precision, chosen, device=device)
    replay = "equals" if record["replay_equals_eager"] else "DIFFERS FROM"
    say(
        f"On {found.name}, {record['frames']} real poses: {record['mean_mm']:.4f} mm on average from ONNX Runtime's, worst joint "
        f"{record['worst_mm']:.4f} mm; a replayed graph {replay} eager work bit for bit"
    )


def table_of(records: tuple[EngineRecord, ...], built: set[str]) -> Table:
    """Return what there is now, and what of it was built just now."""
    table = Table(title=f"engines in {Path(records[0].name).parent}")
    for heading in ("engine", "graph", "MB", "seconds", "", "for"):
        table.add_column(heading, overflow="fold")
    for r in records:
        where = "every GPU that it supports" if r.sm is None else f"SM {r.sm / 10:.1f}"
        new = "built" if r.role in built else "kept: it fits"
        table.add_row(Path(r.name).name, r.graph, f"{r.bytes / 1e6:.2f}", str(r.made.get("seconds", "")), new, where)
    return table


class _Phases:
    """Shows the roles that are built and the phases of each build, as far as TensorRT tells of them."""

    def __init__(self, bar: Progress):
        self._bar = bar
        self._role = ""
        self._tasks: dict[str, TaskID] = {}
        self.built: set[str] = set()

    def role(self, role: str, building: bool) -> None:
        for task in self._tasks.values():
            self._bar.remove_task(task)
        self._tasks.clear()
        self._role = role
        if building:
            self.built.add(role)
            # Until the first phase is told of; 8.6 tells of none.
            self._tasks[""] = self._bar.add_task(f"{role}: building", total=None)

    def phase(self, name: str, done: int, total: int) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(f"{self._role}: {name}", total=total)
        self._bar.update(self._tasks[name], completed=done, total=total)
