"""Telemetry: when sources are asked, what is made of their readings, and that a machine without any is no error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diffpose_edge.benchmarks.telemetry import Telemetry, energy_per_frame


class Script:
    """A source that says what it was given, one reading after another."""

    def __init__(self, *readings: dict[tuple[str, str], float]):
        self.readings, self.closed = list(readings), 0

    def read(self) -> dict[tuple[str, str], float]:
        return self.readings.pop(0)

    def close(self) -> None:
        self.closed += 1


def summary_of(*readings: dict[tuple[str, str], float]) -> dict[str, Any]:
    script = Script(*readings)
    with Telemetry({"script": lambda: script}) as telemetry:
        for _ in readings:
            telemetry.sample(now=True)
        told = telemetry.summary()
        telemetry.close()
    assert script.closed == 1
    return told


def test_quantities_are_summed_up_as_what_they_are() -> None:
    told = summary_of(
        {
            ("power_w", "VDD_IN"): 4.0,
            ("energy_j", "package-0"): 100.0,
            ("throttle_events", "heat"): 7,
            ("throttled", "gpu0, heat"): 0,
        },
        {
            ("power_w", "VDD_IN"): 8.0,
            ("energy_j", "package-0"): 130.5,
            ("throttle_events", "heat"): 9,
            ("throttled", "gpu0, heat"): 1,
        },
    )
    assert told["power_w"] == {"VDD_IN": {"min": 4.0, "mean": 6.0, "max": 8.0}}
    assert told["energy_j"] == {"package-0": 30.5}
    assert told["throttle_events"] == {"heat": 2}
    assert told["throttled"] == {"gpu0, heat": 0.5}
    assert told["clock_mhz"] is None
    assert told["flags"] == ["throttled in 50% of the samples: gpu0, heat", "throttled 2 times: heat"]


def test_a_clock_that_moves_is_flagged_and_a_steady_one_is_not() -> None:
    moved, steady = (summary_of(*({("clock_mhz", "fastest core"): mhz} for mhz in series)) for series in ((3000, 2800), (3000, 2900)))
    assert moved["flags"] == ["the clock of fastest core moved between 2800 and 3000 MHz"]
    assert steady["flags"] == []


def test_what_a_source_leaves_out_at_times_is_summed_up_over_the_others() -> None:
    told = summary_of({}, {("temperature_c", "GPU"): 40.0}, {}, {("temperature_c", "GPU"): 50.0})
    assert told["temperature_c"] == {"GPU": {"min": 40.0, "mean": 45.0, "max": 50.0}}


def test_sources_are_asked_at_their_own_pace() -> None:
    script = Script({}, {})
    with Telemetry({"script": lambda: script}, interval_s=3600) as telemetry:
        for _ in range(50):
            telemetry.sample()
        assert len(script.readings) == 1
        telemetry.sample(now=True)
        assert telemetry.summary()["samples"] == 2


def test_a_machine_that_tells_nothing_gives_reasons_and_nulls() -> None:
    with Telemetry({"rapl": lambda: "there is none", "nvml": lambda: "nor this"}) as telemetry:
        telemetry.sample()
        assert telemetry.joules() is None
        told = telemetry.summary()
    assert told["missing"] == {"rapl": "there is none", "nvml": "nor this"}
    assert {told[name] for name in ("power_w", "clock_mhz", "temperature_c", "energy_j", "throttled", "throttle_events")} == {None}
    assert (told["sources"], told["flags"]) == ([], [])


def test_this_machine_tells_what_it_has_without_an_error() -> None:
    with Telemetry() as telemetry:
        telemetry.sample()
        told = telemetry.summary()
    assert set(told["sources"]).isdisjoint(told["missing"])
    assert set(told["sources"]) | set(told["missing"]) == {"rapl", "clocks", "temperatures", "throttle_counts", "nvml", "tegrastats"}
    assert all(reason for reason in told["missing"].values())


def test_a_source_that_cannot_be_made_gives_back_the_others() -> None:
    script = Script()

    def broken() -> Script:
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        Telemetry({"script": lambda: script, "broken": broken})
    assert script.closed == 1


def test_energy_of_a_frame_comes_from_a_counter_or_of_one_alone_from_power() -> None:
    summary = {"power_w": {"gpu0": {"mean": 99.0}, "VDD_IN": {"mean": 6.0}}, "seconds": 2.0}
    counted = energy_per_frame(np.array([0.1, 0.3]), summary, 2, alone=False)
    assert counted is not None
    assert (counted["joules"], counted["of"]) == (pytest.approx(0.2), "processor packages")
    assert energy_per_frame(None, summary, 40, alone=False) is None
    alone = energy_per_frame(None, summary, 40, alone=True)
    assert alone is not None
    assert (alone["joules"], alone["of"]) == (pytest.approx(0.3), "VDD_IN")
    assert energy_per_frame(None, {"power_w": None, "seconds": 2.0}, 40, alone=True) is None
    assert energy_per_frame(None, None, 40, alone=True) is None
