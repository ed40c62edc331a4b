"""MPI-INF-3DHP in the layout of P-STMO: ``data_train_3dhp.npz`` and ``data_test_3dhp.npz``.

Sources: the data set, Mehta et al., 3DV 2017; the layout, Shan et al., P-STMO (ECCV 2022), common/data_to_npz_3dhp.py and
common/load_data_3dhp_mae.py.

- Training: ``data``, {"S1 Seq1": [{camera: {data_2d, data_3d}}, frames per second]}, eight cameras.
- Test: ``data``, {"TS1": {data_2d, data_3d, valid}}; ``valid`` (frames,) is 1 for the frames that an evaluation counts.

``data_2d`` (frames, 17, 2) is in pixels, ``data_3d`` (frames, 17, 3) in millimetres in the camera's frame. It is the data
set's "universal" annotation, scaled to one body height for everybody: it does not project onto ``data_2d`` exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import DatasetError
from diffpose_edge.reference.datasets.npz_files import Tree, array_of, branch, read_trees
from diffpose_edge.reference.datasets.sequences import Sequence, checked_frames, detections_of, root_relative
from diffpose_edge.skeleton import J

# TO_H36M[j] is the joint of the file that becomes Human3.6M joint j. The file's order: 0 head top, 1 neck, 2-4 right
# shoulder, elbow, wrist, 5-7 left, 8-10 right hip, knee, ankle, 11-13 left, 14 pelvis, 15 spine, 16 head.
TO_H36M = (14, 8, 9, 10, 11, 12, 13, 15, 1, 16, 0, 5, 6, 7, 2, 3, 4)

IMAGE_SIZE = (2048, 2048)
# The two outdoor test sequences were filmed with another camera.
OTHER_IMAGE_SIZES = {"TS5": (1920, 1080), "TS6": (1920, 1080)}


def read_3dhp_train(path: str | Path, *, allow_pickle: bool = False) -> list[Sequence]:
    """Read ``data_train_3dhp.npz``: a sequence for each subject ("S1"), action ("Seq1") and camera ("0"), Human3.6M order.

    Raises DatasetError as :func:`diffpose_edge.reference.datasets.npz_files.read_trees`, and for another layout or shape,
    values that are not finite, 2D and 3D of different lengths, and units other than pixels and millimetres.
    """
    return sequences_of_train(read_trees(path, "data", allow_pickle=allow_pickle), str(path))


def sequences_of_train(trees: Mapping[str, Tree], where: str) -> list[Sequence]:
    """Do what :func:`read_3dhp_train` does, for trees that are read already."""
    sequences = []
    for name, pair in branch(trees["data"], where, "a list [cameras, frames per second]").items():
        at = f"{where}: {name}"
        words = name.split(" ")
        cameras = pair.get("0")
        if len(words) != 2 or not isinstance(cameras, dict):
            raise DatasetError(
                f"{at}: expected a name such as 'S1 Seq1' with a list [cameras, frames per second]; is it the training file?"
            )
        fps = _fps(pair, at)
        for camera, view in branch(cameras, at, "a dictionary with data_2d and data_3d").items():
            sequences.append(_sequence(words[0], words[1], camera, view, f"{at}/{camera}", fps))
    return sequences


def read_3dhp_test(path: str | Path, *, allow_pickle: bool = False) -> list[Sequence]:
    """Read ``data_test_3dhp.npz``: a sequence for each subject ("TS1"), with ``valid``, Human3.6M order.

    The file does not say the frame rate (None) nor which frame shows which activity: the action is "test", the camera "0".
    Raises DatasetError as :func:`read_3dhp_train`, and for ``valid`` that is not one 0 or 1 for each frame.
    """
    return sequences_of_test(read_trees(path, "data", allow_pickle=allow_pickle), str(path))


def sequences_of_test(trees: Mapping[str, Tree], where: str) -> list[Sequence]:
    """Do what :func:`read_3dhp_test` does, for trees that are read already."""
    return [
        _sequence(name, "test", "0", view, f"{where}: {name}", None, valid=True)
        for name, view in branch(trees["data"], where, "a dictionary with data_2d, data_3d and valid").items()
    ]


def _sequence(subject: str, action: str, camera: str, view: Tree, where: str, fps: float | None, *, valid: bool = False) -> Sequence:
    size = OTHER_IMAGE_SIZES.get(subject, IMAGE_SIZE)
    pixels = array_of(view, "data_2d", where)
    millimetres = checked_frames(array_of(view, "data_3d", where), (J,), (3,), f"{where}/data_3d")
    frames = len(pixels) if pixels.ndim else 0
    if frames != len(millimetres):
        raise DatasetError(f"{where}: expected as many frames of data_2d as of data_3d, got {frames} and {len(millimetres)}")
    # Checked before the order changes, so that a message counts joints as the file does.
    uv, confidence = detections_of(pixels, size, f"{where}/data_2d")
    xyz, root = root_relative(millimetres[:, TO_H36M] / 1000.0, f"{where}/data_3d")
    confidence = None if confidence is None else confidence[:, TO_H36M]
    counted = _valid(array_of(view, "valid", where), len(pixels), where) if valid else None
    return Sequence(subject, action, camera, uv[:, TO_H36M], xyz, root, fps, size, confidence, valid=counted)


def _fps(pair: Tree, where: str) -> float | None:
    fps = pair.get("1")
    if fps is None:
        return None
    if isinstance(fps, dict) or fps.size != 1 or fps.dtype.kind not in "fiu" or not 0 < float(fps.ravel()[0]) < np.inf:
        raise DatasetError(f"{where}: expected the frames per second as the second entry of the list, got {fps!r}")
    return float(fps.ravel()[0])


def _valid(array: NDArray[Any], frames: int, where: str) -> NDArray[np.bool_]:
    if array.size != frames or array.dtype.kind not in "fiub" or not np.isin(array, (0, 1)).all():
        raise DatasetError(f"{where}: expected valid as {frames} numbers, 0 or 1, one for each frame; got shape {array.shape}")
    return array.reshape(frames).astype(np.bool_)
