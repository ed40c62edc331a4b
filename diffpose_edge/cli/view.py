"""``diffpose-edge view``"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from diffpose_edge.atomic import check_file_place
from diffpose_edge.cli.terminal import counting, say
from diffpose_edge.drawing import ClipPoses, draw_gif, draw_mp4, draw_png
from diffpose_edge.errors import OutputError, ViewError
from diffpose_edge.viewer.clip_result import ClipResult, thinned
from diffpose_edge.viewer.page import save_view
from diffpose_edge.viewer.result_files import load_result

KINDS = (".html", ".mp4", ".gif", ".png")


def view(
    result: Annotated[Path, typer.Argument(help="npz that 'run' wrote.")],
    out: Annotated[Path, typer.Option("--out", help="File to write; its ending says what: .html, .mp4, .gif or .png.")],
    keypoints: Annotated[Path | None, typer.Option(help="npz of keypoints that 'run' was given: shows the 2D input too.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second of the clip (default: the keypoint file's 'fps', else 30).")] = None,
    title: Annotated[str | None, typer.Option(help="Heading (default: the result file's name).")] = None,
    first: Annotated[int, typer.Option(help="First frame.", min=0)] = 0,
    last: Annotated[int | None, typer.Option(help="Frame before which to stop (default: the clip's end).", min=1)] = None,
    every: Annotated[int, typer.Option(help="Show every so many frames only.", min=1)] = 1,
    samples: Annotated[int | None, typer.Option(help="Show at most so many of the N samples.", min=0)] = None,
) -> None:
    """Show what 'run' wrote: as one HTML page to play, turn and point at, as a film, or as a picture of four frames.

    The page has everything in it and loads nothing. It shows the 2D input, the pose with its samples and uncertainty ellipsoids,
    and each joint's uncertainty and the latency over time.
    """
    kind = out.suffix.lower()
    if kind not in KINDS:
        raise OutputError(f"expected a file ending in {', '.join(KINDS)}, got {out.name!r}: the ending says what is written")
    check_file_place(out)
    for given in (result, keypoints):
        if given is not None and given.exists() and out.exists() and out.samefile(given):
            raise OutputError(f"--out names {given}, which is read: the view would replace it. Choose another name")
    whole = load_result(result, keypoints, fps)
    shown = thinned(whole, first, last, every, samples)
    title = result.name if title is None else title
    if kind == ".html":
        save_view(shown, out, title)
    else:
        # Drawn from the whole clip, so that frames keep their numbers.
        _draw(thinned(whole, samples=samples), range(len(whole))[first:last:every], out, title)
    for note in shown.notes:
        say(note)
    say(f"wrote {out}: {len(shown)} frames, {out.stat().st_size / 1e6:.1f} MB")


def _draw(clip: ClipResult, frames: Sequence[int], out: Path, title: str) -> None:
    """Draw a film, or four frames as a picture."""
    if clip.keypoints is None:
        raise ViewError(f"a {out.suffix} shows the 2D input beside the pose: give the keypoints that 'run' was given (--keypoints)")
    seconds = float(clip.times_s[-1] - clip.times_s[0])
    samples = clip.joints[:, None] if clip.samples is None else clip.samples
    poses = ClipPoses(clip.keypoints, clip.joints, samples, clip.image_size, (len(clip) - 1) / seconds if seconds > 0 else 1.0, title)
    if out.suffix.lower() == ".png":
        posed = [frame for frame in frames if clip.posed[frame]]
        if not posed:
            raise ViewError("no frame has a pose: there is nothing to draw")
        draw_png(poses, sorted({posed[int(i)] for i in np.linspace(0, len(posed) - 1, 4)}), out)
        return
    draw = draw_gif if out.suffix.lower() == ".gif" else draw_mp4
    with counting("drawing", len(frames)) as done:
        draw(poses, frames, out, lambda: done(1))
