"""The process of the ROS 2 node: ``python -m diffpose_edge.runtime.bridges.rclpy_main --ros-args -p bundle:=FOLDER``."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from diffpose_edge.crash_report import CrashReports, crash_folder
from diffpose_edge.errors import DiffPoseEdgeError
from diffpose_edge.events import tell_fault
from diffpose_edge.runtime.bridges.people_source import PeopleInOrder, PeopleSource, Place, SourceSettings, unplaced
from diffpose_edge.runtime.bridges.rclpy_node import DiffPoseNode


def run(
    arguments: Sequence[str] | None = None,
    open_source: Callable[[SourceSettings], PeopleSource] = PeopleInOrder,
    place: Place = unplaced,
) -> int:
    """Run the node until SIGINT or SIGTERM and return the exit status: 0, 2 for a mistake in its parameters, 1 for a fault of ours.

    ``open_source`` and ``place``: see :class:`DiffPoseNode`.
    """
    with CrashReports(crash_folder()):
        return _run(arguments, open_source, place)


def _run(arguments: Sequence[str] | None, open_source: Callable[[SourceSettings], PeopleSource], place: Place) -> int:
    # rclpy's own handlers end communication at once, and then nothing could be said any more: no markers taken away.
    rclpy.init(args=None if arguments is None else list(arguments), signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        try:
            node = DiffPoseNode(open_source, place, on_fault=stop.set)
        except (DiffPoseEdgeError, InvalidParameterValueException, InvalidParameterTypeException) as err:
            print(f"error: {err}", file=sys.stderr)
            return 2
        try:
            return _until(stop, node)
        finally:
            node.destroy_node()
    finally:
        rclpy.shutdown()


def _until(stop: threading.Event, node: DiffPoseNode) -> int:
    if node.get_parameter("autostart").value:
        started = node.trigger_configure()
        if started == TransitionCallbackReturn.SUCCESS:
            started = node.trigger_activate()
        if started != TransitionCallbackReturn.SUCCESS:
            return 2 if node.refusal is not None else 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    faults: list[BaseException] = []

    def spin() -> None:
        try:
            executor.spin()
        except ShutdownException:
            pass  # how a spinning executor ends when it is told to
        except BaseException as err:
            faults.append(err)
            tell_fault(err, "node's executor")
            stop.set()

    # The main thread waits for signals: Python runs their handlers there, and not while it is deep in a wait of ROS's.
    spinning = threading.Thread(target=spin, name="executor")
    spinning.start()
    stop.wait()
    executor.shutdown()
    spinning.join()
    if not node.finalized:  # a manager may have shut it down already
        node.trigger_shutdown()
    faults += [node.fault] if node.fault is not None else []
    for fault in faults:
        traceback.print_exception(fault)
    return 1 if faults else 0


def main() -> None:
    """Run the node with the process's arguments."""
    sys.exit(run())


if __name__ == "__main__":
    main()
