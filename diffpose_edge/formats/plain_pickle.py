"""Pickles of dictionaries of numeric arrays, read without running anything that they name.

A pickle builds objects by calling functions that it names, which is why it can run any code. Here every name that numpy's arrays need
leads to a stand-in that only writes down what it is called with, and every other name is refused; arrays are then made of the bytes
written down, after their types and sizes were checked. So neither code of the file's choice runs, nor numpy's own unpickling.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import told_by

# Deeper than any published file; more entries than any has. A list that contains itself ends here.
MOST_LEVELS, MOST_ENTRIES = 8, 100_000


class _Noted:
    """What would have been an object: the arguments that made it, and the state that was set afterwards."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        # Anything may be set, or nothing; what uses it raises where it is not what numpy sets.
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Noted):
    pass


class _Type(_Noted):
    pass


class _Scalar(_Noted):
    pass


def _stand_ins() -> dict[tuple[str, str], Any]:
    """Return what each name leads to. Functions are made anew for each file, so that what a file does to them ends with it."""

    def encoded(text: str, encoding: str = "latin1") -> bytes:
        # How Python 3 writes bytes for protocol 2: as text that is to be encoded.
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"bytes as text in {encoding}")
        return text.encode("latin1")

    found: dict[tuple[str, str], Any] = {("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Type, ("_codecs", "encode"): encoded}
    for core in ("numpy.core", "numpy._core"):  # before numpy 2, and since
        found[f"{core}.multiarray", "_reconstruct"] = lambda *_: _Array()
        found[f"{core}.multiarray", "scalar"] = _Scalar
        found[f"{core}.numeric", "_frombuffer"] = _Array
    return found


# The unpickler that is written in Python: the other one reserves as much memory as a pickle's largest reference says.
class _Reader(pickle._Unpickler):
    # What it has while it loads.
    read: Callable[[int], bytes]
    append: Callable[[Any], None]

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")  # what numpy's Python 2 pickles need
        self._found, self._size = _stand_ins(), len(data)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._found[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither a dictionary, a list nor a numeric array") from None

    def load_bytearray8(self) -> None:
        # Python's own makes room for as many bytes as the pickle says before it looks whether they are there.
        (size,) = struct.unpack("<Q", self.read(8))
        if size > self._size:
            raise pickle.UnpicklingError("it ends within an array's bytes")
        self.append(bytearray(self.read(size)))

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: load_bytearray8}


# What reading a damaged pickle raises, and making arrays of what is in it.
_DAMAGED = (
    ValueError, EOFError, IndexError, KeyError, AttributeError, TypeError, MemoryError, OverflowError, RecursionError, AssertionError,
    struct.error,
)  # fmt: skip


def read_plain_pickle(data: bytes) -> Any:
    """Return dictionaries, lists, texts, numbers and numeric arrays that a pickle holds; tuples and object arrays become lists.

    Raises pickle.UnpicklingError for anything else, and for what is no pickle.
    """
    try:
        return _Plain().of(_Reader(data).load())
    except _DAMAGED as err:
        raise pickle.UnpicklingError(f"it is damaged: {told_by(err)}") from None


class _Plain:
    """Makes of stand-ins what they stand for, counting what it has made: references let a short pickle describe endless things."""

    def __init__(self) -> None:
        self.entries = 0

    def of(self, value: Any, level: int = 0) -> Any:
        self.entries += 1
        if level > MOST_LEVELS or self.entries > MOST_ENTRIES:
            raise pickle.UnpicklingError(f"it has more than {MOST_LEVELS} levels or {MOST_ENTRIES} entries")
        if isinstance(value, dict):
            return {self.key(key): self.of(below, level + 1) for key, below in value.items()}
        if isinstance(value, list | tuple):
            return [self.of(below, level + 1) for below in value]
        if value is None or isinstance(value, str | int | float | bool):
            return value
        if isinstance(value, _Array):
            return self.array(value, level)
        if isinstance(value, _Scalar):
            kind, content = value.arguments
            return _made(content, self.type(kind), ()).item()
        raise pickle.UnpicklingError(f"it holds {type(value).__name__}: expected dictionaries, lists, texts, numbers and arrays")

    def key(self, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise pickle.UnpicklingError(f"a dictionary has a key of the type {type(value).__name__}; expected texts")
        return str(value)

    def array(self, value: _Array, level: int) -> Any:
        if value.arguments:  # numpy's protocol 5
            content, kind, shape, order = value.arguments
        else:
            _version, shape, kind, fortran, content = value.state
            order = "F" if fortran else "C"
        if kind.arguments[0] in ("O8", "O4", "O", "|O") and isinstance(content, list):
            # Objects lie in a list, in order; the shape of such an array is of no interest here, only a single one is not a list.
            below = self.of(content, level)
            return below[0] if tuple(shape) == () else below
        return _made(content, self.type(kind), tuple(shape), order)

    def type(self, kind: Any) -> np.dtype[Any]:
        """Return the type that a stand-in describes: numbers, in either byte order."""
        name = str(kind.arguments[0])
        order = kind.state[1] if kind.state is not None else "="
        if len(name) != 2 or name[0] not in "fiu" or name[1] not in "1248" or name == "f1" or order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it holds an array of the type {name!r}; expected numbers")
        return np.dtype(f"{order}{name}")


def _made(content: Any, kind: np.dtype[Any], shape: tuple[Any, ...], order: str = "C") -> NDArray[Any]:
    data = content.encode("latin1") if isinstance(content, str) else bytes(content) if isinstance(content, bytes | bytearray) else None
    sizes = [int(n) for n in shape]
    total = kind.itemsize
    for n in sizes:
        total *= n
    if data is None or len(sizes) > 8 or any(n < 0 for n in sizes) or total != len(data):
        raise pickle.UnpicklingError("it holds an array whose bytes do not fit its shape")
    return np.frombuffer(data, kind).reshape(sizes, order="F" if order == "F" else "C")
