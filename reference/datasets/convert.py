"""From a published data set file, which holds a pickle, to one that does not: the same arrays under their paths' names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffpose_edge.atomic import check_file_place
from diffpose_edge.errors import DatasetError, OutputError
from diffpose_edge.reference.datasets.gmm_files import gmm_views_of
from diffpose_edge.reference.datasets.mpi_inf_3dhp import sequences_of_test, sequences_of_train
from diffpose_edge.reference.datasets.npz_files import Tree, leaves, read_trees, write_flat
from diffpose_edge.reference.datasets.videopose3d import views_of, world_of

# For each kind: the names that the file must have, those that it may have, and what reads it, which refuses other layouts.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], Callable[[Mapping[str, Tree], str], Any]]] = {
    "h36m-3d": (("positions_3d",), (), world_of),
    "h36m-2d": (("positions_2d", "metadata"), (), views_of),
    "gmm": (("positions_2d",), ("metadata",), gmm_views_of),
    "3dhp-train": (("data",), (), sequences_of_train),
    "3dhp-test": (("data",), (), sequences_of_test),
}


def convert(source: str | Path, out: str | Path, kind: str, *, allow_pickle: bool = False) -> int:
    """Write the file ``source`` of ``kind`` (a key of ``KINDS``) to ``out`` without pickles; return how many arrays it holds.

    Arrays keep their values and types, and are named by where they were: ``positions_2d/S1/Walking 1/0``. The readers take
    the new file as they take the old, without ``allow_pickle``. Source and result are in memory whole while it runs.

    Raises DatasetError for an unknown kind and as the kind's reader does; OutputError when ``out`` cannot be written or is
    ``source`` itself. Nothing is written then.
    """
    source, out = Path(source), Path(out)
    if kind not in KINDS:
        raise DatasetError(f"expected a kind of data set among {', '.join(KINDS)}; got {kind!r}")
    check_file_place(out)
    if out.exists() and source.exists() and out.samefile(source):
        raise OutputError(f"{out} is the file to convert itself; choose another name for the result")
    names, optional, check = KINDS[kind]
    trees = read_trees(source, *names, optional=optional, allow_pickle=allow_pickle)
    check(trees, str(source))
    write_flat(out, trees)
    return sum(1 for name, tree in trees.items() for _ in leaves(tree, name))
