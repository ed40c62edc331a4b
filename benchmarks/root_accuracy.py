"""How far from the truth people are placed, against their distance; and what it does for the pose to face them.

Run: ``python -m diffpose_edge.benchmarks.root_accuracy --out FOLDER``. Writes ``root_accuracy.json``. The held-out motions are seen by
virtual cameras whose intrinsics are kept, and by the model detector; the pairs that ship lift them. Two minutes.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from diffpose_edge.atomic import atomic_file, check_file_place
from diffpose_edge.body_scale import Scale, scale_of_stature, stature_of
from diffpose_edge.camera import Camera
from diffpose_edge.cli.script import run_script
from diffpose_edge.cli.terminal import counting, out
from diffpose_edge.clips import mocap_clips_path, trained_pair
from diffpose_edge.export import export_bundle
from diffpose_edge.facing import facing
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.reference.training.batches import viewed
from diffpose_edge.reference.training.held_out import FRAMES, motion_of
from diffpose_edge.reference.training.motions import HELD_OUT, load_clips
from diffpose_edge.root import root_position, root_positions
from diffpose_edge.runtime import PoseRuntime
from diffpose_edge.tolerances import MILLIMETRES
from diffpose_edge.uncertainty import chi2_3_quantile

Array = NDArray[Any]

# Other cameras than those of the evaluation set, and more of them for each motion.
SEED = 91
CAMERAS = 12
# Pixels: only the noise is relative to them, and it is relative to the person too.
WIDTH = 1000
DISTANCES = (0.0, 3.0, 4.5, 6.0, 12.0)
ANGLES = (0.0, 10.0, 20.0, 30.0, 90.0)
REPEATS = 300


@dataclass(frozen=True)
class View:
    """One motion as one camera sees it: keypoints of F frames, the true pose (F, 17, 3) and root (F, 3)."""

    camera: Camera
    keypoints: Keypoints
    truth: Array
    root: Array


def views(frames: slice) -> list[View]:
    """Return the held-out motions, each by CAMERAS cameras."""
    found = []
    for number, clip in enumerate(c for c in load_clips(mocap_clips_path()) if c.name in HELD_OUT):
        batch = viewed(motion_of(clip, FRAMES, CAMERAS), CAMERAS, np.random.default_rng([SEED, number]))
        for k in range(CAMERAS):
            aspect, f = float(batch.cameras.aspect[k]), float(batch.cameras.focal[k]) * WIDTH / 2
            height = round(WIDTH * aspect)
            camera = Camera(WIDTH, height, f, f, WIDTH / 2, height / 2)
            # The image's middle is where v = 0; a height that was rounded moves it.
            pixels = (batch.detections.uv[k, frames] + (1.0, height / WIDTH)) * (WIDTH / 2)
            keypoints = Keypoints(camera.normalised(pixels).astype(np.float32), batch.detections.confidence[k, frames])
            found.append(View(camera, keypoints, batch.xyz[k, frames].astype(np.float64), batch.root[k, frames].astype(np.float64)))
    return found


def lifted(runtime: PoseRuntime, view: View, faced: bool) -> tuple[Array, Array, Array]:
    """Return joints (F, 17, 3), covariance (F, 17, 3, 3) and samples (F, N, 17, 3) in the camera's axes."""
    turned = facing(view.camera, view.keypoints, together=runtime.bundle.manifest.shape.F > 1) if faced else None
    estimates = list(runtime.estimate_clip(view.keypoints if turned is None else turned.keypoints, 0))
    joints, covariance, samples = (np.concatenate([getattr(e, name) for e in estimates]) for name in ("joints", "covariance", "samples"))
    if turned is None:
        return joints, covariance, samples
    return turned.points_back(joints), turned.covariance_back(covariance), turned.points_back(samples)


def placed_errors(view: View, joints: Array, covariance: Array, scale: Scale) -> Array:
    """Return for each frame that was placed: distance, error, error along the ray, its claimed sigma (metres), squared Mahalanobis."""
    found = root_positions(
        joints, covariance, view.camera.pixels(view.keypoints.uv), view.camera, np.clip(view.keypoints.confidence, 0, 1), scale=scale
    )
    ok = found.converged
    error, S, truth = (found.position - view.root)[ok], found.covariance[ok], view.root[ok]
    distance = np.linalg.norm(truth, axis=-1)
    ray = truth / distance[:, None]
    squared = np.einsum("bi,bij,bj->b", error, np.linalg.inv(S), error)
    claimed = np.sqrt(np.einsum("bi,bij,bj->b", ray, S, ray))
    return np.stack([distance, np.linalg.norm(error, axis=-1), (error * ray).sum(axis=-1), claimed, squared], axis=-1)


