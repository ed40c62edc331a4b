"""MMPose 1.x: what its inferencer and its demos write.

One person is ``{"keypoints": [[x, y], …], "keypoint_scores": [c, …], "bbox": [[x0, y0, x1, y1]], "bbox_score": 0.9}``. Around that:

- the inferencer on a video: ``[{"frame_id": 0, "instances": [person, …]}, …]``;
- the inferencer on an image: ``[person, …]``, and a folder of images gives a folder of such files;
- ``demo/topdown_demo_with_mmdet.py`` and its like: ``{"meta_info": {"dataset_name": "coco", …}, "instance_info": either of the two}``.

COCO-17, Halpe-26 and COCO-WholeBody (its first 17) by the count of keypoints; ``meta_info``, where it is there, has to say so too:
other data sets have 17 keypoints in other orders. Scores go beyond 1 (SimCC heads, RTMPose) and are cut to it. ``track_id`` is taken
where a writer adds it. Source: MMPose 1.3, mmpose/apis/inferencers/base_mmpose_inferencer.py, mmpose/structures/utils.py
(split_instances) and demo/topdown_demo_with_mmdet.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_edge.atomic import atomic_file
from diffpose_edge.errors import KeypointError
from diffpose_edge.formats.coco_results import LAYOUTS_BY_COUNT
from diffpose_edge.formats.detections import Detections, Frame, Person
from diffpose_edge.formats.json_text import frame_number, numbers, of_kind, part, score_of, told, with_confidence
from diffpose_edge.formats.source import Source, numbered
from diffpose_edge.layouts import COCO17, H36M17, Layout

# Data sets of MMPose by the beginning of their names. Source: configs/_base_/datasets.
_DATASETS: dict[str, dict[int, Layout]] = {
    "coco": LAYOUTS_BY_COUNT,
    "halpe": LAYOUTS_BY_COUNT,
    "body8": LAYOUTS_BY_COUNT,
    "body7": LAYOUTS_BY_COUNT,
    "h36m": {17: H36M17},
}


def is_mmpose(source: Source) -> bool:
    """Tell whether a JSON file, or a folder's first, holds people as MMPose 1.x describes them."""
    if source.kind == "npz":
        return False
    if isinstance(source.first, dict):
        return "instance_info" in source.first
    first = source.first[0] if isinstance(source.first, list) and source.first else None
    return isinstance(first, dict) and ({"frame_id", "instances"} <= set(first) or {"keypoints", "keypoint_scores"} <= set(first))


def read_mmpose(source: Source) -> Detections:
    """Read a file, or a folder with a file for each image. Raises KeypointError."""
    if source.kind == "folder":
        stems = [file.stem for file in source.files]
        parts = [(n, file, source.document(file)) for n, file in sorted(zip(numbered(stems), source.files, strict=True))]
        frames = {number: _people(document, LAYOUTS_BY_COUNT, str(file)) for number, file, document in parts}
        return _detections(frames, source)
    layouts, entries, where = LAYOUTS_BY_COUNT, source.first, str(source.path)
    if isinstance(source.first, dict):
        entries, where = part(source.first, "instance_info", list, where), f"{where}: instance_info"
        layouts = _layouts_of(source.first.get("meta_info"), f"{source.path}: meta_info")
    if not of_kind(entries, list, where):
        raise KeypointError(f"{where} is an empty list: there are no frames")
    if not (isinstance(entries[0], dict) and "instances" in entries[0]):
        return _detections({0: _people(entries, layouts, where)}, source)
    frames = {}
    for i, entry in enumerate(entries):
        at = f"{where}[{i}]"
        number = frame_number(part(entry, "frame_id", int, at), f"{at}.frame_id")
        if number in frames:
            raise KeypointError(f"{at}.frame_id is {number}, as of a frame before it; expected each frame once")
        frames[number] = _people(part(entry, "instances", list, at), layouts, f"{at}.instances")
    return _detections(frames, source)


def _layouts_of(meta: Any, where: str) -> dict[int, Layout]:
    name = meta.get("dataset_name") if isinstance(meta, dict) else None
    if name is None:
        return LAYOUTS_BY_COUNT
    for beginning, layouts in _DATASETS.items():
        if str(name).startswith(beginning):
            return layouts
    raise KeypointError(f"{where}.dataset_name is {told(name)}: its keypoints are not known here; those of coco, halpe26 and h36m are")


def _people(entries: Any, layouts: dict[int, Layout], where: str) -> list[tuple[Person, Layout]]:
    return [_person(entry, layouts, f"{where}[{i}]") for i, entry in enumerate(of_kind(entries, list, where))]


def _person(entry: Any, layouts: dict[int, Layout], where: str) -> tuple[Person, Layout]:
    xy = numbers(part(entry, "keypoints", list, where), f"{where}.keypoints")
    scores = numbers(part(entry, "keypoint_scores", list, where), f"{where}.keypoint_scores")
    if xy.ndim == 2 and xy.shape[1] == 3:
        raise KeypointError(f"{where}.keypoints has three numbers a keypoint, as of poses in 3D; expected the 2D ones, [x, y] each")
    if xy.ndim != 2 or xy.shape[1] != 2 or len(xy) not in layouts:
        counts = ", ".join(map(str, layouts))
        raise KeypointError(f"{where}.keypoints: expected [x, y] of {counts} keypoints, got an array of shape {xy.shape}")
    if scores.shape != (len(xy),):
        raise KeypointError(f"{where}.keypoint_scores: expected {len(xy)} numbers, one for each keypoint, got {scores.shape}")
    layout = layouts[len(xy)]
    keypoints = with_confidence(np.concatenate([xy, scores[:, None]], axis=1)[: len(layout)])
    track = entry.get("track_id")
    named = None if track is None else str(of_kind(track, (int, str), f"{where}.track_id"))
    return Person(keypoints, named, score_of(entry.get("bbox_score"), f"{where}.bbox_score")), layout


def _detections(found: dict[int, list[tuple[Person, Layout]]], source: Source) -> Detections:
    layouts = {layout.name: layout for people in found.values() for _, layout in people}
    if len(layouts) > 1:
        raise KeypointError(f"{source.path} mixes the layouts {', '.join(layouts)}; expected one throughout")
    frames = tuple(Frame(number, tuple(person for person, _ in found[number])) for number in sorted(found))
    return Detections(next(iter(layouts.values()), COCO17), frames, source.size(None))


def write_mmpose(path: Path, detections: Detections) -> None:
    """Write what the inferencer writes for a video, with ``track_id`` where there is one. Raises OutputError."""
    document = [{"frame_id": f.number, "instances": [_entry(p) for p in f.people]} for f in detections.frames]
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(document), encoding="utf-8")


def _entry(person: Person) -> dict[str, Any]:
    seen = person.keypoints[:, 2] > 0
    xy = np.where(seen[:, None], person.keypoints[:, :2], 0.0)
    entry: dict[str, Any] = {"keypoints": xy.tolist(), "keypoint_scores": person.keypoints[:, 2].tolist()}
    if seen.any():
        entry["bbox"] = [[*xy[seen].min(axis=0).tolist(), *xy[seen].max(axis=0).tolist()]]
    if person.score is not None:
        entry["bbox_score"] = person.score
    return entry if person.track is None else {**entry, "track_id": person.track}
