"""The ROS 2 node: 2D keypoints in, people out, as a managed (lifecycle) node.

Two threads: the executor's hears messages, checks them and puts frames into a queue; the worker's computes and publishes. So a long
estimate holds up neither parameters, diagnostics, nor a shutdown.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter_ns
from typing import Any

from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from diffpose_edge.errors import DiffPoseEdgeError, MissingPackage
from diffpose_edge.events import tell_fault
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.metrics_endpoint import MetricsEndpoint
from diffpose_edge.runtime.bridges import outgoing
from diffpose_edge.runtime.bridges.frame_queue import FrameQueue
from diffpose_edge.runtime.bridges.incoming import (
    Intrinsics,
    MalformedMessage,
    frame_id_of,
    intrinsics_of,
    people_of_pose_array,
    person_of_skeleton2d,
    stamp_ns_of,
)
from diffpose_edge.runtime.bridges.node_parameters import PARAMETERS, NodeSettings, checked_settings
from diffpose_edge.runtime.bridges.node_report import NodeReport, diagnostics
from diffpose_edge.runtime.bridges.people_source import PeopleInOrder, PeopleSource, Place, SourceSettings, unplaced
from diffpose_edge.runtime.bridges.rclpy_parameters import declare, refusing
from diffpose_edge.runtime.bridges.rclpy_publishers import PeoplePublishers, qos
from diffpose_edge.runtime.bridges.ros_types import ros_types
from diffpose_edge.runtime.bridges.stamp_order import StampOrder

SUCCESS, FAILURE, ERROR = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE, TransitionCallbackReturn.ERROR


@dataclass(frozen=True)
class Frame:
    """What waits for the worker: the people of one image, when it was taken and when it came; ``body_id`` where the topic tells it."""

    stamp_ns: int
    frame_id: str
    people: Keypoints
    arrived_ns: int
    anew: bool
    body_id: int | None = None


class DiffPoseNode(LifecycleNode):  # type: ignore[misc]
    """The node ``diffpose_edge``: docs/ros.md has its topics, parameters and diagnostics.

    ``open_source`` makes the source of people when the node is configured, ``place`` puts them where they are; both are the seams for a
    tracker and for the metric root. ``on_fault`` is called, from the worker's thread, when ``fault`` has what went wrong there.
    """

    def __init__(
        self,
        open_source: Callable[[SourceSettings], PeopleSource] = PeopleInOrder,
        place: Place = unplaced,
        on_fault: Callable[[], None] = lambda: None,
        **options: Any,
    ):
        super().__init__("diffpose_edge", **options)
        self._open_source, self._place, self._on_fault = open_source, place, on_fault
        self._types = ros_types()
        self.fault: BaseException | None = None
        self.refusal: DiffPoseEdgeError | None = None
        self.finalized = False
        self._settings: NodeSettings | None = None
        self._source: PeopleSource | None = None
        self._metrics: MetricsEndpoint | None = None
        self._out: PeoplePublishers | None = None
        self._listening: list[Any] = []
        self._timer: Any = None
        self._worker: threading.Thread | None = None
        self._queue: FrameQueue[Frame] | None = None
        declare(self)
        self.add_on_set_parameters_callback(partial(refusing, lambda: self._settings is not None))

    # Transitions

    def on_configure(self, state: Any) -> Any:
        """Take the parameters, load the bundle, announce what goes out."""
        try:
            settings = checked_settings({name: self.get_parameter(name).value for name in PARAMETERS})
            if settings.input == "skeleton2d" and self._types.Skeleton2D is None:
                raise MissingPackage(
                    "input 'skeleton2d' needs the package hri_msgs, which this Python does not see; install it, or use pose_array"
                )
            self._source = self._open_source(settings.source)
            self._report = NodeReport()
            self._metrics = self._measured(settings, self._source)
        except DiffPoseEdgeError as err:
            self.refusal = err
            self.get_logger().error(str(err))
            self._let_go()
            return FAILURE
        except Exception as err:
            # rclpy turns an exception of a transition into an error without a word.
            tell_fault(err, "node's configuration")
            self._let_go()
            self.get_logger().fatal(traceback.format_exc())
            return ERROR
        self.refusal, self._settings = None, settings
        self._orders: dict[str, StampOrder] = {}
        self._camera: Intrinsics | None = None
        self._frame_id = settings.camera_frame
        self._notes = {f"source_{key}": value for key, value in self._source.describe().items()}
        self._announce(settings)
        self._timer = self.create_timer(settings.diagnostics_period, self._tell)
        return super().on_configure(state)

    def on_activate(self, state: Any) -> Any:
        """Begin to listen and to compute."""
        settings = self._settings
        assert settings is not None
        self._queue = FrameQueue(settings.queue_length)
        self._worker = threading.Thread(target=self._work, args=(self._queue,), name="poses", daemon=True)
        self._worker.start()
        result = super().on_activate(state)
        quality = qos(settings.input_reliability, settings.input_depth)
        if settings.input == "pose_array":
            wanted = [(self._types.PoseArray, settings.keypoints_topic, self._heard_poses)]
        else:
            topics = enumerate(settings.skeleton_topics)
            wanted = [(self._types.Skeleton2D, topic, partial(self._heard_skeleton, number)) for number, topic in topics]
        wanted.append((self._types.CameraInfo, settings.camera_info_topic, self._heard_camera))
        self._listening = [self.create_subscription(kind, topic, heard, quality) for kind, topic, heard in wanted]
        return result

    def on_deactivate(self, state: Any) -> Any:
        """Stop listening, let the frame in work be finished, give up what waits, and take the markers away."""
        self._rest()
        return super().on_deactivate(state)

    def on_cleanup(self, state: Any) -> Any:
        """Release the bundle and everything that was announced."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: Any) -> Any:
        """As deactivate and cleanup, from wherever the node is; it cannot be configured again."""
        self.finalized = True
        self._rest()
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: Any) -> Any:
        """Release everything; the node can be configured again."""
        self._rest()
        self._release()
        return SUCCESS

    def _announce(self, settings: NodeSettings) -> None:
        if settings.tf_topic:
            self._notes["tf"] = settings.tf_topic if self._types.TFMessage else "no: tf2_msgs is not installed"
        self._out = PeoplePublishers(self, self._types, settings)
        self._diagnostics = self.create_publisher(self._types.DiagnosticArray, "/diagnostics", 10)

    def _rest(self) -> None:
        for subscription in self._listening:
            self.destroy_subscription(subscription)
        self._listening = []
        if self._queue is not None and self._worker is not None:
            self._report.count("dropped", self._queue.close())
            self._worker.join()
            self._queue = self._worker = None
            if self._out is not None:
                self._out.take_away()
            self._tell()

    def _release(self) -> None:
        if self._settings is None:
            return
        self.destroy_timer(self._timer)
        if self._out is not None:
            self._out.close()
        self.destroy_publisher(self._diagnostics)
        self._out = self._settings = None
        self._let_go()

    def _let_go(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        if self._source is not None:
            self._source.close()
            self._source = None

    def _measured(self, settings: NodeSettings, source: PeopleSource) -> MetricsEndpoint | None:
        """Open the endpoint that was asked for, if one was. Raises MissingPackage, BridgeError."""
        if not settings.metrics_port:
            return None
        endpoint = MetricsEndpoint({"node": self._report, **getattr(source, "counted", {})}, settings.metrics_port)
        self.get_logger().info(f"metrics: {endpoint.url}")
        return endpoint

    # What comes in

    def _heard_camera(self, message: Any) -> None:
        settings = self._settings
        assert settings is not None
        try:
            self._check_frame(frame_id_of(message.header))
            camera = intrinsics_of(message)
        except MalformedMessage as err:
            self._report.refuse(err.reason, str(err))
            return
        self._frame_id, self._camera = camera.frame_id, camera

    def _heard_poses(self, message: Any) -> None:
        settings = self._settings
        assert settings is not None
        size = self._image_size()
        if size is None and settings.units != "normalised":
            self._without_size()
            return
        self._take(message.header, "", lambda: people_of_pose_array(message, settings.units, size, settings.max_people))

    def _heard_skeleton(self, number: int, message: Any) -> None:
        size = self._image_size()
        if size is None:
            self._without_size()
            return
        self._take(message.header, str(number), lambda: person_of_skeleton2d(message, size), number)

    def _take(self, header: Any, of: str, read: Callable[[], Keypoints], body_id: int | None = None) -> None:
        """Check a message of keypoints and put it into the queue, or count why not. Stamps are in order for each topic."""
        arrived = perf_counter_ns()
        self._report.count("frames")
        try:
            frame_id = frame_id_of(header)
            self._check_frame(frame_id)
            stamp_ns = stamp_ns_of(header.stamp)
            people = read()
            taken, anew = self._orders.setdefault(of, StampOrder()).takes(stamp_ns)
            if not taken:
                raise MalformedMessage("stamp", f"expected a stamp after {self._orders[of].last} ns, got {stamp_ns} ns: late, or twice")
        except MalformedMessage as err:
            self._report.refuse(err.reason, str(err))
            return
        self._frame_id = frame_id
        if anew:
            self._report.count("anew")
        assert self._queue is not None
        self._report.count("dropped", self._queue.put(Frame(stamp_ns, frame_id, people, arrived, anew, body_id)))

    def _check_frame(self, frame_id: str) -> None:
        if not frame_id or (self._frame_id and frame_id != self._frame_id):
            expected = repr(self._frame_id) if self._frame_id else "the camera's"
            raise MalformedMessage("frame", f"expected header.frame_id {expected}, got {frame_id!r}")

    def _image_size(self) -> tuple[int, int] | None:
        assert self._settings is not None
        return self._settings.image_size or (self._camera.image_size if self._camera else None)

    def _without_size(self) -> None:
        self._report.count("frames")
        self._report.count("without_camera")

    # What goes out

    def _work(self, queue: FrameQueue[Frame]) -> None:
        """The worker's thread: frame after frame until the queue is closed."""
        try:
            while (frame := queue.get()) is not None:
                self._answer(frame)
        except BaseException as err:
            self.fault = err
            tell_fault(err, "node's worker")
            self._on_fault()

    def _answer(self, frame: Frame) -> None:
        source, out = self._source, self._out
        assert source is not None
        assert out is not None
        if frame.anew:
            source.reset()
        bodies = self._place(source.process(frame.stamp_ns, frame.people), self._camera)
        took = perf_counter_ns() - frame.arrived_ns
        bodies = [replace(body, frame_id=body.frame_id or frame.frame_id, latency_ns=took) for body in bodies]
        if frame.body_id is not None:
            bodies = [replace(body, body_id=frame.body_id) for body in bodies]
        # A source may answer with people of an earlier image, and put them into another frame.
        stamp_ns, frame_id = (bodies[0].stamp_ns, bodies[0].frame_id) if bodies else (frame.stamp_ns, frame.frame_id)
        out.publish(stamp_ns, frame_id, bodies)
        age_ns = self.get_clock().now().nanoseconds - stamp_ns
        for name in ("out_of_range", "non_finite"):
            self._report.count(name, sum(getattr(body, name) for body in bodies))
        found = sum(body.found for body in bodies)
        self._report.answer(found, len(bodies) - found, perf_counter_ns() - frame.arrived_ns, age_ns)

    def _tell(self) -> None:
        """Publish diagnostics."""
        settings = self._settings
        assert settings is not None
        header = outgoing.header(self._types, self.get_clock().now().nanoseconds, "")
        name = f"{self.get_fully_qualified_name()}: poses"
        told = diagnostics(self._types, header, name, settings.backend, self._report, self._worker is not None, self._notes)
        self._diagnostics.publish(told)
