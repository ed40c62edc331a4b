"""Poses of the people in the slots, frame after frame, of whatever encoder a bundle has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypedDict

import numpy as np

from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.runtime.estimate import PoseEstimate
from diffpose_edge.runtime.pose_runtime import PoseRuntime
from diffpose_edge.runtime.video_stream import OUTPUTS, VideoStream
from diffpose_edge.skeleton import J


class Walk(TypedDict, total=False):
    """How the reverse process is walked: what ``PoseRuntime.estimate`` and ``PoseRuntime.stream`` take by these names."""

    timesteps: Sequence[int] | None
    steps: int | None
    sampler: str | None
    budget_ms: float | None
    mode: str | None


# Estimates, and whose slot each of their people has.
Answers = list[tuple[Sequence[int], PoseEstimate]]


class SlotPoses(Protocol):
    """``delay``: how many frames later than the newest the one is that is answered."""

    delay: int

    def begin(self, slot: int, draws: np.random.Generator) -> None:
        """Give a slot to somebody new, of whom nothing is remembered, and whose draws come from a generator of their own."""

    def push(self, seats: Mapping[int, int], people: Keypoints) -> Answers:
        """Take in a frame: ``people`` (B, 17, 2), of whom those in ``seats``, {slot: row}, are shown. Nobody may be."""

    def keep(self, slots: int) -> None:
        """Give up the slots from this one on."""

    def clear(self) -> None:
        """Forget everybody."""

    def close(self) -> None:
        """Release what is remembered; the runtime goes on. A second call does nothing."""


class FramePoses:
    """For a frame encoder, to which every frame is new: those who are there are estimated, and nothing is remembered but their draws."""

    def __init__(self, runtime: PoseRuntime, hop: int, output: str, walk: Walk):
        if hop != 1 or output != "last":
            raise DiffPoseEdgeError(
                f"expected a hop of 1 and the output 'last' for a bundle with a frame encoder, which sees no window; "
                f"got a hop of {hop!r} and {output!r}"
            )
        # A mistake shows where it is made, and not at the first frame.
        runtime._pace(walk.get("timesteps"), walk.get("steps"), walk.get("sampler"), walk.get("budget_ms"))
        runtime._mode(walk.get("mode"))
        self.delay = 0
        self._runtime, self._walk = runtime, walk
        self._draws: dict[int, np.random.Generator] = {}

    def begin(self, slot: int, draws: np.random.Generator) -> None:
        self._draws[slot] = draws

    def push(self, seats: Mapping[int, int], people: Keypoints) -> Answers:
        if not seats:
            return []
        slots, rows = list(seats), list(seats.values())
        draws = [self._draws[slot] for slot in slots]
        return [(slots, self._runtime.estimate(people.uv[rows], people.confidence[rows], draws, **self._walk))]

    def keep(self, slots: int) -> None:
        for slot in [slot for slot in self._draws if slot >= slots]:
            del self._draws[slot]

    def clear(self) -> None:
        self._draws.clear()

    def close(self) -> None:
        self.clear()


class VideoPoses:
    """For a video encoder: a :class:`VideoStream` for every P slots.

    A slot's draws begin with the first frame that is answered for its owner, and every frame takes some, so that they are those of a
    clip that begins where the owner came.
    """

    def __init__(self, runtime: PoseRuntime, hop: int, output: str, walk: Walk):
        if output not in OUTPUTS:
            raise DiffPoseEdgeError(f"expected an output out of {', '.join(OUTPUTS)}, got {output!r}")
        self.P = runtime.bundle.manifest.shape.P
        self._runtime, self._hop, self._output, self._walk = runtime, hop, output, walk
        self._streams: list[VideoStream] = []
        self._draws: list[np.random.Generator | None] = []
        # Frames since each slot's owner came.
        self._age: list[int] = []
        # What is drawn for nobody, and for frames before the first that is answered.
        self._nobody = np.random.default_rng(0)
        self._grow()
        self.delay = self._streams[0].delay

    def begin(self, slot: int, draws: np.random.Generator) -> None:
        while slot >= len(self._draws):
            self._grow()
        self._streams[slot // self.P].reset(slot % self.P)
        self._draws[slot], self._age[slot] = draws, 0

    def push(self, seats: Mapping[int, int], people: Keypoints) -> Answers:
        answers: Answers = []
        for number, stream in enumerate(self._streams):
            slots = range(number * self.P, (number + 1) * self.P)
            uv, confidence = np.zeros((self.P, J, 2), np.float32), np.zeros((self.P, J), np.float32)
            for p, slot in enumerate(slots):
                if slot in seats:
                    uv[p], confidence[p] = people.uv[seats[slot]], people.confidence[seats[slot]]
            answers.append((slots, stream.push(uv, confidence, [self._drawn(slot) for slot in slots])))
        return answers

    def keep(self, slots: int) -> None:
        while len(self._draws) > max(slots, self.P):
            self._streams.pop().close()
            del self._draws[-self.P :], self._age[-self.P :]

    def clear(self) -> None:
        self.keep(0)
        self._streams[0].reset()
        self._draws = [None] * self.P

    def close(self) -> None:
        for stream in self._streams:
            stream.close()

    def _grow(self) -> None:
        self._streams.append(self._runtime.stream(self.P, hop=self._hop, output=self._output, seed=0, **self._walk))
        self._draws += [None] * self.P
        self._age += [0] * self.P

    def _drawn(self, slot: int) -> np.random.Generator:
        own, self._age[slot] = self._draws[slot], self._age[slot] + 1
        return self._nobody if own is None or self._age[slot] <= self.delay else own


def slot_poses(runtime: PoseRuntime, hop: int, output: str, walk: Walk, crowd: str) -> SlotPoses:
    """Return what makes the poses of a bundle's kind.

    Raises DiffPoseEdgeError for a hop or output that it cannot have, or for a budget of a video bundle whose number of people has no
    limit: each further P of them are a stream of their own, which knows nothing of the others' time. TimestepError, BudgetError.
    """
    manifest = runtime.bundle.manifest
    of_video = manifest.causal is not None or manifest.shape.F > 1
    if of_video and walk.get("budget_ms") is not None and crowd != "nearest":
        raise DiffPoseEdgeError(
            f"expected crowd='nearest' beside a budget, for a bundle with a video encoder: with more people than its "
            f"P = {manifest.shape.P} every frame would take a multiple of it; got {crowd!r}"
        )
    return VideoPoses(runtime, hop, output, walk) if of_video else FramePoses(runtime, hop, output, walk)
