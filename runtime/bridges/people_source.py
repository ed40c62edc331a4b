"""Where a bridge gets its people from: the seam that a tracker or a stream is put into, and the plainest source there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Protocol

from diffpose_edge.body import BodyEstimate, bodies_of
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.readings import Readable
from diffpose_edge.runtime.bridges.incoming import Intrinsics
from diffpose_edge.runtime.pose_runtime import PoseRuntime


class PeopleSource(Protocol):
    """Makes people of the keypoints of one image after another. One thread calls it; ``close`` may be called twice."""

    def process(self, stamp_ns: int, people: Keypoints) -> list[BodyEstimate]:
        """Return the people of an image. ``people`` (B, 17, 2) are in the order of the message; B may be 0.

        Stamps come in order. ``frame_id`` may be left empty: the bridge puts in the frame of the message.
        """

    def reset(self) -> None:
        """Forget the past: the stamps began anew."""

    def describe(self) -> dict[str, str]:
        """Return what to show in diagnostics."""

    def close(self) -> None:
        """Release everything."""


# Puts people where they are in the camera's frame, or in another: given the intrinsics if they are known, it returns them with their
# ``root`` and ``frame_id`` set.
Place = Callable[[list[BodyEstimate], Intrinsics | None], list[BodyEstimate]]


def unplaced(bodies: list[BodyEstimate], camera: Intrinsics | None) -> list[BodyEstimate]:
    """Return the people as they are, each relative to their own hip."""
    return bodies


@dataclass(frozen=True)
class SourceSettings:
    """What a source is opened with: the bundle's folder, and what :meth:`PoseRuntime.load` and ``estimate`` take.

    ``threads`` and ``steps`` None: all cores, the bundle's own timesteps. ``non_finite``: "raise", which ends the bridge, or "last".
    """

    bundle: str
    backend: str = "onnxruntime"
    precision: str = "fp32"
    threads: int | None = None
    steps: int | None = None
    seed: int = 0
    non_finite: str = "raise"


class PeopleInOrder:
    """:class:`PeopleSource` without a memory: each image for itself, and who comes first in it is body 0.

    The same seed is drawn from in every image, so that a person who does not move has a pose that does not either.
    """

    def __init__(self, settings: SourceSettings):
        """Load the bundle. Raises as :meth:`PoseRuntime.load` does, and DiffPoseEdgeError for a video encoder or wrong steps."""
        self._settings = settings
        self._runtime = PoseRuntime.load(
            settings.bundle,
            settings.backend,
            precision=settings.precision,
            threads=settings.threads,
            non_finite=settings.non_finite,
        )
        try:
            manifest = self._runtime.bundle.manifest
            if manifest.shape.F > 1 or manifest.causal is not None:
                raise DiffPoseEdgeError(
                    f"expected a bundle with an encoder of single frames, got one that sees {manifest.shape.F} frames: it needs a source "
                    f"that remembers the people (PeopleSource); give a frame bundle, or such a source"
                )
            # One estimate before the first message: wrong steps show now, and the first frame is not late.
            self._runtime.estimate([[[0.0, 0.0, 0.0]] * 17], steps=settings.steps)
        except BaseException:
            self._runtime.close()
            raise

    def process(self, stamp_ns: int, people: Keypoints) -> list[BodyEstimate]:
        if not len(people):
            return []
        began, settings = perf_counter_ns(), self._settings
        estimate = self._runtime.estimate(people.uv, people.confidence, settings.seed, steps=settings.steps)
        return bodies_of(estimate, range(len(people)), stamp_ns, "", people, perf_counter_ns() - began)

    def reset(self) -> None:
        """Nothing is remembered, and so nothing forgotten."""

    def describe(self) -> dict[str, str]:
        return {str(key): str(value) for key, value in self._runtime.describe().items()}

    @property
    def counted(self) -> Mapping[str, Readable]:
        """What can be exported of it, by name: a source of one's own need not have this."""
        return {"runtime": self._runtime}

    def close(self) -> None:
        self._runtime.close()
