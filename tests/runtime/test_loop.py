"""The loop over fixed buffers: the order of steps, two states that take turns, nothing allocated on the way."""

import tracemalloc

import numpy as np
import pytest

from diffpose_edge.bundle import load_bundle
from diffpose_edge.manifest import GRAPHS
from diffpose_edge.runtime.backend import KEPT_SCHEDULES
from diffpose_edge.runtime.loop import reverse_process
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend
from diffpose_edge.runtime.onnxruntime_steps import OnnxRuntimeSteps
from diffpose_edge.runtime.plan import plan_of


@pytest.fixture
def backend(golden_bundle):
    bundle = load_bundle(golden_bundle)
    loaded = OnnxRuntimeBackend(bundle.manifest, {role: bundle.read(role) for role in GRAPHS}, threads=1)
    yield loaded.steps
    loaded.close()
    loaded.close()  # twice is safe


def begin(backend, golden_bundle, timesteps, sampler="ddim"):
    plan = plan_of(load_bundle(golden_bundle).manifest, sampler, timesteps)
    backend.begin(timesteps, plan.coefficients)


def test_states_take_turns_in_two_buffers_that_never_move(backend, golden_bundle):
    begin(backend, golden_bundle, (12, 6, 0))
    addresses = {id(buffer): buffer.ctypes.data for buffer in (backend.state(0), backend.state(1))}
    assert len(set(addresses.values())) == 2
    backend.x[:] = 0.1
    for k in range(3):
        before = backend.state(k).copy()
        backend.step(k)
        np.testing.assert_array_equal(backend.state(k), before, err_msg="a step must not alter what it reads")
        assert not np.array_equal(backend.state(k + 1), before)
    assert {id(backend.state(k)): backend.state(k).ctypes.data for k in range(2)} == addresses
    assert backend.state(3) is backend.state(1)


def test_the_loop_is_the_steps_one_after_another(backend, golden_bundle):
    begin(backend, golden_bundle, (40, 20, 0))
    start = np.random.default_rng(0).normal(size=backend.x.shape).astype(np.float32)
    backend.x[:] = start
    for k in range(3):
        backend.step(k)
    by_hand = backend.state(3).copy()
    backend.x[:] = start
    step_ns, trajectory = np.zeros(3), np.empty((4, *start.shape), np.float32)
    final = reverse_process(backend, 3, step_ns, trajectory)
    np.testing.assert_array_equal(final, by_hand)
    np.testing.assert_array_equal(trajectory[0], start)
    np.testing.assert_array_equal(trajectory[3], by_hand)
    assert (step_ns > 0).all()


def test_the_loop_allocates_nothing_that_depends_on_its_length(backend, golden_bundle):
    timesteps = tuple(range(49, -1, -1))
    begin(backend, golden_bundle, timesteps)
    step_ns = np.zeros(50)
    reverse_process(backend, 50, step_ns)

    def grown() -> tuple[int, int]:
        """Bytes still held, and held at most, after 50 steps."""
        tracemalloc.start()
        try:
            reverse_process(backend, 50, step_ns)
            return tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    # The least of several: other tests' leftovers may be tidied up at any moment.
    held, most = (min(values) for values in zip(*(grown() for _ in range(5)), strict=True))
    # A few live Python numbers; one state of this small bundle alone would be 2,040 bytes.
    assert held < 500
    assert most < backend.x.nbytes


def test_a_schedule_is_prepared_once_and_forgotten_only_after_others(backend, golden_bundle, monkeypatch):
    made = []
    original = OnnxRuntimeSteps._bindings
    monkeypatch.setattr(OnnxRuntimeSteps, "_bindings", lambda self, t, c: (made.append(t), original(self, t, c))[1])
    for timesteps in ((12, 0), (6, 0), (12, 0)):
        begin(backend, golden_bundle, timesteps)
    assert made == [(12, 0), (6, 0)]
    for t in range(1, KEPT_SCHEDULES):
        begin(backend, golden_bundle, (t + 20, 0))
    made.clear()
    begin(backend, golden_bundle, (12, 0))
    begin(backend, golden_bundle, (6, 0))
    assert made == [(6, 0)], "the least recently used one goes first"
