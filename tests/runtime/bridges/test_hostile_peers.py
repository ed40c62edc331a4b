"""Peers that send too much: refused and counted, and the next message is answered as ever."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import diffpose_edge
from diffpose_edge.errors import BagError
from diffpose_edge.extras import is_installed
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.bridges.bags import BagReader, Recorded
from diffpose_edge.runtime.bridges.dds import DdsBridge
from diffpose_edge.runtime.bridges.image_bodies import ImageBodies
from diffpose_edge.runtime.bridges.incoming import MOST_COEFFICIENTS, MalformedMessage, intrinsics_of
from diffpose_edge.runtime.bridges.incoming import frame_id_of as node_frame_id_of
from diffpose_edge.runtime.bridges.plain_messages import MOST_FRAME_ID, MOST_MESSAGE_BYTES, MOST_PEOPLE, Refused, frame_id_of, keypoints_of
from diffpose_edge.skeleton import J

CHECKOUT = Path(diffpose_edge.__file__).resolve().parent.parent
DOMAIN = 110 + os.getpid() % 80


class Endless:
    """A sequence that says how long it is and must not be looked into."""

    def __init__(self, length: int):
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Any:
        raise AssertionError("it was looked into")


@pytest.mark.parametrize("people", [MOST_PEOPLE + 1, 2**31])
def test_more_people_than_are_taken_are_refused_by_their_number(people: int) -> None:
    with pytest.raises(Refused, match=f"at most {MOST_PEOPLE} people in a message, got {people}") as refused:
        keypoints_of(SimpleNamespace(poses=Endless(people * J)))
    assert refused.value.kind == "people"


def test_a_frame_whose_name_fills_memory_is_refused_and_not_quoted() -> None:
    header = SimpleNamespace(frame_id="\x1b[2J" + "a" * (8 << 20))
    for read, error in ((frame_id_of, Refused), (node_frame_id_of, MalformedMessage)):
        tracemalloc.start()
        try:
            with pytest.raises(error, match=f"at most {MOST_FRAME_ID} characters, got {(8 << 20) + 4}") as refused:
                read(header)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()
        assert len(str(refused.value)) < 200
        assert read(SimpleNamespace(frame_id="a" * MOST_FRAME_ID)) == "a" * MOST_FRAME_ID


def test_a_camera_of_millions_of_coefficients_is_refused_by_their_number() -> None:
    info = SimpleNamespace(width=640, height=480, k=[1.0] * 9, d=Endless(2**31 - 1), distortion_model="plumb_bob")
    with pytest.raises(MalformedMessage, match=f"at most {MOST_COEFFICIENTS} coefficients"):
        intrinsics_of(info)


# Bags


@pytest.mark.skipif(not is_installed("rosbags"), reason="rosbags is not installed: pip install '.[ros]'")
def test_a_large_message_of_a_bag_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = BagReader.__new__(BagReader)
    reader._store = None  # type: ignore[assignment]
    with pytest.raises(Refused, match=rf"has {MOST_MESSAGE_BYTES + 1} bytes, and up to {MOST_MESSAGE_BYTES} are taken"):
        reader.decoded(Recorded("/keypoints", "geometry_msgs/msg/PoseArray", 0, bytes(MOST_MESSAGE_BYTES + 1)))


@pytest.mark.skipif(not is_installed("rosbags"), reason="rosbags is not installed: pip install '.[ros]'")
@pytest.mark.parametrize("place", ["bag.mcap", "metadata.yaml", "a.mcap"])
def test_a_pipe_for_a_bag_or_in_one_is_not_waited_for(tmp_path: Path, place: str) -> None:
    os.mkfifo(tmp_path / place)
    with pytest.raises(BagError, match="is a pipe, a socket or a device"):
        BagReader(tmp_path / place if place == "bag.mcap" else tmp_path)


# DDS, over the network's loopback

HOSTILE_PEER = """
import sys, time
sys.path.insert(0, sys.argv[2])
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.topic import Topic
from diffpose_edge.runtime.bridges.dds import LOOPBACK
from diffpose_edge.runtime.bridges.dds_types import Header_, Point_, Pose_, PoseArray_, Quaternion_, Time_

domain = Domain(int(sys.argv[1]), LOOPBACK)
participant = DomainParticipant(int(sys.argv[1]))
plain = Policy.DataRepresentation(use_cdrv0_representation=True)
reliable = Policy.Reliability.Reliable(max_blocking_time=10**9)
writer = DataWriter(participant, Topic(participant, "rt/keypoints", PoseArray_), Qos(reliable, plain))
one = Pose_(Point_(0.1, 0.2, 0.9), Quaternion_(0.0, 0.0, 0.0, 1.0))
def send(count, stamp, frame="camera"):
    writer.write(PoseArray_(Header_(Time_(stamp, 0), frame), [one] * count))
end = time.monotonic() + 20
while not writer.get_matched_subscriptions() and time.monotonic() < end:
    time.sleep(0.02)
time.sleep(0.3)
send(17 * 5_000, 1)       # 4.8 MB: beyond what the bridge takes from the network
send(17 * 300, 2)         # 286 kB: more people than are taken
send(17, 3, "f" * 9999)   # a frame with a name of 10 kB
send(17, 4)               # a person
print("sent", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not is_installed("cyclonedds"), reason="cyclonedds has no wheels here")
def test_a_peer_that_sends_too_much_is_counted_and_the_next_message_answered(golden_bundle: Path) -> None:
    command = [sys.executable, "-c", HOSTILE_PEER, str(DOMAIN), str(CHECKOUT)]
    with (
        PoseRuntime.load(golden_bundle, threads=1) as runtime,
        DdsBridge(ImageBodies(runtime), domain=DOMAIN, loopback=True, depth=10) as bridge,
    ):
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        tracemalloc.start()
        try:
            end = time.monotonic() + 60
            while not bridge.counts.answered and time.monotonic() < end:
                bridge.step(0.1)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            peer.kill()
            peer.communicate()
    assert bridge.counts.answered == 1
    assert dict(bridge.counts.refused) == {"people": 1, "frame": 1}
    # What lay in the message that was dropped would be 255,000 Python objects, 70 MB and more.
    assert peak < 24 << 20
