"""Keypoints in and poses out over DDS, as ROS 2 speaks it, on a robot that has no ROS: Eclipse Cyclone DDS (``cyclonedds``) alone.

A ROS 2 node in the same domain sees ordinary topics: ROS 2 prefixes a topic's name with ``rt/`` and names types as
:mod:`diffpose_edge.runtime.bridges.dds_types` does.
"""

from __future__ import annotations

import logging
import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter_ns
from types import TracebackType
from typing import Any, NoReturn

from diffpose_edge.body import BodyEstimate
from diffpose_edge.errors import BridgeError
from diffpose_edge.extras import require
from diffpose_edge.readings import Reading, register
from diffpose_edge.runtime.bridges.image_bodies import ImageBodies
from diffpose_edge.runtime.bridges.joint_cloud import point_cloud
from diffpose_edge.runtime.bridges.plain_messages import (
    MOST_MESSAGE_BYTES,
    Counts,
    Refused,
    frame_id_of,
    image_size_of,
    keypoints_of,
    pose_array,
    stamp_ns_of,
)
from diffpose_edge.runtime.own_process import Home

log = logging.getLogger(__name__)

# The DDS standard's port numbers leave room for this many (RTPS 2.2, section 9.6.1).
LAST_DOMAIN = 232
# How long a message may wait for a slow reliable reader before the write fails, as ROS 2 has it.
BLOCK_NS = 100_000_000
# How many poses wait for a reader that is late: the default depth of ROS 2.
POSES_KEPT = 10
# Cyclone DDS sees neither the network nor other machines: for parts of one robot, and for tests.
LOOPBACK = """<CycloneDDS><Domain>
  <General><AllowMulticast>false</AllowMulticast><Interfaces><NetworkInterface address="127.0.0.1"/></Interfaces></General>
  <Discovery>
    <ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>32</MaxAutoParticipantIndex>
    <Peers><Peer address="127.0.0.1"/></Peers>
  </Discovery>
</Domain></CycloneDDS>"""
# Cyclone DDS drops larger messages, in either direction, before it puts their parts together; by itself it takes 2 GB.
BOUNDED = f"<CycloneDDS><Domain><Internal><MaxSampleSize>{MOST_MESSAGE_BYTES} B</MaxSampleSize></Internal></Domain></CycloneDDS>"

_ROS_NAME = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")


def dds_topic(name: str) -> str:
    """Return the DDS name of a ROS 2 topic: ``/camera/keypoints`` is ``rt/camera/keypoints``. Raises BridgeError for no ROS name."""
    if not _ROS_NAME.fullmatch(name):
        raise BridgeError(f"expected a ROS topic such as /camera/keypoints (letters, digits, _ between slashes), got {name!r}")
    return "rt/" + name.removeprefix("/")


