"""Data set files as trees: pickles only when asked for, and a DatasetError that helps for everything else that is wrong."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpose_edge.errors import DatasetError, OutputError
from diffpose_edge.reference.datasets.npz_files import MOST_LEVELS, array_of, branch, leaves, read_trees, write_flat


class Touch:
    """Creates a file when it is unpickled: stands for any code that a pickle can run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def pickled(path: Path, **values: Any) -> Path:
    np.savez(path, **{name: np.array(value, dtype=object) for name, value in values.items()})
    return path


NESTED = {"S1": {"Walking 1": [np.ones((2, 3)), np.zeros(1)], "sides": [[1, 2], [3, 4]]}, "name": "h36m", "count": 17}


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    path = pickled(tmp_path / "data.npz", data={"S1": Touch(ran)})
    with pytest.raises(DatasetError, match=r"data.npz holds a pickle.*any code.*trust.*convert.*--unsafe-pickle.*allow_pickle=True"):
        read_trees(path, "data")
    assert not ran.exists()


def test_with_the_flag_the_pickle_runs(tmp_path: Path) -> None:
    """The control: the pickle of the test above does something when it is loaded."""
    ran = tmp_path / "ran"
    with pytest.raises(DatasetError, match="NoneType"):
        read_trees(pickled(tmp_path / "data.npz", data={"S1": Touch(ran)}), "data", allow_pickle=True)
    assert ran.exists()


@pytest.mark.parametrize("allow", [False, True])
def test_a_bare_pickle_is_never_run(tmp_path: Path, allow: bool) -> None:
    ran, path = tmp_path / "ran", tmp_path / "data.npz"
    path.write_bytes(pickle.dumps({"data": Touch(ran)}))
    with pytest.raises(DatasetError, match="not an npz archive"):
        read_trees(path, "data", allow_pickle=allow)
    assert not ran.exists()


