"""A region's arrays lie apart and aligned, travel in one copy, and are not copied at all where the GPU reads the host's memory."""

from __future__ import annotations

import ctypes
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from diffpose_edge.errors import CudaError
from diffpose_edge.runtime.cuda import ALIGNMENT, Stream
from diffpose_edge.runtime.device_memory import Region, aligned

from .cuda_double import RecordingCuda

SHAPES = {"one": (1,), "row": (64,), "longer": (65,), "pose": (2, 17, 3)}


def bytes_at(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (1, 256), (255, 256), (256, 256), (257, 512)])
def test_sizes_are_rounded_up_to_the_alignment(size: int, expected: int) -> None:
    assert aligned(size) == expected


@pytest.mark.parametrize("options", [{}, {"mapped": True}, {"device_only": True}])
def test_arrays_are_aligned_and_lie_apart_within_the_region(options: dict[str, Any]) -> None:
    with Region(RecordingCuda(), SHAPES, **options) as region:
        places = [(region.address[name], region.address[name] + 4 * int(np.prod(shape))) for name, shape in SHAPES.items()]
        assert all(start % ALIGNMENT == 0 for start, _ in places)
        assert all(end <= start for (_, end), (start, _) in pairwise(places))
        assert places[-1][1] <= places[0][0] + region.size
        assert region.size == 256 + 256 + 512 + 512


def test_the_hosts_arrays_have_their_shapes_start_at_zero_and_lie_as_the_gpus() -> None:
    with Region(RecordingCuda(), SHAPES) as region:
        assert {name: array.shape for name, array in region.host.items()} == SHAPES
        assert all(array.dtype == np.float32 and not array.any() for array in region.host.values())
        first = region.host["one"].ctypes.data
        for name, array in region.host.items():
            assert array.ctypes.data - first == region.address[name] - region.address["one"]


def test_everything_goes_up_and_comes_down_in_one_copy_each() -> None:
    cuda = RecordingCuda()
    with cuda.current(), Stream(cuda) as stream, Region(cuda, SHAPES) as region:
        for i, array in enumerate(region.host.values(), 1):
            array[...] = i
        region.upload(stream.handle)
        assert all(bytes_at(region.address[name], array.nbytes) == array.tobytes() for name, array in region.host.items())
        sent = {name: array.copy() for name, array in region.host.items()}
        for array in region.host.values():
            array[...] = -1
        region.download(stream.handle)
        for name, array in region.host.items():
            np.testing.assert_array_equal(array, sent[name])
        assert [name for name in cuda.names if name.startswith("copy")] == ["copy_to_device", "copy_to_host"]


def test_a_copy_of_some_leaves_the_others_alone() -> None:
    cuda = RecordingCuda()
    with cuda.current(), Stream(cuda) as stream, Region(cuda, SHAPES) as region:
        region.upload(stream.handle)
        for array in region.host.values():
            array[...] = 7
        region.upload(stream.handle, ("row", "pose"))
        for name, array in region.host.items():
            there = np.frombuffer(bytes_at(region.address[name], array.nbytes), np.float32)
            assert (there == (7 if name in ("row", "pose") else 0)).all(), name
        region.host["one"][:] = region.host["pose"][...] = 3
        region.download(stream.handle, ("pose",))
        assert region.host["one"] == 3
        assert (region.host["pose"] == 7).all()


def test_mapped_memory_is_one_and_the_same_and_never_copied() -> None:
    cuda = RecordingCuda()
    with cuda.current(), Stream(cuda) as stream, Region(cuda, SHAPES, mapped=True) as region:
        region.host["pose"][...] = 5
        region.upload(stream.handle)
        region.upload(stream.handle, ("pose",))
        region.download(stream.handle)
        assert bytes_at(region.address["pose"], region.host["pose"].nbytes) == region.host["pose"].tobytes()
        assert "allocate" not in cuda.names
        assert not [name for name in cuda.names if name.startswith("copy")]


def test_what_the_gpu_alone_uses_has_no_host_memory() -> None:
    cuda = RecordingCuda()
    with Region(cuda, SHAPES, device_only=True) as region:
        assert region.host == {}
        assert "allocate_host" not in cuda.names


def test_a_region_of_nothing_can_be_made() -> None:
    with Region(RecordingCuda(), {}) as region:
        assert region.address == region.host == {}


@pytest.mark.parametrize("options", [{}, {"mapped": True}, {"device_only": True}])
def test_it_is_given_back_once(options: dict[str, Any]) -> None:
    cuda = RecordingCuda()
    region = Region(cuda, SHAPES, **options)
    assert cuda.alive
    region.close()
    region.close()
    assert not cuda.alive
    assert region.host == {}


@pytest.mark.parametrize("call", [1, 2])
def test_a_refused_allocation_leaves_nothing_behind(call: int) -> None:
    cuda = RecordingCuda(fail_at=call)
    with pytest.raises(CudaError, match=f"call {call}, allocate"):
        Region(cuda, SHAPES)
    assert not cuda.alive
