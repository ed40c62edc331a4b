"""``diffpose-edge convert``: a file without pickles that the same readers take, or one message and nothing written."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpose_edge.cli import main
from diffpose_edge.errors import DatasetError, OutputError
from diffpose_edge.reference.datasets.convert import KINDS, convert
from diffpose_edge.reference.datasets.gmm_files import read_gmm
from diffpose_edge.reference.datasets.mpi_inf_3dhp import read_3dhp_test, read_3dhp_train
from diffpose_edge.reference.datasets.videopose3d import detections_2d, positions_3d

rng = np.random.default_rng(0)


def pose(frames: int, scale: float = 1.0) -> Any:
    return (rng.uniform(-0.5, 0.5, (frames, 17, 3)) * scale).astype(np.float32)


def pixels(frames: int) -> Any:
    return rng.uniform(100, 900, (frames, 17, 2)).astype(np.float32)


def components(frames: int) -> Any:
    one = np.concatenate([rng.uniform(100, 900, (frames, 17, 5, 2)), rng.uniform(0, 1, (frames, 17, 5, 2))], -1)
    return np.concatenate([np.full((frames, 17, 5, 1), 0.2), one], -1)


# Each file as it is published: nested dictionaries and lists in object arrays.
PUBLISHED: dict[str, dict[str, Any]] = {
    "h36m-3d": {"positions_3d": {"S1": {"Walking 1": pose(3), "Eating": pose(2)}, "S11": {"Walking": pose(4)}}},
    "h36m-2d": {
        "positions_2d": {"S1": {"Walking 1": [pixels(3) for _ in range(4)]}, "S11": {"Walking": [pixels(4 + c) for c in range(4)]}},
        "metadata": {"layout_name": "h36m", "num_joints": 17, "keypoints_symmetry": [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]]},
    },
    "gmm": {"positions_2d": {"S1": {"Walking 1": [components(2) for _ in range(4)]}}},
    "3dhp-train": {"data": {"S1 Seq1": [{c: {"data_2d": pixels(3), "data_3d": pose(3, 1000)} for c in ("0", "4", "8")}, 25]}},
    "3dhp-test": {"data": {f"TS{i}": {"data_2d": pixels(3), "data_3d": pose(3, 1000), "valid": np.array([1.0, 0, 1])} for i in (1, 5)}},
}
READERS: dict[str, Callable[..., Any]] = {
    "h36m-3d": positions_3d,
    "h36m-2d": detections_2d,
    "gmm": read_gmm,
    "3dhp-train": read_3dhp_train,
    "3dhp-test": read_3dhp_test,
}


def published(path: Path, kind: str) -> Path:
    np.savez_compressed(path, **{name: np.array(value, dtype=object) for name, value in PUBLISHED[kind].items()})
    return path


def assert_same(a: Any, b: Any) -> None:
    """Compare what readers return, in order, to the bit and the type."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        a, b = list(a.values()), list(b.values())
    elif dataclasses.is_dataclass(a):
        names = [field.name for field in dataclasses.fields(a)]
        a, b = [getattr(a, n) for n in names], [getattr(b, n) for n in names]
    if isinstance(a, list):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["diffpose-edge", "convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(stop.value.code or 0), out, err

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_the_converted_file_reads_as_the_published_one_without_pickles(tmp_path: Path, kind: str) -> None:
    source, out = published(tmp_path / "in.npz", kind), tmp_path / "out.npz"
    read = READERS[kind]
    with pytest.raises(DatasetError, match="pickle"):
        read(source)
    arrays = convert(source, out, kind, allow_pickle=True)
    assert_same(read(source, allow_pickle=True), read(out))
    with np.load(out, allow_pickle=False) as content:
        assert len(content.files) == arrays
        assert all(content[name].dtype.kind in "fiuU" for name in content.files)
    # What is flat already converts to itself, and needs no flag.
    assert convert(out, tmp_path / "again.npz", kind) == arrays
    assert_same(read(out), read(tmp_path / "again.npz"))


def test_the_names_are_paths(tmp_path: Path) -> None:
    convert(published(tmp_path / "in.npz", "h36m-2d"), tmp_path / "out.npz", "h36m-2d", allow_pickle=True)
    with np.load(tmp_path / "out.npz") as content:
        assert "positions_2d/S1/Walking 1/0" in content.files
        np.testing.assert_array_equal(content["positions_2d/S11/Walking/3"], PUBLISHED["h36m-2d"]["positions_2d"]["S11"]["Walking"][3])


def test_the_command_converts_with_the_flag_and_refuses_without(tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    source, out = published(tmp_path / "in.npz", "3dhp-train"), tmp_path / "out.npz"
    status, _, err = cli(source, out, "--kind", "3dhp-train")
    assert status == 2
    assert err.startswith(f"error: {source} holds a pickle")
    assert not out.exists()
    status, shown, _ = cli(source, out, "--kind", "3dhp-train", "--unsafe-pickle")
    assert (status, shown) == (0, f"wrote {out}: 7 arrays, no pickles\n")
    assert len(read_3dhp_train(out)) == 3


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_malicious_file_does_nothing_without_the_flag(tmp_path: Path, cli: Callable[..., tuple[int, str, str]], kind: str) -> None:
    ran, source = tmp_path / "ran", tmp_path / "in.npz"
    np.savez(source, **{name: np.array({"S1": Touch(ran)}, dtype=object) for name in ("positions_3d", "positions_2d", "metadata", "data")})
    assert cli(source, tmp_path / "out.npz", "--kind", kind)[0] == 2
    with pytest.raises(DatasetError):
        READERS[kind](source)
    assert not ran.exists()


def test_mistakes_leave_nothing_behind(tmp_path: Path) -> None:
    source = published(tmp_path / "in.npz", "gmm")
    before = source.read_bytes()
    mistakes: list[tuple[Path, Path, str, type[Exception], str]] = [
        (source, tmp_path / "out.npz", "coco", DatasetError, "among h36m-3d, h36m-2d, gmm, 3dhp-train, 3dhp-test; got 'coco'"),
        (source, tmp_path / "out.npz", "h36m-3d", DatasetError, "no 'positions_3d'; it has: positions_2d"),
        (source, tmp_path / "out.npz", "h36m-2d", DatasetError, "no 'metadata'"),
        (tmp_path / "none.npz", tmp_path / "out.npz", "gmm", DatasetError, "no data set file"),
        (source, source, "gmm", OutputError, "is the file to convert itself"),
        (source, tmp_path / "none" / "out.npz", "gmm", OutputError, "parent folder"),
        (source, tmp_path, "gmm", OutputError, "a folder stands there"),
    ]
    for path, out, kind, error, said in mistakes:
        with pytest.raises(error, match=said):
            convert(path, out, kind, allow_pickle=True)
    assert [path.name for path in tmp_path.iterdir()] == ["in.npz"]
    assert source.read_bytes() == before


def test_a_file_of_keypoints_is_no_file_of_mixtures(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="plain 2D keypoints"):
        convert(published(tmp_path / "in.npz", "h36m-2d"), tmp_path / "out.npz", "gmm", allow_pickle=True)
    assert not (tmp_path / "out.npz").exists()