def test_entries_that_were_not_asked_for_are_not_loaded(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    np.savez(tmp_path / "data.npz", **{"data/S1": np.ones(2), "other": np.array(Touch(ran), dtype=object)})
    assert list(read_trees(tmp_path / "data.npz", "data", allow_pickle=True)["data"]) == ["S1"]
    assert not ran.exists()


def test_the_flat_form_is_the_same_tree(tmp_path: Path) -> None:
    first = read_trees(pickled(tmp_path / "pickled.npz", data=NESTED, more={"x": 1.5}), "data", "more", allow_pickle=True)
    write_flat(tmp_path / "flat.npz", first)
    second = read_trees(tmp_path / "flat.npz", "data", "more")
    with np.load(tmp_path / "flat.npz", allow_pickle=False) as content:
        assert sorted(content.files) == sorted(
            ["data/S1/Walking 1/0", "data/S1/Walking 1/1", "data/S1/sides/0", "data/S1/sides/1", "data/name", "data/count", "more/x"]
        )
    for name in ("data", "more"):
        a, b = dict(leaves(first[name], name)), dict(leaves(second[name], name))
        assert list(a) == list(b)
        for entry in a:
            assert a[entry].dtype == b[entry].dtype
            np.testing.assert_array_equal(a[entry], b[entry])
    assert str(second["data"]["name"]) == "h36m"


def test_lists_saved_as_object_arrays_are_lists(tmp_path: Path) -> None:
    ragged = np.empty(2, dtype=object)
    ragged[:] = [np.ones(2), np.ones(3)]
    tree = read_trees(pickled(tmp_path / "data.npz", data={"S1": ragged}), "data", allow_pickle=True)["data"]
    assert [entry for entry, _ in leaves(tree, "data")] == ["data/S1/0", "data/S1/1"]


def test_an_optional_tree_may_be_missing(tmp_path: Path) -> None:
    path = pickled(tmp_path / "data.npz", data={"a": 1})
    assert list(read_trees(path, "data", optional=("metadata",), allow_pickle=True)) == ["data"]


circle: list[Any] = []
circle.append(circle)
deep: Any = 1
for _ in range(MOST_LEVELS + 1):
    deep = {"a": deep}

BAD_TREES = {
    "none": ({"S1": [None] * 4}, "S1/0 is NoneType: expected"),
    "a slash in a name": ({"S1/a": 1}, "'S1/a'"),
    "an empty name": ({"": 1}, "got ''"),
    "a pair for a name": ({(1, 2): 1}, r"got \(1, 2\)"),
    "complex": ({"S1": np.ones(2, complex)}, "S1 is ndarray"),
    "a record array": ({"S1": np.zeros(2, [("x", "f4")])}, "S1 is ndarray"),
    "a set": ({"S1": {1, 2}}, "S1 is set"),
    "a circle": ({"S1": circle}, f"more than {MOST_LEVELS} levels"),
    "too deep": (deep, f"more than {MOST_LEVELS} levels"),
    "a number": (3, "expected 'data' to be a dictionary"),
    "nothing": ({}, "has no 'data'"),
}


@pytest.mark.parametrize("name", BAD_TREES)
def test_what_is_no_data_set_is_refused_and_named(tmp_path: Path, name: str) -> None:
    value, said = BAD_TREES[name]
    holder = np.empty((), dtype=object)
    holder[()] = value
    np.savez(tmp_path / "data.npz", data=holder)
    with pytest.raises(DatasetError, match=rf"data.npz.*{said}"):
        read_trees(tmp_path / "data.npz", "data", allow_pickle=True)


def _write_bad_file(name: str, path: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{"data/S1": np.random.default_rng(0).normal(size=(50, 17, 2))})
    good = buffer.getvalue()
    if name == "folder":
        path.mkdir()
    elif name == "npy":
        with path.open("wb") as file:
            np.save(file, np.ones(3))
    elif name == "other names":
        np.savez(path, poses=np.ones(3))
    elif name == "a plain array":
        np.savez(path, data=np.ones((2, 17, 3)))
    elif name in ("array and folder", "folder and array"):
        entries = [("data/S1", np.ones(1)), ("data/S1/a", np.ones(1))]
        np.savez(path, **dict(entries if name == "array and folder" else entries[::-1]))
    elif name == "a path that ends early":
        np.savez(path, **{"data/": np.ones(1)})
    elif name == "no array":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data/S1.npy", b"not an array")
    elif name == "beyond memory":
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**13, 17, 2)})
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data/S1.npy", header.getvalue())
    elif name == "a class that is gone":
        content = pickle.dumps({"S1": Path("x")}, protocol=3).replace(b"pathlib", b"nowhere")
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.npy", header.getvalue() + content)
    elif name == "damaged":
        path.write_bytes(good[:300] + bytes(b ^ 0xFF for b in good[300:400]) + good[400:])
    elif name != "missing":
        path.write_bytes({"empty": b"", "text": b"S1,0,1\n", "cut": good[: len(good) // 2]}[name])


BAD_FILES = {
    "missing": "no data set file at",
    "folder": "cannot be read",
    "empty": "not an npz archive",
    "text": "not an npz archive",
    "npy": "not an npz archive",
    "cut": "not an npz archive",
    "damaged": "cannot be read",
    "other names": "has no 'data'; it has: poses",
    "a plain array": r"expected 'data' to be a dictionary, got an array of shape \(2, 17, 3\)",
    "array and folder": "'S1' is an array and a folder at once",
    "folder and array": "not the name of an array",
    "a path that ends early": "not the name of an array",
    "no array": "data/S1 is bytes",
    "beyond memory": "cannot be read",
    "a class that is gone": "cannot be read.*nowhere",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_and_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "data.npz"
    _write_bad_file(name, path)
    with pytest.raises(DatasetError, match=rf"data.npz.*{BAD_FILES[name]}|{BAD_FILES[name]}.*data.npz"):
        read_trees(path, "data", allow_pickle=True)


def test_branches_and_arrays_say_what_was_expected() -> None:
    tree: Any = {"S1": {"a": np.ones(3)}, "S2": np.ones((2, 17))}
    with pytest.raises(DatasetError, match=r"here/S2: expected actions, got an array of shape \(2, 17\)"):
        branch(tree, "here", "actions")
    with pytest.raises(DatasetError, match="here: expected an array 'S1'; it is a dictionary or a list"):
        array_of(tree, "S1", "here")
    with pytest.raises(DatasetError, match="here: expected an array 'S3'; it has: S1, S2"):
        array_of(tree, "S3", "here")
    np.testing.assert_array_equal(array_of(tree, "S2", "here"), np.ones((2, 17)))


def test_nothing_is_written_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="parent folder"):
        write_flat(tmp_path / "none" / "out.npz", {"data": {"a": np.ones(1)}})
    with pytest.raises(DatasetError, match="no array"):
        write_flat(tmp_path / "out.npz", {"data": {}})
    assert list(tmp_path.iterdir()) == []
