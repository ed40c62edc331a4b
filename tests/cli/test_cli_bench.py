"""``bench run``, ``bench steps`` and ``bench compare``: what they print and write, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from diffpose_edge.benchmarks.bench_candidate import Loaded
from diffpose_edge.benchmarks.bench_compare import compared
from diffpose_edge.benchmarks.bench_report import load_report, percentiles, report_of, save_report
from diffpose_edge.benchmarks.bench_rounds import Measured, measured
from diffpose_edge.benchmarks.bench_variant import Variant

from .conftest import Mistake, Run

QUICK = ("--rounds", "12", "--warm-up", "1")


@pytest.fixture(scope="module")
def report(golden_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of one variant."""
    path = tmp_path_factory.mktemp("bench") / "a.json"
    save_report(report_of(*measured([Variant(str(golden_bundle), K=2)], 12, warm_up=1)), path)
    return path


def test_every_combination_is_a_row(cli: Run, golden_bundle: Path, conditioned_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    result = cli(
        "bench", "run", golden_bundle, conditioned_bundle, "--steps", 1, "--steps", 3, "--backend", "onnxruntime", *QUICK, "--out", out
    )
    rows = load_report(out)["rows"]
    assert [(Path(row["bundle"]).name, row["K"], row["N"], row["threads"]) for row in rows] == [
        ("golden", 1, 3, 1),
        ("golden", 3, 3, 1),
        ("conditioned", 1, 3, 1),
        ("conditioned", 3, 3, 1),
    ]
    for row in rows:
        assert row["rounds"] == 12
        assert len(row["ms_of_step"]) == row["K"]
        for stage in ("frame", "step", "encoder", "aggregate", "processors"):
            ms = row["ms"][stage]
            assert 0 < ms["p50"] <= ms["p90"] <= ms["p95"] <= ms["p99"] <= ms["max"]
        assert row["ms"]["frame"]["p50"] > row["ms"]["step"]["p50"]
        assert row["jitter"] == pytest.approx(row["ms"]["frame"]["p99"] / row["ms"]["frame"]["p50"], abs=1e-3)
        on_processors = row["ms"]["processors"]
        assert row["jitter_on_processors"] == pytest.approx(on_processors["p99"] / on_processors["p50"], abs=1e-3)
    assert "latency, ms: onnxruntime fp32" in result.out
    assert "cores" in result.out


def test_what_is_refused_is_told_and_the_others_are_measured(cli: Run, golden_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    result = cli("bench", "run", golden_bundle, "--precision", "fp32", "--precision", "int8", "--steps", 1, *QUICK, "--out", out)
    content = load_report(out)
    assert [row["precision"] for row in content["rows"]] == ["fp32"]
    assert [row["precision"] for row in content["refused"]] == ["int8"]
    assert "diffpose-edge calibrate" in " ".join(result.out.split())


def test_more_steps_than_the_schedule_has_are_refused_without_a_traceback(mistake: Mistake, golden_bundle: Path) -> None:
    assert "nothing could be measured" in mistake("bench", "run", golden_bundle, "--steps", 999, *QUICK)


def test_where_everything_is_refused_it_fails(mistake: Mistake, golden_bundle: Path) -> None:
    assert "nothing could be measured" in mistake("bench", "run", golden_bundle, "--precision", "int8", *QUICK)


def test_steps_is_one_line(cli: Run, golden_bundle: Path) -> None:
    result = cli("bench", "steps", golden_bundle, "--rounds", 12)
    line = " ".join(result.out.split())
    assert float(line.split()[0]) > 0
    assert "ms per diffusion step (p50; p99" in line
    assert "N=3 P=2, fp32, onnxruntime with 1 thread" in line


def test_a_report_beside_itself_has_no_change(cli: Run, report: Path) -> None:
    result = cli("bench", "compare", report, report, "--fail-on-slower")
    assert "no change" in result.out
    assert "slower" not in result.out


def test_a_slower_row_is_told_and_can_fail(cli: Run, report: Path, tmp_path: Path) -> None:
    content = json.loads(report.read_text())
    quiet, slow = tmp_path / "quiet.json", tmp_path / "slow.json"
    # What was measured while the tests run is too noisy for a verdict.
    content["rows"][0]["samples_ms"]["frame"] = [2.0 + 0.001 * i for i in range(12)]
    quiet.write_text(json.dumps(content))
    content["rows"][0]["samples_ms"]["frame"] = [2.2 + 0.001 * i for i in range(12)]
    content["machine"]["processor"] = "another one"
    content["flags"] = ["throttled 2 times: heat"]
    slow.write_text(json.dumps(content))
    result = cli("bench", "compare", quiet, slow)
    assert "slower" in result.out
    assert "not the same processor" in result.out
    assert "doubtful in slow.json: throttled 2 times: heat" in result.out
    cli("bench", "compare", quiet, slow, "--fail-on-slower", status=1)
    assert "faster" in cli("bench", "compare", slow, quiet, "--fail-on-slower").out


def test_reports_without_a_common_row_are_no_comparison(mistake: Mistake, report: Path, tmp_path: Path) -> None:
    content = json.loads(report.read_text())
    content["rows"][0]["N"] = 99
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    assert "no row in common" in mistake("bench", "compare", report, other)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a report of 'diffpose-edge bench'"),
        ("[]", "is not a report"),
        ('{"format": "other"}', "its format is 'other'"),
        ('{"format": "diffpose-edge-bench", "format_version": 1, "rows": [{}]}', "is not a report"),
        ('{"format": "diffpose-edge-bench", "format_version": 1, "rows": [{"rounds": 2, "samples_ms": {"frame": [1]}}]}', "another number"),
        ('{"format": "diffpose-edge-bench", "format_version": 99, "rows": []}', "reads up to 2"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_report(mistake: Mistake, report: Path, tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "b.json"
    if text is not None:
        path.write_text(text)
    assert said in mistake("bench", "compare", report, path)


def test_bad_arguments_are_refused_before_anything_is_measured(cli: Run, mistake: Mistake, golden_bundle: Path, tmp_path: Path) -> None:
    assert "expected a bundle folder" in mistake("bench", "run", tmp_path / "none")
    assert "cannot write" in mistake("bench", "run", golden_bundle, "--out", tmp_path / "no folder" / "b.json")
    cli("bench", "run", golden_bundle, "--rounds", 3, status=2)


def test_what_a_backend_does_not_tell_has_no_percentile() -> None:
    assert set(percentiles(np.full(3, np.nan)).values()) == {None}
    assert percentiles(np.arange(1.0, 101.0)) == {"p50": 50.5, "p90": 90.1, "p95": 95.05, "p99": 99.01, "max": 100.0}


def test_a_report_of_what_a_backend_does_not_tell_is_json_and_can_be_compared(tmp_path: Path) -> None:
    untold = {"steps": np.full((12, 2), np.nan), "encoder": np.full(12, np.nan)}
    stages = {**untold, "aggregate": np.ones(12), "frame": np.full(12, 2.0), "processors": np.zeros(12)}
    loaded = Loaded(3, 2, 1, (40, 12), {}, 0.1, 5.0, 70.0)
    save_report(report_of([Measured(Variant("b", "onnxruntime-cuda", K=2, threads=None), loaded, stages)], []), tmp_path / "a.json")
    read = load_report(tmp_path / "a.json")
    assert read["rows"][0]["samples_ms"]["steps"] == [[None, None]] * 12
    assert read["rows"][0]["ms"]["step"]["p50"] is None
    assert read["rows"][0]["jitter_on_processors"] is None, "of what took no time"
    assert [change.stage for change in compared(read, read).changes] == ["frame", "aggregate"]


def test_a_run_is_drawn_and_so_is_its_report_later(cli: Run, golden_bundle: Path, tmp_path: Path) -> None:
    out, html, plots = tmp_path / "a.json", tmp_path / "a.html", tmp_path / "plots"
    plots.mkdir()
    options = ("--steps", 1, "--steps", 2, "--steps", 3, *QUICK, "--out", out, "--html", html, "--plots", plots)
    ran = cli("bench", "run", golden_bundle, *options)
    assert "frame over K" in ran.out
    assert "GFLOP/s in matmuls" in ran.out
    assert all(row["floor"]["ratio"]["frame"] > 1.0 for row in load_report(out)["rows"])
    first = html.read_text(encoding="utf-8")
    assert first.count("data:image/png;base64,") == 4
    html.unlink()
    again = cli("bench", "report", out, "--html", html)
    assert "GFLOP/s in matmuls" in again.out
    assert html.read_text(encoding="utf-8") == first
    assert sorted(path.name for path in plots.iterdir()) == ["distribution.png", "rounds.png", "scaling.png", "steps.png"]


def test_energy_is_told_and_a_report_of_the_first_format_still_read(cli: Run, report: Path, tmp_path: Path) -> None:
    content = json.loads(report.read_text())
    content["rows"][0]["energy_per_frame"] = {"joules": 0.25, "of": "VDD_IN", "how": "mean power"}
    content["telemetry"] = None
    told = tmp_path / "told.json"
    told.write_text(json.dumps(content))
    assert "K=2: 0.2500 J a frame, VDD_IN (mean power)" in cli("bench", "report", told).out
    content["format_version"] = 1
    for name in ("telemetry", "floors", "floors_missing", "scaling"):
        del content[name]
    for row in content["rows"]:
        for name in ("cost", "cost_missing", "floor", "energy_per_frame"):
            del row[name]
    old = tmp_path / "old.json"
    old.write_text(json.dumps(content))
    assert "no change" in cli("bench", "compare", old, report).out
    assert "latency, ms" in cli("bench", "report", old, "--html", tmp_path / "old.html").out


def test_pictures_that_could_not_be_written_are_refused_first(mistake: Mistake, golden_bundle: Path, report: Path, tmp_path: Path) -> None:
    assert "cannot write" in mistake("bench", "run", golden_bundle, "--html", tmp_path / "no folder" / "a.html")
    assert "expected a folder that exists" in mistake("bench", "report", report, "--plots", tmp_path / "none")


@pytest.mark.slow
def test_a_sweep_exports_measures_and_keeps_its_bundles(cli: Run, golden: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "sweep.json"
    sweep = ("bench", "sweep", "--denoiser", golden.denoiser, "--context", golden.context, "--samples", 1, "--samples", 2)
    sweep += ("--persons", 2, "--steps", 1, "--steps", 2, "--bundles", tmp_path, *QUICK, "--no-floors")
    cli(*sweep, "--out", out)
    content = load_report(out)
    assert [(row["N"], row["P"], row["K"]) for row in content["rows"]] == [(1, 2, 1), (1, 2, 2), (2, 2, 1), (2, 2, 2)]
    assert {(one["axis"], len(one["x"])) for one in content["scaling"]} == {("N", 2), ("K", 2)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.json", *(f"{golden.denoiser.stem}-n{N}-p2" for N in (1, 2))]


def test_a_sweep_can_be_listed(cli: Run) -> None:
    said = cli(
        "bench", "sweep", "--list", "--samples", 1, "--samples", 5, "--persons", 1, "--persons", 4, "--threads", 1, "--threads", 2
    ).out
    assert said.count("frame-n5-p4 onnxruntime fp32 K=5") == 2
    assert "8 rows, 4 bundles; about" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--pair", "sketch"), "expected a pair out of frame, video"),
        (("--pair", "frame", "--random-weights"), "got more than one"),
        (("--denoiser", "a.pth"), "expected both --denoiser and --context"),
        (("--bundles", "no-such-folder"), "expected a folder for the bundles"),
    ],
)
def test_sweeps_that_mean_nothing_are_refused(mistake: Mistake, options: tuple[str, ...], said: str) -> None:
    assert said in mistake("bench", "sweep", *options)