class DdsBridge:
    """Owns a participant of a DDS domain, its topics, reader and writer, until ``close()``; use it with ``with``.

    It reads PoseArrays of keypoints (:func:`keypoints_of`) from ``keypoints_topic`` and answers each with one of poses on
    ``poses_topic``, and with a PointCloud2 of joints and covariances (:mod:`.joint_cloud`) on ``joints_topic`` if there is one, in the
    order in which they came, with the stamp and frame of the image. Keypoints are pixels of an image of
    ``image_size`` (w, h), or of the CameraInfo on ``camera_topic``; with neither they are normalised. With ``frame_id`` messages of
    other frames are refused. ``reliable``: ask again for what the network lost, from reliable publishers, the only ones that
    are heard then; without, any publisher is heard, as ROS 2's sensor data. ``depth``: how many messages wait while an image is
    computed; older ones are dropped, so 1 is always the latest. ``shown``, if given, is called with the bodies of each image.

    Raises MissingPackage, and BridgeError for a domain or a topic that cannot be opened.
    """

    def __init__(
        self,
        images: ImageBodies,
        *,
        domain: int = 0,
        keypoints_topic: str = "/keypoints",
        poses_topic: str = "/poses",
        joints_topic: str | None = "/joints",
        camera_topic: str | None = None,
        image_size: tuple[int, int] | None = None,
        frame_id: str | None = None,
        reliable: bool = False,
        depth: int = 5,
        loopback: bool = False,
        shown: Callable[[Sequence[BodyEstimate]], None] | None = None,
    ):
        require("cyclonedds")
        if not 0 <= domain <= LAST_DOMAIN:
            raise BridgeError(f"expected a DDS domain (ROS_DOMAIN_ID) within 0..{LAST_DOMAIN}, got {domain}")
        if depth < 1:
            raise BridgeError(f"expected a depth of at least 1 message, got {depth}")
        self._images, self._shown = images, shown
        self._frame_id, self._waits_for_camera = frame_id, camera_topic is not None and image_size is None
        self._image_size = image_size
        self.counts = Counts()
        self._home = Home("DDS bridge", "open another there, over a runtime that was loaded there")
        named = {"keypoints": keypoints_topic, "poses": poses_topic, "joints": joints_topic, "camera": camera_topic}
        topics = {use: dds_topic(name) for use, name in named.items() if name is not None}
        if len(set(topics.values())) < len(topics):
            raise BridgeError(f"expected topics that differ, got {', '.join(filter(None, named.values()))}")
        self._entities: _Entities | None = _Entities(domain, topics, reliable, depth, loopback)
        register(self)

    @property
    def about(self) -> Mapping[str, str | int]:
        """What it is, in a word."""
        return {"bridge": "dds"}

    def readings(self) -> list[Reading]:
        """Return the counts as readings, for :class:`diffpose_edge.metrics_endpoint.MetricsEndpoint`."""
        return self.counts.readings()

    def run(self, stop: Callable[[], bool], look_s: float = 0.1) -> Counts:
        """Answer messages until ``stop()``, which is asked after each and at least every ``look_s`` seconds; return the counts."""
        while not stop():
            self.step(look_s)
        return self.counts

    def step(self, wait_s: float) -> bool:
        """Answer the next message, waiting for it at most ``wait_s`` seconds; tell whether one came, answered or refused.

        Raises RuntimeClosed and what else is wrong with the runtime; a message's own faults are counted and logged.
        """
        self._home.check()
        entities = self._entities
        if entities is None:
            raise BridgeError("this DDS bridge was closed; open another")
        if not entities.wait(int(wait_s * 1e9)):
            return False
        arrived_ns = perf_counter_ns()
        if self._waits_for_camera:
            self._look_at_camera(entities)
        try:
            message = entities.next_keypoints()
            if message is None:
                return False
            answers = self._answers(message, arrived_ns)
        except Refused as err:
            self._refuse(err)
            return True
        self.counts.received += 1
        if entities.write(answers):
            self.counts.answered += 1
            self.counts.latency.add((perf_counter_ns() - arrived_ns) * 1e-9)
        else:
            self.counts.unsent += 1
        return True

    def _refuse(self, err: Refused) -> None:
        self.counts.received += 1
        self.counts.refuse(err)

    def _answers(self, message: Any, arrived_ns: int) -> dict[str, Any]:
        """Return what is sent, by its use."""
        from diffpose_edge.runtime.bridges.dds_types import CLASSES

        frame_id = frame_id_of(message.header)
        stamp_ns = stamp_ns_of(message.header)
        if self._frame_id is not None and frame_id != self._frame_id:
            raise Refused("frame", f"expected keypoints of the frame {self._frame_id!r}, got {frame_id!r}")
        if self._waits_for_camera and self._image_size is None:
            raise Refused("camera", "no CameraInfo has come yet, so the size of the image is not known")
        keypoints = keypoints_of(message, self._image_size)
        bodies = self._images.bodies(keypoints, stamp_ns, frame_id, arrived_ns)
        if self._shown is not None:
            self._shown(bodies)
        classes = CLASSES.__getitem__
        joints = point_cloud(classes, bodies, stamp_ns, frame_id)
        joints.data = joints.data.tobytes()  # what Cyclone DDS takes for octets
        return {"poses": pose_array(classes, bodies, stamp_ns, frame_id), "joints": joints}

    def _look_at_camera(self, entities: _Entities) -> None:
        """Take the size of the image from a CameraInfo, if one has come; its reader keeps the latest alone."""
        try:
            info = entities.next_camera()
            if info is not None:
                self._image_size = image_size_of(info)
        except Refused as err:
            self._refuse(err)

    def close(self) -> None:
        """Leave the domain; a second call does nothing. Runtime and :class:`ImageBodies` stay open. In a forked process it does nothing."""
        if self._entities is not None and self._home.here:
            self._entities.close()
            self._entities = None
            self.counts.seldom.close()

    def __reduce__(self) -> NoReturn:
        self._home.refuse_to_leave()

    def __enter__(self) -> DdsBridge:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        self.close()


def _open_bounded(domain: int, keep: Callable[[Any], Any]) -> None:
    """Open a domain with the settings of CYCLONEDDS_URI and our bound; one that this process has open already stays as it is."""
    from cyclonedds.core import DDSException
    from cyclonedds.domain import Domain

    own = os.environ.get("CYCLONEDDS_URI")
    try:
        keep(Domain(domain, f"{own},{BOUNDED}" if own else BOUNDED))
    except DDSException as err:
        if err.code != DDSException.DDS_RETCODE_PRECONDITION_NOT_MET:
            raise
        log.warning("this process has opened DDS domain %d before: it keeps those settings, and messages of any size are taken", domain)


