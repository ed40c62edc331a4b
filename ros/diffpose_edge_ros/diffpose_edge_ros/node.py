"""The executable ``ros2 run diffpose_edge_ros diffpose_edge_node``."""

from diffpose_edge.runtime.bridges.rclpy_main import main

__all__ = ["main"]
