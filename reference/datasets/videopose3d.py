"""Human3.6M in the layout of VideoPose3D: ``data_3d_h36m.npz`` and ``data_2d_h36m_*.npz``.

Source of the layout: Pavllo et al., VideoPose3D (CVPR 2019), data/prepare_data_h36m.py and run.py.

- 3D: ``positions_3d``, {subject: {action: (frames, 32 or 17, 3)}}, metres, in the world.
- 2D: ``positions_2d``, {subject: {action: [one (frames, 17, 2) for each of the four cameras]}}, pixels; a third number, if
  there is one, is a confidence. ``metadata``: {layout_name, num_joints, keypoints_symmetry}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from diffpose_edge.errors import DatasetError
from diffpose_edge.reference.datasets.h36m_cameras import CAMERA_NAMES, FPS, IMAGE_SIZES, h36m_cameras
from diffpose_edge.reference.datasets.npz_files import Tree, array_of, branch, read_trees
from diffpose_edge.reference.datasets.sequences import Mixture2D, Sequence, checked_frames, detections_of, root_relative
from diffpose_edge.skeleton import MIRROR, J

# The joints of the 32 that move, in the order of the 17.
KEPT_OF_32 = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)
# Left and right joints of Human3.6M-17, as the metadata of a 2D file lists them.
LEFT = (4, 5, 6, 11, 12, 13)
RIGHT = tuple(sorted(MIRROR[j] for j in LEFT))

World: TypeAlias = dict[str, dict[str, NDArray[Any]]]
# For each subject and action, one array for each camera.
Views: TypeAlias = dict[str, dict[str, list[NDArray[Any]]]]
Described: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32] | None, Mixture2D | None]


def read_h36m(
    path_3d: str | Path, path_2d: str | Path, *, subjects: Iterable[str] | None = None, allow_pickle: bool = False
) -> list[Sequence]:
    """Read Human3.6M: one sequence for each subject, action and camera, 50 Hz, poses in the camera's frame.

    Taken are the ``subjects`` named, else those that both files have. Where the 2D has more frames than the 3D, the last
    ones are left out, as is customary; 2D without 3D (S11 "Directions", whose recording is damaged) is left out too.

    Raises DatasetError for files that :func:`positions_3d` or :func:`detections_2d` refuse, for a subject that one of
    them lacks or whose cameras are not known, for an action without 2D, and for 2D with fewer frames than the 3D.
    """
    world, views = positions_3d(path_3d, allow_pickle=allow_pickle), detections_2d(path_2d, allow_pickle=allow_pickle)

    def described(array: NDArray[Any], image_size: tuple[int, int], where: str) -> Described:
        return *detections_of(array, image_size, where), None

    return joined(world, views, described, subjects=subjects, where=(str(path_3d), str(path_2d)))


def positions_3d(path: str | Path, *, allow_pickle: bool = False) -> World:
    """Read ``data_3d_h36m.npz``: {subject: {action: (frames, 17, 3)}}, metres, in the world, reduced to 17 joints.

    Raises DatasetError as :func:`diffpose_edge.reference.datasets.npz_files.read_trees`, and for arrays of another shape.
    """
    return world_of(read_trees(path, "positions_3d", allow_pickle=allow_pickle), str(path))


def world_of(trees: Mapping[str, Tree], where: str) -> World:
    """Do what :func:`positions_3d` does, for trees that are read already."""
    world: World = {}
    for subject, actions in branch(trees["positions_3d"], where, "a dictionary of actions").items():
        for action in actions:
            at = f"{where}: {subject}/{action}"
            array = checked_frames(array_of(actions, action, at), (J, 32), (3,), at)
            world.setdefault(subject, {})[action] = array if array.shape[1] == J else array[:, KEPT_OF_32]
    return world


def detections_2d(path: str | Path, *, allow_pickle: bool = False) -> Views:
    """Read ``data_2d_h36m_*.npz``: {subject: {action: [four arrays (frames, 17, 2 or 3)]}}, pixels, in the cameras' order.

    Raises DatasetError as :func:`diffpose_edge.reference.datasets.npz_files.read_trees`, for keypoints of another layout
    than Human3.6M-17 (COCO has 17 joints too: the metadata decides), for other shapes and for other than four cameras.
    """
    trees = read_trees(path, "positions_2d", "metadata", allow_pickle=allow_pickle)
    return views_of(trees, str(path))


def views_of(trees: Mapping[str, Tree], where: str) -> Views:
    """Do what :func:`detections_2d` does, for trees that are read already."""
    check_layout(trees["metadata"], where)
    views = camera_views(trees["positions_2d"], where)
    for subject, actions in views.items():
        for action, arrays in actions.items():
            for camera, array in enumerate(arrays):
                checked_frames(array, (J,), (2, 3), f"{where}: {subject}/{action}/{camera}")
    return views


def check_layout(metadata: Tree, where: str) -> None:
    """Raise DatasetError unless a 2D file's metadata describes Human3.6M-17."""
    named = metadata.get("layout_name", np.asarray("h36m"))  # the ground-truth file has no name
    symmetry = metadata.get("keypoints_symmetry", {})
    halves = list(symmetry.values()) if isinstance(symmetry, dict) else list(symmetry)
    sides = [sorted(np.ravel(half).tolist()) for half in halves if not isinstance(half, dict)]
    if str(named) != "h36m" or sides != [list(LEFT), list(RIGHT)]:
        raise DatasetError(
            f"{where}: expected keypoints of the layout h36m with the left joints {list(LEFT)} and the right joints {list(RIGHT)}; "
            f"got the layout {named} with {sides}. Use a file of Human3.6M-17 keypoints, such as data_2d_h36m_cpn_ft_h36m_dbb.npz"
        )


