"""The figures that docs/camera.md quotes are those of the committed result, and of the code."""

from __future__ import annotations

import json
from pathlib import Path

from diffpose_edge.body_scale import ADULT_SPREAD, POSE_SPREAD, Scale

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "camera.md").read_text(encoding="utf-8")
PAIRS = json.loads((ROOT / "benchmarks" / "results" / "root_accuracy.json").read_text(encoding="utf-8"))["pairs"]


def test_places() -> None:
    for pair, found in PAIRS.items():
        for name in ("an adult", "stature known"):
            row = found["place"][name]
            errors = f"{row['error_mm']:.0f} mm | {row['median_mm']:.0f} mm | {row['across_rms_mm']:.0f} mm"
            depth = f"{row['depth_rms_percent']:.1f} % | {row['depth_claimed_percent']:.1f} % | {row['within_90_percent']:.1f} %"
            assert f"| {pair} | {name} | {errors} | {depth} |" in PAGE
    for band in PAIRS["frame"]["place_by_distance_m"]:
        rows = [PAIRS[pair]["place_by_distance_m"][band] for pair in ("frame", "video")]
        assert f"| {band} m | " + " | ".join(f"{r['error_mm']:.0f} mm | {r['median_mm']:.0f} mm" for r in rows) + " |" in PAGE


def test_poses_that_were_faced() -> None:
    for band in PAIRS["frame"]["mpjpe_by_angle_deg"]:
        rows = [PAIRS[pair]["mpjpe_by_angle_deg"][band] for pair in ("frame", "video")]
        label = "all" if band == "all" else f"{band} degrees"
        assert f"| {label} | " + " | ".join(f"{r['plain_mm']:.1f} mm | {r['facing_mm']:.1f} mm" for r in rows) + " |" in PAGE


def test_what_a_size_is_known_to() -> None:
    assert f"1 ± {100 * Scale().sigma:.1f} %" in PAGE
    assert f"adults differ by {100 * ADULT_SPREAD:.1f} %" in PAGE
    assert f"a pose's size errs by {100 * POSE_SPREAD:.0f} % besides" in PAGE.replace("\n  ", " ")
    # What POSE_SPREAD was chosen for: with it, the distances of the frame pair err by what is claimed.
    known = PAIRS["frame"]["place"]["stature known"]
    assert abs(known["depth_claimed_percent"] / known["depth_rms_percent"] - 1) < 0.1
