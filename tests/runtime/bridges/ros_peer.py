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

    # What one side has found, the other may not have found yet: frames with nobody in them, until one comes back every way.
    every_way, greetings, end = (heard, as_sensor_data, clouds), 0, time.monotonic() + PATIENCE_S
    while not all(every_way):
        if time.monotonic() > end:
            sys.exit(f"{greetings} greetings in {PATIENCE_S} s to {publisher.get_subscription_count()} subscribers, "
                     f"and {[len(answers) for answers in every_way]} answers")  # fmt: skip
        greetings += 1
        publisher.publish(message_of({"stamp": [greetings, 0], "numbers": []}))
        pause = time.monotonic() + 0.2
        spin_until(lambda pause=pause: time.monotonic() > pause)
    types = dict(node.get_topic_names_and_types())
    # In order: after the answer to the last one there is none to come.
    spin_until(lambda: all(answers[-1].header.stamp.sec == greetings for answers in every_way))
    greeted = [len(heard), greetings]
    for answers in every_way:
        answers.clear()
    for count, message in enumerate(to_send, 1):
        publisher.publish(message)
        spin_until(lambda count=count: min(map(len, every_way)) >= count)
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
        "greeted": greeted,
        "rmw": rclpy.get_rmw_implementation_identifier(),
    }
    node.destroy_node()
    rclpy.shutdown()
    print(json.dumps(told))


main()
