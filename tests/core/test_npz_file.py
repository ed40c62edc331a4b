"""Archives that would unpack to more than there is, or claim to: refused by their directory and headers, before memory is taken."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge import npz_file
from diffpose_edge.errors import KeypointError
from diffpose_edge.keypoints import UNREADABLE, load_keypoints
from diffpose_edge.npz_file import NpzFile, read_npz

MB = 1 << 20


@contextmanager
def within(most: int) -> Iterator[None]:
    """Fail where more memory than this is taken at once; numpy's arrays count."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most, f"{peak} bytes were taken"


def header_of(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def zipped(path: Path, *entries: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def bomb(path: Path) -> Path:
    """40 kB that unpack to 40 MB of zeros."""
    np.savez_compressed(path, keypoints=np.zeros((40 * MB // 8,)))
    assert path.stat().st_size < MB / 10
    return path


def test_every_kind_of_array_is_read_as_numpy_reads_it(tmp_path: Path) -> None:
    arrays = {
        "nothing": np.zeros((0, 17, 2), np.float32),
        "one": np.array(3.5),
        "word": np.array("Walking 1"),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big end first": np.arange(5, dtype=">i4"),
        "a/b": np.array([True, False]),
        "bytes": np.array([b"ab", b"c"]),
        "complex": np.ones(2, np.complex64),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)  # type: ignore[operator]
        found = read_npz(tmp_path / "a.npz")
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
    assert list(read_npz(tmp_path / "a.npz", ("one", "missing"))) == ["one"]


def test_what_unpacks_to_more_than_is_given_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.npz")
    with within(2 * MB), pytest.raises(ValueError, match=r"it unpacks to 419\d{5} bytes, and up to 1048576 are read"):
        read_npz(path, most=MB)
    with pytest.raises(AssertionError, match="bytes were taken"), within(2 * MB):
        np.load(path)["keypoints"]  # the control: numpy unpacks it


def test_arrays_that_are_small_each_add_up(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "many.npz", **{f"a{i}": np.zeros(MB // 8) for i in range(20)})
    with within(13 * MB), pytest.raises(ValueError, match="and up to 10485760 are read"):
        read_npz(tmp_path / "many.npz", most=10 * MB)


def test_what_is_not_wanted_is_not_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", bomb=np.zeros(40 * MB // 8), good=np.ones(3))
    with within(2 * MB):
        assert list(read_npz(tmp_path / "a.npz", ("good",), most=MB)) == ["good"]


HEADERS = {
    "more than memory": header_of((10**13, 17, 2)),
    "more than an index": header_of((10**30,)),
    "nothing but many of it": header_of((0, 10**18)) + b"x",
    "less than there is": header_of((1,)) + bytes(8),
    "negative": header_of((-1, -4)) + bytes(16),
    "no size": header_of((10**18,), "|S0"),
    "objects": header_of((), "|O") + b"cos\nsystem\n.",
    "fields": header_of((1,), "<f4").replace(b"'<f4'", b"[('a', '<f4')]") + bytes(4),
    "a long header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 10**6) + b"(" * 10**6,
    "a header beyond the end": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1),
    "brackets": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000,
    "another version": b"\x93NUMPY\x09\x00" + bytes(20),
    "letters that there are none of": header_of((1,), "<U1") + b"\xff\xff\xff\xff",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies_is_refused_before_memory_is_taken(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "lies.npz", ("keypoints.npy", HEADERS[name]))
    with within(8 * MB), pytest.raises(UNREADABLE):
        read_npz(path)
    with pytest.raises(KeypointError, match="cannot be read as an npz"):
        load_keypoints(path)


def test_a_directory_that_claims_more_than_can_be_packed_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.npz", ("keypoints.npy", header_of((1,)) + bytes(4)))
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = struct.pack("<I", 2**31 - 1)
    path.write_bytes(content)
    with within(8 * MB), pytest.raises(ValueError, match="claims 2147483647 bytes, which its"):
        read_npz(path, most=1 << 32)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_directory_that_claims_more_than_its_file_has_is_refused(tmp_path: Path, method: int) -> None:
    path = zipped(tmp_path / "a.npz", ("keypoints.npy", header_of((1,)) + bytes(4)), method=method)
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + 20
    content[at : at + 8] = struct.pack("<II", 2**31 - 1, 2**29)
    path.write_bytes(content)
    with within(8 * MB), pytest.raises(ValueError, match="claims 2147483647 bytes of a file of"):
        read_npz(path)


def overlapping(path: Path, count: int) -> Path:
    """An archive whose directory names the same 1 MB of zeros many times: what a "better zip bomb" is made of."""
    zipped(path, ("a.npy", header_of((MB // 4,)) + bytes(MB)))
    content = path.read_bytes()
    begin, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entry = content[begin:end]
    entries = b"".join(entry.replace(b"a.npy", f"{i:05}"[:5].encode()) for i in range(count))
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(entries), begin, 0)
    path.write_bytes(content[:begin] + entries + tail)
    return path


def test_the_same_bytes_named_many_times_count_as_often(tmp_path: Path) -> None:
    path = overlapping(tmp_path / "a.npz", 500)
    with within(40 * MB), pytest.raises((ValueError, zipfile.BadZipFile)):
        read_npz(path, most=20 * MB)


def test_a_directory_of_millions_of_entries_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = overlapping(tmp_path / "a.npz", 5000)
    with NpzFile(path) as file:
        assert len(file.names) == 5000  # the control
    monkeypatch.setattr(npz_file, "_MOST_DIRECTORY", 100_000)
    with within(MB), pytest.raises(zipfile.BadZipFile, match="directory"):
        NpzFile(path)


def encrypted(path: Path) -> Path:
    zipped(path, ("a.npy", header_of((1,)) + bytes(4)))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    return path


SPOILED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "packed otherwise": (lambda path: zipped(path, ("a.npy", header_of((1,)) + bytes(4)), method=zipfile.ZIP_LZMA), "another way"),
    "encrypted": (encrypted, "encrypted"),
    "twice": (lambda path: zipped(path, ("a.npy", b""), ("a", b"")), "two entries 'a'"),
    "single": (lambda path: (path.write_bytes(header_of((1,)) + bytes(4)), path)[1], "single array"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_numpy_does_not_write_is_refused(tmp_path: Path, name: str) -> None:
    make, said = SPOILED[name]
    with pytest.raises(ValueError, match=said):
        read_npz(make(tmp_path / "a.npz"))


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.arange(1000.0))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[2000] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(zipfile.BadZipFile, match="CRC"):
        read_npz(tmp_path / "a.npz")