class _Entities:
    """What Cyclone DDS knows of the bridge. Its objects live as long as Python's do, so each is dropped in turn."""

    def __init__(self, domain: int, topics: Mapping[str, str], reliable: bool, depth: int, loopback: bool):
        from cyclonedds.core import DDSException, DDSStatus, InstanceState, ReadCondition, SampleState, ViewState, WaitSet
        from cyclonedds.domain import Domain, DomainParticipant
        from cyclonedds.pub import DataWriter
        from cyclonedds.qos import Policy, Qos
        from cyclonedds.sub import DataReader
        from cyclonedds.topic import Topic

        from diffpose_edge.runtime.bridges.dds_types import CameraInfo_, PointCloud2_, PoseArray_

        self._incompatible: int = DDSStatus.RequestedIncompatibleQos
        # ROS 2 writes plain CDR, the first of DDS's two encodings.
        plain = Policy.DataRepresentation(use_cdrv0_representation=True)
        lossless = Policy.Reliability.Reliable(max_blocking_time=BLOCK_NS)
        reading = (
            lossless if reliable else Policy.Reliability.BestEffort,
            Policy.Durability.Volatile,
            Policy.History.KeepLast(depth),
            plain,
        )
        writing = (lossless, Policy.Durability.Volatile, Policy.History.KeepLast(POSES_KEPT), plain)
        every = SampleState.Any | ViewState.Any | InstanceState.Any
        self._kept: list[Any] = []

        def keep(entity: Any) -> Any:
            self._kept.append(entity)
            return entity

        try:
            if loopback:
                keep(Domain(domain, f"{LOOPBACK},{BOUNDED}"))
            else:
                _open_bounded(domain, keep)
            participant = keep(DomainParticipant(domain))
            self._reader = keep(DataReader(participant, keep(Topic(participant, topics["keypoints"], PoseArray_)), Qos(*reading)))
            self._writers = {
                use: keep(DataWriter(participant, keep(Topic(participant, topics[use], kind)), Qos(*writing)))
                for use, kind in (("poses", PoseArray_), ("joints", PointCloud2_))
                if use in topics
            }
            self._unread = keep(ReadCondition(self._reader, every))
            self._waitset = keep(WaitSet(participant))
            self._waitset.attach(self._unread)
            self._camera = None
            if "camera" in topics:
                latest = Qos(Policy.Reliability.BestEffort, Policy.Durability.Volatile, Policy.History.KeepLast(1), plain)
                self._camera = keep(DataReader(participant, keep(Topic(participant, topics["camera"], CameraInfo_)), latest))
                self._camera_unread = keep(ReadCondition(self._camera, every))
        except DDSException as err:
            self.close()
            again = ", or this process has opened the domain before with other settings" if loopback else ""
            raise BridgeError(
                f"cannot open DDS domain {domain}: {err}. Cyclone DDS says why on standard error: a fault in CYCLONEDDS_URI, no usable "
                f"network interface, too many participants{again}"
            ) from err

    def wait(self, wait_ns: int) -> bool:
        """Wait for keypoints; tell whether there are any."""
        if self._waitset.wait(wait_ns):
            return True
        if self._reader.take_status(self._incompatible):
            log.warning("somebody publishes keypoints best-effort, and is not heard by a reliable reader; open the bridge without reliable")
        return False

    def next_keypoints(self) -> Any:
        return self._next(self._reader, self._unread)

    def next_camera(self) -> Any:
        return None if self._camera is None else self._next(self._camera, self._camera_unread)

    def _next(self, reader: Any, unread: Any) -> Any:
        """Take the next message; None where there is none, or only the news that a publisher left. Raises Refused."""
        from cyclonedds.internal import InvalidSample

        try:
            while samples := reader.take(1, unread):
                if not isinstance(samples[0], InvalidSample):
                    return samples[0]
        except (struct.error, UnicodeDecodeError) as err:
            # Cyclone DDS has checked the layout; a frame_id need not be text for it.
            raise Refused("undecodable", f"a message cannot be decoded: {err}") from None
        return None

    def write(self, answers: Mapping[str, Any]) -> bool:
        """Send answers by their use; tell whether all went out before a slow reliable reader had blocked one for too long."""
        from cyclonedds.core import DDSException

        try:
            for use, writer in self._writers.items():
                writer.write(answers[use])
        except DDSException as err:
            if err.code != DDSException.DDS_RETCODE_TIMEOUT:
                raise
            return False
        return True

    def close(self) -> None:
        for name in ("_reader", "_writers", "_unread", "_waitset", "_camera", "_camera_unread"):
            self.__dict__.pop(name, None)
        while self._kept:
            self._kept.pop()
