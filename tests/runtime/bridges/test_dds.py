"""The DDS bridge against a peer in another process, over the loopback interface, in a domain of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diffpose_edge
from diffpose_edge.errors import BridgeError
from diffpose_edge.extras import is_installed
from diffpose_edge.keypoints import denormalise
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.bridges.dds import LOOPBACK, DdsBridge, dds_topic
from diffpose_edge.runtime.bridges.image_bodies import ImageBodies
from diffpose_edge.runtime.bridges.joint_cloud import POINT, POINT_CLOUD, cloud_points, point_cloud

from ...bridges.rclpy_environment import rclpy_python  # noqa: TID252 - tests are no package that could be named
from .people import body_of, people_of

pytest.importorskip("cyclonedds", reason="cyclonedds has wheels for x86-64 and Python 3.10 to 3.13 only: pip install '.[dds]'")

# Each test process has a domain of its own; higher ones have ports that the system hands out to others.
DOMAIN = 10 + os.getpid() % 80
CHECKOUT = Path(diffpose_edge.__file__).resolve().parent.parent
PATIENCE_S = 30.0


def until(there: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE_S
    while not (found := there()):
        assert time.monotonic() < end, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.01)
    return found


def message(numbers: np.ndarray, sec: int, nanosec: int, frame_id: str = "camera") -> Any:
    from diffpose_edge.runtime.bridges.dds_types import Header_, Point_, Pose_, PoseArray_, Quaternion_, Time_

    poses = [Pose_(Point_(*xyz), Quaternion_(0.0, 0.0, 0.0, 1.0)) for xyz in numbers.reshape(-1, 3).tolist()]
    return PoseArray_(Header_(Time_(sec, nanosec), frame_id), poses)


def camera_info(w: int, h: int) -> Any:
    from diffpose_edge.runtime.bridges.dds_types import CameraInfo_, Header_, RegionOfInterest_, Time_

    return CameraInfo_(
        header=Header_(Time_(0, 0), "camera"),
        width=w,
        height=h,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=[1.0] * 9,
        r=[1.0] * 9,
        p=[1.0] * 12,
        binning_x=0,
        binning_y=0,
        roi=RegionOfInterest_(0, 0, 0, 0, False),
    )


class Peer:
    """What a detector and a listener are to the bridge: a writer of keypoints and a reader of poses."""

    def __init__(self, domain: int, *, reliable: bool = True, own_settings: bool = True):
        from cyclonedds.domain import Domain, DomainParticipant
        from cyclonedds.pub import DataWriter
        from cyclonedds.qos import Policy, Qos
        from cyclonedds.sub import DataReader
        from cyclonedds.topic import Topic

        from diffpose_edge.runtime.bridges.dds_types import CameraInfo_, PointCloud2_, PoseArray_

        self.domain = Domain(domain, LOOPBACK) if own_settings else None
        participant = DomainParticipant(domain)
        lossless = Policy.Reliability.Reliable(max_blocking_time=10**9)
        every = Qos(lossless if reliable else Policy.Reliability.BestEffort, Policy.History.KeepAll)
        self.writer = DataWriter(participant, Topic(participant, "rt/keypoints", PoseArray_), every)
        self.camera = DataWriter(participant, Topic(participant, "rt/camera_info", CameraInfo_), every)
        self.reader = DataReader(participant, Topic(participant, "rt/poses", PoseArray_), Qos(lossless, Policy.History.KeepAll))
        self.joints = DataReader(participant, Topic(participant, "rt/joints", PointCloud2_), Qos(lossless, Policy.History.KeepAll))
        self.heard: list[Any] = []

    def meet(self) -> None:
        until(self.writer.get_matched_subscriptions, "the bridge's reader")
        for reader in (self.reader, self.joints):
            until(reader.get_matched_publications, "the bridge's writers")

    def answers(self, count: int) -> list[Any]:
        """Wait for so many answers, counted from the beginning, and return all there are."""

        def enough() -> bool:
            self.heard += [each for each in self.reader.take(100) if hasattr(each, "poses")]
            return len(self.heard) >= count

        until(enough, f"{count} answers, {len(self.heard)} came")
        return self.heard


def stamps(answers: list[Any]) -> list[tuple[int, int]]:
    return [(each.header.stamp.sec, each.header.stamp.nanosec) for each in answers]


def positions(answer: Any) -> np.ndarray:
    return np.array([(pose.position.x, pose.position.y, pose.position.z) for pose in answer.poses], np.float32).reshape(-1, 17, 3)


@pytest.fixture
def server(conditioned_bundle: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = f"--domain {DOMAIN} --reliable --depth 100 --seed 3 --threads 1 --frame-id camera".split()
    if is_installed("foxglove"):
        arguments += ["--foxglove", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "diffpose_edge", "serve-dds", str(conditioned_bundle), *arguments],
        cwd=CHECKOUT,
        # The generated settings reach the server as they would a user's process.
        env={**os.environ, "CYCLONEDDS_URI": LOOPBACK},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    yield process
    process.kill()
    process.communicate()


def test_another_process_answers_in_order_with_the_runtime_s_poses(server: subprocess.Popen[str], conditioned_bundle: Path) -> None:
    people = [people_of(i, B) for i, B in enumerate((1, 2, 3, 0, 1, 2, 1, 1, 1, 5))]
    sent = [(1_700_000_000 + i, 123_456_789 + i) for i in range(len(people))]
    peer = Peer(DOMAIN)
    peer.meet()
    wrong = people_of(0, 1)
    wrong[0, 5, 0] = np.nan
    for i, (numbers, stamp) in enumerate(zip(people, sent, strict=True)):
        peer.writer.write(message(numbers, *stamp))
        if i % 3 == 1:
            peer.writer.write(message(wrong, 1, 1))
            peer.writer.write(message(wrong[:, :16], 1, 1))
            peer.writer.write(message(people_of(0, 1), 1, 10**9))
            peer.writer.write(message(people_of(0, 1), 1, 1, "another_camera"))
    answers = peer.answers(len(people))
    # A detector that goes, and one that comes back, are nothing to the bridge.
    del peer
    peer = Peer(DOMAIN)
    peer.meet()
    people.append(people_of(20, 2))
    sent.append((1_800_000_000, 1))
    peer.writer.write(message(people[-1], *sent[-1]))
    answers = answers + peer.answers(1)
    assert stamps(answers) == sent
    assert {each.header.frame_id for each in answers} == {"camera"}
    rng = np.random.default_rng(3)
    with PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        for answer, numbers in zip(answers, people, strict=True):
            expected = runtime.estimate(numbers, seed=rng).joints if len(numbers) else np.zeros((0, 17, 3))
            np.testing.assert_array_equal(positions(answer), expected)
    server.send_signal(signal.SIGTERM)
    out, err = server.communicate(timeout=PATIENCE_S)
    assert server.returncode == 0, err
    assert "served 23 messages, 11 answered, 12 refused (3 frame, 3 keypoints, 3 length, 3 stamp)" in out
    assert err.count("a message was refused") == 4, "one warning for each kind"
    assert "open ws://127.0.0.1:" in out or not is_installed("foxglove")
    until(lambda: not peer.writer.get_matched_subscriptions(), "the bridge to have left the domain")


@pytest.mark.slow
def test_a_ros_2_node_hears_and_is_heard(server: subprocess.Popen[str], conditioned_bundle: Path) -> None:
    """rclpy over Fast DDS, another implementation of DDS: its own messages in, its own messages out, both kinds of subscription."""
    python = rclpy_python()
    people = [people_of(i, B) for i, B in enumerate((1, 2, 3, 1, 1))]
    sent = [{"stamp": [1_700_000_000 + i, 999_999_990 + i], "numbers": each.reshape(-1, 3).tolist()} for i, each in enumerate(people)]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    peer = subprocess.run(
        [str(python), str(Path(__file__).with_name("ros_peer.py"))],
        input=json.dumps(sent), env=environment, capture_output=True, text=True, timeout=3 * PATIENCE_S, check=False,
    )  # fmt: skip
    assert peer.returncode == 0, peer.stderr
    told = json.loads(peer.stdout.splitlines()[-1])
    assert told["rmw"] == "rmw_fastrtps_cpp"
    assert told["types"]["/keypoints"] == told["types"]["/poses"] == ["geometry_msgs/msg/PoseArray"]
    assert [answer["stamp"] for answer in told["answers"]] == [each["stamp"] for each in sent]
    assert {answer["frame_id"] for answer in told["answers"]} == {"camera"}
    assert told["as_sensor_data"] == len(people)
    assert told["types"]["/joints"] == [POINT_CLOUD]
    assert [cloud["points"] for cloud in told["clouds"]] == [17 * len(each) for each in people]
    for cloud, answer in zip(told["clouds"], told["answers"], strict=True):
        np.testing.assert_array_equal(np.array(cloud["xyz"], np.float32), np.array(answer["numbers"], np.float32))
    rng = np.random.default_rng(3)
    with PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        for answer, numbers in zip(told["answers"], people, strict=True):
            expected = runtime.estimate(numbers, seed=rng).joints
            np.testing.assert_array_equal(np.array(answer["numbers"], np.float32).reshape(expected.shape), expected)
    server.send_signal(signal.SIGTERM)
    out, err = server.communicate(timeout=PATIENCE_S)
    assert server.returncode == 0, err
    found = re.search(r"served (\d+) messages, \1 answered, 0 refused", out)
    assert found is not None, out
    heard, sent_before = told["greeted"]
    assert heard <= int(found[1]) - len(people) <= sent_before


@pytest.fixture
def images(conditioned_bundle: Path) -> Iterator[ImageBodies]:
    with PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        yield ImageBodies(runtime, seed=3)


def test_pixels_wait_for_the_size_of_the_image(images: ImageBodies, conditioned_bundle: Path) -> None:
    numbers = people_of(1, 1)
    pixels = np.concatenate([denormalise(numbers[..., :2], (640, 480)), numbers[..., 2:]], axis=-1)
    with DdsBridge(images, domain=DOMAIN, camera_topic="/camera_info", loopback=True) as bridge:
        peer = Peer(DOMAIN, own_settings=False)
        peer.meet()
        peer.writer.write(message(pixels, 1, 1))
        assert bridge.step(PATIENCE_S)
        peer.camera.write(camera_info(0, 0))
        time.sleep(0.1)
        peer.writer.write(message(pixels, 1, 2))
        assert bridge.step(PATIENCE_S)
        peer.camera.write(camera_info(640, 480))
        time.sleep(0.1)
        peer.writer.write(message(pixels, 2, 2))
        assert bridge.step(PATIENCE_S)
        (answer,) = peer.answers(1)
        # Two messages of keypoints before the size was known, and a CameraInfo without one.
        assert (bridge.counts.received, bridge.counts.answered, dict(bridge.counts.refused)) == (4, 1, {"camera": 3})
    uv = denormalise(numbers[..., :2], (640, 480)) * (2 / 640) - (1, 480 / 640)
    with PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        np.testing.assert_array_equal(positions(answer), runtime.estimate(uv, numbers[..., 2], seed=3).joints)
    with pytest.raises(BridgeError, match="closed"):
        bridge.step(0)


def test_what_cannot_be_decoded_is_counted_and_the_next_one_answered(images: ImageBodies) -> None:
    from cyclonedds._clayer import ddspy_write

    with DdsBridge(images, domain=DOMAIN, loopback=True) as bridge:
        peer = Peer(DOMAIN, own_settings=False)
        peer.meet()
        raw = message(people_of(1, 1), 1, 1).serialize(use_version_2=False).replace(b"camera", b"\xff\xfe\xfd\xfc\xfb\xfa")
        assert ddspy_write(peer.writer._ref, raw.ljust((len(raw) + 3) & ~3, b"\0")) == 0
        peer.writer.write(message(people_of(1, 1), 2, 2))
        assert bridge.step(PATIENCE_S)
        assert bridge.step(PATIENCE_S)
        assert stamps(peer.answers(1)) == [(2, 2)]
        assert (bridge.counts.received, dict(bridge.counts.refused)) == (2, {"undecodable": 1})


def test_best_effort_detectors_are_heard_and_a_reliable_reader_says_that_it_does_not_hear_them(
    images: ImageBodies, caplog: pytest.LogCaptureFixture
) -> None:
    with DdsBridge(images, domain=DOMAIN, loopback=True) as bridge:
        peer = Peer(DOMAIN, reliable=False, own_settings=False)
        peer.meet()
        peer.writer.write(message(people_of(1, 1), 1, 1))
        assert bridge.step(PATIENCE_S)
        del peer
    with DdsBridge(images, domain=DOMAIN, loopback=True, reliable=True) as bridge:
        peer = Peer(DOMAIN, reliable=False, own_settings=False)
        until(peer.reader.get_matched_publications, "the bridge's writer")
        until(lambda: bridge.step(0.01) or "not heard by a reliable reader" in caplog.text, "the warning")
        assert not peer.writer.get_matched_subscriptions()


def test_bodies_are_shown_to_who_asks_and_joints_are_sent_with_their_covariances(images: ImageBodies) -> None:
    seen: list[Any] = []
    with DdsBridge(images, domain=DOMAIN, loopback=True, shown=seen.append) as bridge:
        peer = Peer(DOMAIN, own_settings=False)
        peer.meet()
        peer.writer.write(message(people_of(1, 2), 7, 8))
        assert bridge.run(lambda: bool(seen)).answered == 1
        (cloud,) = until(lambda: peer.joints.take(10), "the joints")
    (bodies,) = seen
    assert [(body.stamp_ns, body.frame_id, body.body_id) for body in bodies] == [(7_000_000_008, "camera", 0), (7_000_000_008, "camera", 1)]
    assert all(body.latency_ns > 0 for body in bodies)
    assert (cloud.header.stamp.sec, cloud.header.stamp.nanosec, cloud.header.frame_id) == (7, 8, "camera")
    np.testing.assert_array_equal(np.frombuffer(bytes(cloud.data), POINT), cloud_points(bodies))


def test_types_are_named_as_ros_names_them() -> None:
    """Every byte of a PoseArray and of a CameraInfo is where rosbags, another implementation of ROS 2's CDR, reads it."""
    typesys = pytest.importorskip("rosbags.typesys", reason="rosbags is not installed: pip install '.[ros]'")
    from diffpose_edge.runtime.bridges.dds_types import CLASSES

    for name, declared in CLASSES.items():
        package, _, kind = name.partition("/msg/")
        assert declared.__idl_typename__ == f"{package}.msg.dds_.{kind}_"
    store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    sent = message(people_of(1, 2), 7, 8)
    read = store.deserialize_cdr(sent.serialize(use_version_2=False), "geometry_msgs/msg/PoseArray")
    assert (read.header.stamp.sec, read.header.stamp.nanosec, read.header.frame_id) == (7, 8, "camera")
    np.testing.assert_array_equal(positions(read), positions(sent))
    info = store.deserialize_cdr(camera_info(640, 480).serialize(use_version_2=False), "sensor_msgs/msg/CameraInfo")
    assert (info.width, info.height, len(info.d), len(info.p)) == (640, 480, 5, 12)
    cloud = point_cloud(CLASSES.__getitem__, [body_of(1)], 7, "camera")
    cloud.data = cloud.data.tobytes()
    read_cloud = store.deserialize_cdr(cloud.serialize(use_version_2=False), POINT_CLOUD)
    np.testing.assert_array_equal(read_cloud.data.view(POINT), cloud_points([body_of(1)]))
    assert (read_cloud.width, [field.name for field in read_cloud.fields]) == (17, list(POINT.names or ()))
    assert type(sent).deserialize(store.serialize_cdr(read, "geometry_msgs/msg/PoseArray")) == sent


def test_mistakes_say_what_to_do(images: ImageBodies) -> None:
    assert dds_topic("/robot/camera_1/keypoints") == "rt/robot/camera_1/keypoints"
    for name in ("", "/", "a//b", "/1a", "käse", "a b"):
        with pytest.raises(BridgeError, match="ROS topic"):
            dds_topic(name)
    with pytest.raises(BridgeError, match=r"within 0\.\.232, got 500"):
        DdsBridge(images, domain=500)
    with pytest.raises(BridgeError, match="topics that differ"):
        DdsBridge(images, domain=DOMAIN, poses_topic="keypoints")
    with DdsBridge(images, domain=DOMAIN, loopback=True), pytest.raises(BridgeError, match="opened the domain before"):
        DdsBridge(images, domain=DOMAIN, loopback=True)
    bridge = DdsBridge(images, domain=DOMAIN, loopback=True)
    bridge.close()
    bridge.close()
