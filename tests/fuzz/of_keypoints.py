"""Files of keypoints, in every format; cameras; evaluation sets; results that are shown."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np

from diffpose_edge.camera import Camera
from diffpose_edge.camera_files import load_camera
from diffpose_edge.evaluation import load_evaluation
from diffpose_edge.formats import BEST, open_clip, read_detections
from diffpose_edge.formats.plain_pickle import read_plain_pickle
from diffpose_edge.keypoints import Keypoints, load_keypoints
from diffpose_edge.skeleton import J
from diffpose_edge.viewer.result_files import load_result
from tests.fuzz.mutators import as_archive, as_json, as_pickle_of_trees, as_table
from tests.fuzz.rule import all_of
from tests.fuzz.target import Target, file_of, folder_of


def _well_formed(keypoints: Keypoints) -> None:
    """What a reader accepts is what the runtime takes."""
    assert keypoints.uv.ndim == 3
    assert keypoints.uv.shape[1:] == (J, 2)
    assert keypoints.confidence.shape == keypoints.uv.shape[:-1]
    seen = keypoints.confidence > 0
    assert np.isfinite(keypoints.uv[seen]).all()
    assert ((keypoints.confidence >= 0) & (keypoints.confidence <= 1)).all()


def _clips(path: Path, name: str | None) -> None:
    """Read a file as ``name`` and as what it looks like, and make the clips of it that a user can ask for."""
    said = (1024.0, 512.0)

    def by_looks() -> None:
        _well_formed(open_clip(path, image_size=said).keypoints)

    def by_name() -> None:
        read_detections(path, name, image_size=said).tracks()
        clip = open_clip(path, name, person=BEST, image_size=said)
        assert len(clip.frames) == len(clip.keypoints)
        _well_formed(clip.keypoints)

    all_of(by_looks, by_name)


def _reader(file: str, name: str | None) -> Callable[[bytes], None]:
    return lambda data: _clips(file_of(file, data), name)


def read_openpose(data: bytes) -> None:
    """Two frames, the second of them the input."""
    file_of("openpose/walk_000000000000_keypoints.json", b'{"version": 1.3, "people": []}')
    file_of("openpose/walk_000000000001_keypoints.json", data)
    _clips(folder_of("openpose"), "openpose")


def read_mmpose_folder(data: bytes) -> None:
    """Two images, the first of them the input; nobody is in the second."""
    file_of("mmpose/1.json", data)
    file_of("mmpose/2.json", b"[]")
    _clips(folder_of("mmpose"), "mmpose")


def read_keypoints(data: bytes) -> None:
    """The project's own npz, in Human3.6M order."""
    _well_formed(load_keypoints(file_of("clip.npz", data)))


def read_camera(name: str) -> Callable[[bytes], None]:
    """Read a camera, and look through it."""

    def read(data: bytes) -> None:
        camera: Camera = load_camera(file_of(name, data))
        assert np.isfinite([camera.fx, camera.fy, camera.cx, camera.cy]).all()

    return read


def read_evaluation(data: bytes) -> None:
    """An evaluation set."""
    load_evaluation(file_of("evaluation.npz", data))


def read_result(data: bytes) -> None:
    """What 'run' wrote, to be shown; alone, and as its own keypoints."""
    path = file_of("poses.npz", data)
    all_of(lambda: load_result(path, path), lambda: load_result(path))


TARGETS = (
    Target("openpose", read_openpose, as_json),
    Target("alphapose", _reader("alphapose.json", "alphapose"), as_json),
    Target("coco_results", _reader("coco.json", "coco-results"), as_json),
    Target("mmpose", _reader("mmpose.json", "mmpose"), as_json),
    Target("mmpose_folder", read_mmpose_folder, as_json),
    Target("npz_clip", _reader("any.npz", None), as_archive),
    Target("videopose3d", _reader("videopose3d.npz", "videopose3d"), as_archive),
    Target("plain_pickle", read_plain_pickle, as_pickle_of_trees, (pickle.UnpicklingError,)),
    Target("keypoints_npz", read_keypoints, as_archive),
    Target("camera_yaml", read_camera("camera.yaml"), as_table),
    Target("camera_json", read_camera("camera.json"), as_json),
    Target("evaluation", read_evaluation, as_archive),
    Target("viewer_result", read_result, as_archive),
)
