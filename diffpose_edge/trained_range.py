"""What training showed the networks of people: who lies outside it gets a pose that nothing vouches for.

A network answers whatever it is shown. Whether it was ever shown the like, bounds can tell: of each joint in the person's own frame of
reference, of each bone there, and of the person's place and size in the image. Pairs trained here carry bounds that were measured on
their own training views (:mod:`diffpose_edge.reference.training.views_range`). Released weights were trained on Human3.6M, which
nobody has here: of them the image's border is checked, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import BundleError
from diffpose_edge.person import PersonView
from diffpose_edge.skeleton import BONES, JOINTS, J

Array = NDArray[np.float32]

PARENTS, CHILDREN = (np.array(ends) for ends in zip(*BONES, strict=True))
_JOINT_NAMES = tuple(f"{joint} {axis}" for joint in JOINTS for axis in "uv")
# In the person's frame the unit is the person's size in the image, the root mean square distance of their joints from their centre.
PERSON = (*_JOINT_NAMES, *(f"{JOINTS[child]} bone" for child in CHILDREN), "centre u", "centre v", "size", "confidence")
IMAGE = _JOINT_NAMES
# How much of a heatmap's blob training put around keypoints at most, in the person's frame
# (diffpose_edge.reference.training.diffusion_stage).
MOST_BLOB = 0.12
# So many quantities are named to somebody who asks what is out of range.
TOLD = 3
_UNSEEN = np.float32(np.nan)
# The file beside a pair.
FILE, FORMAT, FORMAT_VERSION = "range.json", "diffpose-edge trained range", 1
# Far more than 54 pairs of numbers take.
MOST_FILE_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class TrainedRange:
    """Bounds ``low`` and ``high`` of the quantities ``names``: PERSON or IMAGE. ``views``: how many training views they were measured on;
    ``source``: where they come from, in words.

    PERSON: u and v of each joint, relative to the person's centre and in units of their size; how long each bone is there; the centre and
    the size, in half image widths; the mean confidence of the 17 joints. IMAGE: u and v of each joint, normalised.
    Raises BundleError for bounds that are none.
    """

    names: tuple[str, ...]
    low: Array
    high: Array
    views: int
    source: str

    def __post_init__(self) -> None:
        for bound in (self.low, self.high):
            if bound.shape != (len(self.names),) or np.isnan(bound).any():
                raise BundleError(f"the trained range: expected {len(self.names)} bounds that are numbers, got shape {bound.shape}")
        if (self.low > self.high).any():
            name = self.names[int(np.argmax(self.low > self.high))]
            raise BundleError(f"the trained range: the bounds of {name!r} are the wrong way round")

    def outside(self, values: Array) -> NDArray[np.bool_]:
        """Return which of B people (B,) have a value (B, quantities) out of bounds; NaN stands for what was not seen, and is within."""
        return np.asarray(((values < self.low) | (values > self.high)).any(axis=-1))

    def told(self, values: Array) -> str:
        """Say which of one person's values (quantities,) are furthest out, in shares of their ranges, TOLD at most; "" for none."""
        out = np.flatnonzero((values < self.low) | (values > self.high))
        if not len(out):
            return ""
        low, high = self.low[out], self.high[out]
        beyond = np.maximum(low - values[out], values[out] - high) / np.maximum(high - low, np.float32(1e-6))
        worst = out[np.argsort(-beyond, kind="stable")]
        told = [f"{self.names[i]} is {values[i]:.3g} (training showed {self.low[i]:.3g}..{self.high[i]:.3g})" for i in worst[:TOLD]]
        return ", ".join(told) + (f", and {len(worst) - TOLD} more" if len(worst) > TOLD else "")

    def as_record(self) -> dict[str, Any]:
        """Return it as a manifest holds it."""
        bounds = np.stack([self.low, self.high], axis=-1).astype(np.float64).round(5).tolist()
        return {"views": self.views, "source": self.source, "bounds": dict(zip(self.names, bounds, strict=True))}


