"""Whatever has a ``close()``: called twice it does nothing more, and every other call says, in one of our errors, that it is closed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpose_edge.bundle import load_bundle
from diffpose_edge.errors import BagError, BridgeError, DiffPoseEdgeError, RuntimeClosed, VideoError
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.runtime import PoseRuntime, PoseStream
from diffpose_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend
from diffpose_edge.runtime.onnxruntime_cuda_backend import OnnxRuntimeCudaBackend
from diffpose_edge.runtime.plan import step_plan
from tests.runtime.bridges.people import body_of

from .device_runtime import clip_of, on_device

PEOPLE = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 17, 2)).astype(np.float32)
KEYPOINTS = Keypoints(PEOPLE, np.ones((2, 17), np.float32))
Calls = dict[str, Callable[[], Any]]


class Opened:
    """A resource, what may be called on it, and what it says when it is closed. ``kept`` lets go of what it stands on."""

    def __init__(self, resource: Any, error: type[DiffPoseEdgeError], calls: Calls, kept: ExitStack | None = None):
        self.resource, self.error, self.calls, self.kept = resource, error, calls, kept or ExitStack()


def runtime(bundles: Callable[[str], Path], tmp_path: Path) -> Opened:
    made = PoseRuntime.load(bundles("causal_bundle"), threads=1)
    clip = clip_of(made, 3)
    return Opened(
        made,
        RuntimeClosed,
        {
            "estimate": lambda: made.estimate(PEOPLE),
            "estimate_async": lambda: made.estimate_async(PEOPLE),
            "estimate_clip": lambda: made.estimate_clip(clip),
            "a clip that was begun": made.estimate_clip(clip).__next__,
            "stream": made.stream,
            "measure": lambda: made.measure((1,), save=False),
            "timings": lambda: made.timings,
            "describe": made.describe,
        },
    )


def video_stream(bundles: Callable[[str], Path], tmp_path: Path) -> Opened:
    owner = PoseRuntime.load(bundles("causal_bundle"), threads=1)
    made, kept = owner.stream(2), ExitStack()
    kept.callback(owner.close)
    return Opened(made, RuntimeClosed, {"push": lambda: made.push(PEOPLE), "reset": made.reset}, kept)


def stream_of_a_closed_runtime(bundles: Callable[[str], Path], tmp_path: Path) -> Opened:
    owner = PoseRuntime.load(bundles("causal_bundle"), threads=1)
    made, body = owner.stream(2), PoseStream(owner)
    body.process(PEOPLE, 0)
    return Opened(owner, RuntimeClosed, {"push": lambda: made.push(PEOPLE), "process": lambda: body.process(PEOPLE, 1)})


def pose_stream(bundles: Callable[[str], Path], tmp_path: Path) -> Opened:
    owner, kept = PoseRuntime.load(bundles("conditioned_bundle"), threads=1), ExitStack()
    kept.callback(owner.close)
    made = PoseStream(owner)
    made.process(PEOPLE, 0)
    calls: Calls = {"push": lambda: made.push(PEOPLE, 1), "process": lambda: made.process(PEOPLE, 1), "flush": made.flush}
    return Opened(made, RuntimeClosed, calls, kept)


def image_bodies(bundles: Callable[[str], Path], tmp_path: Path) -> Opened:
    from diffpose_edge.runtime.bridges.image_bodies import ImageBodies

    owner, kept = PoseRuntime.load(bundles("conditioned_bundle"), threads=1), ExitStack()
    kept.callback(owner.close)
    made = ImageBodies(owner)
    return Opened(made, RuntimeClosed, {"bodies": lambda: made.bodies(KEYPOINTS, 0, "camera")}, kept)


def people_in_order(bundles: Callable[[str], Path], tmp_path: Path) -> Opened:
    from diffpose_edge.runtime.bridges.people_source import PeopleInOrder, SourceSettings

    made = PeopleInOrder(SourceSettings(str(bundles("conditioned_bundle")), threads=1))
    return Opened(made, RuntimeClosed, {"process": lambda: made.process(0, KEYPOINTS), "describe": made.describe})


def backend_calls(made: Any, path: Path) -> Calls:
    plan, spent = step_plan(load_bundle(path).manifest), np.zeros(8)
    made.begin(plan.timesteps, plan.coefficients)
    K = len(plan.timesteps)
    return {
        "encode": made.encode,
        "begin": lambda: made.begin(plan.timesteps, plan.coefficients),
        "walk": lambda: made.walk(spent[:K], None),
    }


def cpu_backend(bundles: Callable[[str], Path], tmp_path: Path, threads: int = 1) -> Opened:
    path = bundles("conditioned_bundle")
    loaded = load_bundle(path)
    made = OnnxRuntimeBackend(loaded.manifest, loaded.graphs("fp32", for_cpu=True), threads)
    return Opened(made, RuntimeClosed, backend_calls(made, path))


def cpu_backend_side_by_side(bundles: Callable[[str], Path], tmp_path: Path) -> Opened:
    return cpu_backend(bundles, tmp_path, threads=2)


def causal_backend(bundles: Callable[[str], Path], tmp_path: Path) -> Opened:
    loaded = load_bundle(bundles("causal_bundle"))
    made = OnnxRuntimeBackend(loaded.manifest, loaded.graphs("fp32", for_cpu=True), 1)
    caches = made.new_caches()
    return Opened(made, RuntimeClosed, {"new_caches": made.new_caches, "encode_after": lambda: made.encode_after(caches)})


def onnxruntime_cuda_backend(bundles: Callable[[str], Path], tmp_path: Path) -> Opened:
    path = bundles("conditioned_bundle")
    loaded = load_bundle(path)
    made = OnnxRuntimeCudaBackend(loaded.manifest, loaded.graphs("fp32"), on_cpu=True)
    return Opened(made, RuntimeClosed, backend_calls(made, path))


def device_backend(bundles: Callable[[str], Path], tmp_path: Path) -> Opened:
    path = bundles("conditioned_bundle")
    device, kept = on_device(path), ExitStack()
    kept.callback(device.runtime.close)
    made = device.backend
    more: Calls = {"frame": lambda: made.frame(np.zeros(99)), "step": lambda: made.step(0), "state": lambda: made.state(0)}
    return Opened(made, RuntimeClosed, backend_calls(made, path) | more, kept)


def bag_writer(bundles: Callable[[str], Path], tmp_path: Path) -> Opened:
    pytest.importorskip("rosbags", reason="rosbags is not installed: pip install '.[ros]'")
    from diffpose_edge.runtime.bridges.bags import BagWriter

    made = BagWriter(tmp_path / "written")
    made.write_bodies([body_of(0)], 1, "camera", 1)
    return Opened(made, BagError, {"write_bodies": lambda: made.write_bodies([body_of(0)], 2, "camera", 2)})


def bag_reader(bundles: Callable[[str], Path], tmp_path: Path) -> Opened:
    pytest.importorskip("rosbags", reason="rosbags is not installed: pip install '.[ros]'")
    from diffpose_edge.runtime.bridges.bags import BagReader, BagWriter

    with BagWriter(tmp_path / "bag") as written:
        for stamp in (1, 2):
            written.write_bodies([body_of(0)], stamp, "camera", stamp)
    made = BagReader(tmp_path / "bag")
    begun = made.messages("/poses")
    next(begun)
    return Opened(made, BagError, {"messages": lambda: next(made.messages("/poses")), "messages that were begun": lambda: next(begun)})


def foxglove_view(bundles: Callable[[str], Path], tmp_path: Path) -> Opened:
    pytest.importorskip("foxglove", reason="foxglove-sdk is not installed: pip install '.[foxglove]'")
    from diffpose_edge.runtime.bridges.foxglove import FoxgloveView

    made = FoxgloveView(0)
    return Opened(made, BridgeError, {"show": lambda: made.show([body_of(0)])})


def dds_bridge(bundles: Callable[[str], Path], tmp_path: Path) -> Opened:
    pytest.importorskip("cyclonedds", reason="cyclonedds has wheels for x86-64 and Python 3.10 to 3.13 only: pip install '.[dds]'")
    from diffpose_edge.runtime.bridges.dds import DdsBridge
    from diffpose_edge.runtime.bridges.image_bodies import ImageBodies

    owner, kept = PoseRuntime.load(bundles("conditioned_bundle"), threads=1), ExitStack()
    kept.callback(owner.close)
    made = DdsBridge(ImageBodies(owner), domain=119, loopback=True)
    return Opened(made, BridgeError, {"step": lambda: made.step(0.0), "run": lambda: made.run(lambda: False)}, kept)


def video_file(bundles: Callable[[str], Path], tmp_path: Path) -> Opened:
    pytest.importorskip("av", reason="PyAV is not installed: pip install '.[video]'")
    from diffpose_edge.detector import VideoFile
    from tests.detector.videos import grey_levels, write_video

    write_video(tmp_path / "clip.mp4", grey_levels(8))
    made = VideoFile(tmp_path / "clip.mp4")
    begun = made.frames()
    next(begun)
    return Opened(made, VideoError, {"frames": lambda: next(made.frames()), "frames that were begun": lambda: list(begun)})


OPENERS = [
    runtime, video_stream, stream_of_a_closed_runtime, pose_stream, image_bodies, people_in_order, cpu_backend, cpu_backend_side_by_side,
    causal_backend, onnxruntime_cuda_backend, device_backend, bag_writer, bag_reader, foxglove_view, dds_bridge, video_file,
]  # fmt: skip


@pytest.mark.parametrize("opener", OPENERS, ids=lambda opener: opener.__name__)
def test_every_call_says_that_it_was_closed(opener: Callable[..., Opened], request: pytest.FixtureRequest, tmp_path: Path) -> None:
    opened = opener(request.getfixturevalue, tmp_path)
    with opened.kept:
        for _ in range(2):
            opened.resource.close()
        for call in opened.calls.values():
            with pytest.raises(opened.error, match="closed"):
                call()
        opened.resource.close()


def test_a_stream_that_ended_is_read_to_its_end_and_then_says_so(conditioned_bundle: Path) -> None:
    with PoseRuntime.load(conditioned_bundle, threads=1) as owner:
        stream = PoseStream(owner, back_pressure="queue(5)")
        stream.push(PEOPLE, 0)
        stream.close()
        assert stream.get() is not None
        assert stream.get() is None
        assert list(stream.results()) == []
        assert stream.counters.computed == 1
