"""ROS 2 bags without ROS: keypoints that were recorded, replayed into a new bag with their poses. Needs ``rosbags``."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from diffpose_edge.atomic import atomic_directory
from diffpose_edge.body import BodyEstimate
from diffpose_edge.errors import BagError
from diffpose_edge.extras import require
from diffpose_edge.runtime.bridges.image_bodies import ImageBodies
from diffpose_edge.runtime.bridges.joint_cloud import POINT_CLOUD, point_cloud
from diffpose_edge.runtime.bridges.plain_messages import (
    CAMERA_INFO,
    MARKER_ARRAY,
    MOST_MESSAGE_BYTES,
    POSE_ARRAY,
    Classes,
    Counts,
    Refused,
    frame_id_of,
    image_size_of,
    keypoints_of,
    marker_array,
    pose_array,
    stamp_ns_of,
)

# Of the two that rosbags writes the one that older rosbag2 know too.
METADATA_VERSION: Final = 8

# What rosbags lets through, beside its own ReaderError, from a damaged bag: lengths that no memory holds, records that end too early,
# text that is none.
DAMAGED = (
    OSError, ValueError, EOFError, LookupError, TypeError, AttributeError, RuntimeError, MemoryError, ArithmeticError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class Recorded:
    """A message as it lies in a bag: ``log_ns``, when it was recorded, and its ``data`` in CDR."""

    topic: str
    kind: str
    log_ns: int
    data: bytes


@dataclass(frozen=True)
class Topics:
    """Where the results go: PoseArrays, PointCloud2s and MarkerArrays."""

    poses: str = "/poses"
    joints: str = "/joints"
    markers: str = "/body_markers"


DEFAULT_TOPICS = Topics()
# How often a bag is opened that another process exchanges for another one, before that is an error.
OPEN_TRIES = 5


@cache
def _typestore() -> Any:
    require("rosbags")
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_JAZZY)


def _opened(path: Path) -> Any:
    """Return a reader of the bag at a path; of the new one where another process puts one in its place meanwhile. Raises BagError."""
    from rosbags.rosbag2 import Reader

    for left in reversed(range(OPEN_TRIES)):
        there = _which(path)
        try:
            with _readable(path):
                _check_files(path)
                reader = Reader(path)
                reader.open()
        except BagError:
            if left == 0 or _which(path) == there:
                raise
            continue
        # What tells of the files and the files themselves are read one after another.
        if left == 0 or _which(path) == there:
            return reader
        reader.close()
    raise AssertionError("the last try returns or raises")


def _which(path: Path) -> int | None:
    """Return what tells a bag from another that takes its place; None where there is none at the moment."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


