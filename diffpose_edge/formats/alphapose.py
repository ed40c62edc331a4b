"""AlphaPose: ``alphapose-results.json``, a list of people like COCO's results, with the image's file name.

``{"image_id": "12.jpg", "category_id": 1, "keypoints": [x0, y0, c0, …], "score": 2.9, "box": [x, y, w, h], "idx": 3}``. COCO-17,
Halpe-26 or Halpe-136, by the count of keypoints. ``idx`` is a number where people were tracked (``--pose_track``, ``--pose_flow``);
without tracking it is a list of the boxes that were merged, which is no track. Confidences go beyond 1 with some models, and are cut to
it. Frames in which nobody was found are not in the file. Source: AlphaPose, docs/output.md and alphapose/utils/pPose_nms.py, write_json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_edge.atomic import atomic_file
from diffpose_edge.formats.coco_results import entry_of, is_person_list, people_by_image
from diffpose_edge.formats.detections import Detections, Person
from diffpose_edge.formats.json_text import number
from diffpose_edge.formats.source import Source
from diffpose_edge.formats.tracks import whole_track


def is_alphapose(source: Source) -> bool:
    """Tell whether a JSON file is a list of people by the names of images, or with the box or the number that AlphaPose adds."""
    return is_person_list(source) and (isinstance(source.first[0]["image_id"], str) or bool({"box", "idx"} & set(source.first[0])))


def read_alphapose(source: Source) -> Detections:
    """Read the file. The frame's number is the one in the image's name. Raises KeypointError."""
    return people_by_image(source, _track)


def _track(entry: dict[str, Any], where: str) -> str | None:
    idx = entry.get("idx")
    if idx is None or isinstance(idx, list):
        return None
    track = number(idx, f"{where}.idx")
    return f"{track:.0f}" if track.is_integer() else f"{track:g}"


def write_alphapose(path: Path, detections: Detections) -> None:
    """Write the list; frames without anybody have no place in it. Raises OutputError."""
    entries = []
    for frame in detections.frames:
        for person in frame.people:
            entry = entry_of(person, frame.name or f"{frame.number}.jpg")
            entry["box"] = _box(person)
            if person.track is not None:
                entry["idx"] = whole_track(person.track, path)
            entries.append(entry)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(entries), encoding="utf-8")


def _box(person: Person) -> list[float]:
    """Return x, y, w, h around the keypoints that were seen."""
    seen = person.keypoints[person.keypoints[:, 2] > 0, :2]
    if not len(seen):
        return [0.0, 0.0, 0.0, 0.0]
    low, high = seen.min(axis=0), seen.max(axis=0)
    return np.concatenate([low, high - low]).tolist()
