"""MPI-INF-3DHP in P-STMO's layout: joint order, units, image sizes, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffpose_edge.errors import DatasetError
from diffpose_edge.keypoints import normalise_pixels
from diffpose_edge.reference.datasets.mpi_inf_3dhp import TO_H36M, read_3dhp_test, read_3dhp_train
from diffpose_edge.skeleton import JOINTS

# The joints as the file orders them, by what Human3.6M calls its nearest one.
FILE_ORDER = (
    "head", "thorax", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_foot", "left_hip", "left_knee", "left_foot", "hip", "spine", "neck",
)  # fmt: skip


def millimetres(frames: int = 3, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-500, 500, (frames, 17, 3)) + (100, 200, 3500)


def pixels(frames: int = 3, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(100, 900, (frames, 17, 2)).astype(np.float32)


def view(frames: int = 3, seed: int = 0) -> dict[str, Any]:
    return {"data_2d": pixels(frames, seed), "data_3d": millimetres(frames, seed)}


def save(path: Path, data: Any) -> Path:
    np.savez_compressed(path, data=np.array(data, dtype=object))
    return path


def train_file(path: Path) -> Path:
    return save(path, {"S1 Seq1": [{"0": view(3, 1), "4": view(3, 2)}, 25], "S8 Seq2": [{"8": view(2, 3)}, 50]})


def file_for_tests(path: Path) -> Path:
    return save(path, {f"TS{i}": {**view(4, i), "valid": np.array([1.0, 0.0, 1.0, 1.0])} for i in range(1, 7)})


def test_the_joints_change_to_human36ms_order_by_name() -> None:
    assert tuple(FILE_ORDER[i] for i in TO_H36M) == JOINTS


def test_training_sequences(tmp_path: Path) -> None:
    sequences = read_3dhp_train(train_file(tmp_path / "data_train_3dhp.npz"), allow_pickle=True)
    assert [(s.subject, s.action, s.camera, s.fps, len(s)) for s in sequences] == [
        ("S1", "Seq1", "0", 25.0, 3), ("S1", "Seq1", "4", 25.0, 3), ("S8", "Seq2", "8", 50.0, 2),
    ]  # fmt: skip
    for s, (frames, seed) in zip(sequences, [(3, 1), (3, 2), (2, 3)], strict=True):
        assert (s.uv.dtype, s.xyz.dtype, s.image_size, s.valid, s.confidence) == (np.float32, np.float32, (2048, 2048), None, None)
        metres, uv = millimetres(frames, seed) / 1000, normalise_pixels(pixels(frames, seed), (2048, 2048)).astype(np.float32)
        for j, name in enumerate(JOINTS):
            of_file = FILE_ORDER.index(name)
            np.testing.assert_array_equal(s.uv[:, j], uv[:, of_file])
            np.testing.assert_allclose(s.xyz[:, j], metres[:, of_file] - metres[:, 14], atol=1e-7)
        np.testing.assert_allclose(s.root, metres[:, 14], atol=3e-7)


def test_test_sequences_and_their_two_image_sizes(tmp_path: Path) -> None:
    sequences = read_3dhp_test(file_for_tests(tmp_path / "data_test_3dhp.npz"), allow_pickle=True)
    assert [s.subject for s in sequences] == [f"TS{i}" for i in range(1, 7)]
    for i, s in enumerate(sequences, 1):
        size = (1920, 1080) if i in (5, 6) else (2048, 2048)
        assert (s.image_size, s.fps) == (size, None)
        np.testing.assert_array_equal(s.uv, normalise_pixels(pixels(4, i)[:, TO_H36M], size).astype(np.float32))
        assert s.valid is not None
        np.testing.assert_array_equal(s.valid, [True, False, True, True])
    # The centre of the image is the origin, in both.
    centred = save(tmp_path / "c.npz", {"TS6": {**view(1), "data_2d": np.full((1, 17, 2), (960.0, 540.0)), "valid": np.ones((1, 1))}})
    np.testing.assert_array_equal(read_3dhp_test(centred, allow_pickle=True)[0].uv, np.zeros((1, 17, 2)))


def test_without_the_flag_nothing_is_read(tmp_path: Path) -> None:
    for read in (read_3dhp_train, read_3dhp_test):
        with pytest.raises(DatasetError, match="pickle"):
            read(train_file(tmp_path / "data.npz"))


def test_a_training_file_without_frame_rates_is_read(tmp_path: Path) -> None:
    (s,) = read_3dhp_train(save(tmp_path / "data.npz", {"S1 Seq1": [{"0": view()}]}), allow_pickle=True)
    assert s.fps is None


BAD_TRAIN = {
    "the test file": ({"TS1": {**view(), "valid": np.ones(3)}}, "TS1: expected a name such as 'S1 Seq1'"),
    "no list": ({"S1 Seq1": {"4": view()}}, "expected a name such as"),
    "an array": ({"S1 Seq1": np.ones((3, 17, 2))}, r"S1 Seq1: expected a list \[cameras, frames per second\], got an array"),
    "a camera that is an array": ({"S1 Seq1": [{"0": pixels()}, 25]}, "S1 Seq1/0: expected a dictionary with data_2d and data_3d"),
    "no 2D": ({"S1 Seq1": [{"0": {"data_3d": millimetres()}}, 25]}, "S1 Seq1/0: expected an array 'data_2d'; it has: data_3d"),
    "metres": ({"S1 Seq1": [{"0": {**view(), "data_3d": millimetres() / 1000}}, 25]}, "S1 Seq1/0/data_3d: .*unit"),
    "normalised": ({"S1 Seq1": [{"0": {**view(), "data_2d": pixels() / 2048}}, 25]}, "S1 Seq1/0/data_2d: expected pixels"),
    "lengths": ({"S1 Seq1": [{"0": {**view(), "data_2d": pixels(2)}}, 25]}, "as many frames .* got 2 and 3"),
    "28 joints": ({"S1 Seq1": [{"0": {**view(), "data_3d": np.ones((3, 28, 3))}}, 25]}, r"\(3, 28, 3\)"),
    "nan": ({"S1 Seq1": [{"0": {**view(), "data_3d": millimetres() * np.nan}}, 25]}, "finite numbers, got nan"),
    "a rate of zero": ({"S1 Seq1": [{"0": view()}, 0]}, "frames per second"),
    "a rate in words": ({"S1 Seq1": [{"0": view()}, "fast"]}, "frames per second"),
}


@pytest.mark.parametrize("name", BAD_TRAIN)
def test_other_training_files_are_refused_and_named(tmp_path: Path, name: str) -> None:
    data, said = BAD_TRAIN[name]
    with pytest.raises(DatasetError, match=rf"data.npz.*{said}"):
        read_3dhp_train(save(tmp_path / "data.npz", data), allow_pickle=True)


BAD_TEST = {
    "the training file": ({"S1 Seq1": [{"0": view()}, 25]}, "expected an array 'data_2d'"),
    "no valid": ({"TS1": view()}, "expected an array 'valid'"),
    "too few valid": ({"TS1": {**view(), "valid": np.ones(2)}}, "expected valid as 3 numbers"),
    "valid that is neither": ({"TS1": {**view(), "valid": np.full(3, 0.5)}}, "0 or 1"),
}


@pytest.mark.parametrize("name", BAD_TEST)
def test_other_test_files_are_refused_and_named(tmp_path: Path, name: str) -> None:
    data, said = BAD_TEST[name]
    with pytest.raises(DatasetError, match=rf"data.npz.*{said}"):
        read_3dhp_test(save(tmp_path / "data.npz", data), allow_pickle=True)
