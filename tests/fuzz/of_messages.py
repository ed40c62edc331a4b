"""Messages from peers and from bags: their bytes in CDR, and what they mean once decoded."""

from __future__ import annotations

import contextlib
import struct
from types import SimpleNamespace
from typing import Any

import numpy as np

from diffpose_edge.runtime.bridges.bags import BagReader, Recorded, _typestore
from diffpose_edge.runtime.bridges.dds_types import CameraInfo_, PoseArray_
from diffpose_edge.runtime.bridges.incoming import UNITS, intrinsics_of, people_of_pose_array, person_of_skeleton2d
from diffpose_edge.runtime.bridges.incoming import stamp_ns_of as node_stamp_ns_of
from diffpose_edge.runtime.bridges.plain_messages import CAMERA_INFO, POSE_ARRAY, image_size_of, keypoints_of, stamp_ns_of
from tests.fuzz.mutators import as_bytes
from tests.fuzz.rule import all_of
from tests.fuzz.target import Target, file_of

IMAGE = (1000, 800)


def _decoder() -> BagReader:
    """A reader without a bag: it decodes what it is given."""
    reader = BagReader.__new__(BagReader)
    reader._store = _typestore()
    return reader


def _people(message: Any) -> None:
    all_of(
        lambda: stamp_ns_of(message.header),
        lambda: node_stamp_ns_of(message.header.stamp),
        lambda: keypoints_of(message),
        lambda: keypoints_of(message, IMAGE),
        *(lambda units=units: people_of_pose_array(message, units, IMAGE, 64) for units in UNITS),
    )


def _camera(message: Any) -> None:
    from diffpose_edge.camera_files import camera_of_info

    all_of(
        lambda: stamp_ns_of(message.header),
        lambda: image_size_of(message),
        lambda: intrinsics_of(message),
        lambda: camera_of_info(message),
        lambda: camera_of_info(message, rectified=True),
    )


def read_pose_array(data: bytes) -> None:
    """A PoseArray as it lies in a bag."""
    _people(_decoder().decoded(Recorded("/keypoints", POSE_ARRAY, 0, data)))


def read_camera_info(data: bytes) -> None:
    """A CameraInfo as it lies in a bag."""
    _camera(_decoder().decoded(Recorded("/camera", CAMERA_INFO, 0, data)))


def read_dds(data: bytes) -> None:
    """A PoseArray and a CameraInfo as Cyclone DDS decodes them.

    What it lets through of a damaged message never comes so far: its core checks the layout before Python decodes it.
    """
    for kind, judged in ((PoseArray_, _people), (CameraInfo_, _camera)):
        message = None
        with contextlib.suppress(Exception):
            message = kind.deserialize(data)
        if message is not None:
            judged(message)


def read_skeleton(data: bytes) -> None:
    """An hri_msgs/Skeleton2D, whose points are the input's numbers."""
    count = len(data) // 12
    numbers = struct.unpack(f"<{3 * count}f", data[: 12 * count])
    points = [SimpleNamespace(x=x, y=y, c=c) for x, y, c in zip(numbers[0::3], numbers[1::3], numbers[2::3], strict=True)]
    person_of_skeleton2d(SimpleNamespace(skeleton=points), IMAGE)


def read_poses(data: bytes) -> None:
    """A PoseArray, whose stamp and points are the input's numbers."""
    whole = [int(n) for n in np.frombuffer(data[: len(data) // 8 * 8], np.int64)]
    numbers = np.frombuffer(data[: len(data) // 8 * 8], np.float64)[2:].tolist()
    points = [SimpleNamespace(position=SimpleNamespace(x=x, y=y, z=z)) for x, y, z in zip(*[iter(numbers)] * 3, strict=False)]
    stamp = SimpleNamespace(sec=whole[0] if whole else 0, nanosec=whole[1] if len(whole) > 1 else 0)
    _people(SimpleNamespace(header=SimpleNamespace(stamp=stamp, frame_id="camera"), poses=points))


def read_bag(data: bytes) -> None:
    """A whole bag in one file."""
    with BagReader(file_of("bag.mcap", data)) as bag:
        judged = {POSE_ARRAY: _people, CAMERA_INFO: _camera}
        for message in bag.messages(*bag.topics):
            if message.kind in judged:
                judged[message.kind](bag.decoded(message))


TARGETS = (
    Target("cdr_pose_array", read_pose_array, as_bytes),
    Target("cdr_camera_info", read_camera_info, as_bytes),
    Target("dds", read_dds, as_bytes),
    Target("skeleton2d", read_skeleton, as_bytes),
    Target("pose_array_numbers", read_poses, as_bytes),
    Target("bag_mcap", read_bag, as_bytes),
)
