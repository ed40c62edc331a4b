"""Bags: what is replayed comes out with its stamps, whole, readable by others; what is wrong is said, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpose_edge.errors import BagError, OutputError
from diffpose_edge.keypoints import denormalise
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.runtime.bridges import bags
from diffpose_edge.runtime.bridges.bags import BagReader, BagWriter, Recorded, Topics, replay
from diffpose_edge.runtime.bridges.image_bodies import ImageBodies
from diffpose_edge.runtime.bridges.joint_cloud import POINT_CLOUD
from diffpose_edge.runtime.bridges.plain_messages import CAMERA_INFO, MARKER_ARRAY, POSE_ARRAY, Refused

from .people import people_of

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install '.[ros]'")

# Recorded later than the image was taken, and by no round number.
STAMPS = [1_700_000_000_000_000_001 + 33_333_333 * i for i in range(6)]
LATE_NS = 12_345_677
SIZE = (640, 480)


def pose_array_of(classes: Callable[[str], Any], numbers: np.ndarray, stamp_ns: int) -> Any:
    stamp = classes("builtin_interfaces/msg/Time")(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    still = classes("geometry_msgs/msg/Quaternion")(x=0.0, y=0.0, z=0.0, w=1.0)
    points = [classes("geometry_msgs/msg/Point")(x=x, y=y, z=z) for x, y, z in numbers.reshape(-1, 3).tolist()]
    poses = [classes("geometry_msgs/msg/Pose")(position=point, orientation=still) for point in points]
    return classes(POSE_ARRAY)(header=classes("std_msgs/msg/Header")(stamp=stamp, frame_id="camera"), poses=poses)


def camera_info_of(classes: Callable[[str], Any], size: tuple[int, int]) -> Any:
    stamp = classes("builtin_interfaces/msg/Time")(sec=0, nanosec=0)
    roi = classes("sensor_msgs/msg/RegionOfInterest")(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return classes(CAMERA_INFO)(
        header=classes("std_msgs/msg/Header")(stamp=stamp, frame_id="camera"),
        width=size[0],
        height=size[1],
        distortion_model="",
        d=np.zeros(0),
        k=np.zeros(9),
        r=np.zeros(9),
        p=np.zeros(12),
        binning_x=0,
        binning_y=0,
        roi=roi,
    )


@pytest.fixture
def people() -> list[np.ndarray]:
    """Normalised keypoints of 1, 2, 3, 0, 1 and 2 people."""
    return [people_of(i, B) for i, B in enumerate((1, 2, 3, 0, 1, 2))]


@pytest.fixture
def recorded(people: list[np.ndarray], tmp_path: Path) -> Path:
    """A bag of those people in pixels, of which the CameraInfo tells the size only after the first of them."""
    with BagWriter(tmp_path / "recorded") as bag:
        for i, (numbers, stamp) in enumerate(zip(people, STAMPS, strict=True)):
            pixels = np.concatenate([denormalise(numbers[..., :2], SIZE), numbers[..., 2:]], axis=-1)
            bag.write("/detector/people", POSE_ARRAY, stamp + LATE_NS, pose_array_of(bag.classes, pixels, stamp))
            if i == 1:
                bag.write("/camera_info", CAMERA_INFO, stamp + LATE_NS + 1, camera_info_of(bag.classes, SIZE))
    return tmp_path / "recorded"


def positions(message: Any) -> np.ndarray:
    rows = [(pose.position.x, pose.position.y, pose.position.z) for pose in message.poses]
    return np.array(rows, np.float32).reshape(-1, 17, 3)


def replayed(bag: Path, out: Path, bundle: Path, seed: int = 4, **options: Any) -> Any:
    with PoseRuntime.load(bundle, threads=1) as runtime, BagReader(bag) as reader, BagWriter(out) as writer:
        return replay(reader, ImageBodies(runtime, seed=seed), writer, **options)


def test_a_replay_is_the_runtime_on_every_image(recorded: Path, people: list[np.ndarray], conditioned_bundle: Path, tmp_path: Path) -> None:
    counts = replayed(recorded, tmp_path / "out", conditioned_bundle)
    assert (counts.received, counts.answered) == (6, 6)
    rng = np.random.default_rng(4)
    with BagReader(tmp_path / "out") as bag, BagReader(recorded) as before, PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        assert bag.topics == {
            "/detector/people": POSE_ARRAY, "/camera_info": CAMERA_INFO, "/poses": POSE_ARRAY, "/joints": POINT_CLOUD,
            "/body_markers": MARKER_ARRAY,
        }  # fmt: skip
        inputs = ("/detector/people", "/camera_info")
        assert list(bag.messages(*inputs)) == list(before.messages(*inputs)), "the input is copied byte for byte, in its order"
        answers = list(bag.messages("/poses"))
        assert [each.log_ns for each in answers] == [stamp + LATE_NS for stamp in STAMPS]
        for answer, stamp, numbers in zip(answers, STAMPS, people, strict=True):
            message = bag.decoded(answer)
            assert (message.header.stamp.sec, message.header.stamp.nanosec) == divmod(stamp, 10**9)
            assert message.header.frame_id == "camera"
            if len(numbers):
                # Pixels and back: the same float32 but for a last bit of the normalised ones, so they are made in the same way here.
                pixels = denormalise(numbers[..., :2], SIZE)
                uv = pixels * (2.0 / SIZE[0]) - (1.0, SIZE[1] / SIZE[0])
                expected = runtime.estimate(uv, numbers[..., 2], rng).joints
                np.testing.assert_array_equal(positions(message), expected)
            else:
                assert not message.poses
        markers = [bag.decoded(each).markers for each in bag.messages("/body_markers")]
        assert [sum(each.ns == "bones" for each in drawn) for drawn in markers] == [1, 2, 3, 0, 1, 2]


def test_others_read_the_file(recorded: Path, conditioned_bundle: Path, tmp_path: Path) -> None:
    """MCAP's own reader, which checks every checksum, sees the same messages at the same nanoseconds."""
    reader = pytest.importorskip("mcap.reader", reason="mcap is not installed")
    replayed(recorded, tmp_path / "out", conditioned_bundle)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["metadata.yaml", "out.mcap"]
    with open(tmp_path / "out" / "out.mcap", "rb") as file, BagReader(tmp_path / "out") as bag:
        theirs = reader.make_reader(file, validate_crcs=True)
        seen = [(schema.name, channel.topic, message.log_time, message.data) for schema, channel, message in theirs.iter_messages()]
        ours = [(each.kind, each.topic, each.log_ns, each.data) for each in bag.messages(*bag.topics)]
    assert len(ours) == 6 + 1 + 3 * 6
    assert sorted(seen) == sorted(ours)


