"""What an ONNX graph of a bundle may hold, looked at in its bytes before any runtime parses it.

A bundle's graphs are plain: the operators that our exports write, and every constant with its values in the graph itself. ONNX has more,
which a stranger's graph could use: constants in other files (ONNX Runtime before its fix of February 2026, microsoft/onnxruntime pull
request 27430, follows ``..`` out of the working folder when a graph comes as bytes), loops and branches, functions, operators of other
libraries. None of it is let through. The device has no ``onnx`` package: the little that is needed of Protocol Buffers is read here.

Field numbers: onnx/onnx.proto of ONNX 1.22; wire types: Protocol Buffers, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from diffpose_edge.errors import BundleError

# Every operator that an export, a calibration or the passes for the CPU have written, of every kind of bundle and in every precision
# (tests/core/test_graph_contents.py holds the bundles against it), and four that other versions of PyTorch's exporter write in their
# place. None of them runs another graph, opens a file or makes its result's size up from nothing but numbers in the graph, except Expand.
_OURS = (
    "Add Cast Concat Constant DequantizeLinear Div Erf Expand Flatten Gather Gemm Identity LayerNormalization MatMul Mul Pad Pow "
    "QuantizeLinear ReduceMean ReduceSum Relu Reshape Shape Slice Softmax Split Sqrt Squeeze Sub Transpose Unsqueeze"
)
_ONNX_RUNTIMES = "Attention FusedMatMul MatMulIntegerToFloat MultiHeadAttention"
OPERATORS = {"": frozenset(_OURS.split()), "com.microsoft": frozenset(_ONNX_RUNTIMES.split())}
# The deepest of our encoders, 256 layers of a kind that takes some 60 nodes, has half as many.
MOST_NODES = 32_768
MOST_RANK = 8
# Each takes a microsecond; a graph of ours has some ten thousand.
MOST_FIELDS = 2_000_000

Value: TypeAlias = "int | memoryview"


@dataclass(frozen=True)
class GraphContents:
    """How many nodes and constants a graph has, and the bytes of the constants' values."""

    nodes: int
    constants: int
    constant_bytes: int


def checked_graph(content: bytes, what: str) -> GraphContents:
    """Look through a graph as ONNX stores it. Raises BundleError, which begins with ``what`` it is, for one that no bundle holds."""
    try:
        return _Reader(what).model(memoryview(content))
    except _Damaged as err:
        raise BundleError(f"{what} is not an ONNX graph, or is damaged ({err}); copy the bundle again, or export it again") from None


class _Damaged(Exception):
    pass


class _Reader:
    def __init__(self, what: str):
        self._what = what
        self._nodes = self._constants = self._constant_bytes = self._fields = 0

    def model(self, content: memoryview) -> GraphContents:
        graphs = 0
        for number, value in self._each(content):
            if number == 7:
                graphs += 1
                self._graph(_message(value))
            elif number == 20:
                raise self._refused("has a graph for training")
            elif number == 25:
                raise self._refused("has functions of its own")
        if not graphs:
            raise _Damaged("it holds no graph")
        return GraphContents(self._nodes, self._constants, self._constant_bytes)

    def _graph(self, content: memoryview) -> None:
        for number, value in self._each(content):
            if number == 1:
                self._node(_message(value))
            elif number == 5:
                self._tensor(_message(value))
            elif number == 15:
                raise self._refused("has sparse constants")

    def _node(self, content: memoryview) -> None:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise self._refused(f"has more than {MOST_NODES} nodes")
        operator = domain = ""
        for number, value in self._each(content):
            if number == 4:
                operator = _text(value)
            elif number == 7:
                domain = _text(value)
            elif number == 5:
                self._attribute(_message(value))
        domain = "" if domain == "ai.onnx" else domain
        if operator not in OPERATORS.get(domain, ()):
            raise self._refused(f"has the operator {(f'{domain}.' if domain else '') + operator!r}, which no export writes")

    def _attribute(self, content: memoryview) -> None:
        for number, value in self._each(content):
            if number in (5, 10):
                self._tensor(_message(value))
            elif number in (6, 11):
                raise self._refused("has graphs within a node")
            elif number in (22, 23):
                raise self._refused("has sparse constants")

    def _tensor(self, content: memoryview) -> None:
        self._constants += 1
        values, rank = 1, 0
        for number, value in self._each(content):
            if number == 1:
                for size in _varints(value):
                    # A negative size is a number beyond 2^63 here.
                    rank, values = rank + 1, values * size
                    if rank > MOST_RANK or values > 1 << 63:
                        raise self._refused("has a constant of a size that no constant has")
            elif number == 13 or (number == 14 and value != 0):
                raise self._refused("keeps constants in another file, which could be any file of this machine")
            elif number == 9:
                self._constant_bytes += len(_message(value))
        # Two values share a byte where four bits are enough for each: no type has smaller ones.
        if values > 2 * len(content):
            raise self._refused(f"has a constant that claims {values} values and has {len(content)} bytes")

    def _each(self, content: memoryview) -> Iterator[tuple[int, Value]]:
        for field in _fields(content):
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise self._refused(f"has more than {MOST_FIELDS} fields")
            yield field

    def _refused(self, why: str) -> BundleError:
        return BundleError(f"{self._what} {why}; refused. Export the bundle again, or ask whoever made it")


def _fields(content: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield the fields of a message: number and value, an int for varints and a view for all others."""
    at, end = 0, len(content)
    while at < end:
        key, at = _varint(content, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(content, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(content, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise _Damaged(f"wire type {wire}")
        if size > end - at:
            raise _Damaged("it ends within a field")
        yield number, content[at : at + size]
        at += size


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(content) or shift > 63:
            raise _Damaged("it ends within a number, or the number is too long")
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
        shift += 7


def _varints(value: Value) -> Iterator[int]:
    """Yield a repeated number, which comes one by one or packed."""
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        yield number


def _message(value: Value) -> memoryview:
    if isinstance(value, int):
        raise _Damaged("a number stands where a message is expected")
    return value


def _text(value: Value) -> str:
    return bytes(_message(value)[:200]).decode("utf-8", "replace")
