"""The instrument: a runtime that takes a known time is measured right, by turns, in processes that go when it is done."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.benchmarks import bench_rounds
from diffpose_edge.benchmarks.bench_compare import compared
from diffpose_edge.benchmarks.bench_report import report_of
from diffpose_edge.benchmarks.bench_rounds import Measured, measured
from diffpose_edge.benchmarks.bench_variant import people_of_clip
from diffpose_edge.benchmarks.telemetry import Source, Telemetry
from diffpose_edge.bundle import load_bundle
from diffpose_edge.errors import DiffPoseEdgeError

from . import sleeping
from .sleeping import Nap, Sleeping

ROUNDS, K = 12, 3


@pytest.fixture(scope="module")
def found(golden_bundle: Path) -> list[Measured]:
    """The same bundle twice, with steps as they are and three times as slow."""
    variants = [Sleeping(str(golden_bundle), precision=slower, K=K) for slower in ("0", "200")]
    done: list[int] = []
    found, refused = measured(variants, ROUNDS, warm_up=2, progress=done.append)
    assert refused == []
    assert done == [1] * (ROUNDS + 2)
    assert multiprocessing.active_children() == []
    return found


def test_known_times_are_measured(found: list[Measured]) -> None:
    for one, step_s in zip(found, (sleeping.STEP_S, 3 * sleeping.STEP_S), strict=True):
        stages = one.stages
        assert stages["steps"].shape == (ROUNDS, K)
        assert {name: len(values) for name, values in stages.items()} == dict.fromkeys(stages, ROUNDS)
        # What sleeps cannot take less; on a busy machine the fastest round says what it takes at most.
        assert (stages["steps"] >= 1000 * step_s).all()
        assert stages["steps"].min() < 1000 * step_s + 1.0
        assert (stages["encoder"] >= 1000 * sleeping.ENCODER_S).all()
        assert stages["encoder"].min() < 1000 * sleeping.ENCODER_S + 1.0
        parts = stages["encoder"] + stages["steps"].sum(axis=1) + stages["aggregate"]
        assert (stages["frame"] >= parts).all()
        assert (stages["frame"] - parts).min() < 3.0


def test_time_on_processors_is_without_what_is_slept_through(found: list[Measured]) -> None:
    """Each sleep wakes two milliseconds early and waits for the rest busily."""
    for one, step_s in zip(found, (sleeping.STEP_S, 3 * sleeping.STEP_S), strict=True):
        busy, asleep = 2.0 * (K + 1), 1000 * (sleeping.ENCODER_S + K * step_s) - 2.0 * (K + 1)
        assert (one.stages["frame"] - one.stages["processors"]).min() > 0.9 * asleep
        assert one.stages["processors"].max() > 0.5 * busy


def test_the_first_estimate_is_told_apart_from_the_others(found: list[Measured]) -> None:
    for one in found:
        assert one.loaded.first_ms >= 1000 * sleeping.FIRST_S
        assert one.stages["encoder"].min() < 1000 * sleeping.FIRST_S / 2
        assert one.loaded.load_s > 0
        assert one.loaded.resident_mb > 20


def test_what_was_loaded_is_told(found: list[Measured], golden_bundle: Path) -> None:
    manifest = load_bundle(golden_bundle).manifest
    loaded = found[0].loaded
    assert (loaded.N, loaded.P, loaded.F, len(loaded.timesteps)) == (3, 2, 1, K)
    assert loaded.described["backend"] == "onnxruntime"
    assert loaded.timesteps[0] < manifest.T


def test_a_regression_that_was_planted_is_found(found: list[Measured]) -> None:
    """A large one, which is found on a busy machine too; test_bench_compare.py has the small ones, and none."""
    reports = [report_of([one], []) for one in found]
    for report in reports:
        report["rows"][0]["precision"] = "fp32"
    assert {change.stage: change.verdict for change in compared(*reports).changes}["step"] == "slower"
    assert {change.stage: change.verdict for change in compared(*reversed(reports)).changes}["step"] == "faster"


def test_no_candidate_always_follows_the_same_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = bench_rounds._answer

    def answer(connection: object, candidate: Nap) -> object:
        asked.append(candidate.bundle)
        return real(connection, candidate)  # type: ignore[arg-type]

    monkeypatch.setattr(bench_rounds, "_answer", answer)
    measured([Nap(name) for name in "abc"], 20, warm_up=1)
    rounds = [asked[i : i + 3] for i in range(3, len(asked), 3)]
    assert len(rounds) == 21
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert {tuple(names) for names in rounds} == set(permutations("abc"))


class Counter(Source):
    """A double of a machine's meters: a clock, and a counter of joules that rises by one whenever it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def joules(self) -> float:
        self.asked += 1
        return float(self.asked)

    def read(self) -> dict[tuple[str, str], float]:
        return {("clock_mhz", "fastest core"): 3000.0}

    def close(self) -> None:
        pass


