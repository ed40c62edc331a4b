"""What the checks of every frame cost, and whom the trained range finds: views of training, held-out clips, a real clip, planted faults.

Run: ``python -m diffpose_edge.benchmarks.numerical_safety --out benchmarks/results/numerical_safety.json``.

Cost: estimates of the shipped frame pair, one person, K = 5, one thread, with the checks and without them in turn, and the checks by
themselves. Whom: shares of people who are marked, by the range that ships with the pair.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter_ns
from typing import Annotated, Any
from unittest import mock

import numpy as np
import typer
from numpy.typing import NDArray

from diffpose_edge.atomic import atomic_file, check_file_place
from diffpose_edge.benchmarks.machine import processor, versions
from diffpose_edge.cli.script import run_script
from diffpose_edge.cli.terminal import counting, out
from diffpose_edge.clips import held_out_path, mocap_clips_path, street_walk, trained_pair
from diffpose_edge.evaluation import load_evaluation
from diffpose_edge.export import export_bundle
from diffpose_edge.keypoints import Keypoints
from diffpose_edge.manifest import Manifest
from diffpose_edge.person import person_view
from diffpose_edge.reference.training.batches import training_batch
from diffpose_edge.reference.training.motions import load_clips
from diffpose_edge.reference.training.plans import PLANS
from diffpose_edge.reference.training.views_range import source_of
from diffpose_edge.runtime import PoseRuntime, last_finite
from diffpose_edge.runtime import call as calls
from diffpose_edge.runtime.range_check import RangeCheck
from diffpose_edge.runtime.start import LEAST_OBSERVED
from diffpose_edge.skeleton import J

Array = NDArray[np.float32]
K, VIEWS = 5, 40
SEED = 4242
# Human3.6M joints in the places where COCO's order would put them: what a forgotten conversion gives.
COCO_ORDER = (0, 14, 15, 1, 2, 4, 11, 5, 12, 6, 13, 8, 16, 9, 10, 3, 7)


def _all_is_well(array: Array) -> bool:
    return True


def _nobody(*shown: object) -> None:
    return None


@contextmanager
def unchecked() -> Iterator[None]:
    """Estimates without a look at their numbers."""
    with (
        mock.patch.object(calls, "finite", _all_is_well),
        mock.patch.object(last_finite, "finite", _all_is_well),
        mock.patch.object(RangeCheck, "outside", _nobody),
    ):
        yield


def spent_us(work: Callable[[], object]) -> float:
    """Return the microseconds of one call."""
    began = perf_counter_ns()
    work()
    return (perf_counter_ns() - began) / 1e3


def cost(folder: Path, N: int, rounds: int, done: Callable[[int], None]) -> dict[str, Any]:
    """Return microseconds of an estimate with and without the checks, and of each check by itself."""
    bundle = export_bundle(*trained_pair("frame"), folder / f"N{N}", samples=N).bundle
    clip = street_walk().keypoints
    uv, confidence = clip.uv[40:41], clip.confidence[40:41]
    took: dict[str, list[float]] = {"with": [], "without": []}
    with PoseRuntime.load(bundle, threads=1) as runtime:

        def estimate() -> object:
            return runtime.estimate(uv, confidence, seed=0, steps=K)

        for i in range(rounds):
            order = ("with", "without") if i % 2 else ("without", "with")
            for which in order:
                if which == "with":
                    took[which].append(spent_us(estimate))
                else:
                    with unchecked():
                        took[which].append(spent_us(estimate))
            done(1)
        view, check = person_view(uv, confidence), runtime._range
        state, xyz = np.ones((N, J, 5), np.float32), np.ones((1, J, 3), np.float32)
        feature = np.ones((1, J, bundle.manifest.feature_width), np.float32)
        alone = {
            "range": [spent_us(lambda: check.outside(uv, confidence, view)) for _ in range(rounds)],
            "finite": [
                spent_us(lambda: last_finite.finite(state) and last_finite.finite(feature) and last_finite.finite(xyz))
                for _ in range(rounds)
            ],
        }
    ratios = np.array(took["with"]) / np.array(took["without"])
    return {
        "N": N,
        "estimate_us": {which: round(float(np.median(each)), 1) for which, each in took.items()},
        "ratio_median": round(float(np.median(ratios)), 4),
        "ratio_quartiles": np.percentile(ratios, (25, 75)).round(4).tolist(),
        "checks_us": {which: {"median": round(float(np.median(e)), 2), "least": round(min(e), 2)} for which, e in alone.items()},
    }


def marked(manifest: Manifest, people: Keypoints) -> dict[str, Any]:
    """Return how many people were seen well enough for a pose, and the share of them that is out of range."""
    kept = (people.confidence > 0).sum(axis=-1) >= LEAST_OBSERVED
    uv, confidence = people.uv[kept], people.confidence[kept]
    out_of_range = RangeCheck(manifest).outside(uv, confidence, person_view(uv, confidence))
    return {"people": len(uv), "out_of_range": int(out_of_range.sum()), "share": round(float(out_of_range.mean()), 5)}


def whom(manifest: Manifest) -> dict[str, Any]:
    """Return whom the range marks, of people as they should be and of people as they should not."""
    plan, rng = PLANS["frame"], np.random.default_rng(SEED)
    source = source_of(plan, load_clips(mocap_clips_path()))
    seen = [training_batch(source, 512, (SEED, i)).detections for i in range(VIEWS)]
    fresh = Keypoints(np.concatenate([d.uv[:, 0] for d in seen]), np.concatenate([d.confidence[:, 0] for d in seen]))
    clips = load_evaluation(held_out_path())
    held = Keypoints(np.concatenate([c.uv for c in clips]), np.concatenate([c.confidence for c in clips]))
    street = street_walk().keypoints
    good = Keypoints(held.uv[::4], np.ones_like(held.confidence[::4]))
    centre = good.uv.mean(axis=1, keepdims=True)

    def altered(uv: NDArray[Any]) -> Keypoints:
        return Keypoints(uv.astype(np.float32), good.confidence)

    one_far = good.uv.copy()
    one_far[:, 16] = centre[:, 0] + 4.0 * (good.uv[:, 16] - centre[:, 0])
    return {
        "fresh training views": marked(manifest, fresh),
        "held-out clips, the model detector": marked(manifest, held),
        "the street clip, MediaPipe": marked(manifest, street),
        "held-out, a wrist four times as far out": marked(manifest, altered(one_far)),
        "held-out, joints in another layout's order": marked(manifest, altered(good.uv[:, COCO_ORDER])),
        "held-out, upside down": marked(manifest, altered(centre - (good.uv - centre))),
        "held-out, a tenth of the size": marked(manifest, altered(centre + (good.uv - centre) / 10)),
        "held-out, twice as wide": marked(manifest, altered(centre + (good.uv - centre) * np.array([2.0, 1.0]))),
        "points drawn anywhere in the image": marked(manifest, altered(rng.uniform(-1, 1, good.uv.shape))),
        "all joints in one point": marked(manifest, altered(np.broadcast_to(centre, good.uv.shape))),
    }


def main(
    path: Annotated[Path, typer.Option("--out", help="JSON to write.")] = Path("benchmarks/results/numerical_safety.json"),
    rounds: Annotated[int, typer.Option(help="Pairs of estimates, with the checks and without.", min=10)] = 300,
) -> None:
    """Measure what the checks cost and whom they find."""
    check_file_place(path)
    with tempfile.TemporaryDirectory() as temporary, counting("estimates", 3 * rounds) as done:
        rows = [cost(Path(temporary), N, rounds, done) for N in (1, 5, 20)]
        manifest = export_bundle(*trained_pair("frame"), Path(temporary) / "whom", samples=1).bundle.manifest
    assert manifest.trained_range is not None
    record = {
        "what": "cost of the numerical checks of a frame, and the share of people whom the trained range marks",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": processor(),
        "versions": versions(("onnxruntime", "numpy")),
        "pair": "frame",
        "K": K,
        "rounds": rounds,
        "cost": rows,
        "range": {"views": manifest.trained_range.views, "marked": whom(manifest)},
    }
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        out.print(f"N = {row['N']}: {row['estimate_us']} us, ratio {row['ratio_median']}, alone {row['checks_us']}")
    for name, found in record["range"]["marked"].items():  # type: ignore[index]
        out.print(f"{found['share']:8.3%} of {found['people']}  {name}")


if __name__ == "__main__":
    run_script(main)
