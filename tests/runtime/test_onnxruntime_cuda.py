"""ONNX Runtime's GPU backend, with its values on the CPU: the arrangement is the same, the provider is not (that is in tests/gpu)."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from diffpose_edge.bundle import load_bundle
from diffpose_edge.errors import BundleError, CudaError, DiffPoseEdgeError, RuntimeClosed
from diffpose_edge.manifest import GRAPHS
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.backend import KEPT_SCHEDULES
from diffpose_edge.runtime.onnxruntime_cuda_backend import CAPTURED_SCHEDULES, PROVIDER, OnnxRuntimeCudaBackend

from .device_runtime import KINDS, KINDS_AND_MODES, assert_same, clip_of, people_of

SCHEDULES = ((49, 39, 29, 19, 9), (40, 12), (30,))
REFUSAL = "CUDA failure 900: operation not permitted when stream is capturing"
Session, CPU = ort.InferenceSession, ["CPUExecutionProvider"]


def on_cpu(path: Path) -> tuple[PoseRuntime, OnnxRuntimeCudaBackend]:
    bundle = load_bundle(path)
    backend = OnnxRuntimeCudaBackend(bundle.manifest, {role: bundle.read(role) for role in GRAPHS}, on_cpu=True)
    return PoseRuntime(bundle, backend), backend


class CudaProviderDouble:
    """ONNX Runtime's CUDA provider as its documents describe it, computing on the CPU: whose thread calls it, what it captures
    under which number and replays, and what it is asked to release. It cannot prove that CUDA captures or frees anything.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, threading.Thread]] = []  # not their numbers, which are given again to others
        self.settings: list[tuple[str, dict[str, str]]] = []  # of every session that was made, with its role
        self.devices: set[tuple[str, int]] = set()
        self.captured: list[tuple[str, int]] = []
        self.uncaptured: list[str] = []
        self.released: list[int] = []
        self.alive: dict[str, int] = {}
        self.refused = {"context": 0, "step": 0}  # how often the capture of a role is refused yet
        self.fault: Exception | None = None  # what the next run raises

    def called(self, name: str) -> None:
        self.calls.append((name, threading.current_thread()))

    def ended(self, role: str) -> None:
        self.called("end of a session")
        self.alive[role] -= 1


class SessionDouble:
    """A session of the provider; versions before 1.31 cannot release a graph."""

    def __init__(self, provider: CudaProviderDouble, content: bytes, options: Any, providers: list[tuple[str, dict[str, str]]]):
        provider.called("InferenceSession")
        [(name, settings)] = providers
        assert name == PROVIDER
        self.real = Session(content, options, providers=CPU)
        self.provider, self.graphs = provider, dict[int, Any]()
        self.capturing = settings["enable_cuda_graph"] == "1"
        self.role = "step" if any(value.name == "coefficients" for value in self.real.get_inputs()) else "context"
        assert not provider.alive.get(self.role), "two sessions of a role at once"
        provider.settings.append((self.role, settings))
        provider.alive[self.role] = 1
        # Bindings hold this one, too: it ends when nothing is left of a session.
        weakref.finalize(self.real._sess, provider.ended, self.role)

    def get_inputs(self) -> Any:
        return self.real.get_inputs()

    def get_outputs(self) -> Any:
        return self.real.get_outputs()

    def get_providers(self) -> list[str]:
        return [PROVIDER, *CPU]

    def io_binding(self) -> Any:
        self.provider.called("io_binding")
        return self.real.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.provider.called("run_with_iobinding")
        if self.provider.fault is not None:
            fault, self.provider.fault = self.provider.fault, None
            raise fault
        number = int(options.get_run_config_entry("gpu_graph_id"))
        if self.capturing and number != -1:
            if number not in self.graphs:
                if self.provider.refused[self.role]:
                    self.provider.refused[self.role] -= 1
                    raise RuntimeError(REFUSAL)
                self.provider.captured.append((self.role, number))
                self.graphs[number] = binding
            # A replay reads and writes the addresses of its capture, whatever is bound now.
            binding = self.graphs[number]
        else:
            self.provider.uncaptured.append(self.role)
        self.real.run_with_iobinding(binding)


