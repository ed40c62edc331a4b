"""Every provider of CUDA against the double of the driver: what it is asked for, in which order, and that all is given back.

PyCUDA has no wheels; where it is not installed, cuda-bindings alone is tested. It can be built without a GPU and without a
toolkit, from its source, in three minutes: cuda.h and cudaProfiler.h are in PyPI's nvidia-cuda-runtime and
nvidia-cuda-profiler-api, and in place of the driver it is linked with the double (FOLDER has it as libcuda.so):

    python configure.py --no-cuda-enable-curand --cuda-inc-dir=HEADERS,HEADERS --cudadrv-lib-dir=FOLDER --cxxflags=-O0,-w
    python setup.py build_ext --inplace

PYTHONPATH, naming the folder of the source, then makes these tests run with both.
"""

from __future__ import annotations

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

from diffpose_edge.errors import CudaError
from diffpose_edge.extras import is_installed
from diffpose_edge.runtime.cuda import ALIGNMENT, Cuda, Device, DeviceBuffer, Event, Graph, PinnedBuffer, Stream, open_cuda
from diffpose_edge.runtime.device_memory import Region

from .double import CAN_MAP_HOST_MEMORY, INSTALLED, INTEGRATED, DriverDouble

SIZE = 1024


class Bench:
    """A buffer on the GPU, two on the host, a stream."""

    def __init__(self, cuda: Cuda, stack: ExitStack):
        self.cuda = cuda
        self.buffer = stack.enter_context(DeviceBuffer(cuda, SIZE))
        self.sent = stack.enter_context(PinnedBuffer(cuda, SIZE))
        self.got = stack.enter_context(PinnedBuffer(cuda, SIZE))
        self.stream = stack.enter_context(Stream(cuda))
        self.sent.array[:] = np.arange(SIZE) % 251

    def round_trip(self) -> None:
        """Enqueue: to the GPU and back."""
        self.cuda.copy_to_device(self.buffer.address, self.sent.array, self.stream.handle)
        self.cuda.copy_to_host(self.got.array, self.buffer.address, self.stream.handle)

    def captured(self) -> Graph:
        self.cuda.begin_capture(self.stream.handle)
        self.round_trip()
        return Graph(self.cuda, self.cuda.end_capture(self.stream.handle))

    def arrived(self) -> bool:
        return bool((self.got.array == self.sent.array).all())


@pytest.fixture
def bench(cuda: Cuda | None):
    if cuda is None:
        yield None
        return
    with ExitStack() as stack, cuda.current():
        yield Bench(cuda, stack)


@pytest.mark.skipif(not is_installed("pycuda"), reason="PyCUDA is not installed: it is built from source, which wants CUDA's headers")
def test_pycuda_is_among_the_providers_that_are_tested() -> None:
    assert "pycuda" in INSTALLED


# -- the device and its context --------------------------------------------------------------------------------------------


def test_the_device_is_described_by_what_the_driver_says(cuda: Cuda) -> None:
    assert cuda.device == Device(0, "A double of a GPU", 87, 13020, integrated=False, maps_host=True)
    assert cuda.graphs


def test_an_integrated_gpu_is_recognised(double: DriverDouble, provider: str) -> None:
    double.set_attribute(INTEGRATED, 1)
    double.set_attribute(CAN_MAP_HOST_MEMORY, 0)
    cuda = open_cuda(provider)
    assert (cuda.device.integrated, cuda.device.maps_host) == (True, False)
    cuda.close()


def test_opening_makes_no_context_of_its_own_and_leaves_none_current(cuda: Cuda, double: DriverDouble) -> None:
    assert double.depth() == 0
    assert double.alive() == {"context": 1}
    assert double.calls("cuDevicePrimaryCtxRetain") == 1