class BagReader:
    """Owns an open bag, a rosbag2 folder or a single .mcap or .db3 file, until ``close()``; use it with ``with``.

    ``topics``: each topic's message type. ``counts``: how many messages it has. Raises MissingPackage, and BagError for what is no bag
    or cannot be read.
    """

    def __init__(self, path: str | Path):
        self._store = _typestore()
        self.path = Path(path)
        self._reader, self._open = _opened(self.path), True
        with _readable(self.path):
            self.topics: dict[str, str] = {each.topic: each.msgtype for each in self._reader.connections}
            self.counts: dict[str, int] = {name: info.msgcount for name, info in self._reader.topics.items()}

    def topic_of(self, name: str | None, kind: str) -> str:
        """Return the topic ``name``, or without a name the only one of message type ``kind``. Raises BagError that names what there is."""
        if name is None:
            found = [topic for topic, its in self.topics.items() if its == kind]
            if len(found) != 1:
                raise BagError(f"{self.path} has {len(found) or 'no'} topics of {kind}; name the one that is meant. {self._there()}")
            return found[0]
        if name not in self.topics:
            raise BagError(f"{self.path} has no topic {name}. {self._there()}")
        if self.topics[name] != kind:
            raise BagError(f"{self.path}: expected {name} to be of {kind}, it is of {self.topics[name]}. {self._there()}")
        return name

    def messages(self, *topics: str) -> Iterator[Recorded]:
        """Yield the messages of these topics in the order in which they were recorded. Raises BagError where the bag is damaged, or was
        closed.
        """
        self._check_open()
        wanted = [each for each in self._reader.connections if each.topic in topics]
        with _readable(self.path):
            recorded = iter(self._reader.messages(wanted) if wanted else ())
        while True:
            self._check_open()
            with _readable(self.path):
                found = next(recorded, None)
            if found is None:
                return
            connection, log_ns, data = found
            yield Recorded(connection.topic, connection.msgtype, log_ns, bytes(data))

    def decoded(self, message: Recorded) -> Any:
        """Return the message itself. Raises Refused where its bytes are not what its type says."""
        from rosbags.serde import SerdeError

        if len(message.data) > MOST_MESSAGE_BYTES:
            raise Refused("length", f"a message of {message.topic} has {len(message.data)} bytes, and up to {MOST_MESSAGE_BYTES} are taken")
        try:
            return self._store.deserialize_cdr(message.data, message.kind)
        except (SerdeError, UnicodeDecodeError) as err:
            raise Refused("undecodable", f"a message of {message.topic} cannot be decoded: {err}") from None

    def close(self) -> None:
        """Close the bag; a second call does nothing."""
        if self._open:
            self._open = False
            self._reader.close()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        self.close()

    def _check_open(self) -> None:
        if not self._open:
            raise BagError(f"{self.path} was closed; open it again")

    def _there(self) -> str:
        return f"It has: {', '.join(f'{topic} ({kind})' for topic, kind in sorted(self.topics.items())) or 'nothing'}"


def _check_files(path: Path) -> None:
    """Raise OSError where a bag, or what lies in its folder, is a pipe or a device, which would be waited for."""
    for file in (path, *(path.iterdir() if path.is_dir() else ())):
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise OSError(errno.EINVAL, f"{file.name} is a pipe, a socket or a device, not a file")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    from rosbags.rosbag2 import ReaderError

    try:
        yield
    except FileNotFoundError:
        raise BagError(f"no bag at {path}; name a rosbag2 folder with its metadata.yaml, or a .mcap or .db3 file") from None
    except (ReaderError, *DAMAGED) as err:
        raise BagError(f"{path} cannot be read as a ROS 2 bag: {err or type(err).__name__}") from None


class BagWriter:
    """Owns a new bag, a rosbag2 folder with one MCAP file, until ``close()``; use it with ``with``.

    It appears when it is whole: where an exception ends the ``with``, nothing is left. ``replace``: an existing folder gives way then.
    Raises MissingPackage and OutputError.
    """

    def __init__(self, path: str | Path, *, replace: bool = False):
        self._store = _typestore()
        from rosbags.rosbag2 import StoragePlugin, Writer

        path = Path(path)
        with ExitStack() as opening:
            folder = opening.enter_context(atomic_directory(path, replace=replace))
            # rosbags makes the bag's folder itself, and names the file after it.
            inner = folder / (path.name or "bag")
            opening.push(_moved_up(inner))
            self._writer = opening.enter_context(Writer(inner, version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP))
            self._topics: dict[tuple[str, str], Any] = {}
            self._opened, self._closed = opening.pop_all(), False

    @property
    def classes(self) -> Classes:
        """The classes to make messages of."""
        return self._store.types.__getitem__

    def write(self, topic: str, kind: str, log_ns: int, message: Any) -> None:
        """Write a message of ``kind``, such as "geometry_msgs/msg/PoseArray", as recorded at ``log_ns``."""
        self.copy(Recorded(topic, kind, log_ns, bytes(self._store.serialize_cdr(message, kind))))

    def copy(self, message: Recorded) -> None:
        """Write a message of another bag as it lies there. Raises BagError after ``close()``."""
        if self._closed:
            raise BagError("this bag was closed, and is whole; write another")
        key = (message.topic, message.kind)
        if key not in self._topics:
            self._topics[key] = self._writer.add_connection(*key, typestore=self._store)
        self._writer.write(self._topics[key], message.log_ns, message.data)

    def write_bodies(
        self, bodies: Sequence[BodyEstimate], stamp_ns: int, frame_id: str, log_ns: int, topics: Topics = DEFAULT_TOPICS
    ) -> None:
        """Write the bodies of one image, as a PoseArray, as a PointCloud2 of joints and as a MarkerArray."""
        for topic, kind, made in (
            (topics.poses, POSE_ARRAY, pose_array),
            (topics.joints, POINT_CLOUD, point_cloud),
            (topics.markers, MARKER_ARRAY, marker_array),
        ):
            self.write(topic, kind, log_ns, made(self.classes, bodies, stamp_ns, frame_id))

    def close(self) -> None:
        """Finish the bag and put it in its place; a second call does nothing."""
        self._closed = True
        self._opened.close()

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        self._closed = True
        self._opened.__exit__(kind, err, where)


