"""A real ROS 2 peer of the node, a process of its own: it does what a line of JSON on its input says, and answers with one.

It runs in the Python that has rclpy, imports nothing of this project, and knows no more of the node than a robot would: its topics,
services and types.
"""

import contextlib
import json
import sys
import threading
import time

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Point, Pose, PoseArray
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.executors import ShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, PointCloud2
from visualization_msgs.msg import Marker, MarkerArray

NODE = "/diffpose_edge"
TRANSITIONS = {"configure": 1, "cleanup": 2, "activate": 3, "deactivate": 4, "shutdown": 7}


def stamped(header, stamp_ns, frame_id):
    header.stamp.sec, header.stamp.nanosec, header.frame_id = stamp_ns // 10**9, stamp_ns % 10**9, frame_id


def stamp_of(header):
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def of_point(p):
    return [p.x, p.y, p.z]


class Peer:
    def __init__(self):
        rclpy.init()
        self.node = rclpy.create_node("peer")
        self.lock = threading.Lock()
        self.heard = {"poses": [], "joints": [], "markers": [], "diagnostics": []}
        # Reliable, as a detector's may be: the node asks for best effort, and reliable serves both.
        self.keypoints = self.node.create_publisher(PoseArray, "keypoints", 100)
        self.camera = self.node.create_publisher(CameraInfo, "camera_info", 10)
        for kind, topic, name in (
            (PoseArray, f"{NODE}/poses", "poses"),
            (PointCloud2, f"{NODE}/joints", "joints"),
            (MarkerArray, f"{NODE}/markers", "markers"),
            (DiagnosticArray, "/diagnostics", "diagnostics"),
        ):
            self.node.create_subscription(kind, topic, lambda message, name=name: self.keep(name, message), 1000)
        # As sensor data, too: whoever listens as RViz does must hear a reliable node.
        self.unreliably = 0
        self.node.create_subscription(PoseArray, f"{NODE}/poses", self.count, qos_profile_sensor_data)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.spinning = threading.Thread(target=self.spin)
        self.spinning.start()

    def spin(self):
        with contextlib.suppress(ShutdownException):
            self.executor.spin()

    def count(self, message):
        self.unreliably += 1

    def keep(self, name, message):
        with self.lock:
            self.heard[name].append(message)

    def until(self, true, timeout, what):
        end = time.monotonic() + timeout
        while not true():
            if time.monotonic() > end:
                raise TimeoutError(f"{what}: waited {timeout} s in vain; heard { ({k: len(v) for k, v in self.heard.items()}) }")
            time.sleep(0.01)

    def take(self, name):
        with self.lock:
            taken, self.heard[name] = self.heard[name], []
        return taken

    def call(self, kind, name, request):
        client = self.node.create_client(kind, f"{NODE}/{name}")
        try:
            self.until(client.service_is_ready, 10, name)
            future = client.call_async(request)
            self.until(future.done, 20, name)
            return future.result()
        finally:
            self.node.destroy_client(client)

    # What can be asked

    def meet(self, timeout=20):
        node = self.node
        outputs = [f"{NODE}/{name}" for name in ("poses", "joints", "markers")]
        self.until(
            lambda: self.keypoints.get_subscription_count() and self.camera.get_subscription_count()
            and all(node.count_publishers(topic) and node.count_subscribers(topic) for topic in outputs),
            timeout, "to meet the node",
        )  # fmt: skip
        time.sleep(0.2)  # what one side has found, the other may not have found yet
        return {}

    def send_camera(self, stamp_ns, frame_id, width, height):
        message = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
        message.k = [900.0, 0.0, width / 2, 0.0, 900.0, height / 2, 0.0, 0.0, 1.0]
        stamped(message.header, stamp_ns, frame_id)
        self.camera.publish(message)
        time.sleep(0.1)
        return {}

    def send(self, messages, rate):
        for stamp_ns, frame_id, points in messages:
            message = PoseArray(poses=[Pose(position=Point(x=x, y=y, z=z)) for x, y, z in points])
            stamped(message.header, stamp_ns, frame_id)
            self.keypoints.publish(message)
            time.sleep(1 / rate)
        return {}

    def collect(self, poses, timeout=20):
        """Wait for so many answers, and for what may come after them, and tell all of it."""
        outputs = ("poses", "joints", "markers")
        try:
            self.until(
                lambda: min(len(self.heard[name]) for name in ("poses", "joints", "markers")) >= poses, timeout, f"for {poses} answers"
            )
        except TimeoutError as err:
            return {"error": str(err)}
        time.sleep(0.3)
        came = {name: self.take(name) for name in outputs}
        unreliably, self.unreliably = self.unreliably, 0
        return {
            "unreliably": unreliably,
            "poses": [[stamp_of(m.header), m.header.frame_id, [of_point(p.position) for p in m.poses]] for m in came["poses"]],
            "joints": [[stamp_of(m.header), m.header.frame_id, self.cloud(m)] for m in came["joints"]],
            "markers": [[self.marker(marker) for marker in m.markers] for m in came["markers"]],
        }

    def cloud(self, m):
        kinds = {7: "<f4", 5: "<i4"}
        names, formats, offsets = [f.name for f in m.fields], [kinds[f.datatype] for f in m.fields], [f.offset for f in m.fields]
        points = np.frombuffer(
            m.data.tobytes(), np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": m.point_step})
        )
        return {name: points[name].tolist() for name in names}

    def marker(self, m):
        lifetime = m.lifetime.sec + m.lifetime.nanosec / 1e9
        q = m.pose.orientation
        return {
            "stamp": stamp_of(m.header), "frame": m.header.frame_id, "ns": m.ns, "id": m.id, "type": m.type, "action": m.action,
            "lifetime": lifetime, "scale": of_point(m.scale), "position": of_point(m.pose.position),
            "orientation": [q.x, q.y, q.z, q.w], "points": [of_point(p) for p in m.points], "text": m.text,
        }  # fmt: skip

    def diagnostics(self, timeout=10):
        """Wait for diagnostics that begin after this, twice: the first may have been on its way already."""
        self.take("diagnostics")
        self.until(lambda: len(self.heard["diagnostics"]) >= 2, timeout, "for diagnostics")
        told = self.take("diagnostics")
        status = told[-1].status[0]
        return {
            "name": status.name,
            "level": status.level[0],
            "levels": [m.status[0].level[0] for m in told],
            "message": status.message,
            "values": {v.key: v.value for v in status.values},
        }

    def lifecycle(self, transition=None):
        changed = True
        if transition is not None:
            request = ChangeState.Request()
            request.transition.id = TRANSITIONS[transition]
            changed = self.call(ChangeState, "change_state", request).success
        return {"changed": changed, "state": self.call(GetState, "get_state", GetState.Request()).current_state.label}

    def set_parameter(self, name, value):
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        [result] = self.call(SetParameters, "set_parameters", request).results
        return {"successful": result.successful, "reason": result.reason}

    def describe_parameter(self, name):
        [told] = self.call(DescribeParameters, "describe_parameters", DescribeParameters.Request(names=[name])).descriptors
        return {"description": told.description, "ranges": [[r.from_value, r.to_value] for r in told.integer_range]}

    def last_of_markers(self, timeout=20):
        """Wait for a message that removes all markers."""
        self.until(
            lambda: any(m.action == Marker.DELETEALL for array in self.heard["markers"] for m in array.markers), timeout, "for the end"
        )
        return {}

    def close(self):
        self.executor.shutdown()
        self.spinning.join()
        self.node.destroy_node()
        rclpy.shutdown()


def main():
    peer = Peer()
    try:
        for line in sys.stdin:
            command = json.loads(line)
            try:
                answer = getattr(peer, command.pop("do"))(**command)
            except TimeoutError as err:
                answer = {"error": str(err)}
            print(json.dumps(answer), flush=True)
    finally:
        peer.close()


if __name__ == "__main__":
    main()
