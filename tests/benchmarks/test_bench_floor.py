"""Floors: operations over the peak of the same run, and reasons where they cannot be told."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from diffpose_edge.benchmarks import bench_floor, machine_peaks
from diffpose_edge.benchmarks.bench_floor import Floors, costs_of, floor_of
from diffpose_edge.benchmarks.bench_report import report_of
from diffpose_edge.benchmarks.bench_rounds import measured
from diffpose_edge.benchmarks.bench_run import bench_run
from diffpose_edge.benchmarks.bench_variant import Variant
from diffpose_edge.benchmarks.machine_peaks import Peaks

from . import sleeping
from .sleeping import Nap

SIDE = 100
PEAKS = {"sgemm_gflops": 2.0, "memory_gb_per_s": 5.0, "cache_gb_per_s": 20.0, "node_us": 1.0}


def matmul(side: int) -> bytes:
    """A graph of one square matmul: 2 side^3 operations."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (side, side)) for name in "aby"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["y"])], "one", values[:2], values[2:])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())


@dataclass(frozen=True)
class Counted(Nap):
    """Sleeps for STEP_S, and says that it multiplies matrices meanwhile."""

    threads: int | None = 1

    def graphs(self) -> dict[str, bytes]:
        return {"context": matmul(SIDE // 2), "step": matmul(SIDE)}


def peaks_of(monkeypatch: pytest.MonkeyPatch, *gflops: float) -> None:
    """Let the peaks be these, one after another."""
    left = list(gflops)

    def measured(threads: int, seconds: float) -> Peaks:
        return Peaks(threads, left.pop(0), 5.0, 20.0, 1.0)

    monkeypatch.setattr(machine_peaks, "measured_peaks", measured)


def test_a_row_tells_how_many_floors_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    # One of five times the machine was half as fast: the median is what counts.
    peaks_of(monkeypatch, 2.0, 2.0, 1.0, 2.0, 2.0)
    report = bench_run([Counted()], 12, warm_up=1)
    [row] = report["rows"]
    assert report["floors"]["1"]["sgemm_gflops"] == 2.0
    assert [one["round"] for one in report["floors"]["1"]["measured"]] == [0, 3, 6, 9, 12]
    step_ms = 2 * SIDE**3 / 2e9 * 1e3
    assert row["floor"]["ms"] == {"step": step_ms, "encoder": step_ms / 8, "frame": step_ms * 9 / 8}
    assert row["floor"]["ratio"]["step"] == pytest.approx(1000 * sleeping.STEP_S / step_ms, rel=1e-3)
    assert row["floor"]["ratio"]["frame"] >= 8 / 9 * row["floor"]["ratio"]["step"]
    assert row["floor"]["ratio"]["encoder"] is None
    assert (row["cost"]["step"]["matmul_flops"], row["cost"]["step"]["nodes"]) == (2 * SIDE**3, 1)


def test_a_frame_has_the_encoder_once_and_every_step() -> None:
    cost = {"context": {"matmul_flops": 4e6}, "step": {"matmul_flops": 2e6}}
    ms = {stage: {"p50": value} for stage, value in (("step", 3.0), ("encoder", 2.0), ("frame", 24.0))}
    found = floor_of(cost, {"2": {"threads": 2, **PEAKS}}, 2, 10, ms)
    assert found == {"ms": {"step": 1.0, "encoder": 2.0, "frame": 12.0}, "ratio": {"step": 3.0, "encoder": 1.0, "frame": 2.0}}
    assert floor_of(cost, {"1": PEAKS}, 2, 10, ms) is None  # not measured with as many threads
    assert floor_of(cost, {"1": PEAKS}, None, 10, ms) is None  # a GPU
    assert floor_of(None, {"1": PEAKS}, 1, 10, ms) is None
    assert floor_of(cost, None, 1, 10, ms) is None


def test_the_graphs_of_a_bundle_are_counted(golden_bundle: Path) -> None:
    costs, unknown = costs_of(Variant(str(golden_bundle)))
    assert unknown is None
    assert costs is not None
    assert set(costs) == {"context", "step"}
    for cost in costs.values():
        assert 0 < cost["matmul_flops"] < cost["flops"]
        assert 0 < cost["running"] <= cost["nodes"]
        assert 0 < cost["weight_bytes"] < cost["bytes"]


def test_a_bundle_that_is_gone_when_the_report_is_made_has_been_counted(golden_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(golden_bundle, tmp_path / "bundle"))
    found, refused = measured([Variant(str(bundle), K=1)], 2, warm_up=0)
    shutil.rmtree(bundle)
    assert report_of(found, refused)["rows"][0]["cost"]["step"]["flops"] > 0


def test_what_cannot_be_counted_has_a_reason(golden_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert costs_of(Nap()) == (None, "it does not run a graph that could be counted")
    unknown = costs_of(Variant(str(golden_bundle), precision="int8"))[1]
    assert unknown is not None
    assert "no context graph in int8" in unknown
    monkeypatch.setattr(bench_floor, "is_installed", lambda name: name != "onnx")
    assert "counting needs onnx: pip install onnx" in str(costs_of(Variant(str(golden_bundle)))[1])


def test_without_onnx_there_are_no_floors_but_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_floor, "is_installed", lambda name: name != "onnx")
    report = bench_run([Counted()], 12, warm_up=0)
    assert report["floors"] is None
    assert "the floor needs onnx" in report["floors_missing"]
    assert [row["floor"] for row in report["rows"]] == [None]
    assert Floors([1]).as_json() is None


def test_floors_that_are_not_asked_for_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks_of(monkeypatch)
    report = bench_run([Counted()], 12, warm_up=0, floors=False)
    assert (report["floors"], report["floors_missing"]) == (None, "not measured")


def test_a_machine_on_which_others_are_at_work_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffpose_edge.benchmarks.bench_run.os.getloadavg", lambda: (99.0, 0.0, 0.0))
    report = bench_run([Nap()], 12, warm_up=0, floors=False)
    assert report["machine"]["load_before"] == 99.0
    assert any("others were at work: load 99.0" in flag for flag in report["flags"])
    monkeypatch.setattr("diffpose_edge.benchmarks.bench_run.os.getloadavg", lambda: (0.0, 0.0, 0.0))
    assert not any("others" in flag for flag in bench_run([Nap()], 12, warm_up=0, floors=False)["flags"])
