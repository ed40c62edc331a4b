"""The message classes of ROS 2 that the bridge fills, in one place, so that what fills them can be tried without ROS."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from diffpose_edge.errors import MissingPackage


@dataclass(frozen=True)
class RosTypes:
    """Message classes by their names in ROS. ``TFMessage`` and ``Skeleton2D`` are None where their package is not installed."""

    Time: Any
    Duration: Any
    Header: Any
    ColorRGBA: Any
    Point: Any
    Quaternion: Any
    Vector3: Any
    Pose: Any
    PoseArray: Any
    Transform: Any
    TransformStamped: Any
    CameraInfo: Any
    PointCloud2: Any
    PointField: Any
    Marker: Any
    MarkerArray: Any
    KeyValue: Any
    DiagnosticStatus: Any
    DiagnosticArray: Any
    TFMessage: Any = None
    Skeleton2D: Any = None


PACKAGES = {
    "builtin_interfaces": ("Time", "Duration"),
    "std_msgs": ("Header", "ColorRGBA"),
    "geometry_msgs": ("Point", "Quaternion", "Vector3", "Pose", "PoseArray", "Transform", "TransformStamped"),
    "sensor_msgs": ("CameraInfo", "PointCloud2", "PointField"),
    "visualization_msgs": ("Marker", "MarkerArray"),
    "diagnostic_msgs": ("KeyValue", "DiagnosticStatus", "DiagnosticArray"),
}
OPTIONAL = {"tf2_msgs": ("TFMessage",), "hri_msgs": ("Skeleton2D",)}


def ros_types() -> RosTypes:
    """Return the classes of the ROS 2 that this Python sees. Raises MissingPackage where there is none."""
    found = {}
    for package, names in (PACKAGES | OPTIONAL).items():
        try:
            module = importlib.import_module(f"{package}.msg")
        except ModuleNotFoundError as err:
            if package in OPTIONAL and err.name in (package, f"{package}.msg"):
                continue
            raise MissingPackage(
                f"the ROS node needs the messages of {package}, which this Python does not see ({err}). Source your ROS 2 first, "
                f"'source /opt/ros/jazzy/setup.bash', and use its Python; docs/ros.md says more"
            ) from None
        found.update({name: getattr(module, name) for name in names})
    return RosTypes(**found)
