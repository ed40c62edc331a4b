"""Bundles for the GPU suite: made once, whole or not at all, with whichever package has ONNX Runtime."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from diffpose_edge.benchmarks import shipped_bundles
from diffpose_edge.benchmarks.shipped_bundles import shipped_bundle
from diffpose_edge.calibration import calibrate
from diffpose_edge.export import bundle_export

PRECISIONS = ("fp32", "fp16", "int8")


def only_onnxruntime_gpu(name: str) -> str:
    """What a machine answers on which the package is called onnxruntime-gpu."""
    if name == "onnxruntime":
        raise PackageNotFoundError(name)
    return version(name)


@pytest.mark.slow
def test_a_bundle_is_made_once_and_as_a_whole(monkeypatch: pytest.MonkeyPatch, conditioned_pair: Any, tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    monkeypatch.setattr(shipped_bundles, "trained_pair", lambda pair: conditioned_pair)
    monkeypatch.setattr(shipped_bundles, "CALIBRATION_FRAMES", 4)
    monkeypatch.setattr(bundle_export, "version", only_onnxruntime_gpu)

    real = calibrate.apply_calibration

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrate, "apply_calibration", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shipped_bundle("frame", 2, folder)
    assert not list(folder.iterdir())

    monkeypatch.setattr(calibrate, "apply_calibration", real)
    made = shipped_bundle("frame", 2, folder)
    assert [path.name for path in folder.iterdir()] == ["frame-2"]
    assert made.manifest.shape.N == 2
    assert all(made.read("step", precision) for precision in PRECISIONS)

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("it is there already")

    monkeypatch.setattr(bundle_export, "export_bundle", again)
    assert shipped_bundle("frame", 2, folder).manifest == made.manifest
