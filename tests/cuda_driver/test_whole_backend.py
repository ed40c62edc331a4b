"""The whole device backend over a real provider of CUDA and the double of the driver; see walk.py.

Engines that compute poses are Python, which no stream can capture: these run eagerly. What is captured are engines that copy.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from diffpose_edge.bundle import load_bundle
from diffpose_edge.export.start_graph import start_graph

from .double import INSTALLED, process


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize("bundle", ["golden_bundle", "conditioned_video_bundle"])
def test_poses_are_those_of_the_cpu_and_a_replayed_frame_is_one_launch(
    name: str, bundle: str, library: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(bundle)
    start = tmp_path / "start.onnx"
    start.write_bytes(start_graph(load_bundle(path).manifest).SerializeToString())
    result = process("-m", "tests.cuda_driver.walk", name, str(path), str(start), library=library)
    assert result.returncode == 0, result.stdout + result.stderr
