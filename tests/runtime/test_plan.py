"""Which steps a call takes: timesteps, a number of steps, a sampler, and what was fitted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpose_edge.bundle import load_bundle
from diffpose_edge.bundle_writing import record_fitted
from diffpose_edge.errors import DiffPoseEdgeError, TimestepError
from diffpose_edge.fitted import FittedSchedule
from diffpose_edge.manifest import Manifest
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.plan import step_plan
from diffpose_edge.samplers import sampler_rows
from diffpose_edge.schedule import trailing_timesteps

from .device_runtime import people_of

THREE = FittedSchedule((44, 28, 10), ((3.1, -0.4, 0.0), (1.5, -0.8, 0.3), (1.1, -0.4, 0.1)), {"fitted": {"sample_mm": 6.0}})


@pytest.fixture
def manifest(conditioned_bundle: Path) -> Manifest:
    return replace(load_bundle(conditioned_bundle).manifest, fitted=(THREE,))


def test_nothing_asked_is_the_bundles_own_timesteps_by_ddim(manifest: Manifest) -> None:
    plan = step_plan(manifest)
    assert (plan.sampler, plan.timesteps) == ("ddim", manifest.timesteps)
    rows = sampler_rows("ddim", manifest.alpha_bar_table, manifest.timesteps, manifest.process.prediction, scaled=True)
    assert plan.coefficients.tobytes() == rows.tobytes()


@pytest.mark.parametrize(
    ("asked", "sampler", "timesteps"),
    [
        ({"steps": 3}, "fitted", THREE.timesteps),
        ({"steps": 3, "sampler": "fitted"}, "fitted", THREE.timesteps),
        ({"timesteps": THREE.timesteps, "sampler": "fitted"}, "fitted", THREE.timesteps),
        ({"steps": 3, "sampler": "ddim"}, "ddim", trailing_timesteps(50, 3)),
        ({"steps": 3, "sampler": "ab2"}, "ab2", trailing_timesteps(50, 3)),
        ({"steps": 4}, "ddim", trailing_timesteps(50, 4)),
        ({"timesteps": [30, 4, 1]}, "ddim", (30, 4, 1)),
        ({"timesteps": THREE.timesteps}, "ddim", THREE.timesteps),
        ({"timesteps": [30, 4], "sampler": "ab2"}, "ab2", (30, 4)),
        ({"sampler": "ab2"}, "ab2", (49, 39, 29, 19, 9)),
    ],
)
def test_what_is_asked_is_what_is_walked(manifest: Manifest, asked: dict[str, Any], sampler: str, timesteps: tuple[int, ...]) -> None:
    plan = step_plan(manifest, **asked)
    assert (plan.sampler, plan.timesteps) == (sampler, timesteps)
    if sampler == "fitted":
        assert plan.coefficients.tolist() == np.array(THREE.rows, np.float32).tolist()
    else:
        rows = sampler_rows(sampler, manifest.alpha_bar_table, timesteps, manifest.process.prediction, scaled=True)
        assert plan.coefficients.tobytes() == rows.tobytes()


def test_steps_of_released_weights_lead_from_the_released_start(golden_bundle: Path) -> None:
    manifest = load_bundle(golden_bundle).manifest
    assert step_plan(manifest, steps=2).timesteps == manifest.timesteps == (12, 0)
    assert step_plan(manifest, steps=4).timesteps == (12, 8, 4, 0)
    with pytest.raises(TimestepError, match="1 <= K <= 13"):
        step_plan(manifest, steps=14)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"timesteps": (3, 0), "steps": 2}, "got both"),
        ({"steps": 0}, "at least 1"),
        ({"steps": True}, "at least 1"),
        ({"steps": 2.0}, "at least 1"),
        ({"steps": 51}, "K=51 and T=50"),
        ({"timesteps": (0, 3)}, "strictly decreasing"),
        ({"sampler": "heun"}, "out of ddim, ab2, fitted, got 'heun'"),
        ({"sampler": "fitted"}, r"no fitted schedule of 5 steps \(it has: 3\).*search-steps BUNDLE --steps 5"),
        ({"steps": 2, "sampler": "fitted"}, "no fitted schedule of 2 steps"),
        ({"timesteps": (44, 28, 9), "sampler": "fitted"}, r"timesteps \(44, 28, 10\), and no others"),
    ],
)
def test_mistakes_are_named(manifest: Manifest, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(DiffPoseEdgeError, match=said):
        step_plan(manifest, **asked)


def test_a_runtime_walks_what_its_bundle_has(conditioned_bundle: Path, tmp_path: Path) -> None:
    import shutil

    bundle = record_fitted(load_bundle(Path(shutil.copytree(conditioned_bundle, tmp_path / "bundle"))), [THREE])
    assert bundle.manifest.fitted == (THREE,)
    with PoseRuntime.load(bundle, threads=1) as runtime:
        people = people_of(runtime, 3)
        fitted = runtime.estimate(*people, 5, steps=3)
        assert len(fitted.timings.steps) == 3
        np.testing.assert_array_equal(fitted.samples, runtime.estimate_async(*people, 5, steps=3).result().samples)
        named = runtime.estimate(*people, 5, steps=3, sampler="ddim")
        np.testing.assert_array_equal(named.samples, runtime.estimate(*people, 5, timesteps=trailing_timesteps(50, 3)).samples)
        assert not np.array_equal(fitted.samples, named.samples)
        # A mistake shows where it is made, and not when the result is asked for.
        with pytest.raises(DiffPoseEdgeError, match="sampler"):
            runtime.estimate_async(*people, 5, sampler="heun")
    again = record_fitted(bundle, [replace(THREE, accuracy={}), FittedSchedule((20,), ((1.0, 0.5, 0.0),))])
    assert [len(schedule.timesteps) for schedule in again.manifest.fitted] == [1, 3]
    assert again.manifest.fitted[1].accuracy == {}
