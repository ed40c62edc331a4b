"""What is counted, by name."""

from __future__ import annotations

import gc

import pytest

from diffpose_edge.readings import BOUNDS_S, METRICS, Histogram, Reading, known, register


def test_a_duration_falls_into_the_bucket_that_ends_at_it_or_above() -> None:
    histogram = Histogram()
    for seconds in (0.0, BOUNDS_S[0], BOUNDS_S[0] * 1.001, BOUNDS_S[-1], BOUNDS_S[-1] * 1.001, float("nan")):
        histogram.add(seconds)
    assert (histogram.counts[0], histogram.counts[1], histogram.counts[-2], histogram.counts[-1]) == (2, 1, 1, 1)
    assert sum(histogram.counts) == 5
    assert histogram.total_s == pytest.approx(2 * BOUNDS_S[0] + 2 * BOUNDS_S[-1], rel=1e-2)


def test_a_copy_stays_as_it_was() -> None:
    histogram = Histogram()
    histogram.add(0.01)
    copied = histogram.copy()
    histogram.add(0.01)
    assert (sum(copied.counts), copied.total_s) == (1, 0.01)
    assert copied != histogram


def test_a_reading_has_the_labels_of_its_metric_and_a_name_that_there_is() -> None:
    with pytest.raises(ValueError, match="diffpose_errors_total has the labels"):
        Reading("diffpose_errors_total", 1)
    with pytest.raises(KeyError):
        Reading("diffpose_nonsense_total", 1)


def test_names_follow_the_conventions_of_prometheus() -> None:
    for name, metric in METRICS.items():
        assert name.startswith("diffpose_")
        assert name.endswith({"counter": "_total", "histogram": "_seconds", "info": "_info"}[metric.kind]), name


def test_what_is_registered_is_known_for_as_long_as_somebody_has_it() -> None:
    class Mine:
        about = {"who": "me"}  # noqa: RUF012

        def readings(self) -> list[Reading]:
            return []

    mine = Mine()
    register(mine)
    assert mine in known()
    del mine
    gc.collect()
    assert not [each for each in known() if type(each).__name__ == "Mine"]
