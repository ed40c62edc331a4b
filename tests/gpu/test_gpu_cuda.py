"""The CUDA layer on a real GPU: memory, copies, captures, events, and others who use the same GPU."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from diffpose_edge.errors import CudaError
from diffpose_edge.runtime.cuda import ALIGNMENT, Cuda, DeviceBuffer, Event, Graph, PinnedBuffer, Stream


def test_what_goes_in_comes_out(cuda: Cuda) -> None:
    data = np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8)
    with Stream(cuda) as stream, PinnedBuffer(cuda, data.size) as host, DeviceBuffer(cuda, data.size) as device, cuda.current():
        assert device.address % ALIGNMENT == 0
        host.array[:] = data
        cuda.copy_to_device(device.address, host.array, stream.handle)
        stream.synchronize()
        host.array[:] = 0
        cuda.copy_to_host(host.array, device.address, stream.handle)
        stream.synchronize()
        np.testing.assert_array_equal(host.array, data)


def test_mapped_memory_is_the_hosts_own(cuda: Cuda) -> None:
    if not cuda.device.maps_host:
        pytest.skip("this GPU cannot map host memory")
    with Stream(cuda) as stream, PinnedBuffer(cuda, 4096, mapped=True) as shared, DeviceBuffer(cuda, 4096) as device, cuda.current():
        shared.array[:] = 7
        cuda.copy(device.address, shared.device_address, 4096, stream.handle)
        stream.synchronize()
        shared.array[:] = 0
        cuda.copy(shared.device_address, device.address, 4096, stream.handle)
        stream.synchronize()
        assert (shared.array == 7).all()


def test_a_capture_runs_at_the_launch_and_events_time_each_replay(cuda: Cuda) -> None:
    if not cuda.graphs:
        pytest.skip("this driver has no graphs")
    size = 64 * 2**20
    with (
        Stream(cuda) as stream,
        DeviceBuffer(cuda, size) as a,
        DeviceBuffer(cuda, size) as b,
        PinnedBuffer(cuda, 256) as host,
        Event(cuda) as start,
        Event(cuda) as end,
        cuda.current(),
    ):
        cuda.begin_capture(stream.handle)
        cuda.record(start.handle, stream.handle, True)
        cuda.copy_to_device(a.address, host.array, stream.handle)
        for _ in range(8):
            cuda.copy(b.address, a.address, size, stream.handle)
        cuda.copy_to_host(host.array, b.address, stream.handle)
        cuda.record(end.handle, stream.handle, True)
        with Graph(cuda, cuda.end_capture(stream.handle)) as graph:
            for value in (1, 2, 3):
                host.array[:] = value
                graph.launch(stream)
                stream.synchronize()
                assert (host.array == value).all()
                assert 0.001 < cuda.elapsed_ms(start.handle, end.handle) < 1000


def test_an_abandoned_capture_leaves_the_stream_usable(cuda: Cuda) -> None:
    if not cuda.graphs:
        pytest.skip("this driver has no graphs")
    with Stream(cuda) as stream, PinnedBuffer(cuda, 256) as host, DeviceBuffer(cuda, 256) as device, cuda.current():
        cuda.begin_capture(stream.handle)
        with pytest.raises(CudaError):
            stream.synchronize()  # not permitted, and it spoils the capture
        cuda.abandon_capture(stream.handle)
        cuda.copy_to_device(device.address, host.array, stream.handle)
        stream.synchronize()


def test_too_much_memory_is_refused_with_a_remedy(cuda: Cuda) -> None:
    with cuda.current():
        _, total = cuda.memory()
    with pytest.raises(CudaError, match="memory"):
        DeviceBuffer(cuda, 2 * total)


def test_every_thread_can_use_it(cuda: Cuda) -> None:
    found: list[bool] = []

    def work() -> None:
        with Stream(cuda) as stream, PinnedBuffer(cuda, 4096) as host, DeviceBuffer(cuda, 4096) as device, cuda.current():
            host.array[:] = 5
            cuda.copy_to_device(device.address, host.array, stream.handle)
            stream.synchronize()
            found.append(True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


def test_torch_works_before_during_and_after(cuda: Cuda) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    before = torch.arange(1000.0, device="cuda")
    with DeviceBuffer(cuda, 4000) as mine, Stream(cuda) as stream, cuda.current():
        # One primary context: the other's addresses are valid here.
        cuda.copy(mine.address, before.data_ptr(), 4000, stream.handle)
        stream.synchronize()
        assert float((before * 2).sum()) == 999000.0
        with PinnedBuffer(cuda, 4000) as host:
            cuda.copy_to_host(host.array, mine.address, stream.handle)
            stream.synchronize()
            np.testing.assert_array_equal(host.array.view(np.float32), np.arange(1000.0, dtype=np.float32))
    assert float(torch.ones(10, device="cuda").sum()) == 10.0