def test_the_context_is_current_within_the_with_and_nests(cuda: Cuda, double: DriverDouble) -> None:
    with cuda.current():
        with cuda.current():
            cuda.memory()
        cuda.memory()
    with pytest.raises(CudaError, match=r"INVALID_CONTEXT|invalid device context"):
        cuda.memory()
    assert double.depth() == 0


def test_an_exception_within_the_with_leaves_no_context_current(cuda: Cuda, double: DriverDouble) -> None:
    with pytest.raises(ZeroDivisionError), cuda.current(), cuda.current():
        raise ZeroDivisionError
    assert double.depth() == 0


def test_a_context_that_somebody_else_made_current_stays_current(cuda: Cuda, double: DriverDouble) -> None:
    driver = ctypes.CDLL("libcuda.so.1")
    own = ctypes.c_void_p()
    driver.cuDevicePrimaryCtxRetain(ctypes.byref(own), 0)
    driver.cuCtxPushCurrent_v2(own)
    with cuda.current():
        cuda.memory()
    assert double.depth() == 1
    DeviceBuffer(cuda, SIZE).close()
    assert double.depth() == 1
    driver.cuCtxPopCurrent_v2(ctypes.byref(own))
    driver.cuDevicePrimaryCtxRelease_v2(0)


def test_threads_use_the_gpu_each_with_a_context_of_its_own_stack(cuda: Cuda, double: DriverDouble) -> None:
    together = threading.Barrier(4)

    def work(value: int) -> int:
        together.wait()
        for _ in range(20):
            with ExitStack() as stack, cuda.current():
                bench = Bench(cuda, stack)
                bench.sent.array[:] = value
                bench.round_trip()
                bench.stream.synchronize()
                assert bench.arrived()
        return double.depth()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [0, 0, 0, 0]


def test_other_threads_run_while_one_waits_for_the_gpu(cuda: Cuda, double: DriverDouble, bench: Bench) -> None:
    double.hold(True)
    release = threading.Timer(0.05, double.hold, [False])
    release.start()
    bench.stream.synchronize()  # the double gives up after two seconds if the timer's thread cannot run
    release.join()


def test_what_was_opened_in_one_thread_can_be_closed_in_another(double: DriverDouble, provider: str) -> None:
    cuda = open_cuda(provider)
    buffer = DeviceBuffer(cuda, SIZE)

    def close() -> int:
        buffer.close()
        cuda.close()
        return double.depth()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(close).result() == 0
    assert double.alive() == {}


def test_a_closed_device_says_so_and_closes_again(double: DriverDouble, provider: str) -> None:
    cuda = open_cuda(provider)
    cuda.close()
    cuda.close()
    assert double.alive() == {}
    assert double.depth() == 0
    with pytest.raises(CudaError, match="this CUDA device was closed"), cuda.current():
        pass
    with pytest.raises(CudaError, match="this CUDA device was closed"):
        Stream(cuda)


def test_a_device_is_opened_again_after_it_was_closed(double: DriverDouble, provider: str) -> None:
    for _ in range(3):
        cuda = open_cuda(provider)
        DeviceBuffer(cuda, SIZE).close()
        cuda.close()
    assert double.alive() == {}


def test_two_users_of_a_device_share_its_context(double: DriverDouble, provider: str) -> None:
    one, other = open_cuda(provider), open_cuda(provider)
    buffer = DeviceBuffer(one, SIZE)
    other.close()
    assert double.alive() == {"memory": 1, "context": 1}
    with one.current():
        one.memory()
    buffer.close()
    one.close()
    assert double.alive() == {}


def test_free_and_total_memory_are_told_in_this_order(cuda: Cuda) -> None:
    with DeviceBuffer(cuda, SIZE), cuda.current():
        free, total = cuda.memory()
    assert total == 8 << 30
    assert free == total - SIZE


