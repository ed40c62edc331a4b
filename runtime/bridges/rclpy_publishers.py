"""What the node publishes of people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from diffpose_edge.body import BodyEstimate
from diffpose_edge.runtime.bridges import markers, outgoing
from diffpose_edge.runtime.bridges.node_parameters import NodeSettings
from diffpose_edge.runtime.bridges.ros_types import RosTypes

FAREWELL_S = 0.5


def qos(reliability: str, depth: int) -> Any:
    """Return the QoS profile of a parameter's "reliable" or "best_effort": the last ``depth`` messages, nothing for who comes late."""
    policy = ReliabilityPolicy.RELIABLE if reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=policy, durability=DurabilityPolicy.VOLATILE)


class PeoplePublishers:
    """The publishers of a lifecycle node that tell of people; they say nothing while it is not active. ``close`` may be called twice."""

    def __init__(self, node: Any, types: RosTypes, settings: NodeSettings):
        self._node, self._types, self._settings = node, types, settings
        quality = qos(settings.output_reliability, settings.output_depth)
        wanted = {
            "poses": (types.PoseArray, settings.poses_topic, quality),
            "joints": (types.PointCloud2, settings.joints_topic, quality),
            "markers": (types.MarkerArray, settings.markers_topic, quality),
            # Listeners of transforms ask for reliable ones.
            "tf": (types.TFMessage, settings.tf_topic, qos("reliable", 100)),
        }
        self._by_name = {
            name: node.create_lifecycle_publisher(kind, topic, quality) for name, (kind, topic, quality) in wanted.items() if kind and topic
        }

    def publish(self, stamp_ns: int, frame_id: str, bodies: Sequence[BodyEstimate]) -> None:
        """Publish the people of one image. Clouds and markers are not made where nobody listens."""
        types, settings = self._types, self._settings
        self._by_name["poses"].publish(outgoing.pose_array(types, stamp_ns, frame_id, bodies))
        if self._heard("joints"):
            self._by_name["joints"].publish(outgoing.joint_cloud(types, stamp_ns, frame_id, bodies))
        if "tf" in self._by_name:
            transforms = outgoing.transforms(types, stamp_ns, frame_id, bodies, settings.tf_unplaced)
            self._by_name["tf"].publish(types.TFMessage(transforms=transforms))
        if self._heard("markers"):
            style = markers.MarkerStyle(settings.ellipsoid_level, settings.marker_lifetime)
            self._by_name["markers"].publish(markers.marker_array(types, stamp_ns, frame_id, bodies, style))

    def take_away(self) -> None:
        """Remove every marker from the viewers, and wait a moment until reliable ones have heard it: the publisher may be gone next."""
        if "markers" in self._by_name:
            self._by_name["markers"].publish(markers.nothing_left(self._types))
            self._by_name["markers"].wait_for_all_acked(Duration(seconds=FAREWELL_S))

    def close(self) -> None:
        for publisher in self._by_name.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._by_name = {}

    def _heard(self, name: str) -> bool:
        return name in self._by_name and self._by_name[name].get_subscription_count() > 0
