"""``diffpose-edge plan``: what a bundle should cost on a device that is not at hand, and how far such plans were off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from diffpose_edge.atomic import check_file_place
from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.cli.terminal import counting, out, say, stages
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.extras import require

THIS = "this-cpu"
UNCONFIRMED = "No GPU has confirmed any of this: the model was held against processors alone (plan --check)."


def plan(
    bundle: Annotated[Path | None, typer.Argument(help="A bundle made by export.")] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="A device of --list, or this-cpu; may be given more than once (default: all of --list).")
    ] = None,
    precision: Annotated[str, typer.Option(help="Precision of the graphs: fp32, or fp16 or int8 where the bundle has it.")] = "fp32",
    steps: Annotated[int | None, typer.Option("--steps", help="K (default: the bundle's).")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second, to find the largest K for.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads, for this-cpu and --check.", min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="Show the devices, their figures and where these come from.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Measure the bundle here and print the model's error; without a bundle, of every record.")
    ] = False,
    out_path: Annotated[Path | None, typer.Option("--out", help="With --check: add the record to this file.")] = None,
) -> None:
    """Say what a bundle should cost on a device: milliseconds per step and frame, memory, the largest K for a frame rate.

    Every figure is a range, from a fast to a slow scenario (docs/plan.md).
    """
    require("onnx")
    if out_path is not None and (bundle is None or not check):
        raise DiffPoseEdgeError("--out keeps what --check measures of a bundle: give both, or leave it out")
    if show_list:
        _show_devices(as_json)
    elif check:
        _check(bundle, precision, threads, as_json, out_path)
    elif bundle is None:
        raise DiffPoseEdgeError("expected a bundle to plan for. Make one with: diffpose-edge export --help; or see the devices: --list")
    else:
        _show_plans(load_bundle(bundle), device, precision, steps, fps, threads, as_json)


def _show_plans(
    bundle: Bundle, names: list[str] | None, precision: str, steps: int | None, fps: float | None, threads: int, as_json: bool
) -> None:
    from diffpose_edge.benchmarks.devices import DEVICES, device_of
    from diffpose_edge.benchmarks.planner import Wanted, cpu_plan, gpu_plan

    manifest = bundle.manifest
    wanted = Wanted(precision, len(manifest.timesteps) if steps is None else steps, manifest.T, fps)
    devices = [None if name == THIS else device_of(name) for name in names or DEVICES]
    contents = {role: bundle.read(role, precision) for role in ("context", "step")}
    plans = []
    with stages("planned", 2) as stage:
        if any(device is not None for device in devices):
            stage("counting launches")
            loads = {role: _gpu_load(role, content) for role, content in contents.items()}
        if None in devices:
            from diffpose_edge.benchmarks.machine_peaks import measured_peaks
            from diffpose_edge.benchmarks.plan_check import cpu_loads

            stage("measuring this machine's peaks")
            cpu, peaks = cpu_loads(bundle, precision), measured_peaks(threads, 2.0)
        for device in devices:
            if device is None:
                plans.append(cpu_plan(cpu["context"], cpu["step"], peaks, wanted))
            else:
                plans.append(gpu_plan(loads["context"], loads["step"], device, wanted))
    shape = manifest.shape
    if as_json:
        sizes = {"P": shape.P, "N": shape.N, "F": shape.F}
        _print_json({"bundle": str(bundle.path), "shapes": sizes, "plans": [one.as_json() for one in plans], "note": UNCONFIRMED})
        return
    table = Table(title=f"{escape(bundle.path.resolve().name)} {precision}, P={shape.P} N={shape.N} F={shape.F} K={wanted.K}: expected ms")
    table.add_column("device")
    headings = ["step", "encoder", "frame", "memory MB", "a step is", "launches"] + ([f"largest K\nat {fps:g} fps"] if fps else [])
    for heading in headings:
        table.add_column(heading, justify="right")
    for one in plans:
        limit = max(one.limits, key=lambda name: one.limits[name])
        memory = f"{one.memory_mb.typical:.0f} ({one.memory_mb.fast:.0f}-{one.memory_mb.slow:.0f})"
        row = [*(_span(value) for value in (one.step_ms, one.encoder_ms, one.frame_ms)), memory + ("" if one.fits else " too much")]
        row += [
            f"{limit} {one.limits[limit]:.0%}",
            "-" if one.launches is None else ("" if one.launches_counted else "~") + str(one.launches),
        ]
        if one.largest_k is not None:
            most = one.largest_k
            row.append(f"{most.typical:.0f} ({most.slow:.0f}-{most.fast:.0f})")
        table.add_row(one.device, *row)
    out.print(table)
    say("typical (fast - slow); a step is: what it spends most of its time on; ~: launches estimated, TensorRT-RTX would count them.")
    if any(device is not None for device in devices):
        say(UNCONFIRMED)


def _gpu_load(role: str, content: bytes) -> Any:
    import onnx

    from diffpose_edge.benchmarks.graph_cost import graph_cost
    from diffpose_edge.benchmarks.launches import launches_of
    from diffpose_edge.benchmarks.planner import GpuLoad

    return GpuLoad(graph_cost(onnx.load_from_string(content)), launches_of(content, f"the {role} graph"))


def _show_devices(as_json: bool) -> None:
    from diffpose_edge.benchmarks.devices import DEVICES, SOURCES

    if as_json:
        _print_json({"devices": [device.as_json() for device in DEVICES.values()], "sources": dict(SOURCES)})
        return
    headings = {
        "fp32": "FP32\nT/s",
        "fp16": "FP16\nT/s",
        "int8": "INT8\nT/s",
        "memory_gb_per_s": "memory\nGB/s",
        "memory_gb": "GB",
        "l2_mib": "L2\nMiB",
        "multiprocessors": "SM",
        "launch_us": "launch\nus",
        "host_us": "host\nus",
    }
    table = Table(title="devices: dense peaks, no sparsity")
    table.add_column("device")
    table.add_column("mode")
    for heading in headings.values():
        table.add_column(heading, justify="right")
    for device in DEVICES.values():
        figures = device.figures()
        shown = [f"{figures[name].value:g}" + ("*" if figures[name].source == "assumed" else "") for name in headings]
        table.add_row(device.name, device.mode + (", shared memory" if device.shared else ""), *shown)
    out.print(table)
    say("*: assumed; --json has each figure's range and source")
    for key, text in SOURCES.items():
        users = [f"{d.name} {', '.join(n for n, f in d.figures().items() if f.source == key)}" for d in DEVICES.values()]
        say(f"{key}: {text}\n    for {'; '.join(user for user in users if not user.endswith(' '))}")


def _check(bundle: Path | None, precision: str, threads: int, as_json: bool, out_path: Path | None) -> None:
    from diffpose_edge.benchmarks.plan_check import check_record, checks_of, committed_records, save_records

    if bundle is None:
        records = committed_records()
        if not records:
            raise DiffPoseEdgeError("no record of a measured machine came with this installation. Measure one: plan BUNDLE --check")
    else:
        if out_path is not None:
            check_file_place(out_path)
        loaded = load_bundle(bundle)
        with counting("rounds", 6) as done:
            records = [check_record(loaded, precision, threads, 6, done)]
        if out_path is not None:
            save_records(records, out_path)
    checks = [check for record in records for check in checks_of(record)]
    if as_json:
        rows = [
            {
                "machine": check.where,
                "what": check.what,
                "predicted_ms": check.predicted.as_json(),
                "measured_ms": check.measured,
                "error": round(check.error, 4),
                "within": check.within,
                "busy": check.busy,
            }
            for check in checks
        ]
        _print_json({"checks": rows, "note": UNCONFIRMED})
        return
    table = Table(title="predicted and measured, ms")
    table.add_column("what")
    for heading in ("predicted", "measured", "error", "in range"):
        table.add_column(heading, justify="right")
    for where in dict.fromkeys(check.where for check in checks):
        table.add_section()
        table.add_row(escape(where))
        for check in (check for check in checks if check.where == where):
            busy = " (busy)" if check.busy else ""
            verdict = ("yes" if check.within else "no") + busy
            table.add_row(escape(f"  {check.what}"), _span(check.predicted), f"{check.measured:.3f}", f"{check.error:+.0%}", verdict)
    out.print(table)
    say("measured: the 10th percentile, as the peaks are the best of many; busy: the machine had more to do than it has cores")
    say(UNCONFIRMED)


def _span(value: Any) -> str:
    return f"{value.typical:.2f} ({value.fast:.2f}-{value.slow:.2f})"


def _print_json(content: dict[str, Any]) -> None:
    say(json.dumps(content, indent=1, allow_nan=False))
