"""The ROS 2 messages that the DDS bridge speaks, declared for Cyclone DDS as ROS 2 itself names them on the wire.

ROS 2 calls the type of ``package/msg/Name`` ``package::msg::dds_::Name_``; fields and their order are those of its .msg file
(common_interfaces and rcl_interfaces, unchanged from Humble to Jazzy). Needs ``cyclonedds``. No postponed annotations here: the IDL
machine reads them as they are.
"""

# ruff: noqa: N801
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import array, float64, int32, sequence, uint8, uint32


@dataclass
class Time_(IdlStruct, typename="builtin_interfaces.msg.dds_.Time_"):
    sec: int32
    nanosec: uint32


@dataclass
class Header_(IdlStruct, typename="std_msgs.msg.dds_.Header_"):
    stamp: Time_
    frame_id: str


@dataclass
class Point_(IdlStruct, typename="geometry_msgs.msg.dds_.Point_"):
    x: float64
    y: float64
    z: float64


@dataclass
class Quaternion_(IdlStruct, typename="geometry_msgs.msg.dds_.Quaternion_"):
    x: float64
    y: float64
    z: float64
    w: float64


@dataclass
class Pose_(IdlStruct, typename="geometry_msgs.msg.dds_.Pose_"):
    position: Point_
    orientation: Quaternion_


@dataclass
class PoseArray_(IdlStruct, typename="geometry_msgs.msg.dds_.PoseArray_"):
    header: Header_
    poses: Annotated[Sequence[Pose_], sequence(Pose_)]


@dataclass
class RegionOfInterest_(IdlStruct, typename="sensor_msgs.msg.dds_.RegionOfInterest_"):
    x_offset: uint32
    y_offset: uint32
    height: uint32
    width: uint32
    do_rectify: bool


@dataclass
class CameraInfo_(IdlStruct, typename="sensor_msgs.msg.dds_.CameraInfo_"):
    header: Header_
    height: uint32
    width: uint32
    distortion_model: str
    d: Annotated[Sequence[float64], sequence(float64)]
    k: Annotated[Sequence[float64], array(float64, 9)]
    r: Annotated[Sequence[float64], array(float64, 9)]
    p: Annotated[Sequence[float64], array(float64, 12)]
    binning_x: uint32
    binning_y: uint32
    roi: RegionOfInterest_


@dataclass
class PointField_(IdlStruct, typename="sensor_msgs.msg.dds_.PointField_"):
    name: str
    offset: uint32
    datatype: uint8
    count: uint32


@dataclass
class PointCloud2_(IdlStruct, typename="sensor_msgs.msg.dds_.PointCloud2_"):
    header: Header_
    height: uint32
    width: uint32
    fields: Annotated[Sequence[PointField_], sequence(PointField_)]
    is_bigendian: bool
    point_step: uint32
    row_step: uint32
    data: Annotated[Sequence[uint8], sequence(uint8)]
    is_dense: bool


CLASSES: dict[str, type[IdlStruct]] = {
    "builtin_interfaces/msg/Time": Time_,
    "std_msgs/msg/Header": Header_,
    "geometry_msgs/msg/Point": Point_,
    "geometry_msgs/msg/Quaternion": Quaternion_,
    "geometry_msgs/msg/Pose": Pose_,
    "geometry_msgs/msg/PoseArray": PoseArray_,
    "sensor_msgs/msg/CameraInfo": CameraInfo_,
    "sensor_msgs/msg/PointField": PointField_,
    "sensor_msgs/msg/PointCloud2": PointCloud2_,
}