class ReleasingSessionDouble(SessionDouble):
    def release_captured_graph(self, number: int) -> None:
        self.provider.called("release_captured_graph")
        del self.graphs[number]
        self.provider.released.append(number)


@pytest.fixture(params=[ReleasingSessionDouble])
def provider(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CudaProviderDouble:
    """Put the double in the provider's place; what computes is ONNX Runtime on the CPU."""
    double = CudaProviderDouble()

    def recorded(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any) -> Any:
            double.called(name)
            return real(*arguments)

        monkeypatch.setattr(owner, name, call)

    allocated = ort.OrtValue.ortvalue_from_shape_and_type

    def session(content: bytes, options: Any, providers: list[Any]) -> Any:
        """Others, which export bundles or compare with the CPU, get the real one."""
        return Session(content, options, providers=providers) if providers == CPU else request.param(double, content, options, providers)

    def allocate(shape: Any, kind: Any, device: str, index: int) -> Any:
        double.called("ortvalue_from_shape_and_type")
        double.devices.add((device, index))
        return allocated(shape, kind, "cpu", 0)

    monkeypatch.setattr(ort, "get_available_providers", lambda: [PROVIDER, *CPU])
    monkeypatch.setattr(ort, "InferenceSession", session)
    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_shape_and_type", allocate)
    monkeypatch.setattr(ort, "preload_dlls", lambda: double.called("preload_dlls"), raising=False)
    for name in ("update_inplace", "numpy"):
        recorded(ort.OrtValue, name)
    for name in ("bind_ortvalue_input", "bind_ortvalue_output"):
        recorded(ort.IOBinding, name)
    return double


def on_double(path: Path, device: int = 0) -> PoseRuntime:
    return PoseRuntime.load(path, "onnxruntime-cuda", device=device)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if record.name.startswith("diffpose_edge") and record.levelno >= logging.WARNING
    ]


@pytest.fixture
def both(request: pytest.FixtureRequest) -> Iterator[tuple[PoseRuntime, PoseRuntime]]:
    path = request.getfixturevalue(request.param)
    with PoseRuntime.load(path, portable=True) as cpu, on_cpu(path)[0] as gpu:
        yield cpu, gpu


@pytest.mark.parametrize(("both", "mode"), KINDS_AND_MODES, indirect=["both"])
@pytest.mark.parametrize("B", [1, 2, 5], ids=["one person", "P people", "more than P"])
def test_poses_are_those_of_the_cpu_backend(both: tuple[PoseRuntime, PoseRuntime], mode: str, B: int) -> None:
    cpu, gpu = both
    for seed in range(2):
        for steps in SCHEDULES:
            for trace in (False, True):
                people = people_of(cpu, B, seed)
                one, other = (r.estimate(*people, seed, timesteps=steps, mode=mode, trace=trace) for r in (gpu, cpu))
                assert_same(one, other)


@pytest.mark.parametrize("both", KINDS, indirect=True)
def test_a_clip_is_the_cpu_backends(both: tuple[PoseRuntime, PoseRuntime]) -> None:
    cpu, gpu = both
    clip = clip_of(cpu, 11)
    for one, other in zip(gpu.estimate_clip(clip, 0), cpu.estimate_clip(clip, 0), strict=True):
        assert_same(one, other)


def test_what_an_estimate_holds_stays_when_the_buffers_are_used_again(conditioned_bundle: Path) -> None:
    with on_cpu(conditioned_bundle)[0] as runtime:
        first = runtime.estimate(*people_of(runtime, 2), 0, trace=True)
        kept = {name: getattr(first, name).copy() for name in ("joints", "samples", "context", "trajectory")}
        runtime.estimate(*people_of(runtime, 2, seed=9), 1, trace=True)
        for name, value in kept.items():
            np.testing.assert_array_equal(getattr(first, name), value, err_msg=name)


