"""An npz of nested dictionaries and lists, as this field's data sets are published, read as a tree of plain arrays.

Two forms of the same tree. *Pickled*, as published: one object array for each name, which numpy stores as a pickle.
*Flat*, as ``diffpose-edge convert`` writes it: one plain array for each leaf, named by its path, such as
``positions_2d/S1/Walking 1/0``. Readers take both and cannot tell them apart.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.atomic import atomic_file
from diffpose_edge.errors import DatasetError
from diffpose_edge.keypoints import UNREADABLE
from diffpose_edge.npz_file import NpzFile
from diffpose_edge.reading import open_file, reason_of

Tree: TypeAlias = dict[str, Union["Tree", NDArray[Any]]]

# Deeper than any published file; a list that contains itself ends here.
MOST_LEVELS = 8
# All of Human3.6M's mixtures in float64 are some 10 GB. Published files are packed to a fifth at best: what claims to unpack to a hundred
# times its size, beyond a first gigabyte, is none of them.
MOST_BYTES, _MOST_AT_ONCE, _MOST_RATIO = 32 << 30, 1 << 30, 100

# Beyond what an npz raises: a pickle that is damaged, or that names things which this Python or numpy does not have.
_UNREADABLE = (*UNREADABLE, pickle.UnpicklingError, AttributeError, ImportError, IndexError, TypeError)


def read_trees(path: str | Path, *names: str, optional: tuple[str, ...] = (), allow_pickle: bool = False) -> dict[str, Tree]:
    """Read the trees ``names`` of an npz, and those of ``optional`` that it has. A list becomes a dictionary "0", "1", ….

    With ``allow_pickle`` the code that a pickle names is run: give it only for a file whose origin you trust. Raises
    DatasetError for a file that holds a pickle without it, that is missing, damaged or no npz, that lacks one of
    ``names``, or in which something lies that is neither a dictionary, a list, an array, a number nor a word.
    """
    path = Path(path)
    try:
        with open_file(path, MOST_BYTES) as file:
            if not zipfile.is_zipfile(file):
                raise DatasetError(f"{path} is not an npz archive, or its end is missing; fetch it again")
            size = file.seek(0, 2)
        if allow_pickle:
            # A pickle that runs code can take all memory anyway: nothing is bounded.
            with np.load(path, allow_pickle=True) as content:
                trees, found = _trees(content.files, content.__getitem__, (*names, *optional), path)
        else:
            with NpzFile(path, min(MOST_BYTES, _MOST_AT_ONCE + _MOST_RATIO * size)) as content:
                trees, found = _trees(content.names, content.array, (*names, *optional), path)
    except FileNotFoundError:
        raise DatasetError(f"no data set file at {path}; check the path") from None
    except _UNREADABLE as err:
        if "allow_pickle" in str(err):
            raise DatasetError(_refusal(path)) from None
        raise DatasetError(f"{path} cannot be read: {reason_of(err)}") from None
    for name in names:
        if not trees[name]:
            raise DatasetError(f"{path} has no {name!r}; it has: {', '.join(found) or 'nothing'}. Is it the right file?")
    return {name: tree for name, tree in trees.items() if tree}


def _refusal(path: Path) -> str:
    return (
        f"{path} holds a pickle, which can run any code when it is loaded, so it was not loaded. Only if you trust where the file "
        f"comes from: convert it once to a file without pickles, diffpose-edge convert IN OUT --kind KIND --unsafe-pickle, and "
        f"use that, or read it with allow_pickle=True"
    )


def _trees(entries: Iterable[str], array: Callable[[str], Any], names: Iterable[str], path: Path) -> tuple[dict[str, Tree], list[str]]:
    """Return the trees of these names, and the names of all that there are."""
    entries = list(entries)
    return {name: _tree_of(entries, array, name, path) for name in names}, sorted({entry.split("/")[0] for entry in entries})


def _tree_of(entries: list[str], array: Callable[[str], Any], name: str, path: Path) -> Tree:
    if name in entries:
        value = _plain(array(name), f"{path}: {name}")
        if not isinstance(value, dict):
            raise DatasetError(f"{path}: expected {name!r} to be a dictionary, got an array of shape {value.shape}")
        return value
    tree: Tree = {}
    for entry in entries:
        if entry.startswith(f"{name}/"):
            _put(tree, entry.split("/")[1:], _plain(array(entry), f"{path}: {entry}"), f"{path}: {entry}")
    return tree


def _put(tree: Tree, parts: list[str], leaf: Tree | NDArray[Any], where: str) -> None:
    for part in parts[:-1]:
        below = tree.setdefault(part, {})
        if not isinstance(below, dict):
            raise DatasetError(f"{where}: {part!r} is an array and a folder at once; the file was not written by convert")
        tree = below
    if not all(parts) or len(parts) > MOST_LEVELS or parts[-1] in tree or isinstance(leaf, dict):
        raise DatasetError(f"{where}: not the name of an array that convert writes")
    tree[parts[-1]] = leaf


def _plain(value: Any, where: str, level: int = 0) -> Tree | NDArray[Any]:
    """Return a dictionary or list as a tree, and everything else as an array without objects."""
    if level > MOST_LEVELS:
        raise DatasetError(f"{where}: nested more than {MOST_LEVELS} levels deep; not a data set of this field")
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        value = value.item() if value.ndim == 0 else list(value)
    if isinstance(value, dict):
        return {_name(key, where): _plain(below, f"{where}/{key}", level + 1) for key, below in value.items()}
    if isinstance(value, list | tuple):
        if all(isinstance(number, int | float | np.number) for number in value):
            return np.asarray(value)
        return {str(i): _plain(below, f"{where}/{i}", level + 1) for i, below in enumerate(value)}
    if isinstance(value, np.ndarray | np.generic | str | int | float):
        array = np.asarray(value)
        if array.dtype.kind in "fiubU":
            return array
    raise DatasetError(f"{where} is {type(value).__name__}: expected dictionaries, lists, numeric arrays, numbers or words")


def _name(key: Any, where: str) -> str:
    if isinstance(key, bool) or not isinstance(key, str | int) or not str(key) or "/" in str(key):
        raise DatasetError(f"{where}: expected names that are words without '/' or whole numbers, got {key!r}")
    return str(key)


def leaves(tree: Tree, name: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of a tree with their paths below ``name``, in order."""
    for key, below in tree.items():
        if isinstance(below, dict):
            yield from leaves(below, f"{name}/{key}")
        else:
            yield f"{name}/{key}", below


def write_flat(path: str | Path, trees: Mapping[str, Tree]) -> None:
    """Write trees as an npz without pickles, whole or not at all. Raises OutputError, or DatasetError for empty trees."""
    arrays: dict[str, Any] = {entry: array for name, tree in trees.items() for entry, array in leaves(tree, name)}
    if not arrays:
        raise DatasetError(f"there is no array to write to {path}")
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def branch(tree: Tree, where: str, expected: str) -> dict[str, Tree]:
    """Return ``tree`` when everything in it is a dictionary or a list. Raises DatasetError, which says what was ``expected``."""
    found: dict[str, Tree] = {}
    for key, below in tree.items():
        if not isinstance(below, dict):
            raise DatasetError(f"{where}/{key}: expected {expected}, got an array of shape {below.shape}")
        found[key] = below
    return found


def array_of(tree: Tree, key: str, where: str) -> NDArray[Any]:
    """Return the array ``key`` of a tree. Raises DatasetError when it is missing or a dictionary."""
    below = tree.get(key)
    if isinstance(below, np.ndarray):
        return below
    has = "it is a dictionary or a list" if key in tree else f"it has: {', '.join(tree) or 'nothing'}"
    raise DatasetError(f"{where}: expected an array {key!r}; {has}")
