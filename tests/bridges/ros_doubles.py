"""Doubles of ROS message classes, for what fills them: fields with defaults, and types as strict as rclpy's own setters.

They cannot prove that a field exists in ROS under that name, nor that a message goes over the wire: test_rclpy_peer.py does.
"""

from __future__ import annotations

from array import array
from typing import Any, ClassVar

from diffpose_edge.runtime.bridges.ros_types import RosTypes


class Double:
    """A message: ``FIELDS`` are its fields' defaults, or classes of what is made anew for each message."""

    FIELDS: ClassVar[dict[str, Any]] = {}

    def __init__(self, **values: Any) -> None:
        for name, default in self.FIELDS.items():
            setattr(self, name, values.pop(name) if name in values else default() if isinstance(default, type) else default)
        assert not values, f"{type(self).__name__} has no {', '.join(values)}"

    def __setattr__(self, name: str, value: Any) -> None:
        default = self.FIELDS[name]
        kind = default if isinstance(default, type) else type(default)
        kinds = (list, tuple, array) if kind is list else (kind,)
        assert type(value) in kinds, f"{type(self).__name__}.{name}: expected {kind.__name__}, got {type(value).__name__}"
        object.__setattr__(self, name, value)


def _class(called: str, constants: dict[str, Any] | None = None, /, **fields: Any) -> type[Double]:
    return type(called, (Double,), {"FIELDS": fields, **(constants or {})})


def ros_doubles() -> RosTypes:
    """Return doubles of every class that the bridge fills, tf2_msgs' included."""
    time = _class("Time", sec=0, nanosec=0)
    duration = _class("Duration", sec=0, nanosec=0)
    header = _class("Header", stamp=time, frame_id="")
    colour = _class("ColorRGBA", r=0.0, g=0.0, b=0.0, a=0.0)
    point = _class("Point", x=0.0, y=0.0, z=0.0)
    vector = _class("Vector3", x=0.0, y=0.0, z=0.0)
    quaternion = _class("Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
    pose = _class("Pose", position=point, orientation=quaternion)
    transform = _class("Transform", translation=vector, rotation=quaternion)
    field = _class("PointField", {"INT32": 5, "FLOAT32": 7}, name="", offset=0, datatype=0, count=0)
    cloud = {
        "height": 0,
        "width": 0,
        "fields": list,
        "is_bigendian": False,
        "point_step": 0,
        "row_step": 0,
        "data": list,
        "is_dense": False,
    }
    marker = {"type": 0, "action": 0, "pose": pose, "scale": vector, "color": colour, "lifetime": duration, "points": list, "colors": list}
    kinds = {"ADD": 0, "DELETEALL": 3, "SPHERE": 2, "LINE_LIST": 5, "TEXT_VIEW_FACING": 9}
    status = {"level": b"\x00", "name": "", "message": "", "hardware_id": "", "values": list}
    return RosTypes(
        Time=time,
        Duration=duration,
        Header=header,
        ColorRGBA=colour,
        Point=point,
        Quaternion=quaternion,
        Vector3=vector,
        Pose=pose,
        PoseArray=_class("PoseArray", header=header, poses=list),
        Transform=transform,
        TransformStamped=_class("TransformStamped", header=header, child_frame_id="", transform=transform),
        CameraInfo=None,
        PointCloud2=_class("PointCloud2", header=header, **cloud),
        PointField=field,
        Marker=_class("Marker", kinds, header=header, ns="", id=0, text="", **marker),
        MarkerArray=_class("MarkerArray", markers=list),
        KeyValue=_class("KeyValue", key="", value=""),
        DiagnosticStatus=_class("DiagnosticStatus", {"OK": b"\x00", "WARN": b"\x01"}, **status),
        DiagnosticArray=_class("DiagnosticArray", header=header, status=list),
        TFMessage=_class("TFMessage", transforms=list),
    )


def skeleton2d(points: list[tuple[float, float, float]]) -> Any:
    """Return a double of an ``hri_msgs/Skeleton2D``, whose package PyPI does not have."""
    poi = _class("NormalizedPointOfInterest2D", x=0.0, y=0.0, c=0.0)
    return _class("Skeleton2D", skeleton=list)(skeleton=[poi(x=x, y=y, c=c) for x, y, c in points])
