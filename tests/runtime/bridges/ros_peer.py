"""A real ROS 2 node, run by a Python that has rclpy: publishes the keypoints that it reads as JSON, and writes the poses that it hears.

It knows nothing of this project but the names of two topics.
"""

import json
import struct
import sys
import time

import rclpy
from geometry_msgs.msg import Pose, PoseArray
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import PointCloud2

PATIENCE_S = 30.0


def message_of(sent):
    message = PoseArray()
    message.header.frame_id = "camera"
    message.header.stamp.sec, message.header.stamp.nanosec = sent["stamp"]
    for x, y, z in sent["numbers"]:
        pose = Pose()
        pose.position.x, pose.position.y, pose.position.z = x, y, z
        message.poses.append(pose)
    return message


def xyz_of(cloud, point):
    at = {field.name: field.offset for field in cloud.fields}
    return [struct.unpack_from("<f", cloud.data, point * cloud.point_step + at[axis])[0] for axis in "xyz"]


def main():
    to_send = [message_of(sent) for sent in json.load(sys.stdin)]
    rclpy.init()
    node = rclpy.create_node("peer")
    heard, as_sensor_data, clouds = [], [], []
    publisher = node.create_publisher(PoseArray, "/keypoints", 10)
    node.create_subscription(PoseArray, "/poses", heard.append, 10)
    node.create_subscription(PoseArray, "/poses", as_sensor_data.append, qos_profile_sensor_data)
    node.create_subscription(PointCloud2, "/joints", clouds.append, 10)

    def spin_until(there):
        end = time.monotonic() + PATIENCE_S
        while not there() and time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=0.05)

    spin_until(lambda: publisher.get_subscription_count() and node.count_publishers("/poses") and node.count_publishers("/joints"))
    types = dict(node.get_topic_names_and_types())
    # What one side has found, the other may not have found yet.
    end = time.monotonic() + 1.0
    spin_until(lambda: time.monotonic() > end)
    for count, message in enumerate(to_send, 1):
        publisher.publish(message)
        spin_until(lambda count=count: min(len(heard), len(as_sensor_data), len(clouds)) >= count)
    answers = [
        {
            "stamp": [each.header.stamp.sec, each.header.stamp.nanosec],
            "frame_id": each.header.frame_id,
            "numbers": [[pose.position.x, pose.position.y, pose.position.z] for pose in each.poses],
        }
        for each in heard
    ]
    told = {
        "types": types,
        "answers": answers,
        "as_sensor_data": len(as_sensor_data),
        "clouds": [{"points": each.width, "xyz": [xyz_of(each, i) for i in range(each.width)]} for each in clouds],
        "rmw": rclpy.get_rmw_implementation_identifier(),
    }
    node.destroy_node()
    rclpy.shutdown()
    print(json.dumps(told))


main()
