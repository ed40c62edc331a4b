"""An npz from a stranger: looked at in its directory and its arrays' headers before anything of it is unpacked.

An archive of 40 kB can unpack to 40 MB, one that names the same bytes many times to petabytes, and a header can claim any shape. So what
the directory says of an entry is added up and held against a limit, an array's header against its entry's size, and only then memory is
taken. Pickles are never loaded here.
"""

from __future__ import annotations

import io
import math
import os
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.reading import open_file

# A few hours of a few people; a result of an hour with all its samples.
MOST_BYTES = 2 << 30
# Of the directory at an archive's end: some ninety thousand entries.
_MOST_DIRECTORY = 4 << 20
# Deflate packs at most 258 bytes into two bits.
_MOST_RATIO = 1032
_MAGIC = b"\x93NUMPY"
# As numpy writes it, of versions 1 to 3, for everything but arrays with named fields. numpy itself reads it as Python's source: 9000
# brackets keep it for seconds.
_HEADER = re.compile(
    rb"\{'descr': '([<>|=]?[A-Za-z][0-9]{0,9})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:[0-9]{1,19}L?, ?)*(?:[0-9]{1,19}L?)?)\),? ?\}\s*"
)
_MOST_HEADER, _MOST_AXES = 10_000, 32
# Of an archive's end, with a comment as long as it can be.
_MOST_END = 1 << 17
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class NpzFile:
    """An npz, opened; use it with ``with``, or ``close()``, which may be called twice.

    ``most``: how many bytes may be unpacked of it, all in all. ``names`` are those of its entries without ``.npy``.

    Raises OSError as :func:`diffpose_edge.reading.open_file`, and zipfile.BadZipFile or ValueError for what is no archive, is encrypted,
    or is packed in another way than numpy packs.
    """

    def __init__(self, path: str | Path, most: int = MOST_BYTES):
        self._left = self._most = most
        # Archives are never larger than what they hold but for their names.
        self._file = open_file(path, most + _MOST_DIRECTORY)
        self._size = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.read(len(_MAGIC)) == _MAGIC:
                raise ValueError("it is a single array; expected an npz, an archive of arrays")
            directory = _Directory(self._file)
            self._archive = zipfile.ZipFile(directory)
            directory.read_whole = False
            self._entries = self._checked_entries()
        except BaseException:
            self._file.close()
            raise
        self.names: tuple[str, ...] = tuple(self._entries)

    def array(self, name: str) -> NDArray[Any]:
        """Return an array, without objects in it. Raises KeyError, ValueError, zipfile.BadZipFile, zlib.error, EOFError, OSError."""
        shape, fortran, kind, content = self.parts(name)
        if kind.hasobject:
            raise ValueError(f"the array {name!r} holds Python objects, that is a pickle, which is not loaded (allow_pickle is off)")
        if kind.kind not in "biufcSU" or kind.itemsize == 0:
            raise ValueError(f"the array {name!r} is of {kind}: expected numbers or words")
        if math.prod(shape) * kind.itemsize != len(content):
            raise ValueError(f"the array {name!r} claims the shape {shape} of {kind}, and has {len(content)} bytes")
        array = np.frombuffer(content, kind).reshape(shape, order="F" if fortran else "C")
        if kind.kind == "U" and array.size and int(np.frombuffer(content, kind.str[0] + "u4").max()) > 0x10FFFF:
            raise ValueError(f"the array {name!r} holds characters that there are none of")
        return array

    def parts(self, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], memoryview]:
        """Return an entry's shape, whether it is in Fortran's order, its type, and the bytes after its header, which may be a pickle's."""
        content = self._unpacked(name)
        if content[:6] != _MAGIC or len(content) < 12:
            raise ValueError(f"the entry {name!r} is not an array")
        wide = content[6] > 1
        size = int.from_bytes(content[8 : 12 if wide else 10], "little")
        begin = 12 if wide else 10
        if content[6] not in (1, 2, 3) or size > min(_MOST_HEADER, len(content) - begin):
            raise ValueError(f"the array {name!r} has a damaged header")
        found = _HEADER.fullmatch(bytes(content[begin : begin + size]))
        sizes = [] if found is None else [int(part.strip(b" L")) for part in found[3].split(b",") if part.strip()]
        if found is None or len(sizes) > _MOST_AXES:
            raise ValueError(f"the array {name!r} has a header that numpy does not write, or named fields")
        return tuple(sizes), found[2] == b"True", np.dtype(found[1].decode("ascii")), content[begin + size :]

    def close(self) -> None:
        """Close the file."""
        self._archive.close()
        self._file.close()

    def __enter__(self) -> NpzFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        self.close()

    def _checked_entries(self) -> dict[str, zipfile.ZipInfo]:
        entries: dict[str, zipfile.ZipInfo] = {}
        for info in self._archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in entries:
                raise ValueError(f"it has two entries {name!r}")
            if info.flag_bits & 1 or info.compress_type not in _METHODS:
                raise ValueError(f"the entry {name!r} is encrypted, or packed in another way than numpy packs")
            entries[name] = info
        return entries

    def _unpacked(self, name: str) -> memoryview:
        info = self._entries[name]
        if info.file_size > self._left:
            raise ValueError(
                f"with the array {name!r} it unpacks to {self._most - self._left + info.file_size} bytes, and up to {self._most} are read"
            )
        if info.compress_size > self._size:
            raise ValueError(f"the entry {name!r} claims {info.compress_size} bytes of a file of {self._size}")
        ratio = 1 if info.compress_type == zipfile.ZIP_STORED else _MOST_RATIO
        if info.file_size > ratio * (info.compress_size + 1):
            raise ValueError(f"the entry {name!r} claims {info.file_size} bytes, which its {info.compress_size} cannot be unpacked to")
        self._left -= info.file_size
        content = bytearray(info.file_size)
        view, filled = memoryview(content), 0
        with self._archive.open(info) as file:
            while filled < len(view) and (part := file.read(min(1 << 20, len(view) - filled))):
                view[filled : filled + len(part)] = part
                filled += len(part)
        if filled < len(view):
            raise EOFError(f"the entry {name!r} has {filled} bytes, its directory says {len(view)}")
        return view


class _Directory(io.RawIOBase):
    """The file as zipfile sees it. While it looks for the directory, which it reads in one go, it gets no more than a directory has."""

    def __init__(self, file: io.BufferedReader):
        self._file, self.read_whole = file, True

    def read(self, size: int | None = -1) -> bytes:
        if not self.read_whole:
            return self._file.read(size)
        wanted = -1 if size is None else size
        most = _MOST_END if wanted < 0 else _MOST_DIRECTORY
        if wanted > most:
            raise zipfile.BadZipFile(f"its directory has more than {most} bytes")
        content = self._file.read(wanted if wanted >= 0 else most + 1)
        if len(content) > most:
            raise zipfile.BadZipFile(f"its end has more than {most} bytes")
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def read_npz(path: str | Path, wanted: Iterable[str] | None = None, most: int = MOST_BYTES) -> dict[str, NDArray[Any]]:
    """Return the ``wanted`` arrays that an npz has, all of them by default. Raises as :class:`NpzFile` and its ``array`` do."""
    names = None if wanted is None else set(wanted)
    with NpzFile(path, most) as file:
        return {name: file.array(name) for name in file.names if names is None or name in names}


def is_archive(path: Path) -> bool:
    """Tell whether a file ends as an archive does. Raises OSError where it is no file."""
    with open_file(path, 1 << 62) as file:
        return zipfile.is_zipfile(file)
