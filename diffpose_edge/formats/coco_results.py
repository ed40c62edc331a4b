"""COCO results: one list of ``{"image_id": 42, "category_id": 1, "keypoints": [x0, y0, v0, x1, …], "score": 0.9}``, a person each.

The format's third number is not looked at by COCO's evaluation; detectors write their confidence there, or 1. Here it is the
confidence: 0 is not seen, and what exceeds 1 (the annotations' 2, say) is 1. ``image_id`` is the frame's number. ``track_id``, which
some writers add, is the track. Source: cocodataset.org, results format.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_edge.atomic import atomic_file
from diffpose_edge.errors import KeypointError
from diffpose_edge.formats.detections import Detections, Frame, Person
from diffpose_edge.formats.json_text import frame_number, of_kind, part, score_of, told, triples
from diffpose_edge.formats.source import Source, numbered
from diffpose_edge.layouts import COCO17, HALPE26, Layout

# The first 26 of Halpe's 136 are its body, the first 17 of COCO-WholeBody's 133 are COCO's.
LAYOUTS_BY_COUNT = {17: COCO17, 26: HALPE26, 133: COCO17, 136: HALPE26}
PERSON_CATEGORY = 1


def is_person_list(source: Source) -> bool:
    """Tell whether a JSON file is a list of people, each with the image that it was found in."""
    return source.kind == "json" and isinstance(source.first, list) and isinstance(_first(source), dict) and "image_id" in _first(source)


def _first(source: Source) -> Any:
    return source.first[0] if source.first else None


def is_coco_results(source: Source) -> bool:
    """Tell whether a JSON file is a list of people by the numbers of images, without what AlphaPose adds."""
    if not is_person_list(source):
        return False
    first = _first(source)
    return not isinstance(first["image_id"], str) and not {"box", "idx"} & set(first)


def read_coco_results(source: Source) -> Detections:
    """Read the file; images in which nobody was found are not in it. Raises KeypointError."""
    return people_by_image(source, lambda entry, where: _track(entry, where))


def _track(entry: dict[str, Any], where: str) -> str | None:
    track = entry.get("track_id")
    return None if track is None else str(of_kind(track, (int, str), f"{where}.track_id"))


def people_by_image(source: Source, track_of: Callable[[dict[str, Any], str], str | None]) -> Detections:
    """Read a list of people and gather them by image. ``track_of`` says who somebody is, of the entry and where it stands.

    Images that are named have the number in their name, or are numbered in order. Raises KeypointError.
    """
    if source.kind == "folder":
        raise KeypointError(f"{source.path} is a folder; expected one file for all frames")
    document = of_kind(source.first, list, str(source.path))
    if not document:
        raise KeypointError(f"{source.path} is an empty list: nobody was found in any frame")
    people: dict[int | str, list[Person]] = {}
    layout: Layout | None = None
    for i, entry in enumerate(document):
        where = f"{source.path}[{i}]"
        image = part(entry, "image_id", (int, str), where)
        if isinstance(image, int):
            frame_number(image, f"{where}.image_id")
        if entry.get("category_id", PERSON_CATEGORY) != PERSON_CATEGORY:
            raise KeypointError(f"{where}.category_id: expected {PERSON_CATEGORY}, a person; got {told(entry['category_id'])}")
        keypoints, own = triples(part(entry, "keypoints", list, where), LAYOUTS_BY_COUNT, f"{where}.keypoints")
        if layout is not None and layout != own:
            raise KeypointError(f"{where}.keypoints: has {len(own)} keypoints; expected {len(layout)}, as those before it have")
        layout = own
        person = Person(keypoints, track_of(entry, where), score_of(entry.get("score"), f"{where}.score"))
        people.setdefault(image, []).append(person)
    assert layout is not None
    if len({type(image) for image in people}) > 1:
        raise KeypointError(f"{source.path}: some images have a number and some a name; expected one kind of image_id")
    names = [str(image) for image in people]
    numbers = numbered([Path(name).stem for name in names]) if isinstance(next(iter(people)), str) else [int(image) for image in people]
    named = [None] * len(names) if isinstance(next(iter(people)), int) else names
    frames = sorted(zip(numbers, named, people.values(), strict=True), key=lambda frame: frame[0])
    return Detections(layout, tuple(Frame(number, tuple(found), name) for number, name, found in frames), source.size(None))


def entry_of(person: Person, image: int | str) -> dict[str, Any]:
    """Return a person as an entry of such a list."""
    seen = np.where(person.keypoints[:, 2:] > 0, person.keypoints, 0.0)
    entry = {"image_id": image, "category_id": PERSON_CATEGORY, "keypoints": seen.ravel().tolist()}
    return entry if person.score is None else {**entry, "score": person.score}


def write_coco_results(path: Path, detections: Detections) -> None:
    """Write the list; frames without anybody have no place in it. Raises OutputError."""
    entries = [
        {**entry_of(person, frame.number), **({} if person.track is None else {"track_id": person.track})}
        for frame in detections.frames
        for person in frame.people
    ]
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(entries), encoding="utf-8")
