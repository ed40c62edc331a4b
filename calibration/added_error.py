"""What lower precision adds to the poses: candidate graphs walk the same trajectories as the FP32 ones, from the same draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.bundle import Bundle
from diffpose_edge.comparison import AddedError, added_error
from diffpose_edge.export.fp16_rounding import with_fp16_rounding
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.manifest import GRAPHS
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.last_finite import AS_IT_IS
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend

Array = NDArray[Any]


class Trial:
    """Frames on which candidate graphs are tried: what the FP32 graphs of a bundle make of them is computed once.

    ``clip`` (frames, 17, 2) holds only frames that have a pose (:func:`diffpose_edge.calibration.observed.frames_to_use`).
    """

    def __init__(self, bundle: Bundle, clip: Keypoints, timesteps: tuple[int, ...], *, mode: str | None = None, seed: int = 0):
        self.bundle, self.clip, self.timesteps, self.mode, self.seed = bundle, clip, timesteps, mode, seed
        self.fp32 = {role: bundle.read(role) for role in GRAPHS}
        self.joints, self._trajectory = self._walked(self.fp32)

    def added(self, graphs: Mapping[str, bytes]) -> AddedError:
        """Return what ``graphs``, by role, add; a role that is left out keeps its FP32 graph. FP16 is rounded on purpose."""
        joints, trajectory = self._walked({**self.fp32, **{role: with_fp16_rounding(content) for role, content in graphs.items()}})
        return added_error(joints, self.joints, trajectory, self._trajectory)

    def _walked(self, graphs: Mapping[str, bytes]) -> tuple[Array, Array]:
        # One thread: the graphs are small.
        backend = OnnxRuntimeBackend(self.bundle.manifest, graphs, threads=1)
        with PoseRuntime(self.bundle, backend, non_finite=AS_IT_IS) as runtime:
            estimates = list(runtime.estimate_clip(self.clip, self.seed, timesteps=self.timesteps, mode=self.mode, trace=True))
        joints = np.concatenate([e.joints for e in estimates])
        return joints, np.concatenate([e.trajectory for e in estimates if e.trajectory is not None], axis=1)
