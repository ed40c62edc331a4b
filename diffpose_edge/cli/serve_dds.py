"""``diffpose-edge serve-dds``"""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from diffpose_edge.cli.metrics import LOOPBACK, MetricsAddress, MetricsPort, metrics_at
from diffpose_edge.cli.terminal import parsed_size, say, telling


def serve_dds(
    bundle: Annotated[Path, typer.Argument(help="A bundle made by export.")],
    domain: Annotated[int, typer.Option(help="DDS domain.", envvar="ROS_DOMAIN_ID")] = 0,
    keypoints_topic: Annotated[str, typer.Option(help="ROS name of the PoseArrays of keypoints: 17 poses a person, z the confidence.")] = (
        "/keypoints"
    ),
    poses_topic: Annotated[str, typer.Option(help="ROS name of the PoseArrays to publish: 17 poses a person, metres.")] = "/poses",
    joints_topic: Annotated[
        str, typer.Option(help="ROS name of the PointCloud2 of joints with ids and covariances; empty: none.")
    ] = "/joints",
    camera_topic: Annotated[
        str | None, typer.Option(help="ROS name of the CameraInfo: keypoints are pixels of the image that it tells of.")
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Or the image's size. With neither, keypoints are normalised.")
    ] = None,
    frame_id: Annotated[str | None, typer.Option(help="Refuse keypoints of other frames.")] = None,
    reliable: Annotated[
        bool, typer.Option("--reliable", help="Ask again for what the network lost; best-effort publishers are then not heard.")
    ] = False,
    depth: Annotated[int, typer.Option(help="Messages that may wait; 1: always the latest.", min=1)] = 5,
    loopback: Annotated[bool, typer.Option("--loopback", help="Keep to this machine (else: CYCLONEDDS_URI).")] = False,
    people: Annotated[int, typer.Option(help="Most people in an image, for a video encoder.", min=1)] = 1,
    steps: Annotated[int | None, typer.Option(help="K, the diffusion steps (default: the bundle's timesteps).", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    threads: Annotated[int | None, typer.Option(help="Cores to use (default: all).")] = None,
    non_finite: Annotated[
        str, typer.Option(help="What a result that is no number does: 'raise' an error, or 'last': the last finite state's pose.")
    ] = "raise",
    backend: Annotated[str, typer.Option(help="onnxruntime, tensorrt, onnxruntime-cuda or auto.")] = "onnxruntime",
    metrics_port: MetricsPort = None,
    metrics_address: MetricsAddress = LOOPBACK,
    foxglove: Annotated[int | None, typer.Option(metavar="PORT", help="Show the bodies in Foxglove, too, at this port.")] = None,
) -> None:
    """Answer keypoints with poses over DDS, as a ROS 2 node would, without ROS. Ends at SIGTERM or Ctrl+C.

    Topics are those of ROS 2 (rt/… on the wire), messages geometry_msgs/PoseArray; docs/bridges.md has the conventions.
    """
    from diffpose_edge.runtime import PoseRuntime
    from diffpose_edge.runtime.bridges.dds import DdsBridge
    from diffpose_edge.runtime.bridges.image_bodies import ImageBodies

    size = parsed_size(image_size)
    stop = threading.Event()
    with ExitStack() as opened:
        for number in (signal.SIGTERM, signal.SIGINT):
            opened.callback(signal.signal, number, signal.signal(number, lambda *_: stop.set()))
        opened.enter_context(telling())
        shown = None
        if foxglove is not None:
            from diffpose_edge.runtime.bridges.foxglove import FoxgloveView

            view = opened.enter_context(FoxgloveView(foxglove))
            say(f"showing: open ws://127.0.0.1:{view.port} in Foxglove")
            shown = view.show
        runtime = opened.enter_context(PoseRuntime.load(bundle, backend, precision=precision, threads=threads, non_finite=non_finite))
        images = ImageBodies(runtime, people=people, seed=seed, steps=steps)
        opened.callback(images.close)
        bridge = opened.enter_context(
            DdsBridge(
                images,
                domain=domain,
                keypoints_topic=keypoints_topic,
                poses_topic=poses_topic,
                joints_topic=joints_topic or None,
                camera_topic=camera_topic,
                image_size=size,
                frame_id=frame_id,
                reliable=reliable,
                depth=depth,
                loopback=loopback,
                shown=shown,
            )
        )
        opened.enter_context(metrics_at(metrics_port, metrics_address, {"runtime": runtime, "dds": bridge}))
        say(f"serving in DDS domain {domain}: {keypoints_topic} → {poses_topic}")
        counts = bridge.run(stop.is_set)
    say(f"served {counts}")
