"""``diffpose-edge replay``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffpose_edge.atomic import folder_place
from diffpose_edge.cli.terminal import counting, parsed_size, say, telling
from diffpose_edge.errors import OutputError


def replay(
    bag: Annotated[Path, typer.Argument(help="A ROS 2 bag: a folder, or its .mcap or .db3 file.")],
    bundle: Annotated[Path, typer.Option(help="A bundle made by export.")],
    out: Annotated[Path, typer.Option(help="Bag to write: a folder with an MCAP file.")],
    keypoints_topic: Annotated[
        str | None, typer.Option(help="PoseArrays of keypoints, 17 poses a person, z the confidence (default: the only topic of these).")
    ] = None,
    camera_topic: Annotated[str | None, typer.Option(help="CameraInfo of their images (default: the only one, if there is one).")] = None,
    poses_topic: Annotated[str, typer.Option(help="Topic of the poses, PoseArrays.")] = "/poses",
    joints_topic: Annotated[str, typer.Option(help="Topic of joints with covariances, PointCloud2s.")] = "/joints",
    markers_topic: Annotated[str, typer.Option(help="Topic of what RViz shows, MarkerArrays.")] = "/body_markers",
    image_size: Annotated[str | None, typer.Option(metavar="WxH", help="The images' size, if no CameraInfo tells it.")] = None,
    normalised: Annotated[bool, typer.Option("--normalised", help="Keypoints are normalised, not pixels.")] = False,
    people: Annotated[int, typer.Option(help="Most people in an image, for a video encoder.", min=1)] = 1,
    steps: Annotated[int | None, typer.Option(help="K, the diffusion steps (default: the bundle's timesteps).", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    threads: Annotated[int | None, typer.Option(help="Cores to use (default: all).")] = None,
    backend: Annotated[str, typer.Option(help="onnxruntime, tensorrt, onnxruntime-cuda or auto.")] = "onnxruntime",
    force: Annotated[bool, typer.Option("--force", help="Replace a bag that stands at OUT.")] = False,
) -> None:
    """Estimate the poses of keypoints in a ROS 2 bag, and write both into a new bag with the same stamps. Needs no ROS."""
    from diffpose_edge.runtime import PoseRuntime
    from diffpose_edge.runtime.bridges.bags import BagReader, BagWriter, Topics
    from diffpose_edge.runtime.bridges.bags import replay as replay_bag
    from diffpose_edge.runtime.bridges.image_bodies import ImageBodies
    from diffpose_edge.runtime.bridges.plain_messages import POSE_ARRAY

    size = parsed_size(image_size)
    if out.exists() and bag.exists() and out.resolve() in (bag.resolve(), *bag.resolve().parents):
        raise OutputError(f"--out {out} has the bag itself in it, which would be replaced. Choose another name")
    folder_place(out, replace=force)
    with telling(), BagReader(bag) as recorded:
        keypoints = recorded.topic_of(keypoints_topic, POSE_ARRAY)
        with (
            PoseRuntime.load(bundle, backend, precision=precision, threads=threads) as runtime,
            BagWriter(out, replace=force) as written,
            counting("images", recorded.counts[keypoints]) as done,
        ):
            images = ImageBodies(runtime, people=people, seed=seed, steps=steps)
            counts = replay_bag(
                recorded,
                images,
                written,
                keypoints_topic=keypoints,
                camera_topic=camera_topic,
                topics=Topics(poses_topic, joints_topic, markers_topic),
                image_size=size,
                normalised=normalised,
                done=done,
            )
    say(f"wrote {out}: {counts}")
