"""An evaluation set: clips of 2D keypoints with the 3D truth, in one npz without pickles.

For each clip the file has ``<name>/uv``, ``<name>/confidence``, ``<name>/truth``, ``<name>/action`` and ``<name>/fps``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.atomic import atomic_file
from diffpose_edge.errors import EvaluationError, KeypointError
from diffpose_edge.keypoints import UNREADABLE, Keypoints, checked_keypoints
from diffpose_edge.npz_file import read_npz
from diffpose_edge.reading import reason_of
from diffpose_edge.skeleton import ROOT, J
from diffpose_edge.tolerances import ROOT_ABS_M

FIELDS = ("uv", "confidence", "truth", "action", "fps")

# Nobody reaches further from the own hip than this, in metres; poses in millimetres do at once.
MOST_METRES = 10.0


@dataclass(frozen=True)
class EvaluationClip:
    """One person's clip with its truth.

    ``uv`` (frames, 17, 2), normalised, and ``confidence`` (frames, 17) are as in :class:`diffpose_edge.keypoints.Keypoints`;
    ``truth`` (frames, 17, 3) is in metres, camera axes (x right, y down, z forward), relative to the hip. ``name`` is
    unique in a set; ``action`` is what results are averaged by, such as "Walking 1"; ``fps`` is in hertz.

    Raises EvaluationError when a field is not like this.
    """

    name: str
    action: str
    fps: float
    uv: NDArray[np.float32]
    confidence: NDArray[np.float32]
    truth: NDArray[np.float32]

    def __post_init__(self) -> None:
        where = f"clip {self.name!r}"
        if not isinstance(self.name, str) or not self.name.strip("/") or "\0" in self.name:
            raise EvaluationError(f"expected a name for each clip, got {self.name!r}")
        if not isinstance(self.action, str) or not self.action.strip():
            raise EvaluationError(f"{where}: expected the action's name, got {self.action!r}")
        if not (isinstance(self.fps, Real) and np.isfinite(self.fps) and self.fps > 0):
            raise EvaluationError(f"{where}: expected fps as frames per second, greater than zero, got {self.fps!r}")
        try:
            checked = checked_keypoints(self.uv, self.confidence)
        except KeypointError as err:
            raise EvaluationError(f"{where}: {err}") from None
        truth = _checked_truth(self.truth, len(checked), where)
        # Frozen: the checked arrays take the place of what was given.
        for field, value in (("uv", checked.uv), ("confidence", checked.confidence), ("truth", truth)):
            object.__setattr__(self, field, value)

    def __len__(self) -> int:
        return len(self.uv)

    @property
    def keypoints(self) -> Keypoints:
        """The clip's 2D keypoints."""
        return Keypoints(self.uv, self.confidence)

    def first(self, frames: int | None) -> EvaluationClip:
        """Return the clip's first ``frames`` frames; all of them for None, or when it has no more."""
        if frames is None:
            return self
        return EvaluationClip(self.name, self.action, self.fps, self.uv[:frames], self.confidence[:frames], self.truth[:frames])


def _checked_truth(values: Any, frames: int, where: str) -> NDArray[np.float32]:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu" or array.shape != (frames, J, 3):
        raise EvaluationError(f"{where}: expected truth as numbers of shape {(frames, J, 3)}, got {array.dtype} of shape {array.shape}")
    truth = array.astype(np.float32)
    if not np.isfinite(truth).all():
        frame = int(np.argwhere(~np.isfinite(truth))[0, 0])
        raise EvaluationError(f"{where}: the truth of frame {frame} is not finite; cut the clip where the truth is not known")
    if (off := float(np.abs(truth[:, ROOT]).max())) > ROOT_ABS_M:
        raise EvaluationError(
            f"{where}: expected truth relative to the hip, but the hip is up to {off:.3g} from zero; subtract joint {ROOT}"
        )
    if (reach := float(np.abs(truth).max())) > MOST_METRES:
        raise EvaluationError(f"{where}: the truth reaches {reach:.4g} m from the hip; is it in millimetres? Expected metres")
    return truth


def save_evaluation(path: str | Path, clips: Iterable[EvaluationClip]) -> None:
    """Write clips to an npz that :func:`load_evaluation` reads. Raises EvaluationError for two of one name, OutputError."""
    arrays: dict[str, Any] = {}
    for clip in clips:
        if f"{clip.name}/uv" in arrays:
            raise EvaluationError(f"two clips are named {clip.name!r}; give each a name of its own")
        for field in FIELDS:
            arrays[f"{clip.name}/{field}"] = np.asarray(getattr(clip, field))
    if not arrays:
        raise EvaluationError("expected at least one clip, got none")
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def load_evaluation(path: str | Path) -> tuple[EvaluationClip, ...]:
    """Read the clips of an evaluation set, in the file's order. Raises EvaluationError. Pickled content is refused."""
    path = Path(path)
    clips: dict[str, dict[str, Any]] = {}
    for key, array in _arrays_of(path).items():
        name, _, field = key.rpartition("/")
        if not name or field not in FIELDS:
            raise EvaluationError(f"{path}: the array {key!r} has no place in an evaluation set; expected <clip>/{{{','.join(FIELDS)}}}")
        clips.setdefault(name, {})[field] = array
    if not clips:
        raise EvaluationError(f"{path} has no clips; expected arrays named <clip>/{{{','.join(FIELDS)}}}")
    try:
        return tuple(_clip(name, fields) for name, fields in clips.items())
    except EvaluationError as err:
        raise EvaluationError(f"{path}: {err}") from None


def _clip(name: str, fields: dict[str, Any]) -> EvaluationClip:
    if lacking := [field for field in FIELDS if field not in fields]:
        raise EvaluationError(f"clip {name!r} lacks {', '.join(lacking)}")
    action, fps = fields["action"], fields["fps"]
    if action.shape != () or action.dtype.kind != "U":
        raise EvaluationError(f"clip {name!r}: expected action as one string, got {action.dtype} of shape {action.shape}")
    if fps.shape != () or fps.dtype.kind not in "fiu":
        raise EvaluationError(f"clip {name!r}: expected fps as one number, got {fps.dtype} of shape {fps.shape}")
    return EvaluationClip(name, str(action), float(fps), fields["uv"], fields["confidence"], fields["truth"])


def _arrays_of(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return read_npz(path)
    except FileNotFoundError:
        raise EvaluationError(f"no evaluation set at {path}; check the path") from None
    except UNREADABLE as err:
        raise EvaluationError(f"{path} cannot be read as an npz of plain arrays: {reason_of(err)}") from None
