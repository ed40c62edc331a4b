"""What test_whole_backend.py runs in a process with the double: python -m tests.cuda_driver.walk PROVIDER BUNDLE START_GRAPH."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from diffpose_edge.bundle import Bundle, load_bundle
from diffpose_edge.runtime import PoseEstimate, PoseRuntime
from diffpose_edge.runtime.cuda import Cuda, open_cuda
from diffpose_edge.runtime.device_backend import DeviceBackend
from diffpose_edge.runtime.tensorrt_backend import engine_io

from .double import INTEGRATED, DriverDouble
from .engines import CopyingEngine, HostEngine

SCHEDULES = ((30,), (49, 30, 9))
COPIES = ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuMemcpyDtoDAsync")


def estimates(runtime: PoseRuntime, seen: Callable[[], object] = lambda: None) -> list[PoseEstimate]:
    """Estimate three people twice with each schedule, in every mode, then with a trace; ``seen`` is called before each."""
    manifest = runtime.bundle.manifest
    F, rng, found = manifest.shape.F, np.random.default_rng(0), []
    for mode in ("distribution",) if manifest.process.kind == "distribution" else ("released", "noised"):
        for timesteps in SCHEDULES:
            for trace in (False, False, True):
                seen()
                keypoints = rng.uniform(-0.5, 0.5, (3, *(F,) * (F > 1), 17, 2))
                found.append(runtime.estimate(keypoints, seed=4, timesteps=timesteps, mode=mode, trace=trace))
    return found


def assert_same(found: list[PoseEstimate], expected: list[PoseEstimate]) -> None:
    for one, other in zip(found, expected, strict=True):
        for name in ("joints", "covariance", "samples", "trajectory"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def computed(provider: str, bundle: Bundle, start: bytes, double: DriverDouble) -> None:
    """The poses are the CPU backend's to the bit, whether the GPU has its own memory or the host's."""
    with PoseRuntime.load(bundle, threads=1, portable=True) as cpu:
        expected = estimates(cpu)
    contents = {"context": bundle.read("context"), "step": bundle.read("step"), "start": start}
    for integrated in (False, True):
        double.reset()
        double.set_attribute(INTEGRATED, int(integrated))
        engines = {role: HostEngine(double, content) for role, content in contents.items()}
        backend = DeviceBackend(bundle.manifest, open_cuda(provider), engines, timed=True, capture=False)
        with PoseRuntime(bundle, backend) as runtime:
            assert runtime.describe()["provider"] == provider
            assert_same(estimates(runtime), expected)
        assert double.calls("cuStreamBeginCapture") == 0
        assert (double.calls("cuMemHostGetDevicePointer") > 0) == integrated
        assert double.alive() == {}, double.alive()
        assert double.depth() == 0


def captured(provider: str, bundle: Bundle, double: DriverDouble) -> None:
    """A replayed frame gives what an enqueued one does, and is one launch, whether the memory is the GPU's own or the host's."""
    found = []
    for capture, integrated in ((False, False), (True, False), (True, True)):
        double.reset()
        double.set_attribute(INTEGRATED, int(integrated))
        cuda: Cuda = open_cuda(provider)
        engines = {role: CopyingEngine(cuda, io) for role, io in engine_io(bundle.manifest).items()}
        log: list[tuple[int, int]] = []

        def counted(log: list[tuple[int, int]] = log) -> None:
            log.append((double.calls("cuGraphLaunch"), sum(map(double.calls, COPIES))))

        with PoseRuntime(bundle, DeviceBackend(bundle.manifest, cuda, engines, timed=True, capture=capture)) as runtime:
            found.append(estimates(runtime, counted))
            assert runtime.describe()["one_launch"] == capture, runtime.describe()
        assert double.alive() == {}, double.alive()
        assert double.depth() == 0
        # The second estimate of each schedule lies between the second count and the third: three people, P at a time.
        second = [(log[i + 2][0] - log[i + 1][0], log[i + 2][1] - log[i + 1][1]) for i in range(0, len(log), 3)]
        batches = -(-3 // bundle.manifest.shape.P)
        for launches, copies in second:
            assert launches == (batches if capture else 0), (capture, second)
            assert (copies == 0) == capture, (capture, second)
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


if __name__ == "__main__":
    provider, path, start = sys.argv[1:]
    sys.setdlopenflags(os.RTLD_LAZY)  # see the fixture "provider"
    bundle, double = load_bundle(path), DriverDouble()
    computed(provider, bundle, Path(start).read_bytes(), double)
    captured(provider, bundle, double)
