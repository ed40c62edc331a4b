"""A test double of a TensorRT engine: an ONNX graph behind addresses, computed by ONNX Runtime over the double of CUDA."""

from __future__ import annotations

import ctypes
import itertools
from functools import lru_cache

import numpy as np
import onnxruntime as ort

from diffpose_edge.errors import CudaError, EngineError
from diffpose_edge.runtime.cuda import ALIGNMENT

from .cuda_double import GPU


@lru_cache(maxsize=32)
def session_of(content):
    """An ONNX Runtime session that computes as the CPU backend does with one thread; made once for each graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.intra_op_num_threads = 1
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class OnnxRuntimeEngine:
    """An ONNX graph behind addresses: what an engine is to the backend, computed on the CPU. ``failing``: when it refuses,
    "capture", "always" or "close".
    """

    def __init__(self, cuda, name, content, *, failing=""):
        self.cuda, self.name, self.failing, self.closed, self.kept = cuda, name, failing, 0, 0
        self.session = session_of(content)
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = [value.name for value in self.session.get_outputs()]
        self.shapes = {value.name: tuple(value.shape) for value in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.addresses: dict[str, int] = {}

    def _used(self):
        assert self.cuda.is_current, f"{self.name} without a current context"
        assert not self.closed, f"{self.name} after close()"

    def size_of(self, name):
        return 4 * int(np.prod(self.shapes[name]))

    def bind(self, addresses):
        self._used()
        for name, address in addresses.items():
            assert name in self.shapes, f"{self.name} has no {name}"
            assert address % ALIGNMENT == 0, f"{self.name}: {name} is not aligned"
            self.addresses[name] = address

    def enqueue(self, stream):
        self._used()
        assert set(self.addresses) == set(self.shapes), f"{self.name}: not everything has an address"
        if self.failing == "always" or (self.failing == "capture" and self.cuda.captured is not None):
            raise EngineError(f"the {self.name} engine refuses")
        bound = dict(self.addresses)  # what counts is where they were when it was enqueued
        self.cuda.enqueue(self.name, lambda: self._run(bound), stream, bound)

    def _run(self, bound):
        ranges = sorted((bound[name], bound[name] + self.size_of(name), name) for name in self.shapes)
        for (_, end, first), (start, _, second) in itertools.pairwise(ranges):
            assert end <= start, f"{self.name}: {first} and {second} lie in the same memory"
        for start, end, _ in ranges:
            self.cuda.check_inside(start, end - start, GPU)

        def array(name):
            count = self.size_of(name) // 4
            return np.ctypeslib.as_array((ctypes.c_float * count).from_address(bound[name])).reshape(self.shapes[name])

        results = self.session.run(self.outputs, {name: array(name).copy() for name in self.inputs})
        for name, result in zip(self.outputs, results, strict=True):
            array(name)[...] = result

    def keep_kernels(self):
        self._used()
        self.kept += 1

    def describe(self):
        return {"backend": "ONNX Runtime in a double of CUDA"}

    def close(self):
        assert self.cuda.is_current, f"{self.name} closed without a current context"
        self.closed += 1
        if self.failing == "close":
            raise CudaError(f"the {self.name} engine does not go")