def test_no_more_schedules_are_kept_than_are_used_by_turns(conditioned_bundle: Path) -> None:
    runtime, backend = on_cpu(conditioned_bundle)
    with runtime, PoseRuntime.load(conditioned_bundle, portable=True) as cpu:
        people = people_of(runtime, 1)
        for first in range(2 * KEPT_SCHEDULES):
            steps = (49 - first, 3)
            assert_same(runtime.estimate(*people, 0, timesteps=steps), cpu.estimate(*people, 0, timesteps=steps))
        assert len(backend._sessions._schedules) == KEPT_SCHEDULES
        assert_same(runtime.estimate(*people, 0, timesteps=(49, 3)), cpu.estimate(*people, 0, timesteps=(49, 3)))


# -- captured and replayed, over the double of the provider --------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "mode"), KINDS_AND_MODES)
def test_replayed_steps_give_the_poses_of_the_cpu_backend(
    request: pytest.FixtureRequest, provider: CudaProviderDouble, kind: str, mode: str
) -> None:
    path = request.getfixturevalue(kind)
    gpu = on_double(path)
    with gpu, PoseRuntime.load(path, threads=1, portable=True) as cpu:
        for seed in range(2):
            for steps in SCHEDULES:
                people = people_of(cpu, 3, seed)
                assert_same(*(each.estimate(*people, seed, timesteps=steps, mode=mode) for each in (gpu, cpu)))
    assert provider.uncaptured == []


def test_each_step_is_captured_once_under_a_number_of_its_own(golden_bundle: Path, provider: CudaProviderDouble) -> None:
    with on_double(golden_bundle) as runtime:
        assert [role for role, _ in provider.captured] == ["context"], "the encoder is captured at load"
        for steps in (*SCHEDULES, *SCHEDULES):
            runtime.estimate(*people_of(runtime, 1), timesteps=steps)
        described = runtime.describe()
    assert [role for role, _ in provider.captured[1:]] == ["step"] * sum(map(len, SCHEDULES))
    assert len({number for _, number in provider.captured}) == len(provider.captured)
    assert described["one_graph_per_step"] is True
    assert "eager_because" not in described


def test_the_gpu_that_was_asked_for_computes_without_tf32(golden_bundle: Path, provider: CudaProviderDouble) -> None:
    with on_double(golden_bundle, device=3) as runtime:
        runtime.estimate(*people_of(runtime, 1))
        assert runtime.describe()["device"] == 3
    assert provider.devices == {("cuda", 3)}
    settings = {"device_id": "3", "enable_cuda_graph": "1", "use_tf32": "0"}
    assert provider.settings == [("context", settings), ("step", settings)]


@pytest.mark.parametrize("refusing", ["context", "step"])
@pytest.mark.parametrize("times", [1, 100])
def test_where_a_capture_is_refused_poses_come_without_it_and_the_reason_is_told_once(
    golden_bundle: Path, provider: CudaProviderDouble, caplog: pytest.LogCaptureFixture, refusing: str, times: int
) -> None:
    provider.refused[refusing] = times
    with on_double(golden_bundle) as runtime, PoseRuntime.load(golden_bundle, threads=1, portable=True) as cpu:
        for steps in (*SCHEDULES, *SCHEDULES):
            people = people_of(cpu, 3)
            assert_same(*(each.estimate(*people, 0, timesteps=steps) for each in (runtime, cpu)))
        described = runtime.describe()
    assert described["one_graph_per_step"] is False
    assert described["eager_because"] == REFUSAL
    [warning] = warnings_in(caplog)
    assert REFUSAL in warning
    assert provider.refused[refusing] == times - 1, "it was tried again"
    graphs = [(role, settings["enable_cuda_graph"]) for role, settings in provider.settings]
    expected = {"context": [("context", "1"), ("context", "0"), ("step", "0")], "step": [("context", "1"), ("step", "1"), ("step", "0")]}
    assert graphs == expected[refusing]
    assert provider.alive == {"context": 0, "step": 0}


