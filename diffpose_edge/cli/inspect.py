"""``diffpose-edge inspect``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from diffpose_edge.bundle import load_bundle
from diffpose_edge.cli.terminal import out
from diffpose_edge.config import CausalConfig, VideoConfig
from diffpose_edge.machine import this_machine
from diffpose_edge.manifest import GRAPHS
from diffpose_edge.signature_file import is_signed
from diffpose_edge.timings import timings_here


def inspect(bundle: Annotated[Path, typer.Argument(help="A bundle made by export.")]) -> None:
    """Show what is in a bundle, after checking that it is whole, and the schedules that a budget chooses among: what they reach, and what
    they take where this machine was timed. Needs neither PyTorch nor a backend.
    """
    from diffpose_edge.cli.schedules import schedule_table

    loaded = load_bundle(bundle)
    manifest = loaded.manifest
    table = Table(title=escape(str(bundle)), show_header=False)
    d, c, shape = manifest.denoiser, manifest.context, manifest.shape
    table.add_row("denoiser", f"{d.hidden} wide, {d.layers} layers, {d.heads} heads")
    if isinstance(c, VideoConfig):
        mirrored = ", mirror-averaged" if c.mirror_average else ""
        table.add_row("context encoder", f"video: {c.frames} frames, {c.width} wide, depth {c.depth}, {c.heads} heads{mirrored}")
    elif isinstance(c, CausalConfig):
        table.add_row("context encoder", f"causal: {c.frames} frames in each layer, {c.width} wide, depth {c.depth}, {c.heads} heads")
    else:
        table.add_row("context encoder", f"frame: {c.hidden} wide, {c.layers} layers, {c.heads} heads")
    process = manifest.process
    told = f", conditioned on {d.condition} features" if d.condition else ""
    table.add_row("process", f"{process.kind}, predicts {process.prediction}{told}")
    table.add_row("batch", f"P={shape.P} persons, N={shape.N} samples, F={shape.F} frames")
    table.add_row("schedule", f"T={manifest.T}, alpha_bar {manifest.alpha_bar[0]:.4f} to {manifest.alpha_bar[-1]:.4f}")
    table.add_row("default timesteps", ", ".join(map(str, manifest.timesteps)))
    for schedule in manifest.fitted:
        table.add_row(f"fitted: {len(schedule.timesteps)} steps", ", ".join(map(str, schedule.timesteps)))
    for name, entry in manifest.files.items():
        table.add_row(name, f"{entry.role}, {entry.precision}, {entry.bytes / 1e6:.2f} MB, sha256 {entry.sha256[:16]}… (checked)")
    table.add_row("digest of all", loaded.digest)
    table.add_row("signature", "there is one (check it with verify-signature)" if is_signed(loaded.path) else "none")
    provenance = manifest.provenance
    table.add_row("made", str(provenance.get("created", "unknown")))
    if provenance.get("note"):
        table.add_row("note", escape(str(provenance["note"])))
    for kind in ("checkpoints", "versions"):
        for name, value in _entries(provenance.get(kind)):
            table.add_row(escape(f"{kind[:-1]}: {name}"), _record(value))
    for precision, made in _entries(provenance.get("precision")):
        table.add_row(escape(f"made in {precision}"), _record(made))
    for what, result in manifest.verification.items():
        table.add_row(escape(f"checked at export: {what}" if what in GRAPHS else f"verified: {what}"), _record(result))
    out.print(table)
    timings = list(timings_here(loaded, this_machine()))
    if manifest.fitted or timings:
        out.print(schedule_table(manifest, timings))


def _entries(value: object) -> list[tuple[str, object]]:
    return list(value.items()) if isinstance(value, dict) else []


def _record(value: object) -> str:
    """Return a record of the manifest as text. Nothing relies on records, so they are shown as they are."""
    if isinstance(value, dict):
        return ", ".join(f"{escape(str(k))} {_record(v)}" for k, v in value.items())
    return f"{value:.3g}" if isinstance(value, float) else escape(str(value))
