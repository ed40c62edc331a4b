"""OpenPose: a folder with a JSON file for each frame, as ``--write_json`` writes it.

``{"version": 1.3, "people": [{"person_id": [-1], "pose_keypoints_2d": [x0, y0, c0, x1, …], "face_keypoints_2d": …}, …]}``, one file
``<video>_<12 digits>_keypoints.json`` for each frame, with an empty ``people`` where nobody is. BODY_25; pixels, as with
``--keypoint_scale 0``. A keypoint that was not found is 0, 0, 0. ``person_id`` is -1 unless ``--identification`` or ``--tracking`` is on.
Source: OpenPose, doc/02_output.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_edge.atomic import atomic_directory
from diffpose_edge.errors import KeypointError
from diffpose_edge.formats.detections import Detections, Frame, Person
from diffpose_edge.formats.json_text import numbers, of_kind, part, triples
from diffpose_edge.formats.source import Source, numbered
from diffpose_edge.formats.tracks import whole_track
from diffpose_edge.layouts import BODY25

_END = "_keypoints"
_OTHER_MODELS = {54: "COCO (18 keypoints)", 45: "MPI (15 keypoints)"}


def is_openpose(source: Source) -> bool:
    """Tell whether a folder's first JSON file, or a JSON file of one frame, is OpenPose's."""
    return source.kind != "npz" and isinstance(source.first, dict) and isinstance(source.first.get("people"), list)


def read_openpose(source: Source) -> Detections:
    """Read a folder of frames, or the file of one frame. Raises KeypointError."""
    files = source.files
    names = [file.stem.removesuffix(_END) for file in files]
    videos = sorted({name.rstrip("0123456789").rstrip("_") for name in names})
    if len(videos) > 1 and all(name[-1:].isdigit() for name in names):
        raise KeypointError(f"{source.path} has frames of {len(videos)} videos: {', '.join(videos[:5])}, …; expected those of one")
    frames = []
    for number, file in sorted(zip(numbered(names), files, strict=True)):
        people = part(source.document(file), "people", list, str(file))
        frames.append(Frame(number, tuple(_person(person, f"{file}: people[{i}]") for i, person in enumerate(people))))
    return Detections(BODY25, tuple(frames), source.size(None))


def _person(person: Any, where: str) -> Person:
    values = part(person, "pose_keypoints_2d", list, where)
    if len(values) in _OTHER_MODELS:
        model = _OTHER_MODELS[len(values)]
        raise KeypointError(f"{where}: expected OpenPose's BODY_25 (25 keypoints), got its model {model}; run it with --model_pose BODY_25")
    keypoints, _ = triples(values, {len(BODY25): BODY25}, f"{where}.pose_keypoints_2d")
    track = None
    if "person_id" in person:
        ids = numbers(of_kind(person["person_id"], list, f"{where}.person_id"), f"{where}.person_id")
        if ids.ndim != 1:
            raise KeypointError(f"{where}.person_id: expected a list of one number, got lists in a list")
        track = str(int(ids[0])) if ids.size == 1 and ids[0] >= 0 else None
    return Person(keypoints, track)


def write_openpose(path: Path, detections: Detections) -> None:
    """Write a folder with a file for each frame. Scores of people have no place in it. Raises OutputError."""
    with atomic_directory(path) as folder:
        for frame in detections.frames:
            people = []
            for person in frame.people:
                seen = np.where(person.keypoints[:, 2:] > 0, person.keypoints, 0.0)
                track = -1 if person.track is None else whole_track(person.track, path)
                people.append({"person_id": [track], "pose_keypoints_2d": seen.ravel().tolist()})
            text = json.dumps({"version": 1.3, "people": people})
            (folder / f"{frame.number:012d}{_END}.json").write_text(text, encoding="utf-8")