def camera_views(tree: Tree, where: str) -> Views:
    """Return {subject: {action: [an array for each camera]}} of a 2D tree. Raises DatasetError for other than four cameras."""
    views: Views = {}
    for subject, actions in branch(tree, where, "a dictionary of actions").items():
        for action, cameras in branch(actions, f"{where}: {subject}", "a list of cameras").items():
            at = f"{where}: {subject}/{action}"
            if sorted(cameras) != ["0", "1", "2", "3"]:
                raise DatasetError(f"{at}: expected a list with one array for each of the four cameras, got {', '.join(cameras) or 'none'}")
            views.setdefault(subject, {})[action] = [array_of(cameras, str(camera), at) for camera in range(len(CAMERA_NAMES))]
    return views


def joined(
    world: World,
    views: Views,
    described: Callable[[NDArray[Any], tuple[int, int], str], Described],
    *,
    subjects: Iterable[str] | None,
    where: tuple[str, str],
) -> list[Sequence]:
    """Join 3D and 2D as :func:`read_h36m` says; ``described`` makes u, v, confidence and mixture of a view's array.

    ``where`` names the two files in messages.
    """
    chosen = [subject for subject in world if subject in views] if subjects is None else list(subjects)
    if not chosen:
        raise DatasetError(f"{where[0]} has the subjects {', '.join(world)} and {where[1]} has {', '.join(views)}: none is in both")
    sequences = []
    for subject in chosen:
        for path, found in zip(where, (list(world), list(views)), strict=True):
            if subject not in found:
                raise DatasetError(f"{path} has no subject {subject!r}; it has: {', '.join(found)}")
        cameras = h36m_cameras(subject)
        for action, poses in world[subject].items():
            if action not in views[subject]:
                raise DatasetError(f"{where[1]} has no action {action!r} of {subject}; {where[0]} does. Are the two of the same origin?")
            for camera, size, array in zip(cameras, IMAGE_SIZES, views[subject][action], strict=True):
                at = f"{where[1]}: {subject}/{action}/{camera.name}"
                if len(array) < len(poses):
                    raise DatasetError(f"{at}: expected at least the {len(poses)} frames of the 3D, got {len(array)}")
                uv, confidence, mixture = described(array[: len(poses)], size, at)
                xyz, root = root_relative(camera.from_world(poses), f"{where[0]}: {subject}/{action}")
                sequences.append(Sequence(subject, action, camera.name, uv, xyz, root, FPS, size, confidence, mixture))
    return sequences
