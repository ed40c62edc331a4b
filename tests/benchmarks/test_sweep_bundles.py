"""Bundles for a sweep: made where they are missing, used where they are there, refused where they are others'."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffpose_edge.benchmarks.bench_variant import variants_of, weights_of
from diffpose_edge.benchmarks.sweep_bundles import Checkpoints, expected_minutes, random_checkpoints, sweep_bundles
from diffpose_edge.bundle import load_bundle
from diffpose_edge.errors import DiffPoseEdgeError


@pytest.mark.slow
def test_bundles_are_made_once_for_each_size(golden: SimpleNamespace, tmp_path: Path) -> None:
    checkpoints = Checkpoints("tiny", golden.denoiser, golden.context)
    heard: list[str] = []
    made = sweep_bundles(checkpoints, [(1, 2), (3, 1)], ["fp32"], tmp_path, heard.append)
    assert [path.name for path in made] == heard == ["tiny-n1-p2", "tiny-n3-p1"]
    shapes = [load_bundle(path).manifest.shape for path in made]
    assert [(shape.N, shape.P) for shape in shapes] == [(1, 2), (3, 1)]
    assert len({weights_of(load_bundle(path).manifest) for path in made}) == 1
    written = [(path / "manifest.json").stat().st_mtime_ns for path in made]
    assert sweep_bundles(checkpoints, [(3, 1), (1, 2)], ["fp32"], tmp_path) == made[::-1]
    assert [(path / "manifest.json").stat().st_mtime_ns for path in made] == written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny-n1-p2", "tiny-n3-p1"]


def test_bundles_of_other_checkpoints_are_refused(golden: SimpleNamespace, golden_bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    other.write_bytes(golden.denoiser.read_bytes() + b" ")
    shutil.copytree(golden_bundle, tmp_path / "tiny-n3-p2")
    with pytest.raises(DiffPoseEdgeError, match="was made from another denoiser than"):
        sweep_bundles(Checkpoints("tiny", other, golden.context), [(3, 2)], ["fp32"], tmp_path)


def test_bundles_of_other_weights_have_other_names(golden_bundle: Path, conditioned_bundle: Path) -> None:
    names = [weights_of(load_bundle(path).manifest) for path in (golden_bundle, conditioned_bundle)]
    assert len(set(names)) == 2
    assert all(len(name) == 8 for name in names)


def test_random_weights_are_drawn_once_for_a_seed(tmp_path: Path) -> None:
    first, other = random_checkpoints(tmp_path, 3), random_checkpoints(tmp_path, 4)
    content = [path.read_bytes() for path in (first.denoiser, first.context)]
    assert random_checkpoints(tmp_path, 3) == first
    assert [path.read_bytes() for path in (first.denoiser, first.context)] == content
    assert other.denoiser.read_bytes() != content[0]
    assert first.bundle_name(5, 1) == "random3-n5-p1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["random3", "random4"]


@pytest.mark.slow
def test_lower_precisions_are_made_where_they_are_asked_for(
    conditioned_bundle: Path, conditioned_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(conditioned_bundle, tmp_path / "c-n3-p2")
    [path] = sweep_bundles(Checkpoints("c", *conditioned_pair), [(3, 2)], ["fp32", "int8"], tmp_path)
    assert {"fp32", "int8"} <= {entry.precision for entry in load_bundle(path).manifest.files.values()}


def test_every_combination_is_a_variant() -> None:
    found = variants_of(["a", "b"], ["onnxruntime", "tensorrt"], ["fp32", "fp16"], [1, 5], [1, 2])
    assert len(found) == len(set(found)) == 2 * 2 * 2 * (2 + 1)
    assert {one.threads for one in found if one.backend == "tensorrt"} == {None}


def test_more_work_takes_longer() -> None:
    rows = [(5, 1, 5, 1)]
    once = expected_minutes(rows, 70, floors=False)
    assert 0 < once < expected_minutes([(50, 4, 50, 1)], 700, floors=False)
