"""Makes the inputs that fuzzing begins with: ``python -m tests.fuzz.make_seeds``. One small valid file of each form, in ``seeds/``."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_edge.camera import Camera
from diffpose_edge.evaluation import EvaluationClip, save_evaluation
from diffpose_edge.fitted import FittedSchedule, schedules_json
from diffpose_edge.formats import PoseSequence, write_poses
from diffpose_edge.formats.poses import from_placed
from tests.core.formats import written
from tests.fuzz.of_bundles import CHECKPOINTS, X, small_manifest
from tests.fuzz.target import SEEDS

# Two frames are enough for what is between frames.
FRAMES = 2


def _put(target: str, name: str, content: bytes | str) -> None:
    path = SEEDS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _bundles() -> None:
    from diffpose_edge.calibration.scales_file import Calibration
    from diffpose_edge.config import BatchShape, CausalConfig, GraphNetworkConfig, VideoConfig
    from diffpose_edge.distribution import StartSpread
    from diffpose_edge.export.int8 import MatMulScales
    from diffpose_edge.manifest import Process

    frame = small_manifest()
    fitted = FittedSchedule((12, 0), ((1.0, 0.5, 0.0), (0.9, 0.2, -0.1)), {"mean_mm": 1.0})
    few = tuple(frame.alpha_bar[:14])
    _put("manifest", "frame.json", replace(frame, alpha_bar=few, fitted=(fitted,)).to_json())
    video = replace(frame, alpha_bar=few, context=VideoConfig(9, 32, 2, 4), shape=BatchShape(P=2, N=3, F=9))
    _put("manifest", "video.json", video.to_json())
    spread = StartSpread(
        np.array([0.0, 1.0], np.float32), *(np.full(shape, 0.1, np.float32) for shape in ((2, 17), (2, 17, 3), (2, 17, 3)))
    )
    causal = replace(
        frame,
        alpha_bar=few,
        denoiser=GraphNetworkConfig(16, 1, 4, condition=16),
        context=CausalConfig(4, 16, 2, 4),
        process=Process("distribution", "v", spread),
    )
    _put("manifest", "causal.json", causal.to_json())
    _put("schedules", "schedules.json", schedules_json((fitted,), CHECKPOINTS))
    times = {"p50": 1.5, "p99": 2.0}
    timings = {
        "format": "diffpose-edge-timings",
        "format_version": 1,
        "key": {"machine": {"processor": "x"}, "graphs": {"step": X}},
        "made": {"date": "2026-11-22"},
        "encoder_ms": times,
        "step_ms": times,
        "after_ms": None,
        "frame_ms": {"1": times, "2": times},
        "walk_ms": {"1": times, "2": times},
    }
    _put("timings", "timings.json", json.dumps(timings))
    engine = {
        "format": "diffpose-edge-engine", "format_version": 1, "role": "step", "precision": "fp16", "graph": "fp32", "flavour": "tensorrt",
        "version": "10.3.0", "sm": 87, "onnx_sha256": X, "sha256": X, "bytes": 1, "version_compatible": False, "hardware_compatible": False,
        "made": {},
    }  # fmt: skip
    _put("engine_record", "engine.json", json.dumps(engine))
    calibration = Calibration(
        {role: {"block.matmul": MatMulScales(0.5, (0, 1, -1))} for role in ("context", "step")},
        {"context": ("block.matmul",), "step": ()},
        {"context": (), "step": ("head",)},
        {role: {"block": 3.0} for role in ("context", "step")},
        {"context": "a", "step": "b"},
        {"frames": 8},
    )
    _put("calibration", "calibration.json", calibration.to_json())


def _keypoints(work: Path) -> None:
    _put("openpose", "frame.json", (written.openpose(work / "openpose") / "walk_000000000002_keypoints.json").read_bytes())
    _put("alphapose", "tracked.json", written.alphapose(work / "a.json", tracks=(7, 8)).read_bytes())
    _put("alphapose", "halpe.json", written.alphapose(work / "h.json", count=26).read_bytes())
    _put("coco_results", "results.json", written.coco_results(work / "c.json").read_bytes())
    for form in ("video", "demo video", "image"):
        _put("mmpose", f"{form.replace(' ', '_')}.json", written.mmpose(work / "m.json", form).read_bytes())
    _put("mmpose_folder", "image.json", written.mmpose(work / "m.json", "image").read_bytes())
    for name in ("coco17", "mediapipe33", "h36m17"):
        data = written.FILES[name](work).read_bytes()
        _put("npz_clip", f"{name}.npz", data)
    _put("keypoints_npz", "pixels.npz", written.h36m17(work / "h36m.npz").read_bytes())
    np.savez(work / "n.npz", keypoints=np.zeros((FRAMES, 17, 2), np.float32), confidence=np.ones((FRAMES, 17), np.float32))
    _put("keypoints_npz", "normalised.npz", (work / "n.npz").read_bytes())
    custom = written.videopose3d(work / "v.npz", ("a.mp4", "b.mp4"))
    _put("videopose3d", "custom.npz", custom.read_bytes())
    _put("videopose3d", "one.npz", written.videopose3d(work / "one.npz").read_bytes())
    with np.load(custom) as content, content.zip.open("positions_2d.npy") as file:
        member = file.read()
    _put("plain_pickle", "positions.pickle", member[member.index(b"\n") + 1 :])
    for suffix in ("json", "yaml"):
        _put(f"camera_{suffix}", f"camera.{suffix}", _camera(suffix))
    clip = EvaluationClip("walk", "Walking", 50.0, *(np.zeros((FRAMES, 17, *last), np.float32) for last in ((2,), (), (3,))))  # type: ignore[arg-type]
    save_evaluation(work / "e.npz", [clip])
    _put("evaluation", "evaluation.npz", (work / "e.npz").read_bytes())
    result: dict[str, Any] = {"joints": np.zeros((FRAMES, 17, 3), np.float32), "samples": np.zeros((FRAMES, 2, 17, 3), np.float32)}
    result |= {
        "covariance": np.zeros((FRAMES, 17, 3, 3), np.float32),
        "observed": np.ones((FRAMES, 17), bool),
        "root": np.ones((FRAMES, 3)),
    }
    result |= {"step_ms": np.ones((FRAMES, 2)), "call_ms": np.ones(FRAMES), "call_frames": np.ones(FRAMES, np.int64)}
    np.savez_compressed(work / "r.npz", **result, keypoints=np.zeros((FRAMES, 17, 2)), fps=np.array(30.0))
    _put("viewer_result", "result.npz", (work / "r.npz").read_bytes())


def _camera(suffix: str) -> str:
    camera = Camera.from_fov(640, 480, horizontal_degrees=70)
    k = [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0]
    d = [0.1, -0.2, 0.001, 0.002, 0.0]
    if suffix == "json":
        return json.dumps(
            {"width": 640, "height": 480, "distortion_model": "plumb_bob", "k": k, "d": d, "binning_x": 0, "roi": {"x_offset": 0}}
        )
    return (
        "image_width: 640\nimage_height: 480\ncamera_name: front\ncamera_matrix:\n  rows: 3\n  cols: 3\n"
        f"  data: {k}\ndistortion_model: plumb_bob\ndistortion_coefficients:\n  rows: 1\n  cols: 5\n  data: {d}\n"
    )


def _poses(work: Path) -> None:
    standing = np.random.default_rng(0).uniform(-0.5, 0.5, (FRAMES, 17, 3)).round(2)
    placed = from_placed(standing + (0.0, 0.0, 3.0), 30.0, np.arange(FRAMES))
    covariance = np.tile(np.eye(3, dtype=np.float32) * 0.01, (FRAMES, 17, 1, 1))
    full = PoseSequence(placed.joints, 30.0, placed.frames, placed.root, covariance, np.ones((FRAMES, 17), bool), "7")
    for suffix in ("jsonl", "csv", "bvh", "trc"):
        write_poses(work / f"p.{suffix}", full)
        _put(suffix, f"poses.{suffix}", (work / f"p.{suffix}").read_bytes())


def _checkpoints(work: Path) -> None:
    import torch

    from diffpose_edge.reference.checkpoints import save_released
    from diffpose_edge.reference.datasets.npz_files import write_flat
    from diffpose_edge.reference.graph_networks import Denoiser, FrameEncoder
    from diffpose_edge.reference.mixste import MixSTE
    from diffpose_edge.reference.random_weights import write_random_conditioned_pair

    networks = {"denoiser": Denoiser(4, 1, 4), "context": FrameEncoder(4, 1, 4), "video": MixSTE(2, 8, 1, 8, 8)}
    for name, network in networks.items():
        save_released(network, work / f"{name}.pth")
        _put("checkpoint_zip", f"{name}.pth", (work / f"{name}.pth").read_bytes())
        weights = dict(network.state_dict())
        torch.save([weights], work / "legacy.pth", _use_new_zipfile_serialization=False)
        _put("checkpoint_legacy", f"{name}.pth", (work / "legacy.pth").read_bytes())
    denoiser, context = write_random_conditioned_pair(work / "pair", seed=3, hidden=4, layers=1)
    _put("safetensors_denoiser", "denoiser.safetensors", denoiser.read_bytes())
    _put("safetensors_context", "context.safetensors", context.read_bytes())
    person = np.random.default_rng(1).uniform(-0.9, 0.9, (FRAMES, 17, 3)).astype(np.float32)
    pixels = np.full((FRAMES, 17, 2), 200.0, np.float32)
    metadata: Any = {"layout_name": np.array("h36m"), "num_joints": np.array(17)}
    metadata["keypoints_symmetry"] = {"0": np.array((4, 5, 6, 11, 12, 13)), "1": np.array((1, 2, 3, 14, 15, 16))}
    views: Any = {"S1": {"Walking": {str(camera): pixels for camera in range(4)}}}
    gmm = np.ones((FRAMES, 17, 1, 5), np.float32) * (1, 300, 200, 2, 2)
    three: Any = {"S1 Seq1": {"0": {str(camera): {"data_2d": pixels, "data_3d": person * 1000} for camera in (0, 1)}, "1": np.array(25)}}
    test: Any = {"TS1": {"data_2d": pixels, "data_3d": person[:, None] * 1000, "valid": np.ones(FRAMES)}}
    files: dict[str, dict[str, Any]] = {
        "h36m_3d": {"positions_3d": {"S1": {"Walking": person}}},
        "h36m_2d": {"positions_2d": views, "metadata": metadata},
        "gmm": {"positions_2d": {"S1": {"Walking": {str(camera): gmm for camera in range(4)}}}},
        "train_3dhp": {"data": three},
        "test_3dhp": {"data": test},
    }
    for name, trees in files.items():
        write_flat(work / "d.npz", trees)
        _put("dataset", f"{name}.npz", (work / "d.npz").read_bytes())


def _messages(work: Path) -> None:
    from rosbags.typesys import Stores, get_typestore

    from diffpose_edge.runtime.bridges.bags import BagWriter
    from diffpose_edge.runtime.bridges.plain_messages import CAMERA_INFO, POSE_ARRAY, header_of

    store = get_typestore(Stores.ROS2_JAZZY)
    classes = store.types.__getitem__
    point, pose, quaternion = (classes(f"geometry_msgs/msg/{name}") for name in ("Point", "Pose", "Quaternion"))
    header = header_of(classes, 1_000_000_007, "camera")
    someone = [pose(position=point(x=0.1, y=0.2, z=1.0), orientation=quaternion(x=0.0, y=0.0, z=0.0, w=1.0)) for _ in range(17)]
    people = classes(POSE_ARRAY)(header=header, poses=someone)
    camera = Camera.from_fov(640, 480, horizontal_degrees=70)
    k = np.array([camera.fx, 0, camera.cx, 0, camera.fy, camera.cy, 0, 0, 1])
    p = np.insert(k.reshape(3, 3), 3, 0.0, axis=1).ravel()
    whole = classes("sensor_msgs/msg/RegionOfInterest")(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    info = classes(CAMERA_INFO)(
        header=header, height=480, width=640, distortion_model="plumb_bob", d=np.zeros(5), k=k, r=np.eye(3).ravel(), p=p,
        binning_x=0, binning_y=0, roi=whole,
    )  # fmt: skip
    for kind, name, message in ((POSE_ARRAY, "pose_array", people), (CAMERA_INFO, "camera_info", info)):
        data = bytes(store.serialize_cdr(message, kind))
        _put(f"cdr_{name}", f"{name}.cdr", data)
        _put("dds", f"{name}.cdr", data)
    with BagWriter(work / "bag") as bag:
        bag.write("/keypoints", POSE_ARRAY, 1, people)
        bag.write("/camera", CAMERA_INFO, 2, info)
    (mcap,) = (work / "bag").glob("*.mcap")
    _put("bag_mcap", "bag.mcap", mcap.read_bytes())
    _put("skeleton2d", "person.bin", struct.pack("<54f", *[0.4, 0.5, 1.0] * 18))
    _put("pose_array_numbers", "people.bin", struct.pack("<2q51d", 1, 7, *[0.1, 0.2, 1.0] * 17))


def main() -> None:
    """Write every seed anew."""
    shutil.rmtree(SEEDS, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        _bundles()
        _keypoints(work)
        _poses(work)
        _checkpoints(work)
        _messages(work)
    sizes = dict(_sizes())
    print(f"{len(sizes)} targets, {sum(sizes.values())} bytes of seeds")


def _sizes() -> Iterator[tuple[str, int]]:
    for folder in sorted(SEEDS.iterdir()):
        yield folder.name, sum(path.stat().st_size for path in folder.iterdir())


if __name__ == "__main__":
    main()
