"""A bridge's library is needed when the bridge is opened, and not before."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import diffpose_edge
from diffpose_edge import extras
from diffpose_edge.errors import MissingPackage
from diffpose_edge.runtime.bridges.bags import BagReader, BagWriter
from diffpose_edge.runtime.bridges.dds import DdsBridge
from diffpose_edge.runtime.bridges.foxglove import FoxgloveView

CHECKOUT = Path(diffpose_edge.__file__).resolve().parent.parent
UNWANTED = {"cyclonedds", "rosbags", "foxglove", "rclpy", "typer", "rich", "onnxruntime", "torch", "scipy"}


def test_importing_the_bridges_loads_none_of_their_libraries() -> None:
    code = "import sys, json; from diffpose_edge.runtime.bridges import bags, dds, foxglove; print(json.dumps(sorted(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60)
    modules = set(json.loads(found.stdout))
    assert "diffpose_edge.runtime.bridges.dds" in modules
    assert not UNWANTED & modules


@pytest.mark.parametrize(
    ("module", "opened", "command"),
    [
        ("cyclonedds", lambda path: DdsBridge(None), "pip install cyclonedds "),  # type: ignore[arg-type]
        ("foxglove", lambda path: FoxgloveView(0), "pip install foxglove-sdk "),
    ],
)
def test_a_missing_library_is_named_with_what_brings_it(
    module: str, opened: Callable[[Path], Any], command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda name: name != module)
    with pytest.raises(MissingPackage, match=command):
        opened(tmp_path)


@pytest.mark.parametrize("opened", [BagReader, BagWriter])
def test_bags_name_theirs(opened: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from diffpose_edge.runtime.bridges import bags

    bags._typestore.cache_clear()
    monkeypatch.setattr(extras, "is_installed", lambda name: name != "rosbags")
    with pytest.raises(MissingPackage, match="pip install rosbags "):
        opened(tmp_path / "bag")
    assert list(tmp_path.iterdir()) == []
