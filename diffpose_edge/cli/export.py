"""``diffpose-edge export``"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from diffpose_edge.bundle_writing import OF_MACHINES
from diffpose_edge.cli.terminal import err, parsed_timesteps, say, stages, telling


def export(
    denoiser: Annotated[Path, typer.Option(help="Released denoiser (such as diffpose_uvxyz_cpn.pth), or denoiser.safetensors of 'train'.")],
    context: Annotated[Path, typer.Option(help="Released frame encoder (gcn_xyz) or MixSTE, or context.safetensors of 'train'.")],
    out_path: Annotated[Path, typer.Option("--out", help="The bundle to write: a new folder.")],
    heads: Annotated[int, typer.Option(help="Attention heads of the denoiser and frame encoder; released files do not record them.")] = 4,
    video_heads: Annotated[int, typer.Option(help="Attention heads of a MixSTE.")] = 8,
    mirror: Annotated[bool, typer.Option(help="Average a MixSTE's answer with that for the mirrored input, as released.")] = True,
    persons: Annotated[int, typer.Option(help="P: people (or frames) in a batch.")] = 1,
    samples: Annotated[int, typer.Option(help="N: samples of each person.")] = 5,
    timesteps: Annotated[
        str | None,
        typer.Option(
            help="Default timesteps of the reverse process, largest first (12,0 for released weights, 49,39,29,19,9 for trained "
            "ones). Others can be chosen at run time."
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace a bundle that stands at --out.")] = False,
) -> None:
    """Export a pair of checkpoints, released or trained here, to a bundle, checking every layer against PyTorch.

    Shapes are fixed: choose P and N for the robot. The graphs are ONNX opset 17, float32. Nothing is written unless the
    graphs reproduce PyTorch.
    """
    from diffpose_edge.export import export_bundle

    steps = parsed_timesteps(timesteps)
    dropped = [name for name in OF_MACHINES if os.path.isdir(out_path / name)]
    with telling(), stages("export", 3) as stage:
        report = export_bundle(
            denoiser,
            context,
            out_path,
            heads=heads,
            video_heads=video_heads,
            mirror_average=mirror,
            persons=persons,
            samples=samples,
            timesteps=steps,
            replace_existing=force,
            progress=stage,
        )
    for warning in report.warnings:
        err.print(f"exporter warning: {warning}", markup=False)
    if dropped:
        say(f"{' and '.join(dropped)} of the older bundle went with it: make them again, with diffpose-edge build and time")
    worst = max(report.comparisons, key=lambda c: c.relative)
    say(
        f"wrote {out_path}: {len(report.comparisons)} layer outputs and results agree with PyTorch; "
        f"the largest relative error is {worst.relative:.1e} ({worst.name}), the budget {worst.budget:.0e}"
    )
