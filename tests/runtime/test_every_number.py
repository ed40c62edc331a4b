"""Whatever goes in, and whatever a network says: every number that comes out is finite, or is said not to be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.skeleton import J

from .faults import assert_explained, plant_in_step

KINDS = ("released", "single", "trained")
UV = st.floats(-10, 10, width=32, allow_subnormal=True)
CONFIDENCE = st.one_of(st.just(0.0), st.floats(0, 1, width=32, allow_subnormal=True), st.just(1.0))
# Where a fault is planted, and what is written there.
FAULT = st.tuples(st.integers(0, 2), st.integers(0, 5), st.sampled_from([np.nan, np.inf, -np.inf, 1e38, -1e13, 1e11, 1e-45]))


@pytest.fixture(scope="module")
def runtimes(
    golden: SimpleNamespace, golden_bundle: Path, conditioned_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, PoseRuntime]]:
    """P=2, N=3; and N=1, for which there is no covariance."""
    from diffpose_edge.export import export_bundle

    single = tmp_path_factory.mktemp("bundles") / "single"
    export_bundle(golden.denoiser, golden.context, single, persons=2, samples=1)
    paths = dict(zip(KINDS, (golden_bundle, single, conditioned_bundle), strict=True))
    loaded = {kind: PoseRuntime.load(path, threads=1, non_finite="last") for kind, path in paths.items()}
    yield loaded
    for runtime in loaded.values():
        runtime.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    kind=st.sampled_from(KINDS),
    uv=arrays(np.float32, (3, J, 2), elements=UV, fill=st.nothing()),
    confidence=arrays(np.float32, (3, J), elements=CONFIDENCE, fill=st.nothing()),
    unseen=st.sampled_from([np.nan, np.inf, 1e38, 0.0]),
    fault=st.none() | FAULT,
    trace=st.booleans(),
)
def test_every_number_is_finite_or_explained(
    runtimes: dict[str, PoseRuntime],
    kind: str,
    uv: np.ndarray,
    confidence: np.ndarray,
    unseen: float,
    fault: tuple[int, int, float] | None,
    trace: bool,
) -> None:
    runtime = runtimes[kind]
    uv = np.where((confidence > 0)[..., None], uv, np.float32(unseen))
    with pytest.MonkeyPatch.context() as patch:
        if fault is not None:
            k, row, value = fault
            plant_in_step(patch, k=k, row=row % runtime.bundle.manifest.shape.state[0], value=value)
        found = runtime.estimate(uv, confidence, seed=0, steps=3, trace=trace)
    assert_explained(found, with_spread=kind != "single")
    assert not (found.out_of_range & ~found.valid & ~found.non_finite).any()
    assert all(np.isfinite(time).all() for time in (found.timings.total, found.timings.steps, found.timings.context))
