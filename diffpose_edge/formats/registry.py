"""The formats of 2D keypoints by name, and which one a file is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diffpose_edge.errors import KeypointError
from diffpose_edge.formats.alphapose import is_alphapose, read_alphapose, write_alphapose
from diffpose_edge.formats.coco_results import is_coco_results, read_coco_results, write_coco_results
from diffpose_edge.formats.detections import Detections
from diffpose_edge.formats.mmpose import is_mmpose, read_mmpose, write_mmpose
from diffpose_edge.formats.npz_clip import layout_of, read_coco17, read_h36m17, read_mediapipe33, write_npz_clip
from diffpose_edge.formats.openpose import is_openpose, read_openpose, write_openpose
from diffpose_edge.formats.source import Source
from diffpose_edge.formats.videopose3d import is_videopose3d, read_videopose3d, write_videopose3d
from diffpose_edge.layouts import BODY25, COCO17, H36M17, HALPE26, MEDIAPIPE33, Layout


@dataclass(frozen=True)
class KeypointFormat:
    """A format: its ``name``, ``what`` it is, whether it ``recognises`` a file, how it is read and written, the ``layouts`` it holds."""

    name: str
    what: str
    recognises: Callable[[Source], bool]
    read: Callable[[Source], Detections]
    write: Callable[[Path, Detections], None]
    layouts: tuple[Layout, ...]


def _npz(layout: Layout, what: str, read: Callable[[Source], Detections]) -> KeypointFormat:
    return KeypointFormat(layout.name, what, lambda source: layout_of(source) == layout, read, write_npz_clip, (layout,))


_HALPE = (COCO17, HALPE26)
KEYPOINT_FORMATS = {
    f.name: f
    for f in (
        _npz(H36M17, "npz: keypoints (frames,17,2|3), Human3.6M-17", read_h36m17),
        _npz(COCO17, "npz: keypoints (frames,17,2|3), layout 'coco17'", read_coco17),
        _npz(MEDIAPIPE33, "npz: keypoints (frames,33,3), MediaPipe", read_mediapipe33),
        KeypointFormat(
            "videopose3d", "npz: VideoPose3D's data_2d_custom_*.npz", is_videopose3d, read_videopose3d, write_videopose3d, (COCO17, H36M17)
        ),
        KeypointFormat("openpose", "folder of JSON, a frame each: OpenPose", is_openpose, read_openpose, write_openpose, (BODY25,)),
        KeypointFormat("alphapose", "JSON: AlphaPose, alphapose-results.json", is_alphapose, read_alphapose, write_alphapose, _HALPE),
        KeypointFormat("coco-results", "JSON: COCO's keypoint results", is_coco_results, read_coco_results, write_coco_results, _HALPE),
        KeypointFormat("mmpose", "JSON, or a folder of it: MMPose 1.x", is_mmpose, read_mmpose, write_mmpose, _HALPE),
    )
}


def keypoint_format(name: str) -> KeypointFormat:
    """Return a format by name. Raises KeypointError."""
    if name not in KEYPOINT_FORMATS:
        raise KeypointError(f"expected the format of the keypoints as one of {', '.join(KEYPOINT_FORMATS)}, got {name!r}")
    return KEYPOINT_FORMATS[name]


def detect_format(path: str | Path) -> str:
    """Return the name of the format that a file or folder is in. Raises KeypointError, with the candidates, unless it is exactly one."""
    return recognised(Source(path)).name


def recognised(source: Source) -> KeypointFormat:
    """Do what :func:`detect_format` does for a source that is opened already."""
    found = [f for f in KEYPOINT_FORMATS.values() if f.recognises(source)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(f.name for f in (found or KEYPOINT_FORMATS.values()))
    what = "may be any of" if found else "is in none of the formats"
    hint = "; COCO's annotations are a data set's truth, not a detector's results" if _annotations(source) else ""
    raise KeypointError(f"{source.path} {what} {names}{hint}. If it is one of them, name it (--format NAME)")


def _annotations(source: Source) -> bool:
    return source.kind == "json" and isinstance(source.first, dict) and "annotations" in source.first


def read_detections(path: str | Path, name: str | None = None, *, image_size: tuple[float, float] | None = None) -> Detections:
    """Read a file or folder of keypoints in the format called ``name``, or the one that it is recognised to be in.

    ``image_size`` (w, h), pixels: for files that do not tell. Raises KeypointError, which names the file and the place in it.
    """
    chosen = None if name is None else keypoint_format(name)
    source = Source(path, image_size)
    return (chosen or recognised(source)).read(source)


def write_detections(path: str | Path, detections: Detections, name: str) -> None:
    """Write keypoints in the format called ``name``, whole or not at all. Raises KeypointError, or OutputError."""
    chosen = keypoint_format(name)
    if detections.layout not in chosen.layouts:
        held = ", ".join(layout.name for layout in chosen.layouts)
        raise KeypointError(
            f"the format {name} holds keypoints of the layout {held}; these are {detections.layout.name}. Choose another format"
        )
    if not detections.pixels and name != H36M17.name:
        raise KeypointError(f"the format {name} holds pixels, and these keypoints are normalised. Write them as {H36M17.name}")
    chosen.write(Path(path), detections)
