"""A test double of the CUDA layer: not a GPU. Memory is numpy arrays, a graph is a list of calls.

What it proves is the orchestration: order, addresses, alignment, what happens in a capture and what does not. What it cannot
prove is anything that only a GPU does: concurrency, numerics, speed.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from contextlib import contextmanager

import numpy as np

from diffpose_edge.errors import CudaError
from diffpose_edge.runtime.cuda import ALIGNMENT, Device, HostMemory

# Which memory can be reached by the GPU, and by copies on the host's side: any other cannot be copied while the host goes on.
GPU, HOST = ("memory", "mapped"), ("host", "mapped")
# Milliseconds that work takes by the double's clock: each a power of two, so that a sum tells what is in it.
COST_MS = {"copy_to_device": 1.0, "copy_to_host": 2.0, "copy": 4.0, "start": 64.0, "context": 128.0, "step": 256.0}
GIVEN_BACK = ("free", "free_host", "destroy_stream", "destroy_event", "destroy_graph", "abandon_capture")


class RecordingCuda:
    """Does at once what it is told, or, in a capture, keeps it for the launch; ``log`` has every call and what it was given.

    ``integrated``: the GPU reads the host's memory. ``graphs``: whether there are any. ``refuse_capture``: what the driver
    says at the end of a capture, ``refuse_begin`` at its beginning. ``fail_at``: which call fails, the first being 1; what
    gives something back is not counted. With ``broken_after`` every call after that many fails, giving back included, as
    after an illegal access.
    """

    name = "recording double"

    def __init__(
        self,
        *,
        index=0,
        integrated=False,
        maps_host=None,
        graphs=True,
        refuse_capture="",
        refuse_begin="",
        fail_at=None,
        broken_after=None,
    ):
        self.device = Device(index, "no GPU", 87, 13020, integrated, integrated if maps_host is None else maps_host)
        self.graphs, self.refuse_capture, self.refuse_begin = graphs, refuse_capture, refuse_begin
        self.fail_at, self.broken_after = fail_at, broken_after
        self.calls = 0  # those that may fail
        self.log: list[tuple] = []
        self._depth = threading.local()  # how often the context is current, in each thread
        self._inside: list[int] = []  # the threads in which it is
        self.most_threads = 0
        self.alive: dict[int, tuple[str, object]] = {}  # what was handed out and not given back
        self.captured: list | None = None
        self.numbers = itertools.count(1)
        self.clock = 0.0
        self.closed = 0

    @property
    def names(self):
        """The calls by their names, in their order."""
        return [entry[0] for entry in self.log]

    @property
    def is_current(self):
        """Whether the context is current in the calling thread."""
        return getattr(self._depth, "value", 0) > 0

    @contextmanager
    def current(self):
        assert not self.closed, "used after close()"
        self._depth.value = getattr(self._depth, "value", 0) + 1
        self._inside.append(threading.get_ident())
        self.most_threads = max(self.most_threads, len(set(self._inside)))
        try:
            yield
        finally:
            self._inside.remove(threading.get_ident())
            self._depth.value -= 1

    def _call(self, name, *arguments):
        assert self.is_current, f"{name} without a current context"
        self.log.append((name, *arguments))
        self.calls += name not in GIVEN_BACK
        if self.broken_after is not None and self.calls > self.broken_after:
            raise CudaError("an illegal memory access was encountered")
        if self.calls == self.fail_at and name not in GIVEN_BACK:
            raise CudaError(f"call {self.calls}, {name}, fails in this test")

    def _hand_out(self, kind, what=None, number=None):
        number = number if number is not None else next(self.numbers)
        assert number not in self.alive
        self.alive[number] = kind, what
        return number

    def _take_back(self, kind, number):
        found, _ = self.alive.pop(number)  # a second time is a KeyError
        assert found == kind

    def _bytes(self, size):
        backing = np.zeros(size + ALIGNMENT, np.uint8)
        skip = -backing.ctypes.data % ALIGNMENT
        return backing[skip : skip + size]

    def allocate(self, size):
        self._refuse_in_capture("allocate")
        self._call("allocate", size)
        memory = self._bytes(size)
        memory[:] = 0xA5  # what nobody wrote is not zero
        return self._hand_out("memory", memory, memory.ctypes.data)

    def free(self, address):
        self._call("free")
        self._take_back("memory", address)

    def allocate_host(self, size, mapped):
        self._refuse_in_capture("allocate_host")
        self._call("allocate_host", size, mapped)
        memory = self._bytes(size)
        number = self._hand_out("mapped" if mapped else "host", memory, memory.ctypes.data)
        return HostMemory(memory, number if mapped else 0, number)

    def free_host(self, memory):
        self._call("free_host")
        self._take_back("mapped" if memory.device_address else "host", memory.owner)

    def create_stream(self):
        self._call("create_stream")
        return self._hand_out("stream")

    def destroy_stream(self, stream):
        self._call("destroy_stream")
        self._take_back("stream", stream)

    def create_event(self):
        self._call("create_event")
        return self._hand_out("event", float("nan"))

    def destroy_event(self, event):
        self._call("destroy_event")
        self._take_back("event", event)

    def synchronize(self, stream):
        self._refuse_in_capture("synchronize")
        self._is("stream", stream)
        self._call("synchronize")

    def enqueue(self, name, action, stream, *details):
        """Do it now, or keep it for the launch; the clock goes on by what it costs."""
        self._is("stream", stream)
        self._call(name, *details)

        def done():
            action()
            self.clock += COST_MS.get(name, 0.0)

        if self.captured is not None:
            self.captured.append(done)
        else:
            done()

    def copy_to_device(self, address, source, stream):
        size = source.nbytes
        self.enqueue("copy_to_device", lambda: self._move(GPU, address, HOST, source.ctypes.data, size), stream, address, size)

    def copy_to_host(self, target, address, stream):
        size = target.nbytes
        self.enqueue("copy_to_host", lambda: self._move(HOST, target.ctypes.data, GPU, address, size), stream, address, size)

    def copy(self, target, source, size, stream):
        self.enqueue("copy", lambda: self._move(GPU, target, GPU, source, size), stream, target, source, size)

    def _move(self, for_target, target, for_source, source, size):
        self.check_inside(target, size, for_target)
        self.check_inside(source, size, for_source)
        ctypes.memmove(target, source, size)

    def record(self, event, stream, capturing):
        assert capturing == (self.captured is not None)

        def now():
            self._is("event", event)
            self.alive[event] = "event", self.clock

        self.enqueue("record", now, stream)

    def elapsed_ms(self, start, end):
        self._call("elapsed_ms")
        return self.alive[end][1] - self.alive[start][1]

    def begin_capture(self, stream):
        self._is("stream", stream)
        self._call("begin_capture")
        assert self.captured is None, "a capture in a capture"
        if self.refuse_begin:
            raise CudaError(self.refuse_begin)
        self.captured = []

    def end_capture(self, stream):
        self._call("end_capture")
        assert self.captured is not None, "no capture to end"
        if self.refuse_capture:
            raise CudaError(self.refuse_capture)
        captured, self.captured = self.captured, None
        return self._hand_out("graph", captured)

    def abandon_capture(self, stream):
        self._call("abandon_capture")
        self.captured = None

    def launch(self, graph, stream):
        assert self.captured is None, "a launch in a capture"
        self._is("stream", stream)
        self._is("graph", graph)
        self._call("launch", graph)
        for action in self.alive[graph][1]:
            action()

    def destroy_graph(self, graph):
        self._call("destroy_graph")
        self._take_back("graph", graph)

    def memory(self):
        return 2**30, 2**31

    def close(self):
        self.closed += 1

    def _refuse_in_capture(self, what):
        if self.captured is not None:
            raise CudaError(f"{what} is not permitted in a capture")

    def _is(self, kind, number):
        assert self.alive.get(number, ("gone",))[0] == kind, f"{number} is no {kind}, or no longer"

    def check_inside(self, address, size, kinds):
        """Whoever reads or writes must stay within something that was handed out, is still there, and can be reached from there."""
        assert any(
            kind in kinds and number <= address and address + size <= number + len(what) for number, (kind, what) in self.alive.items()
        ), f"{size} bytes at {address:#x} are not within {' or '.join(kinds)} memory that was handed out"
