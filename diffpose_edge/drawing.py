"""Pictures of a clip: the 2D input beside the 3D skeletons, with the spread of the samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.atomic import atomic_file
from diffpose_edge.errors import OutputError
from diffpose_edge.extras import require
from diffpose_edge.keypoints import Keypoints, denormalise
from diffpose_edge.skeleton import BONES, JOINTS

# Right limbs, left limbs and trunk, told apart by hue and by lightness; joints fade with their confidence.
RIGHT, LEFT, TRUNK, GHOST = "#c1440e", "#1f5fa8", "#333333", "#9a9a9a"


@dataclass(frozen=True)
class ClipPoses:
    """What is drawn: keypoints (frames, 17, 2), joints (frames, 17, 3), samples (frames, N, 17, 3), and where the frame was.

    ``image_size`` (w, h), pixels; None: not known, the 2D input is drawn in normalised coordinates. ``pictures``, if given, returns a
    frame's image (h, w, 3), RGB, which the keypoints are drawn over. It is asked for one frame after another.
    """

    keypoints: Keypoints
    joints: NDArray[np.float32]
    samples: NDArray[np.float32]
    image_size: tuple[float, float] | None
    fps: float
    caption: str
    pictures: Callable[[int], NDArray[np.uint8]] | None = None


def _colour(bone: tuple[int, int]) -> str:
    name = JOINTS[bone[1]]
    return RIGHT if name.startswith("right") else LEFT if name.startswith("left") else TRUNK


def _draw_2d(axes: Any, clip: ClipPoses, frame: int) -> None:
    """Draw one frame's keypoints in a window that follows the person; its axes show where in the image that is."""
    known = clip.image_size is not None
    xy = denormalise(clip.keypoints.uv, clip.image_size) if clip.image_size is not None else clip.keypoints.uv
    seen = clip.keypoints.confidence > 0
    extents = [np.ptp(xy[f, seen[f]], axis=0).max() for f in np.flatnonzero(seen.any(axis=1))]
    w, h = clip.image_size or (2.0, 2.0)
    side = 1.25 * max(extents, default=max(w, h))
    xy, seen = xy[frame], seen[frame]
    centre = (xy[seen].min(axis=0) + xy[seen].max(axis=0)) / 2 if seen.any() else np.array([w, h]) * (0.5 if known else 0.0)
    if clip.pictures is not None:
        _draw_picture(axes, clip.pictures(frame), centre, side)
    for i, j in BONES:
        if seen[i] and seen[j]:
            axes.plot(*xy[[i, j]].T, color=_colour((i, j)), linewidth=1.8)
    for joint in map(int, np.flatnonzero(seen)):
        axes.plot(*xy[joint], marker="o", markersize=3, color="black", alpha=0.3 + 0.7 * float(clip.keypoints.confidence[frame, joint]))
    if known:
        axes.plot([0, w, w, 0, 0], [0, 0, h, h, 0], color=GHOST, linewidth=0.8)
    (x, y), half = centre, side / 2
    axes.set(xlim=(x - half, x + half), ylim=(y + half, y - half), aspect="equal")
    axes.tick_params(labelsize=5)
    axes.set_title(f"2D input, frame {frame}, {frame / clip.fps:.1f} s" + ("" if seen.any() else ": nobody found"), fontsize=8)


def _draw_picture(axes: Any, picture: NDArray[np.uint8], centre: NDArray[np.float64], side: float) -> None:
    """Draw the part of a picture that the window around ``centre`` shows: the rest would only cost time."""
    h, w = picture.shape[:2]
    left, top = np.clip(np.floor(centre - side / 2), 0, (w - 1, h - 1)).astype(int)
    right, bottom = np.clip(np.ceil(centre + side / 2), (left + 1, top + 1), (w, h)).astype(int)
    axes.imshow(picture[top:bottom, left:right], extent=(left, right, bottom, top), alpha=0.8)


def _reach(clip: ClipPoses) -> float:
    known = clip.samples[np.isfinite(clip.samples)]
    return float(np.quantile(np.abs(known), 0.999)) if known.size else 1.0


