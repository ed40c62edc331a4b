"""Engines for a backend over the double of the driver, which has no kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from diffpose_edge.manifest import Shapes
from diffpose_edge.runtime.cuda import Cuda

from .double import DriverDouble


class HostEngine:
    """An ONNX graph behind addresses, computed by ONNX Runtime when it is enqueued. No stream can capture that."""

    def __init__(self, double: DriverDouble, content: bytes):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._double = double
        self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._inputs = {value.name: tuple(value.shape) for value in self._session.get_inputs()}
        self._outputs = {value.name: tuple(value.shape) for value in self._session.get_outputs()}
        self._addresses: dict[str, int] = {}

    def bind(self, addresses: Mapping[str, int]) -> None:
        self._addresses |= addresses

    def enqueue(self, stream: int) -> None:
        self._double.drain(stream)  # what was enqueued before comes first
        given = {name: self._array(name, shape).copy() for name, shape in self._inputs.items()}
        for (name, shape), result in zip(self._outputs.items(), self._session.run(list(self._outputs), given), strict=True):
            self._array(name, shape)[...] = result

    def _array(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return np.ctypeslib.as_array((ctypes.c_float * prod(shape)).from_address(self._addresses[name])).reshape(shape)

    def describe(self) -> dict[str, Any]:
        return {"backend": "ONNX Runtime behind a double of the driver"}

    def close(self) -> None:
        pass


class CopyingEngine:
    """Fills its outputs with copies of its inputs: no network, but work of the device, which a stream can capture."""

    def __init__(self, cuda: Cuda, io: tuple[Shapes, Shapes]):
        self._cuda = cuda
        self._inputs, self._outputs = ({name: 4 * prod(shape) for name, shape in shapes.items()} for shapes in io)
        self._addresses: dict[str, int] = {}

    def bind(self, addresses: Mapping[str, int]) -> None:
        self._addresses |= addresses

    def enqueue(self, stream: int) -> None:
        largest, *others = sorted(self._inputs.items(), key=lambda item: -item[1])
        for out, room in self._outputs.items():
            # Every byte of the output is written; over its beginning go the smaller ones, so that something of each is left.
            parts = [(*largest, offset) for offset in range(0, room, largest[1])] + [(*other, 0) for other in others]
            for name, size, offset in parts:
                self._cuda.copy(self._addresses[out] + offset, self._addresses[name], min(size, room - offset), stream)

    def describe(self) -> dict[str, Any]:
        return {"backend": "copies"}

    def close(self) -> None:
        pass
