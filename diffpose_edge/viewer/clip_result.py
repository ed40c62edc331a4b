"""What a clip's results are, and how they are made fewer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffpose_edge.body import BodyEstimate
from diffpose_edge.errors import ViewError
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.skeleton import J

Array = NDArray[Any]
# The trailing dimensions of each array, its first being the frames; N and K are whatever came.
SHAPES: dict[str, tuple[int | str, ...]] = {
    "joints": (J, 3),
    "context": (J, 3),
    "samples": ("N", J, 3),
    "covariance": (J, 3, 3),
    "observed": (J,),
    "root": (3,),
    "step_ms": ("K",),
    "call_ms": (),
    "call_frames": (),
}


@dataclass(frozen=True)
class ClipResult:
    """The poses of one person over F frames; arrays that are None are not shown.

    ``joints``, ``context`` (F, 17, 3) and ``samples`` (F, N, 17, 3): metres relative to the hip, camera axes (x right, y down,
    z forward), NaN where there is no pose; ``covariance`` (F, 17, 3, 3), square metres; ``observed`` (F, 17): what the
    detector saw; ``root`` (F, 3): where the hip is in the camera's frame, metres. ``step_ms`` (F, K), ``call_ms`` (F,),
    milliseconds, and ``call_frames`` (F,): of the call that a frame came from, its steps, the whole of it, and how many frames
    it had. ``times_s`` (F,): seconds from the first frame, rising.

    ``keypoints`` (F, 17, 2): what went in, normalised; ``image_size`` (w, h), pixels, or None where it is not known.
    ``frame_numbers`` (F,): the frames' places in the clip that they are from. ``notes``: what a reader should be told.

    Raises ViewError for arrays whose shapes do not belong together, and for no frames.
    """

    joints: Array
    times_s: Array
    context: Array | None = None
    samples: Array | None = None
    covariance: Array | None = None
    observed: Array | None = None
    root: Array | None = None
    step_ms: Array | None = None
    call_ms: Array | None = None
    call_frames: Array | None = None
    keypoints: Keypoints | None = None
    image_size: tuple[float, float] | None = None
    frame_numbers: Array | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        frames = self.joints.shape[0] if self.joints.ndim else 0
        for name, wanted in SHAPES.items():
            array = getattr(self, name)
            if array is not None:
                _check_shape(name, array, wanted, frames)
        if frames == 0:
            raise ViewError("expected at least one frame; the results have none: there is nothing to show")
        if self.keypoints is not None and self.keypoints.uv.shape != (frames, J, 2):
            raise ViewError(
                f"expected keypoints of the results' {frames} frames, got {len(self.keypoints)}: give the file that 'run' was given"
            )
        times = np.asarray(self.times_s)
        if times.shape != (frames,) or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise ViewError(f"expected the times of {frames} frames, seconds, each later than the one before")

    def __len__(self) -> int:
        return len(self.joints)

    @property
    def posed(self) -> NDArray[np.bool_]:
        """Which frames have a pose, (F,)."""
        return np.asarray(np.isfinite(self.joints).all(axis=(1, 2)))


def _check_shape(name: str, array: Array, wanted: tuple[int | str, ...], frames: int) -> None:
    rest = array.shape[1:]
    fits = len(rest) == len(wanted) and all(isinstance(w, str) or w == r for w, r in zip(wanted, rest, strict=True))
    if array.ndim == 0 or array.dtype.kind not in "fiub" or not fits or len(array) != frames:
        raise ViewError(
            f"expected '{name}' as numbers of shape ({', '.join(map(str, (frames, *wanted)))}), frames first; "
            f"got {array.dtype} {array.shape}. Is this what 'diffpose-edge run' wrote?"
        )


def times_of(frames: int, fps: float) -> NDArray[np.float64]:
    """Return the seconds of ``frames`` frames at ``fps`` frames a second. Raises ViewError unless that is a positive number."""
    if not (np.isfinite(fps) and fps > 0):
        raise ViewError(f"expected the clip's frames per second as a positive number, got {fps}")
    return np.arange(frames) / fps


def thinned(result: ClipResult, first: int = 0, last: int | None = None, every: int = 1, samples: int | None = None) -> ClipResult:
    """Return the frames first, first + every, … before ``last``, and at most ``samples`` of the N; its notes tell what is left out.

    Mean and covariance stay those of all samples. Raises ViewError when nothing would be left.
    """
    frames = len(result)
    last = frames if last is None else min(last, frames)
    if every < 1 or (samples is not None and samples < 0):
        raise ViewError(f"expected every = 1 or more and 0 samples or more; got every = {every}, {samples} samples")
    if not 0 <= first < last:
        raise ViewError(f"expected frames within the clip's 0 to {frames}, the first before the last; got {first} to {last}")
    notes, taken = list(result.notes), slice(first, last, every)
    if (first, last, every) != (0, frames, 1):
        part = f"one in {every} of the" if every > 1 else "the"
        notes.append(f"Shown: {part} frames {first} to {last - 1} of a clip of {frames}.")
    N = 0 if result.samples is None else result.samples.shape[1]
    if samples is not None and samples < N:
        notes.append(f"Shown: {samples} of N = {N} samples; the pose and its uncertainty are of all.")
    arrays: dict[str, Any] = {name: None if (one := getattr(result, name)) is None else one[taken] for name in SHAPES}
    if arrays["samples"] is not None and samples is not None:
        arrays["samples"] = arrays["samples"][:, :samples] if samples else None
    k = result.keypoints
    numbers = np.arange(frames) if result.frame_numbers is None else result.frame_numbers
    return replace(
        result,
        **arrays,
        times_s=result.times_s[taken],
        keypoints=None if k is None else Keypoints(k.uv[taken], k.confidence[taken]),
        frame_numbers=numbers[taken],
        notes=tuple(notes),
    )


def doubts(out_of_range: ArrayLike, non_finite: ArrayLike) -> list[str]:
    """Return what a reader should be told of frames (F,) that are marked so; nothing where none is."""
    told = {
        "unlike all that training showed: their poses are as good as a guess": out_of_range,
        "with a result that was no number: they have the pose of the last finite state": non_finite,
    }
    return [f"{many} of {np.size(marks)} frames are {why}." for why, marks in told.items() if (many := int(np.sum(marks)))]


def result_of_bodies(bodies: Sequence[BodyEstimate], image_size: tuple[float, float] | None = None) -> ClipResult:
    """Return what a stream gave of one person, in order of time, as a result to show; ``image_size`` (w, h), pixels.

    The latency of each frame is the body's ``latency_ns``. Raises ViewError for several people, for none, and for stamps that
    do not rise.
    """
    ids = sorted({body.body_id for body in bodies})
    if len(ids) != 1:
        raise ViewError(f"expected the estimates of one person, got {len(bodies)} of the body ids {ids}: choose those of one id")
    stamps = np.array([body.stamp_ns for body in bodies], np.int64)

    def joined(name: str) -> Array | None:
        parts = [getattr(body, name) for body in bodies]
        return None if any(part is None for part in parts) else np.stack(parts)

    seen, latency = joined("keypoints"), np.array([body.latency_ns for body in bodies]) / 1e6
    notes = [f"A deadline cut {cut} of {len(bodies)} frames short."] if (cut := sum(body.truncated for body in bodies)) else []
    return ClipResult(
        joints=np.stack([body.joints for body in bodies]),
        times_s=(stamps - stamps[0]) / 1e9,
        samples=joined("samples"),
        covariance=joined("covariance"),
        observed=joined("observed"),
        root=joined("root"),
        call_ms=latency if latency.any() else None,
        keypoints=None if seen is None else Keypoints(seen[..., :2], seen[..., 2]),
        image_size=image_size,
        notes=(*notes, *doubts([body.out_of_range for body in bodies], [body.non_finite for body in bodies])),
    )
