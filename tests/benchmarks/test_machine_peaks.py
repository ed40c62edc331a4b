"""Peaks of the machine that the tests run on: plausible, whatever it is, and measured from what they say."""

from __future__ import annotations

import pytest

from diffpose_edge.benchmarks import machine_peaks
from diffpose_edge.benchmarks.machine_peaks import Peaks, best_seconds, measured_peaks
from diffpose_edge.errors import DiffPoseEdgeError


@pytest.fixture(scope="module")
def peaks() -> Peaks:
    return measured_peaks(1, seconds=0.5)


def test_one_core_is_within_what_processors_can_do(peaks: Peaks) -> None:
    """From a tired Cortex to two 512-bit units at 6 GHz (384 GFLOP/s); memory from LPDDR4 to HBM; any interpreter-free call."""
    assert peaks.threads == 1
    assert 1 < peaks.sgemm_gflops < 400
    assert 0.5 < peaks.memory_gb_per_s < 400
    assert peaks.memory_gb_per_s / 2 < peaks.cache_gb_per_s < 2000
    assert 0.05 < peaks.node_us < 100


def test_json_has_the_figures_by_name(peaks: Peaks) -> None:
    content = peaks.as_json()
    assert list(content) == ["threads", "sgemm_gflops", "memory_gb_per_s", "cache_gb_per_s", "node_us"]
    assert content["sgemm_gflops"] == pytest.approx(peaks.sgemm_gflops, abs=1e-3)


def test_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """With clocks that are known, every figure is what it says: a slip by a thousand, or of two for the multiply-add, is seen."""
    monkeypatch.setattr(machine_peaks, "_matmul_seconds", lambda side, threads, seconds: 2 * side**3 / 7e9)
    monkeypatch.setattr(machine_peaks, "_chain_seconds", lambda nodes, threads, seconds: 1e-3 + nodes * 3e-6)
    monkeypatch.setattr(machine_peaks, "_bytes_per_second", lambda size, threads, seconds: 5e9 if size == machine_peaks.FAR else 9e10)
    found = measured_peaks(2)
    expected = (2, 7.0, 5.0, 90.0, 3.0)
    assert (found.threads, found.sgemm_gflops, found.memory_gb_per_s, found.cache_gb_per_s, found.node_us) == pytest.approx(expected)


def test_copies_and_sums_are_counted_by_what_they_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of 2 s moves two arrays, a sum of 2 s three: the sum's rate is told."""
    monkeypatch.setattr(machine_peaks, "best_seconds", lambda work, seconds: work() and 2.0)
    size = machine_peaks.FAR // 64
    monkeypatch.setattr(machine_peaks, "FAR", size)
    repeats = max(1, 2**23 // size)
    for threads in (1, 2):
        assert machine_peaks._bytes_per_second(size, threads, 1.0) == pytest.approx(3 * repeats * size / 2.0)


def test_the_best_run_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of 5, 3, 9, 4, 2, 7 s by a clock of our own: the first does not count, the shortest does."""
    lasts = [5.0, 3.0, 9.0, 4.0, 2.0, 7.0]
    now = [0.0]
    runs = iter(lasts)

    def work() -> None:
        now[0] += next(runs)

    monkeypatch.setattr(machine_peaks, "perf_counter", lambda: now[0])
    assert best_seconds(work, 10.0) == 2.0
    assert next(runs, None) is None


@pytest.mark.parametrize(("threads", "seconds"), [(0, 1.0), (-1, 1.0), (1, 0.0)])
def test_what_cannot_be_measured_is_refused(threads: int, seconds: float) -> None:
    with pytest.raises(DiffPoseEdgeError, match="at least one thread"):
        measured_peaks(threads, seconds)
