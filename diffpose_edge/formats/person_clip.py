"""From people in frames to the clip of one of them, as the runtime takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import KeypointError
from diffpose_edge.formats.detections import Detections, Frame, Person
from diffpose_edge.formats.registry import read_detections
from diffpose_edge.keypoints import MOST_NORMALISED, Keypoints, checked_keypoints, normalise_pixels
from diffpose_edge.layouts import H36M17, h36m17_from

# What takes the most certain person of each frame, whoever that is.
BEST = "best"
# Frames between those in a file were seen and had nobody in them, unless that made the clip so many times as long: then the numbers are
# those of images in a collection, not of frames.
MOST_SPARSE = 10
# Pixels of a person do not all lie so near to the corner: such coordinates are normalised.
LEAST_PIXELS = 2.0


@dataclass(frozen=True)
class PersonClip:
    """One person's ``keypoints`` (frames, 17, 2), normalised; the ``frames``' numbers (frames,); who it is, None if nobody says.

    ``image_size`` (w, h), pixels, and ``fps``, Hz: None where nobody tells. A frame in which the person was not found has confidence 0
    throughout.
    """

    keypoints: Keypoints
    frames: NDArray[np.int64]
    person: str | None
    image_size: tuple[float, float] | None
    fps: float | None


def open_clip(
    path: str | Path,
    name: str | None = None,
    *,
    person: str | None = None,
    image_size: tuple[float, float] | None = None,
    fps: float | None = None,
) -> PersonClip:
    """Read the clip of one person from a file or folder of keypoints.

    ``name``: the format; without it it is recognised. ``person``: a track's name; in a file that does not tell people apart, which of
    those in a frame, by number from 0; or "best", the most certain one of each frame. Without it there has to be only one.
    ``image_size`` and ``fps``: where the file does not tell. Raises KeypointError.
    """
    if fps is not None and not (np.isfinite(fps) and fps > 0):
        raise KeypointError(f"expected the frame rate as a positive number of frames a second, got {fps:g}")
    return person_clip(read_detections(path, name, image_size=image_size), str(path), person=person, fps=fps)


def person_clip(detections: Detections, where: str, *, person: str | None = None, fps: float | None = None) -> PersonClip:
    """Do what :func:`open_clip` does for what is read already; ``where`` names it in messages."""
    if not detections.most_people():
        raise KeypointError(f"{where}: nobody was found in any of its {len(detections.frames)} frames")
    choose, track = _choice(detections, person, where)
    found = {frame.number: choose(frame) for frame in detections.frames}
    numbers = _rows(detections)
    points = np.full((len(numbers), len(detections.layout), 3), np.nan)
    points[..., 2] = 0.0
    for row, number in zip(points, numbers.tolist(), strict=True):
        somebody = found.get(number)
        if somebody is not None:
            row[:] = somebody.keypoints
    size = detections.sizes.get(track or "", detections.image_size)
    keypoints = _keypoints(detections, points, size, where)
    return PersonClip(keypoints, numbers, track or person, size, fps if fps is not None else detections.fps)


def _rows(detections: Detections) -> NDArray[np.int64]:
    present = np.array([frame.number for frame in detections.frames], np.int64)
    if present[-1] - present[0] + 1 > MOST_SPARSE * len(present):
        return present
    return np.arange(present[0], present[-1] + 1)


def _choice(detections: Detections, person: str | None, where: str) -> tuple[Callable[[Frame], Person | None], str | None]:
    """Return what chooses of a frame, and the name of the track if it chooses one. Raises KeypointError."""
    tracks, most = detections.tracks(), detections.most_people()
    if person == BEST:
        return lambda frame: max(frame.people, key=_certainty, default=None), None
    if not tracks:
        if person is None and most > 1:
            crowded = next(frame for frame in detections.frames if len(frame.people) == most)
            raise KeypointError(
                f"{where} has up to {most} people in a frame (frame {crowded.number}) and does not tell who is who. Choose: --person best, "
                f"the most certain one of each frame, or --person 0 to {most - 1}, by the order in the file"
            )
        index = _index(person or "0", most, where)
        return lambda frame: frame.people[index] if index < len(frame.people) else None, None
    untracked = sum(one.track is None for frame in detections.frames for one in frame.people)
    if person is None and len(tracks) == 1 and not untracked:
        person = next(iter(tracks))
    if person is None or person not in tracks:
        told = [f"{name} ({len(at)} frames, {min(at)} to {max(at)})" for name, at in list(tracks.items())[:10]]
        more = f", and {len(tracks) - 10} more" if len(tracks) > 10 else ""
        asked = "choose one with --person" if person is None else f"it has no {person!r}"
        raise KeypointError(f"{where} has {len(tracks)} people; {asked}. There are: {', '.join(told)}{more}; or best, the most certain one")
    chosen = person
    for name, at in tracks.items():
        if name == chosen and len(set(at)) < len(at):
            twice = next(number for number in at if at.count(number) > 1)
            raise KeypointError(f"{where}: frame {twice} has person {chosen} twice")
    return lambda frame: next((one for one in frame.people if one.track == chosen), None), chosen


def _index(person: str, most: int, where: str) -> int:
    if not (person.isascii() and person.isdigit() and len(person) < 10 and int(person) < most):
        raise KeypointError(
            f"{where} does not tell who is who: expected --person 0 to {most - 1}, by the order in a frame, or best; got {person!r}"
        )
    return int(person)


def _certainty(person: Person) -> float:
    """Return the score of a person, or the mean confidence of the keypoints where the file has no scores."""
    return person.score if person.score is not None else float(person.keypoints[:, 2].mean())


def _keypoints(detections: Detections, points: NDArray[np.float64], size: tuple[float, float] | None, where: str) -> Keypoints:
    """Return points (frames, n, 3) as normalised Human3.6M-17 keypoints. Raises KeypointError."""
    seen = points[..., 2] > 0
    if not detections.pixels:
        return Keypoints(points[..., :2].astype(np.float32), points[..., 2].astype(np.float32))
    if not seen.any():
        raise KeypointError(
            f"{where}: no keypoint has a confidence above 0, so nothing was seen. Does what wrote the file leave confidences out?"
        )
    if size is None:
        raise KeypointError(f"{where} does not tell the image's size, which pixels are normalised by; give it: --image-size WxH")
    largest = float(np.abs(points[..., :2][seen]).max())
    if largest <= LEAST_PIXELS:
        raise KeypointError(f"{where}: all coordinates are within {largest:.3g}: expected pixels. Write the file without normalising them")
    if largest * 2 / size[0] > MOST_NORMALISED:
        raise KeypointError(f"{where}: coordinates reach {largest:.5g} pixels; expected those of an image of {size[0]:g}x{size[1]:g}")
    if detections.layout == H36M17:
        return checked_keypoints(normalise_pixels(points[..., :2], size), points[..., 2])
    return h36m17_from(detections.layout, points, size)
