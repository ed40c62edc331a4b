"""What the commands write of a clip's estimates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from diffpose_edge.runtime.estimate import PoseEstimate

RESULTS = ("joints", "context", "samples", "covariance", "observed", "out_of_range", "non_finite")


def results_of(estimates: Sequence[PoseEstimate]) -> dict[str, Any]:
    """Join the estimates of consecutive frames: arrays (frames, …) by name, see ``diffpose-edge run --help``. ``trajectory`` (frames,
    K + 1, N, 17, 5) is among them where the estimates have one.
    """
    results = {name: np.concatenate([getattr(estimate, name) for estimate in estimates]) for name in RESULTS}
    traces = [estimate.trajectory for estimate in estimates if estimate.trajectory is not None]
    if traces:
        # Stored by frame; the estimates hold it by step.
        results["trajectory"] = np.concatenate([np.moveaxis(trace, 1, 0) for trace in traces])
    return results
