"""JSON that is larger in memory than on disk, deeper than a stack, or longer in digits than anybody means."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from diffpose_edge.camera_files import load_camera
from diffpose_edge.errors import CameraError, DiffPoseEdgeError, KeypointError
from diffpose_edge.formats.json_text import read_json
from diffpose_edge.plain_json import json_of

PARTS: dict[str, Callable[[int], str]] = {
    "lists": lambda i: "[]",
    "objects": lambda i: "{}",
    "texts": lambda i: f'"k{i:05}"',
    "numbers": lambda i: f"1.{i:05}",
    "objects of one": lambda i: f'{{"a": {i}.5}}',
}


@pytest.mark.parametrize("part", PARTS)
def test_the_reckoning_is_near_to_what_python_takes(part: str) -> None:
    text = f"[{','.join(map(PARTS[part], range(20_000)))}]"
    tracemalloc.start()
    try:
        document = json.loads(text)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(document) == 20_000
    assert json_of(text, most_memory=4 * taken) == document
    with pytest.raises(ValueError, match="MB of memory"):
        json_of(text, most_memory=taken // 2)


def test_millions_of_empty_lists_are_refused_before_they_are_made() -> None:
    text = "[" + "[]," * 500_000 + "[]]"
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"about 57 MB of memory, and up to 32 MB are given"):
            json_of(text, most_memory=32 << 20)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, "{", "", "\ufeff\ufeff{}"])
def test_what_python_does_not_take_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        json_of(text)


@pytest.mark.parametrize("content", ["[" * 100_000, "1" * 5000, '{"width": ' + "9" * 5000 + "}"])
def test_readers_say_so_in_their_own_words(tmp_path: Path, content: str) -> None:
    path = tmp_path / "camera.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CameraError, match=r"camera\.json"):
        load_camera(path)
    with pytest.raises(KeypointError, match=r"camera\.json"):
        read_json(path)
    assert issubclass(CameraError, DiffPoseEdgeError)