def test_a_refusal_drops_what_was_captured_with_the_session_and_other_schedules_go_on(
    conditioned_bundle: Path, provider: CudaProviderDouble
) -> None:
    with on_double(conditioned_bundle) as runtime, PoseRuntime.load(conditioned_bundle, threads=1, portable=True) as cpu:
        for steps in (SCHEDULES[0], SCHEDULES[1], SCHEDULES[0], SCHEDULES[1]):
            people = people_of(cpu, 2)
            assert_same(*(each.estimate(*people, 0, timesteps=steps) for each in (runtime, cpu)))
            provider.refused["step"] = 1
        assert runtime.describe()["eager_because"] == REFUSAL


def test_a_fault_that_is_not_the_captures_comes_out_as_it_is(golden_bundle: Path, provider: CudaProviderDouble) -> None:
    class Fault(Exception):
        pass

    with on_double(golden_bundle) as runtime, PoseRuntime.load(golden_bundle, threads=1, portable=True) as cpu:
        people = people_of(cpu, 2)
        runtime.estimate(*people)
        provider.fault = fault = Fault("out of memory")
        with pytest.raises(Fault) as raised:
            runtime.estimate(*people)
        assert raised.value is fault
        assert_same(*(each.estimate(*people, 0) for each in (runtime, cpu)))
        assert runtime.describe()["one_graph_per_step"] is True


def test_graphs_of_a_schedule_that_is_not_kept_are_released(golden_bundle: Path, provider: CudaProviderDouble) -> None:
    with on_double(golden_bundle) as runtime, PoseRuntime.load(golden_bundle, threads=1, portable=True) as cpu:
        people = people_of(cpu, 1)
        for first in range(KEPT_SCHEDULES):
            runtime.estimate(*people, timesteps=(49 - first, 3))
        assert provider.released == []
        steps = [number for role, number in provider.captured if role == "step"]
        runtime.estimate(*people, timesteps=(49, 3))  # the second is the oldest now
        runtime.estimate(*people, timesteps=(5, 3))
        assert provider.released == steps[2:4]
        assert_same(*(each.estimate(*people, 0, timesteps=(48, 3)) for each in (runtime, cpu)))
        assert provider.released == steps[2:6]


@pytest.mark.parametrize("provider", [SessionDouble, ReleasingSessionDouble], indirect=True)
def test_no_more_than_so_many_schedules_are_ever_captured(
    golden_bundle: Path, provider: CudaProviderDouble, caplog: pytest.LogCaptureFixture
) -> None:
    with on_double(golden_bundle) as runtime, PoseRuntime.load(golden_bundle, threads=1, portable=True) as cpu:
        people = people_of(cpu, 1)
        for t in range(CAPTURED_SCHEDULES + 3):
            assert runtime.describe()["one_graph_per_step"] is (t <= CAPTURED_SCHEDULES)
            runtime.estimate(*people, timesteps=(t,))
        assert len(provider.captured) == 1 + CAPTURED_SCHEDULES
        assert provider.uncaptured == ["step"] * 3
        # What was captured before, and is kept, is still replayed; what is new is right.
        for t in (CAPTURED_SCHEDULES - 1, CAPTURED_SCHEDULES + 2, 0):
            assert_same(*(each.estimate(*people, 0, timesteps=(t,)) for each in (runtime, cpu)))
        assert len(provider.uncaptured) == 5
        for t in range(KEPT_SCHEDULES):  # those without a graph have none to release
            runtime.estimate(*people, timesteps=(49, t))
        assert f"{CAPTURED_SCHEDULES} schedules" in runtime.describe()["eager_because"]
    [warning] = warnings_in(caplog)
    assert f"{CAPTURED_SCHEDULES} schedules" in warning
    assert [settings["enable_cuda_graph"] for _, settings in provider.settings] == ["1", "1"]


