"""The commands of the bridges, as a user types them, and their mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from diffpose_edge.runtime.bridges.bags import BagReader, BagWriter
from diffpose_edge.runtime.bridges.plain_messages import POSE_ARRAY
from tests.runtime.bridges.people import people_of
from tests.runtime.bridges.test_bags import STAMPS, pose_array_of

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install '.[ros]'")

Mistake = Callable[..., str]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    with BagWriter(tmp_path / "recorded") as bag:
        for i, stamp in enumerate(STAMPS):
            numbers = people_of(i, 2) if i else np.zeros((16, 3))
            bag.write("/people", POSE_ARRAY, stamp, pose_array_of(bag.classes, numbers, stamp))
    return tmp_path / "recorded"


def test_replay_tells_what_became_of_the_messages(
    cli: Callable[..., SimpleNamespace], recorded: Path, golden_bundle: Path, tmp_path: Path
) -> None:
    told = cli("replay", recorded, "--bundle", golden_bundle, "--out", tmp_path / "out", "--poses-topic", "/robot/poses", "--threads", 1)
    assert "6 messages, 5 answered, 1 refused (1 length)" in told.out
    assert "expected 17 poses for each person, got 16" in told.err
    with BagReader(tmp_path / "out") as bag:
        assert [each.log_ns for each in bag.messages("/robot/poses")] == STAMPS[1:]


def test_replay_leaves_everything_as_it_was_when_something_is_wrong(
    mistake: Mistake, recorded: Path, golden_bundle: Path, tmp_path: Path
) -> None:
    given = ("--bundle", golden_bundle, "--out")
    (tmp_path / "there").mkdir()
    assert "exists already" in mistake("replay", recorded, *given, tmp_path / "there")
    assert "no bag at" in mistake("replay", tmp_path / "nowhere", *given, tmp_path / "out")
    assert "has no topic /keypoints. It has: /people" in mistake(
        "replay", recorded, *given, tmp_path / "out", "--keypoints-topic", "/keypoints"
    )
    assert "such as 640x480" in mistake("replay", recorded, *given, tmp_path / "out", "--image-size", "640")
    for bag in (recorded, recorded / "recorded.mcap"):
        assert "has the bag itself in it" in mistake("replay", bag, *given, recorded, "--force")
    assert "manifest" in mistake("replay", recorded, "--bundle", tmp_path / "there", "--out", tmp_path / "out")


def test_serving_says_what_is_wrong(mistake: Mistake, golden_bundle: Path) -> None:
    pytest.importorskip("cyclonedds", reason="cyclonedds has wheels for x86-64 and Python 3.10 to 3.13 only: pip install '.[dds]'")
    assert "within 0..232, got 300" in mistake("serve-dds", golden_bundle, "--domain", 300)
    assert "ROS topic" in mistake("serve-dds", golden_bundle, "--poses-topic", "no topic")