def test_telemetry_is_sampled_and_joules_belong_to_estimates_that_count() -> None:
    counter = Counter()
    with Telemetry({"counter": lambda: counter}, interval_s=0.0) as telemetry:
        telemetry.joules = counter.joules  # type: ignore[method-assign]
        found, _ = measured([Nap("a"), Nap("b")], 3, warm_up=2, telemetry=telemetry)
        samples = telemetry.summary()["samples"]
    assert [one.joules.tolist() for one in found if one.joules is not None] == [[1.0] * 3] * 2
    assert counter.asked == 2 * 2 * (3 + 2)
    assert samples == 2 * 3 + 2


def test_interludes_are_before_among_and_after_the_rounds_that_count() -> None:
    seen: list[str] = []
    measured([Nap()], 8, warm_up=1, interlude=lambda index: seen.append(f"i{index}"), progress=lambda done: seen.append("r"))
    assert " ".join(seen) == "r i0 r r i2 r r i4 r r i6 r r i8"
    seen.clear()
    measured([], 8, interlude=lambda index: seen.append(f"i{index}"))
    assert seen == []


def test_what_is_no_runtime_takes_its_turn_beside_it(golden_bundle: Path) -> None:
    found, refused = measured([Sleeping(str(golden_bundle), precision="0", K=1), Nap()], 2, warm_up=0)
    row = report_of(found, refused)["rows"][1]
    assert (row["bundle"], row["backend"], row["K"], row["threads"], row["timesteps"]) == ("none", "nap", 1, None, [7])
    assert row["ms"]["step"]["p50"] == pytest.approx(1000 * sleeping.STEP_S)
    assert row["ms"]["encoder"]["p50"] is None
    assert row["ms"]["frame"]["p50"] >= 1000 * sleeping.STEP_S


def test_what_is_refused_is_told_and_the_others_go_on(golden_bundle: Path) -> None:
    variants = [Sleeping(str(golden_bundle), precision=name, K=1) for name in ("refused", "0")]
    found, refused = measured(variants, 1, warm_up=0)
    assert [one.candidate.precision for one in found] == ["0"]
    assert [(r.candidate.precision, r.reason) for r in refused] == [("refused", "this machine has none of it")]


def test_a_process_that_dies_is_an_error_and_takes_the_others_with_it(golden_bundle: Path) -> None:
    variants = [Sleeping(str(golden_bundle), precision=name, K=1) for name in ("0", "dies")]
    with pytest.raises(DiffPoseEdgeError, match=r"the process that ran golden onnxruntime dies K=1 1 thr\. ended before it answered"):
        measured(variants, 9)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("rounds", "warm_up"), [(0, 0), (1, -1)])
def test_numbers_of_rounds_that_mean_nothing(rounds: int, warm_up: int) -> None:
    with pytest.raises(DiffPoseEdgeError, match="expected one round or more"):
        measured([], rounds, warm_up=warm_up)


@pytest.mark.parametrize("kind", ["golden_bundle", "golden_video_bundle", "conditioned_bundle", "conditioned_video_bundle"])
def test_what_is_shown_is_real_and_everybody_is_seen(request: pytest.FixtureRequest, kind: str) -> None:
    manifest = load_bundle(request.getfixturevalue(kind)).manifest
    people, F = people_of_clip(manifest), manifest.shape.F
    assert people.shape == ((manifest.shape.P, 17, 3) if F == 1 else (manifest.shape.P, F, 17, 3))
    assert (people[..., 2] > 0).all()
    assert len(np.unique(people, axis=0)) == manifest.shape.P


def test_a_robot_needs_neither_pytorch_nor_onnx_for_it() -> None:
    parts = ("candidate", "variant", "rounds", "run", "floor", "report", "compare")
    modules = ", ".join(("diffpose_edge.cli.bench_sweep", *(f"diffpose_edge.benchmarks.bench_{part}" for part in parts)))
    program = f"import sys, {modules}; print({{'torch', 'onnx', 'onnxruntime.quantization', 'matplotlib', 'jinja2'}} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