# -- what is owned ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "kind"), [(lambda cuda: DeviceBuffer(cuda, SIZE), "memory"), (lambda cuda: PinnedBuffer(cuda, SIZE), "host"),
                       (lambda cuda: PinnedBuffer(cuda, SIZE, mapped=True), "host"), (Stream, "stream"), (Event, "event")],
    ids=["buffer", "pinned", "mapped", "stream", "event"],
)  # fmt: skip
def test_a_resource_is_given_back_once(made, kind: str, cuda: Cuda, double: DriverDouble) -> None:
    with made(cuda) as resource:
        assert double.alive() == {kind: 1, "context": 1}
    assert double.alive() == {"context": 1}
    resource.close()
    other = made(cuda)
    resource.close()
    assert double.alive() == {kind: 1, "context": 1}, "a second close took what belongs to another"
    other.close()
    other.close()


def test_a_graph_is_given_back_once_and_what_was_captured_at_once(bench: Bench, double: DriverDouble) -> None:
    before = double.alive()
    graph = bench.captured()
    assert double.alive() == {**before, "exec": 1}
    graph.close()
    graph.close()
    assert double.alive() == before


def test_pinned_memory_begins_as_zeros_and_is_emptied_when_it_is_closed(cuda: Cuda) -> None:
    pinned = PinnedBuffer(cuda, SIZE)
    assert pinned.array.shape == (SIZE,)
    assert pinned.array.dtype == np.uint8
    assert not pinned.array.any()
    assert pinned.device_address == 0
    pinned.close()
    assert pinned.array.size == 0


def test_memory_is_pinned_for_every_context_and_streams_do_not_wait_for_the_default_one(cuda: Cuda, double: DriverDouble) -> None:
    PinnedBuffer(cuda, SIZE).close()
    assert double.flags("cuMemHostAlloc") == 1  # portable
    PinnedBuffer(cuda, SIZE, mapped=True).close()
    assert double.flags("cuMemHostAlloc") == 3  # portable and mapped
    Stream(cuda).close()
    assert double.flags("cuStreamCreate") == 1  # non-blocking
    Event(cuda).close()
    assert double.flags("cuEventCreate") == 0  # takes the time


# -- copies ----------------------------------------------------------------------------------------------------------------


def test_copies_wait_in_the_stream_and_arrive(bench: Bench) -> None:
    bench.round_trip()
    assert not bench.arrived()
    bench.stream.synchronize()
    assert bench.arrived()


def test_a_part_is_copied_to_where_it_belongs(bench: Bench) -> None:
    cuda, stream, address = bench.cuda, bench.stream.handle, bench.buffer.address
    bench.round_trip()
    cuda.copy_to_device(address + 256, bench.sent.array[:64], stream)
    cuda.copy(address + 512, address + 256, 64, stream)
    cuda.copy_to_host(bench.got.array, address, stream)
    bench.stream.synchronize()
    expected = bench.sent.array.copy()
    expected[256:320] = expected[512:576] = bench.sent.array[:64]
    np.testing.assert_array_equal(bench.got.array, expected)


def test_arrays_of_any_type_and_shape_are_copied_whole(bench: Bench) -> None:
    sent = bench.sent.array.view(np.float32).reshape(4, 8, 8)
    got = bench.got.array.view(np.float32).reshape(16, 16)
    bench.cuda.copy_to_device(bench.buffer.address, sent, bench.stream.handle)
    bench.cuda.copy_to_host(got, bench.buffer.address, bench.stream.handle)
    bench.stream.synchronize()
    assert bench.arrived()


def test_what_is_not_contiguous_or_not_writable_is_not_copied(bench: Bench) -> None:
    refusals = (AssertionError, BufferError, ValueError)
    with pytest.raises(refusals):
        bench.cuda.copy_to_device(bench.buffer.address, bench.sent.array[::2], bench.stream.handle)
    with pytest.raises(refusals):
        bench.cuda.copy_to_host(bench.got.array[::2], bench.buffer.address, bench.stream.handle)
    bench.got.array.flags.writeable = False
    with pytest.raises(refusals):
        bench.cuda.copy_to_host(bench.got.array, bench.buffer.address, bench.stream.handle)