def _moved_up(inner: Path) -> Callable[[type[BaseException] | None, BaseException | None, TracebackType | None], None]:
    def leave(kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        if kind is None:
            for file in inner.iterdir():
                file.rename(inner.parent / file.name)
            inner.rmdir()

    return leave


def replay(
    bag: BagReader,
    images: ImageBodies,
    out: BagWriter,
    *,
    keypoints_topic: str | None = None,
    camera_topic: str | None = None,
    topics: Topics = DEFAULT_TOPICS,
    image_size: tuple[int, int] | None = None,
    normalised: bool = False,
    done: Callable[[int], None] = lambda count: None,
) -> Counts:
    """Estimate every image of a bag in the order in which they were recorded, and write them beside their poses, joints and markers.

    Keypoints are PoseArrays as :func:`keypoints_of` takes them, by default the bag's only topic of these; the CameraInfo that tells
    the image's size is that of ``camera_topic``, by default the bag's only one. They are pixels where a size is known, from there or as
    ``image_size`` (w, h), unless they are said to be ``normalised``. Header stamps and the times of recording are the input's, to the
    nanosecond. A message that is refused is copied, and has no answer. ``done`` is told how many more messages are.

    Raises BagError for topics that are not there, where the bag is damaged, and where there is no message or
    nothing but refused ones and empty ones.
    """
    keypoints_topic = bag.topic_of(keypoints_topic, POSE_ARRAY)
    camera_topic = _camera_of(bag, camera_topic)
    inputs = [keypoints_topic] + ([] if camera_topic is None else [camera_topic])
    if len({*inputs, topics.poses, topics.joints, topics.markers}) < len(inputs) + 3:
        raise BagError(f"expected topics for the results that differ from {', '.join(inputs)} and from each other")
    # What is known of the camera before its first message is what that says: keypoints may have come a moment earlier.
    camera_size = None if camera_topic is None or normalised else _first_size(bag, camera_topic)
    counts, people, why = Counts(), 0, ""
    for message in bag.messages(*inputs):
        out.copy(message)
        try:
            if message.topic == camera_topic:
                camera_size = None if normalised else image_size_of(bag.decoded(message))
                continue
            done(1)
            poses = bag.decoded(message)
            stamp_ns, frame_id = stamp_ns_of(poses.header), frame_id_of(poses.header)
            size = None if normalised else image_size or camera_size
            bodies = images.bodies(keypoints_of(poses, size), stamp_ns, frame_id)
        except Refused as err:
            counts.received += 1
            counts.refuse(err)
            why = why or str(err)
            continue
        out.write_bodies(bodies, stamp_ns, frame_id, message.log_ns, topics)
        counts.received += 1
        counts.answered += 1
        people += len(bodies)
    if not counts.received or (why and not people):
        raise BagError(f"{bag.path}: no message of {keypoints_topic} gave a pose; {why or 'there is none'}")
    return counts


def _camera_of(bag: BagReader, name: str | None) -> str | None:
    if name is None and list(bag.topics.values()).count(CAMERA_INFO) != 1:
        return None
    return bag.topic_of(name, CAMERA_INFO)


def _first_size(bag: BagReader, camera_topic: str) -> tuple[int, int] | None:
    for message in bag.messages(camera_topic):
        with suppress(Refused):  # it is counted when its turn comes
            return image_size_of(bag.decoded(message))
    return None
