"""Pickled dictionaries of arrays without running a pickle: what numpy writes comes back, and nothing that is named is called."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpose_edge.errors import KeypointError
from diffpose_edge.formats import read_detections
from diffpose_edge.formats.plain_pickle import MOST_ENTRIES, read_plain_pickle

from . import written


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["<f4", ">f8", "<i2", "|u1", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numbers_come_back_as_they_were(protocol: int, kind: str, order: Any) -> None:
    array = np.array(np.arange(24).reshape(2, 3, 4), kind, order=order)
    read = read_plain_pickle(pickle.dumps({"a": {"b": [array, (array[0], 7)]}, 3: "x"}, protocol))
    np.testing.assert_array_equal(read["a"]["b"][0], array)
    np.testing.assert_array_equal(read["a"]["b"][1][0], array[0])
    assert read["3"] == "x"
    assert read["a"]["b"][0].dtype == array.dtype


def test_numbers_of_numpys_and_arrays_of_objects() -> None:
    objects = np.empty(2, object)
    objects[:] = [np.float32(0.5), {"w": np.int64(3)}]
    assert read_plain_pickle(pickle.dumps(objects)) == [0.5, {"w": 3}]


class Calls:
    """What a hostile file holds: on loading, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_nothing_that_a_pickle_names_is_called(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    data = pickle.dumps({"walk": Calls(trap)})
    with pytest.raises(pickle.UnpicklingError, match=r"mkdir"):
        read_plain_pickle(data)
    assert not trap.exists()
    pickle.loads(data)  # the trap works
    assert trap.exists()


@pytest.mark.parametrize(
    "name", ["builtins.eval", "numpy.load", "numpy.core.multiarray.fromfile", "diffpose_edge.cli.main", "copyreg._reconstructor"]
)
def test_names_that_no_array_needs_are_refused(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    with pytest.raises(pickle.UnpicklingError, match=attribute):
        read_plain_pickle(f"c{module}\n{attribute}\n(S'1'\ntR.".encode())


def test_a_file_with_a_trap_is_refused_and_named(tmp_path: Path) -> None:
    trap: Any = {"walk": {"custom": [Calls(tmp_path / "trap")]}}
    np.savez(tmp_path / "custom.npz", positions_2d=trap, metadata=np.array({"layout_name": "coco"}))
    with pytest.raises(KeypointError, match=r"custom.npz: positions_2d cannot be read: it names .*mkdir"):
        read_detections(tmp_path / "custom.npz")
    assert not (tmp_path / "trap").exists()


def test_references_do_not_multiply_without_bound() -> None:
    """Each list holds the one before it ten times: seven levels are 10^7 entries out of some hundred bytes."""
    nested: Any = []
    for _ in range(7):
        nested = [nested] * 10
    assert len(pickle.dumps(nested)) < 500
    with pytest.raises(pickle.UnpicklingError, match=str(MOST_ENTRIES)):
        read_plain_pickle(pickle.dumps(nested))
    looped: Any = []
    looped.append(looped)
    with pytest.raises(pickle.UnpicklingError, match="levels"):
        read_plain_pickle(pickle.dumps(looped))


@pytest.mark.parametrize(
    "claim", [b"\x80\x05\x96", b"\x80\x05\x8e", b"\x80\x04\x95", b"\x80\x04)r"], ids=["bytearray", "bytes", "frame", "memo"]
)
def test_claims_of_more_than_there_is_cost_nothing(claim: bytes) -> None:
    """A size of 2^40 bytes, or, by the memo's place, of 2^32 entries."""
    data = claim + ((1 << 40) if claim[-1:] != b"r" else (1 << 32) - 1).to_bytes(8 if claim[-1:] != b"r" else 4, "little") + b"."
    tracemalloc.start()
    try:
        with contextlib.suppress(pickle.UnpicklingError):
            read_plain_pickle(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_bytes_that_do_not_fit_their_shape_are_refused() -> None:
    data = pickle.dumps(np.arange(6, dtype=np.float32).reshape(2, 3), 2)
    for before, after in ((b"K\x02K\x03", b"K\x02K\x04"), (b"f4", b"f8"), (b"f4", b"O8"), (b"f4", b"V4")):
        assert before in data
        with pytest.raises(pickle.UnpicklingError):
            read_plain_pickle(data.replace(before, after))


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_pickle_is_read_or_refused(at: int, value: int, cut: bool) -> None:
    whole = bytearray(pickle.dumps(np.array({"walk": {"custom": [np.ones((2, 17, 2), np.float32)]}}, object), 3))
    at %= len(whole)
    whole[at] = value
    with contextlib.suppress(pickle.UnpicklingError):
        read_plain_pickle(bytes(whole[:at] if cut else whole))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p, m: m.update(layout_name="mpii"), "coco or h36m, got 'mpii'"),
        (lambda p, m: p.update({"walk.mp4": 3}), "positions_2d/walk.mp4: expected a dictionary of actions, got int"),
        (lambda p, m: p["walk.mp4"].update(custom=None), "positions_2d/walk.mp4/custom/0: expected an array"),
        (lambda p, m: p["walk.mp4"].update(custom=[np.zeros((3, 16, 2))]), r"(3, 16, 2)"),
        (lambda p, m: p["walk.mp4"].update(custom=[np.zeros((0, 17, 2))]), r"(0, 17, 2)"),
        (lambda p, m: p["walk.mp4"].update(custom=[np.full((3, 17, 2), np.nan)]), "keypoint 0 (nose) of frame 0 is [nan, nan, 1.0]"),
        (lambda p, m: p.clear(), "positions_2d is empty"),
        (lambda p, m: m["video_metadata"].update({"walk.mp4": {"w": 3}}), "expected the numbers w and h"),
    ],
)
def test_videopose3d_files_of_the_wrong_content(tmp_path: Path, change: Any, said: str) -> None:
    path = written.videopose3d(tmp_path / "custom.npz")
    with np.load(path, allow_pickle=True) as content:
        positions, metadata = content["positions_2d"].item(), content["metadata"].item()
    change(positions, metadata)
    np.savez(path, positions_2d=positions, metadata=metadata)
    with pytest.raises(KeypointError) as raised:
        read_detections(path)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


def test_videopose3d_files_that_lack_a_part_or_hold_plain_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", positions_2d=np.array({}))
    np.savez(tmp_path / "b.npz", positions_2d=np.ones((3, 17, 2)), metadata=np.array({}))
    np.savez(tmp_path / "c.npz", positions_2d=np.array(["x"], object), metadata=np.array({}))
    for name, said in (("a", "has no 'metadata'"), ("b", "an array of numbers"), ("c", "to be a dictionary, got list")):
        with pytest.raises(KeypointError, match=said):
            read_detections(tmp_path / f"{name}.npz")


def test_what_python_2_wrote_is_read() -> None:
    """Protocol 2 with the bytes as a Python 2 string (S), as files of Detectron have them."""
    array = np.arange(4, dtype="<f4")
    stream = io.BytesIO()
    stream.write(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I4\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR")
    stream.write(b"(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS" + repr(array.tobytes())[1:].encode() + b"\ntb.")
    np.testing.assert_array_equal(read_plain_pickle(stream.getvalue()), array)