def test_what_goes_wrong_in_the_stream_is_raised_when_it_is_waited_for(bench: Bench) -> None:
    with DeviceBuffer(bench.cuda, SIZE) as gone:
        bench.cuda.begin_capture(bench.stream.handle)
        bench.cuda.copy_to_host(bench.got.array, gone.address, bench.stream.handle)
        graph = Graph(bench.cuda, bench.cuda.end_capture(bench.stream.handle))
    graph.launch(bench.stream)
    with pytest.raises(CudaError, match="illegal memory access"):
        bench.stream.synchronize()
    graph.close()


# -- mapped memory ---------------------------------------------------------------------------------------------------------


def test_mapped_memory_is_one_memory_under_the_address_of_the_gpu(cuda: Cuda) -> None:
    with PinnedBuffer(cuda, SIZE, mapped=True) as mapped:
        assert mapped.device_address not in (0, mapped.array.ctypes.data)
        seen = np.ctypeslib.as_array((ctypes.c_uint8 * SIZE).from_address(mapped.device_address))
        mapped.array[7] = 42
        assert seen[7] == 42
        seen[8] = 43
        assert mapped.array[8] == 43
        del seen


@pytest.mark.parametrize("mapped", [False, True])
def test_a_region_reaches_the_gpu_copied_or_mapped(mapped: bool, cuda: Cuda, double: DriverDouble) -> None:
    shapes = {"a": (3, 5), "b": (70,), "c": (1,)}
    with Region(cuda, shapes, mapped=mapped) as region, Stream(cuda) as stream, cuda.current():
        assert all(address % ALIGNMENT == 0 for address in region.address.values())
        for value, name in enumerate(shapes, 1):
            region.host[name][...] = value
        region.upload(stream.handle, ("b", "c"))
        region.upload(stream.handle)
        stream.synchronize()
        for value, (name, shape) in enumerate(shapes.items(), 1):
            seen = np.ctypeslib.as_array((ctypes.c_float * int(np.prod(shape))).from_address(region.address[name]))
            assert (seen == value).all()
            seen[:] = 10 * value
        region.download(stream.handle, ("a",))
        stream.synchronize()
        expected = [10.0, 20.0, 30.0] if mapped else [10.0, 2.0, 3.0]
        assert [region.host[name].flat[0] for name in shapes] == expected
        copies = double.calls("cuMemcpyHtoDAsync"), double.calls("cuMemcpyDtoHAsync")
        assert copies == ((0, 0) if mapped else (3, 1))


# -- captures --------------------------------------------------------------------------------------------------------------


def test_what_is_captured_runs_at_each_launch_and_not_before(bench: Bench) -> None:
    with bench.captured() as graph:
        bench.stream.synchronize()
        assert not bench.arrived()
        for value in (1, 2):
            bench.sent.array[:] = value
            graph.launch(bench.stream)
            assert not bench.arrived()
            bench.stream.synchronize()
            assert bench.arrived()


def test_another_thread_may_allocate_while_one_captures(bench: Bench, cuda: Cuda) -> None:
    cuda.begin_capture(bench.stream.handle)
    bench.round_trip()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: DeviceBuffer(cuda, SIZE).close()).result()
    Graph(cuda, cuda.end_capture(bench.stream.handle)).close()


def _allocates(bench: Bench) -> None:
    bench.cuda.allocate(SIZE)


def _pins(bench: Bench) -> None:
    bench.cuda.allocate_host(SIZE, False)


def _waits(bench: Bench) -> None:
    bench.stream.synchronize()