def person_values(uv: Array, confidence: Array, view: PersonView) -> Array:
    """Return the quantities PERSON (B, 54) of B people: uv (B, 17, 2) in the image, confidence (B, 17); NaN for joints not seen."""
    values = np.empty((len(uv), len(PERSON)), np.float32)
    # In each frame's path: few calls of numpy, each on everybody.
    own = np.where((confidence > 0)[..., None], uv, _UNSEEN)
    own -= view.centre[:, None]
    own /= view.scale[:, None, None]
    values[:, : 2 * J] = own.reshape(len(own), -1)
    bones = own.take(CHILDREN, axis=1)
    bones -= own.take(PARENTS, axis=1)
    np.sqrt(np.einsum("bij,bij->bi", bones, bones), out=values[:, 2 * J : -4])
    values[:, -4:-2], values[:, -2] = view.centre, view.scale
    np.add.reduce(confidence, axis=-1, out=values[:, -1])
    values[:, -1] /= J
    return values


def image_values(uv: Array, confidence: Array) -> Array:
    """Return the quantities IMAGE (B, 34) of B people; NaN for joints not seen."""
    return np.where((confidence > 0)[..., None], uv, _UNSEEN).reshape(len(uv), -1)


def range_from_record(record: Any) -> TrainedRange:
    """Read :meth:`TrainedRange.as_record`. Raises BundleError."""
    bounds = record.get("bounds") if isinstance(record, Mapping) else None
    if not isinstance(bounds, Mapping) or tuple(bounds) != PERSON:
        raise BundleError("the trained range: expected bounds of 17 joints, 16 bones, centre, size and confidence, in this order")
    views, source = record.get("views"), record.get("source")
    if not isinstance(views, int) or isinstance(views, bool) or not 0 < views < 1 << 62 or not isinstance(source, str):
        raise BundleError("the trained range: expected views as a whole number above 0, and its source in words")
    for name, pair in bounds.items():
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(type(b) in (int, float) and abs(b) < 1e9 for b in pair):
            raise BundleError(f"the trained range: expected two numbers for {name!r}")
    table = np.array(list(bounds.values()), np.float32)
    return TrainedRange(PERSON, table[:, 0], table[:, 1], views, source)


def range_json(trained: TrainedRange, checkpoints: Mapping[str, str]) -> str:
    """Return the content of a ``range.json``; ``checkpoints`` are the SHA-256 of the pair's files by their role."""
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "checkpoints": dict(checkpoints), "trained_range": trained.as_record()}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def range_of_checkpoints(path: Path, checkpoints: Mapping[str, str]) -> TrainedRange | None:
    """Return the range in a ``range.json``; None if there is no such file, or if it was measured for other checkpoints.

    ``checkpoints``: SHA-256 of the pair's files by their role. Raises BundleError for a file that is damaged.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MOST_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise BundleError(f"{path} cannot be read: {err.strerror}") from None
    try:
        content = json.loads(raw if len(raw) <= MOST_FILE_BYTES else b"")
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or (content.get("format"), content.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise BundleError(f"{path} is not a trained range of this version. Remove it, or train again: diffpose-edge train")
    if content.get("checkpoints") != dict(checkpoints):
        return None
    try:
        return range_from_record(content.get("trained_range"))
    except BundleError as err:
        raise BundleError(f"{path}: {err}. Remove it, or train again: diffpose-edge train") from None


def _rough() -> TrainedRange:
    """Bounds for pairs whose training did not measure them: the place and size of a person, of the cameras that all pairs are trained with.

    Those of the frame pair, rounded outwards.
    """
    low, high = np.full(len(PERSON), -np.inf, np.float32), np.full(len(PERSON), np.inf, np.float32)
    for name, pair in {"centre u": (-1.3, 1.3), "centre v": (-1.6, 1.6), "size": (0.025, 1.6)}.items():
        low[PERSON.index(name)], high[PERSON.index(name)] = pair
    return TrainedRange(PERSON, low, high, 0, "not measured for this bundle: the place and size that cameras in training show")


def _image() -> TrainedRange:
    """Bounds for released weights: Human3.6M's images are square, 1000 x 1000 or 1000 x 1002 pixels, with all of a person in them.

    Detectors put joints a little beyond the border: a twentieth of half the width. Source: Ionescu et al., *Human3.6M*, PAMI 2014;
    Pavllo et al., VideoPose3D, which normalises by them.
    """
    most = np.full(len(IMAGE), 1.05, np.float32)
    return TrainedRange(IMAGE, -most, most, 0, "not measured: the images of Human3.6M, and a twentieth of half their width around them")


ROUGH, H36M_IMAGE = _rough(), _image()
assert len(PERSON) == 2 * J + len(BONES) + 4
