"""Whether a change is more than noise: planted ones are found, and where nothing changed nothing is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffpose_edge.benchmarks.bench_compare import compared, ratio_interval, samples_of
from diffpose_edge.errors import DiffPoseEdgeError

TRIALS = 200


def latencies(rng: np.random.Generator, ms: float, rounds: int = 60, drift: float = 0.02) -> NDArray[np.float64]:
    """Times like a real machine's: a floor, a tail, a few interruptions, and a speed that wanders from round to round."""
    wandering = np.empty(rounds)
    speed = 0.0
    for i in range(rounds):
        speed = 0.9 * speed + drift * 0.44 * rng.standard_normal()
        wandering[i] = speed
    interrupted = np.where(rng.random(rounds) < 0.03, rng.uniform(1, 4, rounds), 1.0)
    return ms * np.exp(wandering) * (1 + 0.03 * rng.exponential(size=rounds)) * interrupted


def report(frame: NDArray[np.float64], **changes: Any) -> dict[str, Any]:
    row = {
        "bundle": "/a/b/frame",
        "backend": "onnxruntime",
        "precision": "fp32",
        "K": 2,
        "threads": 1,
        "N": 5,
        "P": 1,
        "rounds": len(frame),
    }
    stages = {"frame": frame, "steps": np.stack([frame / 4, frame / 2], axis=1), "encoder": frame / 8, "aggregate": frame / 8}
    return {"rows": [{**row, "samples_ms": {name: values.tolist() for name, values in stages.items()}, **changes}]}


def verdicts(ratio: float, trials: int = TRIALS) -> list[str]:
    found = []
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        a, b = latencies(rng, 3.0), latencies(rng, 3.0 * ratio)
        found.append(compared(report(a), report(b)).changes[0].verdict)
    return found


def test_a_planted_change_of_ten_percent_is_found_in_either_direction() -> None:
    assert verdicts(1.10).count("slower") >= 0.97 * TRIALS
    assert verdicts(1 / 1.10).count("faster") >= 0.97 * TRIALS


def test_no_change_is_called_none() -> None:
    assert verdicts(1.0).count("no change") >= 0.97 * TRIALS


def test_a_change_too_small_to_matter_is_none_however_certain() -> None:
    rng = np.random.default_rng(0)
    a = 3.0 + 1e-4 * rng.standard_normal(200)
    changed = compared(report(a), report(1.01 * a)).changes[0]
    assert changed.low > 1.009
    assert changed.verdict == "no change"


def test_the_interval_covers_the_truth_nearly_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(TRIALS):
        rng = np.random.default_rng(seed)
        low, high = ratio_interval(latencies(rng, 2.0), latencies(rng, 2.5))
        covered += low <= 1.25 <= high
    assert covered / TRIALS >= 0.96


def test_drift_widens_the_interval() -> None:
    """Whoever took rounds for independent would not see it."""
    slow_wave = 1 + 0.1 * np.sin(np.linspace(0, 2 * np.pi, 120, endpoint=False))
    mixed = np.random.default_rng(0).permutation(slow_wave)
    wave, noise = (high - low for low, high in (ratio_interval(x, x) for x in (slow_wave, mixed)))
    assert wave > 1.5 * noise


def test_too_few_rounds_are_no_ground_for_a_verdict() -> None:
    few = latencies(np.random.default_rng(0), 2.0, rounds=11)
    with pytest.raises(DiffPoseEdgeError, match="at least 12 rounds to compare, got 11"):
        compared(report(few), report(few))


def test_rows_are_matched_by_what_they_ran_wherever_the_bundle_lies() -> None:
    times = latencies(np.random.default_rng(0), 2.0)
    a = {"rows": report(times)["rows"] + report(times, K=9)["rows"]}
    b = {"rows": report(times, bundle="elsewhere/frame/")["rows"] + report(times, N=20)["rows"]}
    found = compared(a, b)
    assert {change.row for change in found.changes} == {("frame", "onnxruntime", "fp32", 2, 1, 5, 1)}
    assert [change.stage for change in found.changes] == ["frame", "step", "encoder", "aggregate"]
    assert [row[3] for row in found.only_a] == [9]
    assert [row[5] for row in found.only_b] == [20]


def test_a_stage_that_a_backend_does_not_tell_is_left_out() -> None:
    times = latencies(np.random.default_rng(0), 2.0)
    untold = report(times)
    untold["rows"][0]["samples_ms"]["encoder"] = [float("nan")] * len(times)
    assert "encoder" not in [change.stage for change in compared(report(times), untold).changes]


def test_a_step_is_the_mean_of_a_rounds_steps() -> None:
    row = report(np.array([4.0, 8.0]))["rows"][0]
    np.testing.assert_allclose(samples_of(row, "step"), [1.5, 3.0])


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_medians_and_ratio_are_the_samples(ratio: float) -> None:
    a = latencies(np.random.default_rng(1), 2.0)
    change = compared(report(a), report(ratio * a)).changes[0]
    assert (change.a, change.b) == (np.median(a), np.median(ratio * a))
    assert change.ratio == pytest.approx(ratio)
    assert change.low <= ratio <= change.high
