"""The keypoints of one image in, its bodies out, whatever context encoder the bundle has."""

from __future__ import annotations

from time import perf_counter_ns
from typing import Any

import numpy as np

from diffpose_edge.body import BodyEstimate, bodies_of
from diffpose_edge.errors import RuntimeClosed
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.runtime.bridges.plain_messages import Refused
from diffpose_edge.runtime.pose_runtime import PoseRuntime
from diffpose_edge.runtime.start import generator_of
from diffpose_edge.skeleton import J


class ImageBodies:
    """Estimates image after image, in the order in which they come; the runtime stays its owner's.

    With a frame encoder any number of people may come. With a video encoder ``people`` rows are kept, row b the same person in every
    image; fewer may come, who are then the first rows. The draws of all images come from one generator of ``seed``; ``walk`` is what
    ``PoseRuntime.estimate`` takes: timesteps, steps, sampler, mode. A body's id is its row.
    """

    def __init__(self, runtime: PoseRuntime, *, people: int = 1, seed: int | None = 0, **walk: Any):
        self._runtime, self._walk, self._rng = runtime, walk, generator_of(seed)
        manifest = runtime.bundle.manifest
        sees_one_frame = manifest.causal is None and manifest.shape.F == 1
        self._closed = False
        self._stream = None if sees_one_frame else runtime.stream(people, seed=self._rng, **walk)

    def bodies(self, keypoints: Keypoints, stamp_ns: int, frame_id: str, arrived_ns: int | None = None) -> list[BodyEstimate]:
        """Return the bodies of an image's people (B, 17), B of them, those without a pose too.

        ``arrived_ns``: when the keypoints came, by ``perf_counter_ns``; latency counts from there. Raises Refused where a stream has
        fewer rows than people came, RuntimeClosed, and what ``PoseRuntime.estimate`` raises.
        """
        if self._closed:
            raise RuntimeClosed("these bodies of images were closed; begin others over an open runtime")
        began = perf_counter_ns() if arrived_ns is None else arrived_ns
        B = len(keypoints)
        if self._stream is None:
            if not B:
                return []
            estimate = self._runtime.estimate(keypoints.uv, keypoints.confidence, self._rng, **self._walk)
            shown = keypoints
        else:
            people = self._stream.people
            if people < B:
                raise Refused("people", f"expected at most {people} people, which the stream was opened for; got {B}")
            shown = Keypoints(np.zeros((people, J, 2), np.float32), np.zeros((people, J), np.float32))
            shown.uv[:B], shown.confidence[:B] = keypoints.uv, keypoints.confidence
            estimate = self._stream.push(shown.uv, shown.confidence)
        latency = perf_counter_ns() - began
        return bodies_of(estimate, range(len(shown)), stamp_ns, frame_id, shown, latency)[:B]

    def close(self) -> None:
        """Release the past of a stream; a second call does nothing."""
        self._closed = True
        if self._stream is not None:
            self._stream.close()
