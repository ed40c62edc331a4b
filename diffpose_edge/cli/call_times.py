"""What the calls took that a clip's frames came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from diffpose_edge.runtime.estimate import PoseEstimate


def call_times(estimates: Sequence[PoseEstimate]) -> dict[str, NDArray[Any]]:
    """Return, for each frame of a clip's estimates, of the call that it came from: ``call_frames`` (frames,), how many frames it had;
    ``call_ms`` (frames,), milliseconds of the whole of it; ``step_ms`` (frames, K), those of a batch's steps.
    """
    frames = [len(estimate.joints) for estimate in estimates]
    return {
        "call_frames": np.repeat(np.array(frames, np.int32), frames),
        "call_ms": np.repeat([1000 * estimate.timings.total for estimate in estimates], frames),
        "step_ms": np.repeat([1000 * estimate.timings.steps / estimate.timings.batches for estimate in estimates], frames, axis=0),
    }
