"""What every reader of 2D keypoints returns: people in frames, in the layout of the detector that found them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.layouts import Layout


@dataclass(frozen=True)
class Person:
    """Somebody in one frame: ``keypoints`` (n, 3), x, y and confidence within 0..1; 0 means not seen, and x, y may then be NaN.

    ``track``: what the file calls this person throughout, None where it does not tell people apart. ``score``: the detector's
    confidence in the person, in whatever range it uses.
    """

    keypoints: NDArray[np.float64]
    track: str | None = None
    score: float | None = None


@dataclass(frozen=True)
class Frame:
    """One image: its ``number`` in the video, whoever was found in it, and the image's name where the file has one."""

    number: int
    people: tuple[Person, ...]
    name: str | None = None


@dataclass(frozen=True)
class Detections:
    """A file of keypoints: ``frames`` by increasing number.

    ``image_size`` (w, h) in pixels, of all frames; None where neither the file nor the user tells. ``sizes``: of single tracks, where
    one file holds several videos. ``fps``: None where the file does not tell. ``pixels``: whether x, y are pixels, or normalised.
    """

    layout: Layout
    frames: tuple[Frame, ...]
    image_size: tuple[float, float] | None = None
    sizes: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    fps: float | None = None
    pixels: bool = True

    def tracks(self) -> dict[str, list[int]]:
        """Return the frames' numbers in which each track occurs, by the track's name, in the order in which they appear."""
        found: dict[str, list[int]] = {}
        for frame in self.frames:
            for person in frame.people:
                if person.track is not None:
                    found.setdefault(person.track, []).append(frame.number)
        return found

    def most_people(self) -> int:
        """Return the largest number of people in a frame."""
        return max((len(frame.people) for frame in self.frames), default=0)
