"""``diffpose-edge video``"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from diffpose_edge.atomic import atomic_file, check_file_place
from diffpose_edge.bones import bone_length_variation
from diffpose_edge.cli.results import results_of
from diffpose_edge.cli.terminal import counting, say, stages, telling
from diffpose_edge.clips import trained_pair
from diffpose_edge.drawing import ClipPoses, draw_gif, draw_mp4, draw_png
from diffpose_edge.errors import BundleError, DetectorError, OutputError
from diffpose_edge.extras import require

if TYPE_CHECKING:
    from diffpose_edge.runtime import PoseRuntime

PAIRS = ("frame", "video", "causal")
# Animations show about as many frames a second as this; stills show as many as this.
ANIMATED = {".gif": 8.0, ".mp4": 15.0}
STILLS = 4


def video(
    source: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video of one person.")],
    out_path: Annotated[Path, typer.Option("--out", help="npz to write: what 'run' writes, and times (frames,) in seconds.")],
    bundle: Annotated[
        Path | None,
        typer.Option(help="A bundle made by export (default: the pair that ships is exported, which needs PyTorch)."),
    ] = None,
    pair: Annotated[str, typer.Option(help="Which shipped pair, without --bundle: frame, video or causal.")] = "frame",
    keypoints_out: Annotated[
        Path | None, typer.Option(help="npz to write as well: keypoints that 'run' takes, and MediaPipe's own landmarks.")
    ] = None,
    draw: Annotated[Path | None, typer.Option(help="A picture (.png) or animation (.gif, .mp4) of the result to draw as well.")] = None,
    steps: Annotated[int | None, typer.Option(help="How many diffusion steps (default: the bundle's).", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the N draws.")] = 0,
    skip_damaged: Annotated[bool, typer.Option("--skip-damaged", help="Leave damaged frames out instead of refusing the video.")] = False,
    install_detector: Annotated[
        bool, typer.Option("--install-detector", help="Make MediaPipe's environment if it is not there: 120 MB from PyPI.")
    ] = False,
    detector_python: Annotated[
        Path | None, typer.Option(help="Or the Python of an environment of yours that has mediapipe 0.10.21.")
    ] = None,
) -> None:
    """Estimate the 3D poses of a person in a video of your own.

    MediaPipe finds the person's joints in every frame, in a process with a Python environment of its own; the bundle lifts them to
    3D. One person: where there are more, MediaPipe follows one of them.
    """
    require("av", "platformdirs")
    from diffpose_edge.detector import MediaPipeDetector, VideoFile, VideoPictures, detect_clip
    from diffpose_edge.runtime.start import generator_of

    generator_of(seed)
    _check_places(source, [path for path in (out_path, keypoints_out, draw) if path is not None])
    if draw is not None:
        require("matplotlib", "PIL")
        if draw.suffix.lower() not in (".png", *ANIMATED):
            raise OutputError(f"cannot draw {draw}: expected a name that ends in .png, .gif or .mp4")
    with VideoFile(source) as file:
        python = _detector_python(detector_python, install_detector)
        # The runtime comes before the long work, so that a mistake in the bundle shows at once.
        with telling(), _runtime(bundle, pair) as runtime:
            with MediaPipeDetector(python) as detector, counting("finding the person", file.frame_count or 0) as done:
                clip = detect_clip(file, detector, skip_damaged=skip_damaged, progress=done)
            if keypoints_out is not None:
                clip.save(keypoints_out)
            say(f"{detector.name}: a person in {clip.found.sum()} of {len(clip.found)} frames")
            estimates = []
            with counting("3D poses", len(clip.keypoints)) as done:
                for estimate in runtime.estimate_clip(clip.keypoints, seed, steps=steps):
                    estimates.append(estimate)
                    done(len(estimate.joints))
            manifest = runtime.bundle.manifest
    results = results_of(estimates)
    with atomic_file(out_path) as temporary, open(temporary, "wb") as npz:
        np.savez(npz, times=clip.times, **results)
    joints = results["joints"]
    posed = np.flatnonzero(np.isfinite(joints).all(axis=(1, 2)))
    varying = f"; bone lengths vary by {100 * bone_length_variation(joints[posed]).mean():.1f} % over the clip" if len(posed) > 1 else ""
    say(f"wrote {out_path}: {len(joints)} frames, {len(posed)} of them with a pose{varying}")
    if draw is not None:
        K = len(estimates[0].timings.steps)
        caption = f"{source.name}: N = {manifest.shape.N} samples, K = {K} steps"
        with VideoPictures(source, skip_damaged=skip_damaged) as pictures:
            drawn = ClipPoses(clip.keypoints, joints, results["samples"], clip.image_size, clip.fps, caption, pictures)
            _draw(drawn, posed, draw)
        say(f"drew {draw}")


def _check_places(source: Path, targets: list[Path]) -> None:
    for i, target in enumerate(targets):
        check_file_place(target)
        if target.exists() and source.exists() and target.samefile(source):
            raise OutputError(f"{target} is the video itself, which would be replaced. Choose another name")
        if target.absolute() in [other.absolute() for other in targets[:i]]:
            raise OutputError(f"two results are both to be written to {target}; give each a name of its own")


def _detector_python(given: Path | None, install: bool) -> Path:
    from diffpose_edge.detector import installed_python, make_environment
    from diffpose_edge.detector.environment import environments_folder

    if given is not None:
        return given
    python = installed_python()
    if python is not None:
        return python
    if not install:
        raise DetectorError(
            f"MediaPipe is not set up yet. It needs numpy 1, so it gets a Python environment of its own in {environments_folder()}: run "
            f"this again with --install-detector to make it (about 120 MB from PyPI, 500 MB on disk, once), or name a Python that has "
            f"mediapipe 0.10.21 with --detector-python"
        )
    with stages("setting up MediaPipe", 3) as stage:
        return make_environment(stage=stage)


@contextmanager
def _runtime(bundle: Path | None, pair: str) -> Iterator[PoseRuntime]:
    """Load the bundle that was named, or export the pair that ships into a folder that is gone afterwards."""
    from diffpose_edge.runtime import PoseRuntime

    if bundle is not None:
        with PoseRuntime.load(bundle, timed=True) as runtime:
            yield runtime
        return
    if pair not in PAIRS:
        raise BundleError(f"expected --pair as one of {', '.join(PAIRS)}; got {pair!r}")
    require("torch", "safetensors", "onnx", "onnxscript", "onnxruntime")
    from diffpose_edge.export import export_bundle

    with tempfile.TemporaryDirectory() as folder:
        with stages(f"exporting the {pair} pair", 3) as stage:
            made = export_bundle(*trained_pair(pair), Path(folder) / "bundle", samples=5, progress=stage).bundle
        with PoseRuntime.load(made, timed=True) as runtime:
            yield runtime


def _draw(clip: ClipPoses, posed: NDArray[np.intp], out: Path) -> None:
    if out.suffix.lower() == ".png":
        chosen = posed if len(posed) else np.arange(len(clip.joints))
        draw_png(clip, sorted({int(chosen[i]) for i in np.linspace(0, len(chosen) - 1, STILLS).astype(int)}), out)
        return
    stride = max(1, round(clip.fps / ANIMATED[out.suffix.lower()]))
    frames = list(range(0, len(clip.joints), stride))
    with counting("drawing", len(frames)) as done:
        (draw_gif if out.suffix.lower() == ".gif" else draw_mp4)(clip, frames, out, lambda: done(1))
