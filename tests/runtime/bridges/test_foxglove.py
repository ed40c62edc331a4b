"""The Foxglove view, as a client of its protocol sees it over a web socket, and in the file that it records.

Foxglove's own panel has not been looked at: the messages are read by their published schemas.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpose_edge.body import BodyEstimate
from diffpose_edge.errors import BridgeError, OutputError
from diffpose_edge.runtime.bridges.foxglove import FoxgloveView
from diffpose_edge.tolerances import QUATERNION_ABS

from .people import body_of
from .test_shapes import turned

pytest.importorskip("foxglove", reason="foxglove-sdk is not installed: pip install '.[foxglove]'")

STAMP = 1_700_000_000_123_456_789
PATIENCE_S = 20.0


def decoder(schema_name: str, schema: bytes) -> Callable[[bytes], Any]:
    """Return a function that reads messages by the schema that came with them."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(schema).file:
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(schema_name)).FromString


class Client:
    """A client of Foxglove's protocol: says which topics it wants and reads what comes."""

    def __init__(self, socket: Any):
        self.socket = socket
        self.topics: dict[str, Any] = {}
        while set(self.topics) != {"/bodies", "/tf"}:
            told = json.loads(self.socket.recv(PATIENCE_S))
            self.topics |= {channel["topic"]: channel for channel in told.get("channels", ())}
        self.decoders = [decoder(each["schemaName"], base64.b64decode(each["schema"])) for each in self.topics.values()]
        wanted = [{"id": i, "channelId": each["id"]} for i, each in enumerate(self.topics.values())]
        self.socket.send(json.dumps({"op": "subscribe", "subscriptions": wanted}))

    def next(self, topic: str, show: Callable[[], None] = lambda: None) -> tuple[int, Any]:
        """Return the next message of a topic and its time; ``show`` again as long as none comes, because to subscribe takes a moment."""
        wanted = list(self.topics).index(topic)
        for _ in range(200):
            show()
            try:
                data = self.socket.recv(0.1)
            except TimeoutError:
                continue
            if isinstance(data, bytes) and data[0] == 1:
                subscription, stamp_ns = struct.unpack_from("<IQ", data, 1)
                if subscription == wanted:
                    return stamp_ns, self.decoders[wanted](data[13:])
        raise AssertionError(f"no message of {topic} came")

    def drain(self) -> None:
        """Read what was shown more than once."""
        try:
            while True:
                self.socket.recv(0.2)
        except TimeoutError:
            pass


@contextmanager
def client_of(view: FoxgloveView) -> Iterator[Client]:
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{view.port}", subprotocols=["foxglove.sdk.v1"]) as socket:  # type: ignore[list-item]
        yield Client(socket)


def two_bodies(stamp_ns: int = STAMP) -> list[BodyEstimate]:
    return [body_of(0, 3, stamp_ns, root=np.array([0.5, 0.2, 4.0], np.float32), steps=5, latency_ns=2_500_000), body_of(1, 4, stamp_ns)]


def checked_scene(scene: Any, bodies: list[BodyEstimate]) -> None:
    assert [entity.id for entity in scene.entities] == [f"body_{body.body_id}" for body in bodies]
    for entity, body in zip(scene.entities, bodies, strict=True):
        assert entity.frame_id == "camera"
        assert entity.timestamp.ToNanoseconds() == body.stamp_ns
        (line,) = entity.lines
        assert (line.type, len(line.points)) == (2, 32), "a list of 16 lines"
        assert len(entity.spheres) == 17 + 16, "joints, and ellipsoids of all but the hip"
        joints = [(s.pose.position.x, s.pose.position.y, s.pose.position.z) for s in entity.spheres[:17]]
        np.testing.assert_array_equal(np.array(joints, np.float32), body.placed_joints)
        told = {pair.key: pair.value for pair in entity.metadata}
        assert told == {"steps": str(body.steps), "truncated": "false", "latency_ms": f"{body.latency_ns / 1e6:.2f}"}


def test_a_client_sees_bodies_and_frames() -> None:
    bodies = two_bodies()
    with FoxgloveView(port=0) as view, client_of(view) as client:
        stamp_ns, scene = client.next("/bodies", lambda: view.show(bodies))
        assert stamp_ns == STAMP
        checked_scene(scene, bodies)
        assert not scene.deletions
        _, frames = client.next("/tf", lambda: view.show(bodies))
        by_child = {each.child_frame_id: each for each in frames.transforms}
        assert set(by_child) == {"body_3", "body_4", "camera"}
        hip = by_child["body_3"]
        assert hip.parent_frame_id == "camera"
        np.testing.assert_allclose([hip.translation.x, hip.translation.y, hip.translation.z], [0.5, 0.2, 4.0], rtol=1e-6)
        camera = by_child["camera"]
        assert camera.parent_frame_id == "world"
        q = np.array([camera.rotation.x, camera.rotation.y, camera.rotation.z, camera.rotation.w])
        # Right, down and forward of the camera are the world's right (-y), down (-z) and forward (x).
        np.testing.assert_allclose(turned(q, np.eye(3)), [[0, -1, 0], [0, 0, -1], [1, 0, 0]], rtol=0, atol=QUATERNION_ABS)


def test_who_leaves_or_has_no_pose_is_deleted() -> None:
    lost = body_of(0, 3, STAMP + 5, joints=np.full((17, 3), np.nan, np.float32))
    with FoxgloveView(port=0, world=None) as view, client_of(view) as client:
        client.next("/bodies", lambda: view.show(two_bodies()))
        client.drain()
        for shown, gone in (([lost, body_of(1, 4, STAMP + 5)], ["body_3"]), ([], ["body_4"]), ([], [])):
            view.show(shown)
            _, scene = client.next("/bodies")
            assert [each.id for each in scene.deletions] == gone
            assert all(each.type == 0 and each.timestamp.ToNanoseconds() > STAMP for each in scene.deletions)
            assert [each.id for each in scene.entities] == [f"body_{body.body_id}" for body in shown if body.found]


def test_what_was_shown_is_recorded_whole(tmp_path: Path) -> None:
    reader = pytest.importorskip("mcap.reader", reason="mcap is not installed")

    def fail() -> None:
        with FoxgloveView(port=0, record=tmp_path / "seen.mcap") as view:
            for i in range(3):
                view.show(two_bodies(STAMP + i))
            assert not (tmp_path / "seen.mcap").exists()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["seen.mcap"]
    with open(tmp_path / "seen.mcap", "rb") as file:
        messages = list(reader.make_reader(file, validate_crcs=True).iter_messages(topics=["/bodies"]))
    assert [message.log_time for _, _, message in messages] == [STAMP, STAMP + 1, STAMP + 2]
    schema, _, message = messages[2]
    assert schema.name == "foxglove.SceneUpdate"
    checked_scene(decoder(schema.name, schema.data)(message.data), two_bodies(STAMP + 2))


def test_mistakes_say_what_to_do(tmp_path: Path) -> None:
    with FoxgloveView(port=0) as view, pytest.raises(BridgeError, match="choose another port, or 0 for a free one"):
        FoxgloveView(port=view.port, record=tmp_path / "seen.mcap")
    assert list(tmp_path.iterdir()) == [], "a view that did not open leaves no recording"
    with pytest.raises(BridgeError, match="closed"):
        view.show([])
    with pytest.raises(OutputError, match="parent folder does not exist"):
        FoxgloveView(port=0, record=tmp_path / "nowhere" / "seen.mcap")
    with pytest.raises(BridgeError, match="70000"):
        FoxgloveView(port=70000)