def row(errors: Array) -> dict[str, Any]:
    """Return what these placed frames say."""
    distance, error, along, claimed, squared = errors.T
    return {
        "frames": len(errors),
        "error_mm": round(float(error.mean()) * MILLIMETRES, 1),
        "median_mm": round(float(np.median(error)) * MILLIMETRES, 1),
        "across_rms_mm": round(float(np.sqrt(np.mean(error**2 - along**2))) * MILLIMETRES, 1),
        "depth_bias_percent": round(float((along / distance).mean()) * 100, 2),
        "depth_rms_percent": round(float(np.sqrt(np.mean((along / distance) ** 2))) * 100, 2),
        "depth_claimed_percent": round(float(np.sqrt(np.mean((claimed / distance) ** 2))) * 100, 2),
        "nees": round(float(squared.mean()), 2),
        "within_90_percent": round(float((squared <= chi2_3_quantile(0.9)).mean()) * 100, 1),
    }


def bands(edges: tuple[float, ...], values: Array) -> list[tuple[str, Array]]:
    """Return the names of bands and which values lie in each."""
    return [(f"{low:g}-{high:g}", (values >= low) & (values < high)) for low, high in pairwise(edges)]


def measure(pair: str, folder: Path) -> dict[str, Any]:
    """Return one pair's figures: places by what is known of the body's size and by distance, poses by the angle from the axis."""
    export_bundle(*trained_pair(pair), folder / pair, samples=5, persons=16)
    seen = views(slice(None, None, 20) if pair == "frame" else slice(0, 27))
    places: dict[str, list[Array]] = {}
    poses: list[Array] = []
    with PoseRuntime.load(folder / pair, threads=1) as runtime, counting(pair, len(seen)) as done:
        for view in seen:
            errors = []
            for name, faced in (("", False), (", facing", True)):
                joints, covariance, samples = lifted(runtime, view, faced)
                errors.append(np.linalg.norm(joints - view.truth, axis=-1).mean(axis=-1) * MILLIMETRES)
                if not np.isfinite(joints).any():
                    continue
                known = scale_of_stature(samples, stature_of(view.truth), 0.0)
                told = {"an adult": Scale(), "stature known": known, "stature known, pose's size taken for exact": Scale(known.mean, 0.0)}
                for scale_name, scale in told.items():
                    places.setdefault(scale_name + name, []).append(placed_errors(view, joints, covariance, scale))
            angle = np.degrees(np.arctan2(np.linalg.norm(view.root[:, :2], axis=-1), view.root[:, 2]))
            poses.append(np.stack([angle, *errors], axis=-1))
            done(1)
    table = {name: np.concatenate(rows) for name, rows in places.items()}
    angle, plain, faced_error = np.concatenate(poses).T
    posed = np.isfinite(plain) & np.isfinite(faced_error)
    return {
        "place": {name: row(errors) for name, errors in table.items()},
        "place_by_distance_m": {
            band: row(table["an adult"][within]) for band, within in bands(DISTANCES, table["an adult"][:, 0]) if within.any()
        },
        "mpjpe_by_angle_deg": {
            band: {
                "frames": int((within & posed).sum()),
                "plain_mm": round(float(plain[within & posed].mean()), 1),
                "facing_mm": round(float(faced_error[within & posed].mean()), 1),
            }
            for band, within in [*bands(ANGLES, angle), ("all", posed)]
            if (within & posed).any()
        },
    }


def microseconds() -> dict[str, float]:
    """Return the median processor time of placing one person, and of each of a hundred at once, with the plumb bob model."""
    view = views(slice(0, 100))[0]
    camera = Camera(1000, 1002, 1145.0, 1143.8, 512.5, 515.5, "plumb_bob", (-0.207, 0.248, -0.00142, -0.00098, -0.0031))
    rng = np.random.default_rng(0)
    pixels = camera.project(view.truth + view.root[:, None])
    pixels += 3 * rng.standard_normal(pixels.shape)
    taken: dict[str, list[float]] = {"one": [], "of_100": []}
    for i in range(REPEATS):
        begin = time.thread_time()
        root_position(view.truth[i % 100], None, pixels[i % 100], camera)
        taken["one"].append(time.thread_time() - begin)
        if i % 10 == 0:
            begin = time.thread_time()
            root_positions(view.truth, None, pixels, camera)
            taken["of_100"].append((time.thread_time() - begin) / len(pixels))
    return {name: round(float(np.median(times)) * 1e6) for name, times in taken.items()}


def main(folder: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("benchmarks/results")) -> None:
    """Measure how far from the truth people are placed."""
    path = folder / "root_accuracy.json"
    check_file_place(path)
    with tempfile.TemporaryDirectory() as temporary:
        pairs = {pair: measure(pair, Path(temporary)) for pair in ("frame", "video")}
    record = {
        "what": "where people are placed against the truth; held-out motions by virtual cameras and the model detector, N = 5",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": {name: version(name) for name in ("onnxruntime", "numpy")},
        "processor_microseconds_a_person": microseconds(),
        "pairs": pairs,
    }
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for pair, found in pairs.items():
        for part in ("place", "place_by_distance_m", "mpjpe_by_angle_deg"):
            for name, figures in found[part].items():
                out.print(f"{pair}  {part}  {name}:  " + "  ".join(f"{key} {value}" for key, value in figures.items()))
    out.print(record["processor_microseconds_a_person"])


if __name__ == "__main__":
    run_script(main)
