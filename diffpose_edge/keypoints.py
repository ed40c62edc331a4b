"""2D keypoints as the networks take them: Human3.6M-17, normalised to the image, with a confidence for each joint."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.arrays import real_array
from diffpose_edge.errors import KeypointError
from diffpose_edge.npz_file import NpzFile
from diffpose_edge.reading import reason_of
from diffpose_edge.skeleton import JOINTS, J

# Normalised u lies within -1..1 inside the image. Detectors do place joints outside it, though never this far.
MOST_NORMALISED = 10.0

# What numpy and zipfile raise on a file that is damaged, of another kind, or claims more than memory holds.
UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, NotImplementedError, MemoryError, OverflowError,
    RuntimeError,  # an encrypted archive
    TypeError, IndexError,  # an array header whose names are of different kinds
    tokenize.TokenError,  # an array header that is no Python literal
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class Keypoints:
    """Checked keypoints: ``uv`` (…, 17, 2) float32, normalised; ``confidence`` (…, 17) float32 within 0..1.

    A confidence of zero means that the joint was not seen; its u, v may then be NaN.
    """

    uv: NDArray[np.float32]
    confidence: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.uv)


def normalise_pixels(xy: ArrayLike, image_size: tuple[float, float]) -> NDArray[np.float64]:
    """Map pixels (…, 2) to normalised u = 2x/w - 1, v = 2y/w - h/w: the aspect is kept. ``image_size`` is (w, h).

    Source: Pavllo et al., VideoPose3D (CVPR 2019). Raises KeypointError for an image without area.
    """
    w, h = _checked_size(image_size)
    return _pairs(xy, "pixels") * (2.0 / w) - (1.0, h / w)


def _pairs(values: ArrayLike, what: str) -> NDArray[np.float64]:
    array = real_array(values, what, KeypointError)
    if array.shape[-1:] != (2,):
        raise KeypointError(f"expected {what} of shape (…, 2), got {array.shape}")
    return array


def _checked_size(image_size: tuple[float, float]) -> tuple[float, float]:
    try:
        w, h = (float(s) for s in image_size)
    except (TypeError, ValueError, OverflowError):
        raise KeypointError(f"expected image_size as two numbers (width, height) in pixels, got {image_size!r}") from None
    if not (np.isfinite(w) and np.isfinite(h) and w > 0 and h > 0):
        raise KeypointError(f"expected image_size (width, height) in pixels, both positive, got ({w}, {h})")
    return w, h


def denormalise(uv: ArrayLike, image_size: tuple[float, float]) -> NDArray[np.float64]:
    """Map normalised u, v (…, 2) back to pixels: the inverse of :func:`normalise_pixels`."""
    w, h = _checked_size(image_size)
    return (_pairs(uv, "u, v") + np.array([1.0, h / w])) * (w / 2.0)


def numbers_of(values: ArrayLike, what: str) -> NDArray[np.float32]:
    """Return ``values`` as a float32 array, or raise KeypointError when they are not an array of real numbers."""
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"its type is {array.dtype}")
        # A number too large for float32 becomes inf, which is refused with its place named.
        with np.errstate(over="ignore"):
            return array.astype(np.float32)
    except (TypeError, ValueError) as err:
        raise KeypointError(f"expected {what} as an array of numbers, got {type(values).__name__}: {reason_of(err)}") from None


def checked_keypoints(keypoints: ArrayLike, confidence: ArrayLike | None = None, *, window: bool = False) -> Keypoints:
    """Check keypoints (B, 17, 2), or (B, 17, 3) with a confidence as the third number; with ``window`` (B, F, 17, 2|3).

    A joint that was not seen has confidence 0, and then its coordinates are ignored. Raises KeypointError for a wrong
    rank or joint count, for no entries, for NaN or inf where the joint is said to be seen, for confidences outside
    0..1, and for values that can only be pixels.
    """
    array = numbers_of(keypoints, "keypoints")
    wanted = "(B, F, 17, 2)" if window else "(B, 17, 2)"
    if array.ndim != (4 if window else 3) or array.shape[-1] not in (2, 3):
        raise KeypointError(f"expected keypoints of shape {wanted}, or 3 numbers a joint with the confidence last; got {array.shape}")
    if array.shape[-2] != J:
        hint = "; for MediaPipe's 33 landmarks use diffpose_edge.layouts.h36m17_from_mediapipe33" if array.shape[-2] == 33 else ""
        raise KeypointError(f"expected {J} joints in Human3.6M order ({', '.join(JOINTS[:4])}, …), got {array.shape[-2]}{hint}")
    if array.size == 0:
        raise KeypointError(f"expected at least one entry, got keypoints of shape {array.shape}: nobody to estimate")
    if array.shape[-1] == 3 and confidence is not None:
        raise KeypointError("the confidence came twice: as the keypoints' third number and on its own; give one of them")
    given = array[..., 2] if array.shape[-1] == 3 else confidence
    uv = array[..., :2]
    seen = _checked_confidence(given, uv.shape[:-1])
    wrong = ~np.isfinite(uv).all(axis=-1) & (seen > 0)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise KeypointError(
            f"keypoint {_place(at)} is {uv[at].tolist()}: expected finite numbers. If the joint was not seen, say so with "
            f"confidence 0 (a third number for each joint, or the confidence argument)"
        )
    largest = float(np.abs(np.where(seen[..., None] > 0, uv, 0.0)).max())
    if largest > MOST_NORMALISED:
        raise KeypointError(
            f"keypoints reach {largest:.4g}; normalised ones lie around -1..1. Are they pixels? Give image_size (w, h) with "
            f"them in the file, or use diffpose_edge.keypoints.normalise_pixels"
        )
    return Keypoints(uv, seen)


def _place(at: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, at))}] ({JOINTS[at[-1]]})"


def _checked_confidence(confidence: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if confidence is None:
        return np.ones(shape, np.float32)
    array = numbers_of(confidence, "confidence")
    if array.shape != shape:
        raise KeypointError(f"expected confidence of shape {shape}, one number for each joint, got {array.shape}")
    wrong = ~((array >= 0) & (array <= 1))
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise KeypointError(f"confidence of keypoint {_place(at)} is {float(array[at])}: expected a number within 0..1, 0 for not seen")
    return array


def load_keypoints(path: str | Path) -> Keypoints:
    """Read a clip from an npz: ``keypoints`` (frames, 17, 2|3), normalised, or in pixels together with ``image_size`` (w, h).

    Raises KeypointError. Pickled content is refused. Files of other layouts: :mod:`diffpose_edge.formats`.
    """
    path = Path(path)
    return keypoints_of_arrays(arrays_of(path, ("keypoints", "confidence", "image_size")), path)


def keypoints_of_arrays(arrays: dict[str, NDArray[Any]], path: Path) -> Keypoints:
    """Do what :func:`load_keypoints` does, for the arrays of a file that is read already; ``path`` names it in messages."""
    if "keypoints" not in arrays:
        raise KeypointError(f"{path} has no array 'keypoints'; it has: {', '.join(arrays) or 'nothing'}")
    keypoints, confidence, image_size = arrays["keypoints"], arrays.get("confidence"), arrays.get("image_size")
    if keypoints.dtype.kind not in "fiu":
        raise KeypointError(f"{path}: expected keypoints as numbers, got {keypoints.dtype}")
    if image_size is not None and keypoints.ndim == 3 and keypoints.shape[-1] in (2, 3):
        keypoints = keypoints.astype(np.float64)
        keypoints[..., :2] = normalise_pixels(keypoints[..., :2], image_size_of(image_size, path))
    try:
        return checked_keypoints(keypoints, confidence)
    except KeypointError as err:
        raise KeypointError(f"{path}: {err}") from None


def image_size_of(array: NDArray[Any], path: Path) -> tuple[float, float]:
    """Return an npz's ``image_size`` as (w, h), pixels. Raises KeypointError unless it is two numbers."""
    if array.shape != (2,) or array.dtype.kind not in "fiu":
        raise KeypointError(f"{path}: expected image_size as two numbers (w, h), got shape {array.shape} of {array.dtype}")
    return float(array[0]), float(array[1])


def arrays_of(path: Path, wanted: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Return the ``wanted`` arrays of an npz, and the names of its others with nothing in them. Raises KeypointError."""
    try:
        with NpzFile(path) as file:
            return {name: file.array(name) if name in wanted else np.empty(0) for name in file.names}
    except FileNotFoundError:
        raise KeypointError(f"no keypoint file at {path}; check the path") from None
    except UNREADABLE as err:
        raise KeypointError(f"{path} cannot be read as an npz of plain arrays: {reason_of(err)}") from None