@pytest.mark.parametrize("refused", [_allocates, _pins, _waits])
def test_a_capture_that_failed_is_abandoned_and_its_stream_goes_on(refused, bench: Bench, double: DriverDouble) -> None:
    before = double.alive()
    bench.cuda.begin_capture(bench.stream.handle)
    bench.round_trip()
    with pytest.raises(CudaError, match="operation not permitted when stream is capturing"):
        refused(bench)
    with pytest.raises(CudaError, match="operation failed due to a previous error during capture"):
        bench.round_trip()
    bench.cuda.abandon_capture(bench.stream.handle)
    assert double.alive() == before
    bench.round_trip()
    bench.stream.synchronize()
    assert bench.arrived()
    bench.got.array[:] = 0
    with bench.captured() as graph:
        graph.launch(bench.stream)
        bench.stream.synchronize()
    assert bench.arrived()


def test_a_capture_is_ended_with_an_error_and_abandoned(bench: Bench, double: DriverDouble) -> None:
    before = double.alive()
    bench.cuda.begin_capture(bench.stream.handle)
    with pytest.raises(CudaError, match="not permitted when stream is capturing"):
        bench.stream.synchronize()
    with pytest.raises(CudaError, match="previous error during capture"):
        bench.cuda.end_capture(bench.stream.handle)
    bench.cuda.abandon_capture(bench.stream.handle)
    assert double.alive() == before


def test_a_capture_without_fault_is_abandoned_too(bench: Bench, double: DriverDouble) -> None:
    before = double.alive()
    bench.cuda.begin_capture(bench.stream.handle)
    bench.round_trip()
    bench.cuda.abandon_capture(bench.stream.handle)
    assert double.alive() == before
    bench.cuda.abandon_capture(bench.stream.handle)
    bench.stream.synchronize()
    assert not bench.arrived()


def test_a_graph_that_cannot_be_made_executable_leaves_nothing(bench: Bench, double: DriverDouble) -> None:
    before = double.alive()
    double.fail("cuGraphInstantiateWithFlags")
    with pytest.raises(CudaError, match="unknown error"):
        bench.captured()
    bench.cuda.abandon_capture(bench.stream.handle)
    assert double.alive() == before
    double.fail("cuGraphInstantiateWithFlags", 0)
    bench.captured().close()


# -- time ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def events(cuda: Cuda | None):
    if cuda is None:
        yield None
        return
    with Event(cuda) as start, Event(cuda) as end:
        yield start.handle, end.handle


def test_time_is_taken_outside_of_a_capture(bench: Bench, events: tuple[int, int]) -> None:
    start, end = events
    bench.cuda.record(start, bench.stream.handle, capturing=False)
    bench.round_trip()
    bench.cuda.record(end, bench.stream.handle, capturing=False)
    with pytest.raises(CudaError, match="device not ready"):
        bench.cuda.elapsed_ms(start, end)
    bench.stream.synchronize()
    assert bench.cuda.elapsed_ms(start, end) == 3.0  # the double's clock counts what is done: two copies and the record
    assert bench.cuda.elapsed_ms(end, start) == -3.0


def test_time_is_taken_anew_at_each_launch_of_a_graph(bench: Bench, events: tuple[int, int]) -> None:
    start, end = events
    cuda, stream = bench.cuda, bench.stream
    cuda.begin_capture(stream.handle)
    cuda.record(start, stream.handle, capturing=True)
    bench.round_trip()
    cuda.record(end, stream.handle, capturing=True)
    with Graph(cuda, cuda.end_capture(stream.handle)) as graph, Event(cuda) as first:
        cuda.record(first.handle, stream.handle, capturing=False)
        moments = []
        for _ in range(2):
            graph.launch(stream)
            stream.synchronize()
            assert cuda.elapsed_ms(start, end) == 3.0
            moments.append(cuda.elapsed_ms(first.handle, end))
        assert moments == [4.0, 8.0]


def test_a_moment_that_never_came_has_no_time(bench: Bench, events: tuple[int, int]) -> None:
    with pytest.raises(CudaError, match="invalid resource handle"):
        bench.cuda.elapsed_ms(*events)