def test_the_sqlite_storage_and_single_files_are_read(recorded: Path, tmp_path: Path) -> None:
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    with BagReader(recorded) as bag, Writer(tmp_path / "old", version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        topic = writer.add_connection("/detector/people", POSE_ARRAY, typestore=get_typestore(Stores.ROS2_JAZZY))
        written = list(bag.messages("/detector/people"))
        for each in written:
            writer.write(topic, each.log_ns, each.data)
    for path in (tmp_path / "old", recorded / "recorded.mcap", next((tmp_path / "old").glob("*.db3"))):
        with BagReader(path) as bag:
            assert list(bag.messages("/detector/people")) == written


def test_a_topic_that_is_not_there_names_those_that_are(recorded: Path) -> None:
    with BagReader(recorded) as bag:
        with pytest.raises(BagError, match=r"no topic /keypoints\. It has: /camera_info \(sensor_msgs/msg/CameraInfo\), /detector/people"):
            bag.topic_of("/keypoints", POSE_ARRAY)
        with pytest.raises(
            BagError, match="expected /camera_info to be of geometry_msgs/msg/PoseArray, it is of sensor_msgs/msg/CameraInfo"
        ):
            bag.topic_of("/camera_info", POSE_ARRAY)
        with pytest.raises(BagError, match="has no topics of visualization_msgs/msg/MarkerArray"):
            bag.topic_of(None, MARKER_ARRAY)


def test_results_may_not_be_mixed_with_the_input(recorded: Path, conditioned_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BagError, match="results that differ from /detector/people"):
        replayed(recorded, tmp_path / "out", conditioned_bundle, topics=Topics(poses="/detector/people"))
    assert not (tmp_path / "out").exists()


def test_a_camera_without_a_size_is_counted_and_the_next_one_taken(
    people: list[np.ndarray], conditioned_bundle: Path, tmp_path: Path
) -> None:
    with BagWriter(tmp_path / "recorded") as bag:
        pixels = np.concatenate([denormalise(people[0][..., :2], SIZE), people[0][..., 2:]], axis=-1)
        bag.write("/people", POSE_ARRAY, STAMPS[0], pose_array_of(bag.classes, pixels, STAMPS[0]))
        for i, size in enumerate(((0, 0), SIZE)):
            bag.write("/camera_info", CAMERA_INFO, STAMPS[1 + i], camera_info_of(bag.classes, size))
    counts = replayed(tmp_path / "recorded", tmp_path / "out", conditioned_bundle)
    assert (counts.received, counts.answered, dict(counts.refused)) == (2, 1, {"camera": 1})


def test_malformed_messages_are_copied_and_counted(
    people: list[np.ndarray],
    conditioned_bundle: Path,
    tmp_path: Path,
) -> None:
    with BagWriter(tmp_path / "recorded") as bag:
        wrong = [people[0].reshape(-1, 3)[:16], np.full((17, 3), np.nan), people[0] * 1000]
        for i, numbers in enumerate([people[0], *wrong, people[1]]):
            bag.write("/people", POSE_ARRAY, STAMPS[i], pose_array_of(bag.classes, numbers, STAMPS[i]))
        bag.copy(Recorded("/people", POSE_ARRAY, STAMPS[5], b"\x00\x01\x00\x00\xff\xff"))
    counts = replayed(tmp_path / "recorded", tmp_path / "out", conditioned_bundle)
    assert (counts.received, counts.answered, dict(counts.refused)) == (6, 2, {"length": 1, "keypoints": 2, "undecodable": 1})
    rng = np.random.default_rng(4)
    with BagReader(tmp_path / "out") as bag, PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        assert bag.counts["/people"] == 6
        for answer, numbers in zip(bag.messages("/poses"), (people[0], people[1]), strict=True):
            np.testing.assert_array_equal(positions(bag.decoded(answer)), runtime.estimate(numbers, seed=rng).joints)


def test_where_nothing_can_be_answered_nothing_is_written(recorded: Path, conditioned_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BagError, match="no message of /detector/people gave a pose; keypoints reach"):
        replayed(recorded, tmp_path / "out", conditioned_bundle, normalised=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recorded"]


@pytest.mark.parametrize("damage", ["cut", "metadata", "no metadata", "not a bag", "empty"])
def test_a_damaged_bag_is_an_error_and_nothing_is_left(damage: str, recorded: Path, conditioned_bundle: Path, tmp_path: Path) -> None:
    file = recorded / "recorded.mcap"
    content = file.read_bytes()
    match damage:
        case "cut":
            file.write_bytes(content[: len(content) // 2])
        case "metadata":
            (recorded / "metadata.yaml").write_text("rosbag2_bagfile_information: [1, 2")
        case "no metadata":
            (recorded / "metadata.yaml").unlink()
        case "not a bag":
            file.write_bytes(b"no bag at all " * 100)
        case "empty":
            file.write_bytes(b"")
    with pytest.raises(BagError, match="recorded"):
        replayed(recorded, tmp_path / "out", conditioned_bundle)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recorded"]


def test_any_damage_is_an_error_or_a_refused_message(recorded: Path, tmp_path: Path) -> None:
    """Flip bytes anywhere: never another exception than ours."""
    rng = np.random.default_rng(0)
    content = np.frombuffer((recorded / "recorded.mcap").read_bytes(), np.uint8)
    outcomes = set()
    for _ in range(100):
        damaged = content.copy()
        damaged[rng.integers(0, len(content), 3)] ^= rng.integers(1, 256, 3).astype(np.uint8)
        (tmp_path / "damaged.mcap").write_bytes(damaged.tobytes())
        try:
            with BagReader(tmp_path / "damaged.mcap") as bag:
                for message in bag.messages(*bag.topics):
                    if message.kind in (POSE_ARRAY, CAMERA_INFO):
                        bag.decoded(message)
            outcomes.add("read")
        except (BagError, Refused) as err:
            outcomes.add(type(err).__name__)
    assert outcomes == {"read", "BagError", "Refused"}


def test_a_bag_appears_whole_or_not_at_all(tmp_path: Path, people: list[np.ndarray]) -> None:
    def fail() -> None:
        with BagWriter(tmp_path / "out") as bag:
            bag.write("/people", POSE_ARRAY, 1, pose_array_of(bag.classes, people[0], 1))
            assert not (tmp_path / "out").exists()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []
    for replace in (False, True):
        with BagWriter(tmp_path / "out", replace=replace) as bag:
            bag.write("/people", POSE_ARRAY, 1, pose_array_of(bag.classes, people[0], 1))
        bag.close()
    with pytest.raises(OutputError, match="exists already"):
        BagWriter(tmp_path / "out")
    with BagReader(tmp_path / "out") as read:
        assert [each.log_ns for each in read.messages("/people")] == [1]
    read.close()


@pytest.mark.parametrize("moment", ["before its files are looked at", "before they are opened", "after that"])
def test_a_bag_that_is_exchanged_while_it_is_opened_is_opened_anew(
    moment: str, recorded: Path, tmp_path: Path, people: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rosbags.rosbag2 import Reader

    other = tmp_path / "other"
    with BagWriter(other) as writer:
        writer.write("/keypoints", POSE_ARRAY, 1, pose_array_of(writer.classes, people[0], 1))
    exchanged: list[str] = []

    def exchanging(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            found = real(*arguments) if moment == "after that" else None
            if not exchanged:
                exchanged.append(moment)
                recorded.rename(tmp_path / "away")
                other.rename(recorded)
            return found if moment == "after that" else real(*arguments)

        return call

    if moment == "before its files are looked at":
        monkeypatch.setattr(bags, "_check_files", exchanging(bags._check_files))
    else:
        monkeypatch.setattr(Reader, "open", exchanging(Reader.open))
    with BagReader(recorded) as reader:
        assert reader.counts == {"/keypoints": 1}
        assert len(list(reader.messages("/keypoints"))) == 1
    assert exchanged


def test_a_bag_that_is_exchanged_all_the_time_is_an_error_in_the_end(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def missing(path: Path) -> None:
        tries.append(len(tries))
        raise BagError(f"{path} lacks a file; wait until nothing writes it")

    monkeypatch.setattr(bags, "_check_files", missing)
    monkeypatch.setattr(bags, "_which", lambda _: len(tries))
    with pytest.raises(BagError, match="lacks a file"):
        BagReader(recorded)
    assert len(tries) == bags.OPEN_TRIES
    tries.clear()
    monkeypatch.setattr(bags, "_which", lambda _: 7)
    with pytest.raises(BagError, match="lacks a file"):
        BagReader(recorded)
    assert len(tries) == 1, "of a bag that stays the same the first answer holds"


def test_a_video_encoder_replays_as_a_stream(causal_bundle: Path, tmp_path: Path) -> None:
    people = [people_of(i, B) for i, B in enumerate((2, 1, 2))]
    with BagWriter(tmp_path / "recorded") as bag:
        for numbers, stamp in zip([*people, people_of(9, 3)], STAMPS, strict=False):
            bag.write("/people", POSE_ARRAY, stamp, pose_array_of(bag.classes, numbers, stamp))
    with PoseRuntime.load(causal_bundle, threads=1) as runtime:
        with BagReader(tmp_path / "recorded") as reader, BagWriter(tmp_path / "out") as writer:
            counts = replay(reader, ImageBodies(runtime, people=2, seed=4), writer)
        assert (counts.answered, dict(counts.refused)) == (3, {"people": 1})
        with BagReader(tmp_path / "out") as bag, runtime.stream(2, seed=4) as stream:
            for answer, numbers in zip(bag.messages("/poses"), people, strict=True):
                shown = np.zeros((2, 17, 3))
                shown[: len(numbers)] = numbers
                np.testing.assert_array_equal(positions(bag.decoded(answer)), stream.push(shown).joints[: len(numbers)])
