"""What a manifest may ask for is bounded before anything is allocated, and its names lead nowhere."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from diffpose_edge.bundle import MANIFEST, load_bundle
from diffpose_edge.config import BatchShape, CausalConfig, GraphNetworkConfig
from diffpose_edge.errors import BundleError
from diffpose_edge.manifest import MOST_BUFFER_BYTES, MOST_FILES, FileEntry, Manifest, Process, checked_file_name, manifest_from_json
from diffpose_edge.schedule import RELEASED_TIMESTEPS, released_alpha_bar

SIZE = GraphNetworkConfig(32, 2, 4)
MANIFEST_OF_TWO = Manifest(
    SIZE,
    SIZE,
    BatchShape(),
    tuple(map(float, released_alpha_bar())),
    RELEASED_TIMESTEPS,
    {"context.onnx": FileEntry("context", "fp32", "0" * 64, 10), "step.onnx": FileEntry("step", "fp32", "0" * 64, 10)},
)


def content() -> dict[str, Any]:
    return dict(json.loads(MANIFEST_OF_TWO.to_json()))


@pytest.mark.parametrize("sizes", [{"N": 2**40}, {"P": 2**40}, {"N": 65_537}, {"P": 65_536, "N": 65_536}, {"N": 10**400}])
def test_a_manifest_that_asks_for_too_many_samples_is_refused_with_the_figure(sizes: dict[str, int]) -> None:
    asked = content()
    asked["shapes"].update(sizes)
    with pytest.raises(BundleError, match=r"65536"):
        manifest_from_json(json.dumps(asked))


def test_sizes_that_are_allowed_each_and_terabytes_together_are_refused_with_the_figure() -> None:
    """1024 people, whose causal encoder of 4096 frames, 8192 wide and 256 deep remembers everything."""
    wide = CausalConfig(4096, 8192, 256, 8)
    with pytest.raises(BundleError, match=r"P=1024, N=1, F=1.* take [\d,]{20,} bytes .* up to 4,294,967,296"):
        Manifest(
            GraphNetworkConfig(32, 2, 4, condition=8192),
            wide,
            BatchShape(P=1024, N=1),
            MANIFEST_OF_TWO.alpha_bar,
            RELEASED_TIMESTEPS,
            {},
            process=Process("distribution", "v", _spread()),
        )


def _spread() -> Any:
    import numpy as np

    from diffpose_edge.distribution import StartSpread

    ones = np.ones((2, 17), np.float32)
    cube = np.ones((2, 17, 3), np.float32)
    return StartSpread(np.array([0, 1], np.float32), ones, cube, cube)


def test_a_frame_encoder_of_the_largest_batch_is_taken() -> None:
    """The control: the bound is above what is possible today."""
    largest = Manifest(SIZE, SIZE, BatchShape(P=65_536, N=1), MANIFEST_OF_TWO.alpha_bar, RELEASED_TIMESTEPS, {})
    assert 10**7 < largest.buffer_bytes < MOST_BUFFER_BYTES


HOSTILE_NAMES = [
    "/etc/passwd", "../step.onnx", "a/../../b", "a\\b", "C:\\x", "c:x", "a\0b", "", ".", "..", ".hidden", "a/.b", "a//b", "a/", "-x",
    "~/x", "a b", "a\nb", "\x1b[2J", "ä", "a" * 201, "CON", "nul.onnx", "graphs/Aux", "com1.x", "step.onnx.",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_name_that_is_no_plain_path_within_the_bundle_is_refused(name: str) -> None:
    with pytest.raises(BundleError, match="is not a plain path within the bundle; refused"):
        checked_file_name(name)
    asked = content()
    asked["files"][name] = asked["files"].pop("step.onnx")
    with pytest.raises(BundleError, match="is not a plain path"):
        manifest_from_json(json.dumps(asked))


def test_plain_names_are_taken() -> None:
    for name in ("step.fp32.onnx", "graphs/step.fp32-cpu.onnx", "console.onnx", "nullable", "a..b"):
        assert checked_file_name(name) == name


def test_two_files_for_one_purpose_or_of_names_alike_are_refused() -> None:
    for other, entry in (("other.onnx", {}), ("STEP.onnx", {"precision": "fp16"})):
        asked = content()
        asked["files"][other] = asked["files"]["step.onnx"] | entry
        with pytest.raises(BundleError, match="same role and precision, or names that differ in capitals"):
            manifest_from_json(json.dumps(asked))


def test_more_files_than_any_bundle_has_are_refused() -> None:
    asked = content()
    asked["files"] = {f"f{i}": asked["files"]["step.onnx"] for i in range(MOST_FILES + 1)}
    with pytest.raises(BundleError, match=f"at most {MOST_FILES} files"):
        manifest_from_json(json.dumps(asked))


def test_a_file_of_a_terabyte_without_content_is_refused_by_its_size(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(MANIFEST_OF_TWO.to_json(), encoding="utf-8")
    for name in ("context.onnx", "step.onnx"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(2**40)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=r"it has 1099511627776 bytes, and up to 2147483647 are read"):
            load_bundle(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [MANIFEST, "context.onnx"])
def test_a_pipe_in_a_bundle_is_not_waited_for(tmp_path: Path, name: str) -> None:
    if name != MANIFEST:
        (tmp_path / MANIFEST).write_text(MANIFEST_OF_TWO.to_json(), encoding="utf-8")
    os.mkfifo(tmp_path / name)
    with pytest.raises(BundleError, match="is a pipe, a socket or a device"):
        load_bundle(tmp_path)


def test_a_manifest_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "elsewhere").write_text(MANIFEST_OF_TWO.to_json(), encoding="utf-8")
    (tmp_path / "bundle" / MANIFEST).symlink_to("../elsewhere")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        load_bundle(tmp_path / "bundle")
