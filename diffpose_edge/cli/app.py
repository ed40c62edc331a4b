"""The commands, gathered."""

from __future__ import annotations

import typer

import diffpose_edge
from diffpose_edge.cli import (
    bench,
    bench_peers,
    bench_sweep,
    build,
    calibrate,
    convert,
    demo,
    doctor,
    evaluate,
    export,
    formats,
    inspect,
    lint,
    plan,
    replay,
    run,
    search_steps,
    sensitivity,
    serve_dds,
    sign,
    time,
    train,
    verify,
    video,
    view,
)
from diffpose_edge.cli.logs import LogOutput

app = typer.Typer(
    name="diffpose-edge",
    help=(
        "DiffPose on the edge: export a trained DiffPose to ONNX, run its reverse diffusion without PyTorch, "
        "and prove that both agree.\n\nThe usual order: export, verify, run; for a GPU calibrate and build. "
        "'demo' shows it on a real clip."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"diffpose-edge {diffpose_edge.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    ctx: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", callback=_version, is_eager=True),
    log_format: str = typer.Option("text", envvar="DIFFPOSE_LOG_FORMAT", help="Log records to standard error: text, or json lines."),
    log_level: str | None = typer.Option(
        None, envvar="DIFFPOSE_LOG_LEVEL", help="debug, info, warning or error (default: as the command sees fit)."
    ),
) -> None:
    if isinstance(ctx.obj, LogOutput):
        ctx.obj.listen(log_format, log_level)


app.command("export")(export.export)
app.command("run")(run.run)
app.command("video")(video.video)
app.command("formats")(formats.formats)
app.command("calibrate")(calibrate.calibrate)
app.command("search-steps")(search_steps.search_steps)
app.command("sensitivity")(sensitivity.sensitivity)
app.command("build")(build.build)
app.command("verify")(verify.verify)
app.command("evaluate")(evaluate.evaluate)
bench.bench.command("sweep")(bench_sweep.sweep)
bench.bench.command("peers")(bench_peers.peers)
app.add_typer(bench.bench, name="bench")
app.command("plan")(plan.plan)
app.command("time")(time.time)
app.command("train")(train.train)
app.command("inspect")(inspect.inspect)
app.command("lint")(lint.lint)
app.command("sign")(sign.sign)
app.command("verify-signature")(sign.verify_signature)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.command("convert")(convert.convert)
app.command("view")(view.view)
app.command("replay")(replay.replay)
app.command("serve-dds")(serve_dds.serve_dds)
