"""Results that are no numbers, from a GPU's double: seen on the host, and walked again step by step. No GPU has run this."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.errors import NumericalError
from diffpose_edge.runtime.plan import step_plan

from .device_runtime import OnDevice, on_device, people_of
from .engine_double import OnnxRuntimeEngine

K, N = 4, 3


def plant(monkeypatch: pytest.MonkeyPatch, device: OnDevice, role: str, output: str, row: int, timestep: float | None = None) -> None:
    """Make an engine write NaN into a row of an output, at one timestep only if it is given."""
    engine, original = device.engines[role], OnnxRuntimeEngine._run

    def run(self: OnnxRuntimeEngine, bound: dict[str, int]) -> None:
        original(self, bound)
        if self is engine and (timestep is None or _read(self, bound, "timestep")[0] == timestep):
            _read(self, bound, output)[row] = np.nan

    monkeypatch.setattr(OnnxRuntimeEngine, "_run", run)


def _read(engine: OnnxRuntimeEngine, bound: dict[str, int], name: str) -> np.ndarray:
    count = engine.size_of(name) // 4
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(bound[name])).reshape(engine.shapes[name])


@pytest.mark.parametrize("kind", ["golden_bundle", "conditioned_bundle", "conditioned_video_bundle"])
def test_a_replayed_frame_that_ends_in_no_number(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    path: Path = request.getfixturevalue(kind)
    device = on_device(path)
    with device.runtime as runtime:
        uv, confidence = people_of(runtime, 2)
        for _ in range(3):  # enqueued, captured, replayed
            whole = runtime.estimate(uv, confidence, seed=2, steps=K)
        timesteps = step_plan(runtime.bundle.manifest, steps=K).timesteps
        plant(monkeypatch, device, "step", "x_next", N + 1, timestep=timesteps[2])
        with pytest.raises(NumericalError, match=rf"step 3 of {K} \(timestep {timesteps[2]}\).*person 1, sample 1"):
            runtime.estimate(uv, confidence, seed=2, steps=K)
        runtime._non_finite = "last"
        found = runtime.estimate(uv, confidence, seed=2, steps=K)
        np.testing.assert_array_equal(found.non_finite, [False, True])
        np.testing.assert_array_equal(found.walked, [K, 2])
        np.testing.assert_array_equal(found.joints[0], whole.joints[0])
        assert np.isfinite(found.joints).all()
        assert np.isfinite(found.covariance).all()
        monkeypatch.undo()
        # And then as before.
        np.testing.assert_array_equal(runtime.estimate(uv, confidence, seed=2, steps=K).joints, whole.joints)


@pytest.mark.parametrize("kind", ["golden_bundle", "conditioned_bundle", "conditioned_video_bundle"])
def test_an_encoder_that_gives_no_number(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    device = on_device(request.getfixturevalue(kind))
    with device.runtime as runtime:
        runtime._non_finite = "last"
        uv, confidence = people_of(runtime, 2)
        whole = runtime.estimate(uv, confidence, seed=2)
        plant(monkeypatch, device, "context", "xyz", 0)
        found = runtime.estimate(uv, confidence, seed=2)
        np.testing.assert_array_equal(found.non_finite, [True, False])
        np.testing.assert_array_equal(found.valid, [False, True])
        np.testing.assert_array_equal(found.joints[1], whole.joints[1])
        runtime._non_finite = "raise"
        with pytest.raises(NumericalError, match="context encoder's answer for person 0"):
            runtime.estimate(uv, confidence, seed=2)
