"""Numbers that are none: planted where a network gives its results, and accounted for in what a runtime answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffpose_edge.runtime import PoseEstimate, PoseRuntime
from diffpose_edge.runtime.onnxruntime_steps import OnnxRuntimeSteps
from diffpose_edge.runtime.start import LEAST_OBSERVED

Array = NDArray[np.float32]
RESULTS = ("joints", "context", "samples", "covariance")


def plant_in_step(monkeypatch: pytest.MonkeyPatch, k: int, row: int, value: float = np.nan, times: int | None = None) -> list[int]:
    """Make step k give ``value`` in one entry of a row of its state, at most ``times`` times. Returns the list of the steps it spoiled."""
    original, spoiled = OnnxRuntimeSteps.step, list[int]()

    def step(self: OnnxRuntimeSteps, number: int) -> None:
        original(self, number)
        if number == k and (times is None or len(spoiled) < times):
            self.state(number + 1)[row, 5, 3] = value
            spoiled.append(number)

    monkeypatch.setattr(OnnxRuntimeSteps, "step", step)
    return spoiled


def plant_in_encoder(monkeypatch: pytest.MonkeyPatch, runtime: PoseRuntime, person: int, what: str, value: float = np.nan) -> None:
    """Make the encoder give ``value`` in one number of a person's ``what``: "xyz" or "features"."""
    backend: Any = runtime._backend
    original: Callable[[], None] = backend.encode

    def encode() -> None:
        original()
        getattr(backend, what)[person, ..., 4, 1] = value

    monkeypatch.setattr(backend, "encode", encode)


def assert_explained(estimate: PoseEstimate, with_spread: bool = True) -> None:
    """Every number of an estimate that is none is said to be none: by the joints that were seen, or by ``non_finite``."""
    few = estimate.observed.sum(axis=-1) < LEAST_OBSERVED
    assert (few | estimate.non_finite | estimate.valid).all()
    for name in RESULTS:
        array = getattr(estimate, name)
        assert not np.isinf(array).any(), name
        blank = np.isnan(array).reshape(len(array), -1)
        expected = np.ones(len(array), bool) if name == "covariance" and not with_spread else ~estimate.valid
        np.testing.assert_array_equal(blank.all(axis=1), expected, err_msg=name)
        np.testing.assert_array_equal(blank.any(axis=1), expected, err_msg=name)
    if estimate.trajectory is not None and estimate.walked is not None:
        for b, walked in enumerate(estimate.walked):
            steps = np.isnan(estimate.trajectory[:, b]).any(axis=(1, 2, 3))
            assert (steps == (~estimate.valid[b] | (np.arange(len(steps)) > walked))).all()
