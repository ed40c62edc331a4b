"""Everything is given back exactly once: after use, after any call that fails, and when giving back itself fails."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.errors import CudaError, EngineError, RuntimeClosed
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.backend import KEPT_SCHEDULES
from diffpose_edge.runtime.device_backend import DeviceBackend

from .cuda_double import RecordingCuda
from .device_runtime import KINDS, OnDevice, assert_same, clip_of, engines_of, on_device, people_of
from .engine_double import OnnxRuntimeEngine

ROOT = Path(__file__).parents[2]


def assert_all_given_back(cuda: RecordingCuda, engines: dict[str, OnnxRuntimeEngine]) -> None:
    assert cuda.alive == {}
    assert cuda.closed == 1
    assert {role: engine.closed for role, engine in engines.items()} == dict.fromkeys(engines, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"timed": True}, {"integrated": True}, {"graphs": False}, {"refuse_capture": "no"}], ids=str)
def test_a_used_runtime_gives_everything_back_once(request: pytest.FixtureRequest, kind: str, options: dict[str, Any]) -> None:
    device = on_device(request.getfixturevalue(kind), **options)
    runtime = device.runtime
    for timesteps in ((30,), (40, 3), (30,)):
        runtime.estimate(*people_of(runtime, 3), timesteps=timesteps)
    list(runtime.estimate_clip(clip_of(runtime, 3)))
    runtime.estimate(*people_of(runtime, 1), trace=True)
    runtime.close()
    assert_all_given_back(device.cuda, device.engines)
    runtime.close()
    device.backend.close()
    assert_all_given_back(device.cuda, device.engines)
    with pytest.raises(RuntimeClosed):
        runtime.estimate(*people_of(runtime, 1))


def test_a_runtime_that_was_never_used_gives_everything_back(golden_bundle: Path) -> None:
    device = on_device(golden_bundle)
    device.runtime.close()
    assert_all_given_back(device.cuda, device.engines)


def test_graphs_go_before_the_memory_whose_addresses_they_hold_and_all_before_the_context(conditioned_bundle: Path) -> None:
    device = on_device(conditioned_bundle, timed=True)
    device.runtime.estimate(*people_of(device.runtime, 2))
    closing = device.calls(device.runtime.close)
    last_graph = max(i for i, name in enumerate(closing) if name == "destroy_graph")
    assert not {"free", "free_host", "destroy_event", "destroy_stream"} & set(closing[:last_graph])


def test_an_estimate_outlives_its_runtime(conditioned_bundle: Path) -> None:
    device = on_device(conditioned_bundle)
    with device.runtime as runtime:
        estimate = runtime.estimate(*people_of(runtime, 2), trace=True)
        held = [device.backend.observation, device.backend.x, device.backend.newest, device.backend._results.bytes]
        for name in ("joints", "covariance", "samples", "context", "trajectory"):
            assert not any(np.shares_memory(getattr(estimate, name), array) for array in held), name


# --- what fails ---


def error_of(call: Callable[[], object]) -> CudaError | None:
    """The error that a call ends in, or None."""
    try:
        call()
    except CudaError as err:
        return err
    return None


def used(bundle: Bundle, cuda: RecordingCuda, engines: dict[str, OnnxRuntimeEngine]) -> None:
    """Make a runtime and use all of it: frames eager and replayed, steps alone, a trace, a schedule that is no longer kept."""
    with PoseRuntime(bundle, DeviceBackend(bundle.manifest, cuda, engines, timed=True)) as runtime:
        for _ in range(2):
            runtime.estimate(*people_of(runtime, 1), timesteps=(9,))
            list(runtime.estimate_clip(clip_of(runtime, 1), timesteps=(9,)))
        runtime.estimate(*people_of(runtime, 1), trace=True, timesteps=(9,))
        for t in range(10, 10 + KEPT_SCHEDULES):
            runtime.estimate(*people_of(runtime, 1), timesteps=(t,))


@pytest.mark.parametrize("kind", ["golden_bundle", "conditioned_video_bundle"])
def test_whichever_call_fails_its_error_is_told_and_nothing_is_kept(request: pytest.FixtureRequest, kind: str) -> None:
    bundle = load_bundle(request.getfixturevalue(kind))
    cuda = RecordingCuda()
    used(bundle, cuda, engines_of(bundle, cuda))
    names = [name for name in cuda.names if not name.startswith(("free", "destroy"))]
    # The first of a kind in each stage is enough: the same call again fails as it did.
    chosen = {n for n in range(1, len(names) + 1) if n <= 60 or n % 17 == 0}
    told = refused = 0
    for n in sorted(chosen):
        cuda = RecordingCuda(fail_at=n)
        engines = engines_of(bundle, cuda)
        error = error_of(lambda cuda=cuda, engines=engines: used(bundle, cuda, engines))
        if error is None:
            # It was a part of a capture, which is a refusal and no failure.
            assert "abandon_capture" in cuda.names, names[n - 1]
            refused += 1
        else:
            assert f"call {n}, {names[n - 1]}, fails in this test" in str(error)
            told += 1
        assert_all_given_back(cuda, engines)
    assert told > 40
    assert refused > 5


@pytest.mark.parametrize("role", ["context", "step", "start"])
def test_an_engine_that_does_not_take_an_address_leaves_nothing_behind(golden_bundle: Path, role: str) -> None:
    bundle, cuda = load_bundle(golden_bundle), RecordingCuda()
    engines = engines_of(bundle, cuda)

    def refusing(addresses: object) -> None:
        raise EngineError(f"the {role} engine did not take an address")

    engines[role].bind = refusing  # type: ignore[method-assign]
    with pytest.raises(EngineError, match=f"the {role} engine did not take an address"):
        DeviceBackend(bundle.manifest, cuda, engines)
    assert_all_given_back(cuda, engines)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["context", "step", "start"])
def test_an_engine_that_refuses_is_quoted_and_the_runtime_still_closes(request: pytest.FixtureRequest, kind: str, role: str) -> None:
    path = request.getfixturevalue(kind)
    device = on_device(path)
    with device.runtime as runtime, PoseRuntime.load(path, threads=1, portable=True) as cpu:
        people = people_of(runtime, 2)
        runtime.estimate(*people)
        device.engines[role].failing = "always"
        with pytest.raises(EngineError, match=f"the {role} engine refuses"):
            runtime.estimate(*people, timesteps=(5,))
        # What was captured needs nothing of the engine; and when it is well again, so is everything.
        assert_same(runtime.estimate(*people, 1), cpu.estimate(*people, 1))
        device.engines[role].failing = ""
        for _ in range(2):
            assert_same(runtime.estimate(*people, 2, timesteps=(5,)), cpu.estimate(*people, 2, timesteps=(5,)))
    assert_all_given_back(device.cuda, device.engines)


def broken(device: OnDevice) -> None:
    """From now on every call fails, as after an illegal access."""
    device.cuda.broken_after = device.cuda.calls


def test_of_a_broken_device_is_told_and_all_that_can_go_goes(golden_bundle: Path) -> None:
    device = on_device(golden_bundle, timed=True)
    for timesteps in ((30,), (40, 3)):
        device.runtime.estimate(*people_of(device.runtime, 2), timesteps=timesteps)
    broken(device)
    with pytest.raises(CudaError, match="illegal memory access"):
        device.runtime.estimate(*people_of(device.runtime, 2))
    alive = len(device.cuda.alive)
    calls = device.calls(error_of, device.runtime.close)
    assert len([name for name in calls if name.startswith(("free", "destroy"))]) == alive, "not everything was tried"
    assert device.cuda.closed == 1
    assert {engine.closed for engine in device.engines.values()} == {1}
    device.runtime.close()
    assert device.cuda.closed == 1


def test_an_engine_that_does_not_go_keeps_nothing_else(golden_bundle: Path) -> None:
    device = on_device(golden_bundle, failing={"step": "close"})
    device.runtime.estimate(*people_of(device.runtime, 2))
    with pytest.raises(CudaError, match="the step engine does not go"):
        device.runtime.close()
    assert_all_given_back(device.cuda, device.engines)


def test_a_runtime_that_nobody_closed_is_closed_at_the_end_of_the_program(golden_bundle: Path) -> None:
    """In a process of its own, which ends with a runtime open and work under way."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.runtime.cuda_double import RecordingCuda\n"
        "from tests.runtime.device_runtime import on_device, people_of\n"
        "real = RecordingCuda.close\n"
        "def told(cuda):\n"
        "    real(cuda)\n"
        "    import logging, numpy\n"  # modules are still there
        "    print('closed', cuda.alive, numpy.zeros(1).sum(), flush=True)\n"
        "RecordingCuda.close = told\n"
        "device = on_device(Path(sys.argv[1]))\n"
        "device.runtime.estimate(*people_of(device.runtime, 2))\n"
        "device.runtime.estimate_async(*people_of(device.runtime, 2))\n"
    )
    result = subprocess.run([sys.executable, "-c", program, str(golden_bundle)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert result.stdout == "closed {} 0.0\n"


def test_a_runtime_that_is_forgotten_is_closed(golden_bundle: Path) -> None:
    device = on_device(golden_bundle)
    cuda = device.cuda
    device.runtime.estimate(*people_of(device.runtime, 2))
    del device
    gc.collect()
    assert (cuda.alive, cuda.closed) == ({}, 1)