# -- one thread ----------------------------------------------------------------------------------------------------------------


def test_one_thread_makes_uses_and_releases_everything(golden_bundle: Path, provider: CudaProviderDouble) -> None:
    with ThreadPoolExecutor(1) as pool:
        runtime = pool.submit(on_double, golden_bundle).result()
    people = people_of(runtime, 2)
    first = runtime.estimate(*people, 0)
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(runtime.estimate, *people, 0) for _ in range(3)]
        for other in (*others, runtime.estimate_async(*people, 0)):
            assert_same(other.result(), first)
    runtime.estimate(*people, trace=True)
    for t in range(KEPT_SCHEDULES):
        runtime.estimate(*people, timesteps=(t,))
    provider.refused["step"] = 1
    runtime.estimate(*people, timesteps=(12, 3))
    runtime.close()
    calls = [call for call in provider.calls if call[0] != "preload_dlls"]
    assert {name for name, _ in calls} == {
        "InferenceSession",
        "io_binding",
        "bind_ortvalue_input",
        "bind_ortvalue_output",
        "ortvalue_from_shape_and_type",
        "update_inplace",
        "numpy",
        "run_with_iobinding",
        "release_captured_graph",
        "end of a session",
    }
    threads: dict[threading.Thread, set[str]] = {}
    for name, thread in calls:
        threads.setdefault(thread, set()).add(name)
    assert len(threads) == 1, threads
    assert threading.main_thread() not in threads


def test_calls_that_come_at_once_are_taken_in_turn(golden_bundle: Path, provider: CudaProviderDouble) -> None:
    bundle = load_bundle(golden_bundle)
    backend = OnnxRuntimeCudaBackend(bundle.manifest, {role: bundle.read(role) for role in GRAPHS})
    with ThreadPoolExecutor(4) as pool:
        for call in [pool.submit(backend.encode) for _ in range(100)]:
            call.result()
    backend.close()
    assert len({thread for name, thread in provider.calls if name == "run_with_iobinding"}) == 1


def threads_left(make: Callable[[], object]) -> set[threading.Thread]:
    before = set(threading.enumerate())
    make()
    return set(threading.enumerate()) - before


def test_closing_twice_leaves_no_thread(conditioned_bundle: Path) -> None:
    def closed() -> None:
        runtime, backend = on_cpu(conditioned_bundle)
        runtime.estimate(*people_of(runtime, 1))
        for close in (backend.close, backend.close, runtime.close, runtime.close):
            close()

    assert threads_left(closed) == set()


@pytest.mark.parametrize("role", ["context", "step"])
def test_a_graph_that_cannot_be_loaded_is_named_and_leaves_no_thread(conditioned_bundle: Path, role: str) -> None:
    bundle = load_bundle(conditioned_bundle)
    graphs = {name: bundle.read(name) for name in GRAPHS} | {role: b"no graph"}

    def refused() -> None:
        with pytest.raises(BundleError, match=f"{role} graph"):
            OnnxRuntimeCudaBackend(bundle.manifest, graphs, on_cpu=True)

    assert threads_left(refused) == set()


AT_THE_END = """
import atexit, sys
from diffpose_edge.bundle import load_bundle
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.onnxruntime_cuda_backend import OnnxRuntimeCudaBackend
bundle = load_bundle(sys.argv[1])
backend = OnnxRuntimeCudaBackend(bundle.manifest, {role: bundle.read(role) for role in ("context", "step")}, on_cpu=True)
runtime = PoseRuntime(bundle, backend)
if sys.argv[2] == "closed":
    atexit.register(runtime.close)
"""


@pytest.mark.parametrize("how", ["closed", "open"])
def test_an_interpreter_ends_in_peace(golden_bundle: Path, how: str) -> None:
    """Its threads end before what was registered for its end is called."""
    command = [sys.executable, "-c", AT_THE_END, str(golden_bundle), how]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert ended.stderr == ""


