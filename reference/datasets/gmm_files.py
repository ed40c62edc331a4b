"""Human3.6M's 2D poses as Gaussian mixtures: the ``*_gmm.npz`` files of the released DiffPose.

Layout: ``positions_2d``, {subject: {action: [one (frames, 17, M, 5) for each of the four cameras]}}; the five numbers of a
component are its weight, mean u, mean v, scale u, scale v. Source: the released code of Gong et al., DiffPose (CVPR
2023), common/data_utils.py and common/generators.py.

Only the means are pixels. The released code normalises them alone and multiplies noise on normalised u, v by the scales
as they stand in the file; so do the functions here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.atomic import atomic_file
from diffpose_edge.errors import DatasetError
from diffpose_edge.keypoints import denormalise
from diffpose_edge.mixtures import WEIGHT_SUM
from diffpose_edge.reference.datasets.h36m_cameras import IMAGE_SIZES
from diffpose_edge.reference.datasets.npz_files import Tree, read_trees, write_flat
from diffpose_edge.reference.datasets.sequences import Mixture2D, Sequence, finite, normalised
from diffpose_edge.reference.datasets.videopose3d import Described, Views, camera_views, joined, positions_3d
from diffpose_edge.skeleton import J

# For each subject and action, one mixture for each camera.
Mixtures: TypeAlias = Mapping[str, Mapping[str, list[Mixture2D]]]


def read_gmm(path: str | Path, *, allow_pickle: bool = False) -> dict[str, dict[str, list[Mixture2D]]]:
    """Read a ``*_gmm.npz``: {subject: {action: [a mixture for each camera]}}, means normalised, scales as in the file.

    Raises DatasetError as :func:`diffpose_edge.reference.datasets.npz_files.read_trees`, for arrays of another shape, for
    negative weights or scales, and for weights that do not sum to one.
    """
    return {
        subject: {
            action: [
                _mixture_of(array, size, f"{path}: {subject}/{action}/{camera}")
                for camera, (array, size) in enumerate(zip(arrays, IMAGE_SIZES, strict=True))
            ]
            for action, arrays in actions.items()
        }
        for subject, actions in gmm_views(path, allow_pickle=allow_pickle).items()
    }


def read_h36m_gmm(
    path_3d: str | Path, path_gmm: str | Path, *, subjects: Iterable[str] | None = None, allow_pickle: bool = False
) -> list[Sequence]:
    """Read Human3.6M with mixtures for its 2D, otherwise as :func:`diffpose_edge.reference.datasets.videopose3d.read_h36m`.

    A sequence's ``uv`` are the means of the heaviest components, its ``mixture`` is the whole.
    """
    world, views = positions_3d(path_3d, allow_pickle=allow_pickle), gmm_views(path_gmm, allow_pickle=allow_pickle)

    def described(array: NDArray[Any], image_size: tuple[int, int], where: str) -> Described:
        mixture = _mixture_of(array, image_size, where)
        return mixture.heaviest(), None, mixture

    return joined(world, views, described, subjects=subjects, where=(str(path_3d), str(path_gmm)))


def gmm_views(path: str | Path, *, allow_pickle: bool = False) -> Views:
    """Read a ``*_gmm.npz`` as it is: {subject: {action: [four arrays (frames, 17, M, 5)]}}. Raises DatasetError."""
    return gmm_views_of(read_trees(path, "positions_2d", allow_pickle=allow_pickle), str(path))


def gmm_views_of(trees: Mapping[str, Tree], where: str) -> Views:
    """Do what :func:`gmm_views` does, for trees that are read already."""
    views = camera_views(trees["positions_2d"], where)
    for subject, actions in views.items():
        for action, arrays in actions.items():
            for camera, array in enumerate(arrays):
                _check(array, f"{where}: {subject}/{action}/{camera}")
    return views


def _check(array: NDArray[Any], where: str) -> None:
    if array.ndim != 4 or array.shape[1] != J or array.shape[3] != 5 or 0 in array.shape:
        raise DatasetError(
            f"{where}: expected an array of shape (frames, 17, components, 5) with weight, mean u, mean v, scale u, scale v; got "
            f"{array.shape}. Is it a file of plain 2D keypoints?"
        )
    finite(array, where)
    if array[..., 0].min() < 0 or np.abs(array[..., 0].sum(axis=-1) - 1).max() > WEIGHT_SUM:
        raise DatasetError(f"{where}: expected weights that are not negative and sum to one over a joint's components")
    if array[..., 3:].min() < 0:
        raise DatasetError(f"{where}: expected scales that are not negative, got {array[..., 3:].min():.4g}")


def _mixture_of(array: NDArray[Any], image_size: tuple[int, int], where: str) -> Mixture2D:
    """Return the mixture of a checked array (frames, 17, M, 5). Raises DatasetError when its means are not pixels."""
    weight, mean, scale = array[..., 0], normalised(array[..., 1:3], image_size, where), array[..., 3:]
    return Mixture2D(weight.astype(np.float32), mean, scale.astype(np.float32))


def save_gmm(path: str | Path, mixtures: Mixtures, *, pickled: bool = False) -> None:
    """Write mixtures, as :func:`read_gmm` returns them, in the layout of a ``*_gmm.npz``, float32, means back in pixels.

    By default without pickles, for the readers here; with ``pickled`` as one object array, for the released code.
    Raises DatasetError for other than four cameras and for weights or scales that would not be read back, OutputError when
    the file cannot be written; then nothing is.
    """
    arrays = {
        subject: {action: _arrays_of(views, f"{subject}/{action}") for action, views in actions.items()}
        for subject, actions in mixtures.items()
    }
    tree: Tree = {
        subject: {action: {str(camera): array for camera, array in enumerate(views)} for action, views in actions.items()}
        for subject, actions in arrays.items()
    }
    gmm_views_of({"positions_2d": tree}, str(path))
    if not pickled:
        write_flat(path, {"positions_2d": tree})
        return
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, positions_2d=np.array(arrays, dtype=object))


def _arrays_of(views: list[Mixture2D], where: str) -> list[NDArray[np.float32]]:
    if len(views) != len(IMAGE_SIZES):
        raise DatasetError(f"{where}: expected a mixture for each of the four cameras, got {len(views)}")
    return [
        np.concatenate([m.weight[..., None], denormalise(m.mean, size), m.scale], axis=-1).astype(np.float32)
        for m, size in zip(views, IMAGE_SIZES, strict=True)
    ]
