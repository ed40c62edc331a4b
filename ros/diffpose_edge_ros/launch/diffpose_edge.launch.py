"""ros2 launch diffpose_edge_ros diffpose_edge.launch.py bundle:=FOLDER [keypoints:=TOPIC] [camera_info:=TOPIC] [params:=FILE]"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node


def generate_launch_description():
    defaults = Path(get_package_share_directory("diffpose_edge_ros")) / "config" / "diffpose_edge.yaml"
    arguments = [
        DeclareLaunchArgument("bundle", description="folder of the bundle that diffpose-edge export made"),
        DeclareLaunchArgument("params", default_value=str(defaults), description="file with the node's other parameters"),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of the node"),
        DeclareLaunchArgument("keypoints", default_value="keypoints", description="topic of the 2D keypoints, geometry_msgs/PoseArray"),
        DeclareLaunchArgument("camera_info", default_value="camera_info", description="topic of the camera's sensor_msgs/CameraInfo"),
    ]
    node = Node(
        package="diffpose_edge_ros",
        executable="diffpose_edge_node",
        name="diffpose_edge",
        namespace=LaunchConfiguration("namespace"),
        parameters=[LaunchConfiguration("params"), {"bundle": LaunchConfiguration("bundle")}],
        remappings=[("keypoints", LaunchConfiguration("keypoints")), ("camera_info", LaunchConfiguration("camera_info"))],
        output="screen",
        # A frame in work is finished first.
        sigterm_timeout="10",
    )
    return LaunchDescription([*arguments, node])