def _draw_3d(axes: Any, clip: ClipPoses, frame: int, reach: float) -> None:
    from mpl_toolkits.mplot3d.art3d import Line3DCollection

    def bones(pose: NDArray[np.float32]) -> NDArray[np.float32]:
        # Camera axes are x right, y down, z forward; the plot's third axis points up.
        placed = pose[..., [0, 2, 1]] * np.array([1, 1, -1], np.float32)
        return placed[..., np.array(BONES), :].reshape(-1, 2, 3)

    if np.isfinite(clip.joints[frame]).all():
        axes.add_collection3d(Line3DCollection(bones(clip.samples[frame]), colors=GHOST, linewidths=0.7, alpha=0.55), autolim=False)
        colours = [_colour(bone) for bone in BONES]
        axes.add_collection3d(Line3DCollection(bones(clip.joints[frame]), colors=colours, linewidths=1.8), autolim=False)
        spread = float(clip.samples[frame].std(axis=0).mean()) * 1000
        axes.set_title(f"3D, mean of {clip.samples.shape[1]} samples, spread {spread:.0f} mm", fontsize=8)
    else:
        axes.set_title("3D: no pose", fontsize=8)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-reach, reach))
    axes.set_box_aspect((1, 1, 1), zoom=1.15)
    axes.locator_params(nbins=5)
    axes.view_init(elev=10, azim=-70)
    axes.tick_params(labelsize=5, pad=-3)


def _figure(columns: int, rows: int, dpi: int = 100) -> tuple[Any, Any]:
    require("matplotlib", "PIL")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Made without pyplot: no display is looked for, and nothing global is left behind.
    figure = Figure(figsize=(3.0 * columns, 3.0 * rows + 0.6), dpi=dpi, layout="constrained")
    return figure, FigureCanvasAgg(figure)


def draw_png(clip: ClipPoses, frames: Sequence[int], out: str | Path) -> None:
    """Draw the given frames in columns, the 2D input above the 3D pose. Raises OutputError."""
    figure, _ = _figure(len(frames), 2)
    reach = _reach(clip)
    for column, frame in enumerate(frames):
        _draw_2d(figure.add_subplot(2, len(frames), column + 1), clip, frame)
        _draw_3d(figure.add_subplot(2, len(frames), len(frames) + column + 1, projection="3d"), clip, frame, reach)
    _legend(figure, clip)
    with atomic_file(out) as temporary:
        figure.savefig(temporary, format="png")


def _drawn(clip: ClipPoses, frames: Sequence[int], dpi: int, progress: Callable[[], None]) -> Iterator[NDArray[np.uint8]]:
    """Yield a picture (h, w, 3) of each of the frames, 2D input beside 3D pose; tell ``progress`` after each. 6 by 3.6 inches."""
    figure, canvas = _figure(2, 1, dpi)
    reach = _reach(clip)
    _legend(figure, clip)
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2, projection="3d")
    for frame in frames:
        left.clear()
        right.clear()
        _draw_2d(left, clip, frame)
        _draw_3d(right, clip, frame, reach)
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()
        progress()


def draw_gif(clip: ClipPoses, frames: Sequence[int], out: str | Path, progress: Callable[[], None] = lambda: None) -> None:
    """Draw the given frames as an animation at the clip's own speed, 2D input beside 3D pose. Raises OutputError."""
    require("PIL")
    from PIL import Image

    images = [Image.fromarray(picture).quantize(64) for picture in _drawn(clip, frames, 100, progress)]
    with atomic_file(out) as temporary:
        duration = round(1000 * _stride(frames) / clip.fps)
        images[0].save(temporary, format="GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)


def draw_mp4(clip: ClipPoses, frames: Sequence[int], out: str | Path, progress: Callable[[], None] = lambda: None) -> None:
    """Draw the given frames, evenly spaced, as an H.264 video at the clip's own speed. Raises OutputError."""
    require("av")
    import av
    from av.codec.codec import UnknownCodecError

    rate = Fraction(clip.fps / _stride(frames)).limit_denominator(1000)
    with atomic_file(out) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        try:
            stream = container.add_stream("libx264", rate=rate)
        except UnknownCodecError:
            raise OutputError(f"cannot write {out}: this PyAV has no H.264 encoder (PyPI's has); choose a .gif") from None
        stream.pix_fmt = "yuv420p"
        for i, picture in enumerate(_drawn(clip, frames, 200, progress)):
            # Colour is kept for every other pixel, so the sides have to be even.
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2]))
            if i == 0:
                stream.width, stream.height = image.width, image.height
            container.mux(stream.encode(image))
        container.mux(stream.encode())


def _stride(frames: Sequence[int]) -> int:
    return frames[1] - frames[0] if len(frames) > 1 else 1


def _legend(figure: Any, clip: ClipPoses) -> None:
    figure.suptitle(clip.caption, fontsize=9, wrap=True)
    units = "2D in pixels" if clip.image_size is not None else "2D normalised"
    key = f"red: right   blue: left   dark: trunk   grey: single samples   {units}, 3D in metres relative to the hip"
    figure.supxlabel(key, fontsize=7)