# -- what is asked of ONNX Runtime and of the caller ---------------------------------------------------------------------------


@pytest.mark.parametrize("device", [-1, True, "0", 0.0, None])
def test_what_is_no_number_of_a_gpu_is_refused(conditioned_bundle: Path, device: Any) -> None:
    def refused() -> None:
        with pytest.raises(DiffPoseEdgeError, match=f"expected the number of a GPU, 0 or more, got {device!r}"):
            PoseRuntime.load(conditioned_bundle, "onnxruntime-cuda", device=device)

    assert threads_left(refused) == set()


def test_without_the_provider_the_command_that_brings_it_is_told(conditioned_bundle: Path) -> None:
    if PROVIDER in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has the provider")
    with pytest.raises(CudaError, match=r"pip install 'onnxruntime-gpu>=1.18'"):
        PoseRuntime.load(conditioned_bundle, "onnxruntime-cuda")


@pytest.mark.parametrize("version", ["1.17.3", "1.9.0", "0.5.0"])
def test_an_onnxruntime_without_numbered_graphs_is_refused(
    conditioned_bundle: Path, provider: CudaProviderDouble, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(ort, "__version__", version)
    with pytest.raises(CudaError, match=rf"expected onnxruntime-gpu 1\.18 or newer, got {version}\. Run: pip install"):
        on_double(conditioned_bundle)
    assert provider.calls == []


@pytest.mark.parametrize("version", ["1.18.0", "1.100.0", "2.0.0", "1.19.0.dev20240501"])
def test_newer_ones_are_taken(
    conditioned_bundle: Path, provider: CudaProviderDouble, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(ort, "__version__", version)
    with on_double(conditioned_bundle) as runtime:
        assert runtime.describe()["version"] == version


def test_libraries_from_pip_are_loaded_before_the_first_session(conditioned_bundle: Path, provider: CudaProviderDouble) -> None:
    on_double(conditioned_bundle).close()
    names = [name for name, _ in provider.calls]
    assert names[:2] == ["preload_dlls", "InferenceSession"]
    assert names.count("preload_dlls") == 1


def test_versions_that_cannot_load_them_are_used_as_they_are(
    conditioned_bundle: Path, provider: CudaProviderDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ort, "preload_dlls")
    on_double(conditioned_bundle).close()
    assert provider.calls[0][0] == "InferenceSession"


def test_nothing_of_cuda_is_loaded_for_the_cpu(conditioned_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "preload_dlls", lambda: pytest.fail("CUDA was loaded"), raising=False)
    on_cpu(conditioned_bundle)[0].close()


def test_a_provider_that_did_not_start_is_not_taken_for_the_gpu(
    conditioned_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime warns and goes on with the CPU. Its answers are put in its mouth here: this one has no CUDA provider."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [PROVIDER, *CPU])
    monkeypatch.setattr(ort, "InferenceSession", lambda content, options, providers: Session(content, options, providers=CPU))
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("Failed to load libcublas.so.13"), raising=False)

    def refused() -> None:
        with pytest.raises(CudaError, match=r"did not start .*missing\)\. Failed to load libcublas\.so\.13$"):
            PoseRuntime.load(conditioned_bundle, "onnxruntime-cuda")

    assert threads_left(refused) == set()
    assert capsys.readouterr().out == ""


def test_it_is_described_and_closed_twice(conditioned_bundle: Path) -> None:
    runtime, backend = on_cpu(conditioned_bundle)
    described = runtime.describe()
    assert described["backend"] == "onnxruntime-cuda"
    assert (described["one_graph_per_step"], described["provider"]) == (False, "CPUExecutionProvider")
    runtime.close()
    runtime.close()
    backend.close()
    with pytest.raises(RuntimeClosed):
        runtime.estimate(np.zeros((1, 17, 2), np.float32))
