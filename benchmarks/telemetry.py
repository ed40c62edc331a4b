"""Power, clocks and temperatures while ``diffpose-edge bench`` measures: what the machine tells of itself, and null for what it does not.

Sources are asked at most twice a second, by the process that waits for the answers, right after an estimate: clocks are then
still those of the work, and no estimate runs meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from time import perf_counter
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from diffpose_edge.benchmarks.telemetry_nvml import nvml
from diffpose_edge.benchmarks.telemetry_rapl import Rapl, rapl
from diffpose_edge.benchmarks.telemetry_sysfs import clocks, temperatures, throttle_counts
from diffpose_edge.benchmarks.telemetry_tegrastats import tegrastats

INTERVAL_S = 0.5
# A clock that falls by this share while work is going on makes milliseconds incomparable.
CLOCK_MOVED = 0.05
# What all of a board draws, where a Jetson measures it: Orin Nano, Orin NX and Xavier NX; Thor; Nano and TX2.
WHOLE_BOARD = ("VDD_IN", "VIN", "POM_5V_IN")
# Quantity and name. Of the quantities "energy_j" and "throttle_events" are counters, "throttled" is 0 or 1.
Reading = Mapping[tuple[str, str], float]


class Source(Protocol):
    """Something that can be asked what it measures now. ``close()`` may be called twice."""

    def read(self) -> Reading: ...

    def close(self) -> None: ...


# By name; each gives a source, or the reason why there is none.
SOURCES: Mapping[str, Callable[[], Source | str]] = {
    "rapl": rapl,
    "clocks": clocks,
    "temperatures": temperatures,
    "throttle_counts": throttle_counts,
    "nvml": nvml,
    "tegrastats": tegrastats,
}


class Telemetry:
    """Owns the sources that this machine has, until ``close()``; use it with ``with``. ``missing``: by name, why there is none."""

    def __init__(self, sources: Mapping[str, Callable[[], Source | str]] = SOURCES, *, interval_s: float = INTERVAL_S):
        self.missing: dict[str, str] = {}
        self._sources: dict[str, Source] = {}
        self._interval_s, self._due = interval_s, 0.0
        self._times: list[float] = []
        self._readings: list[dict[tuple[str, str], float]] = []
        with ExitStack() as stack:
            for name, make in sources.items():
                source = make()
                if isinstance(source, str):
                    self.missing[name] = source
                else:
                    self._sources[name] = source
                    stack.callback(source.close)
            self._stack = stack.pop_all()
        self._energy = next((source for source in self._sources.values() if isinstance(source, Rapl)), None)

    def joules(self) -> float | None:
        """Return the energy that the processors took since the beginning, if there is a counter fast enough for single estimates."""
        return None if self._energy is None else self._energy.packages_j()

    def sample(self, *, now: bool = False) -> None:
        """Ask every source, if it is time again, or ``now``."""
        began = perf_counter()
        if began < self._due and not now:
            return
        self._due = began + self._interval_s
        self._times.append(began)
        self._readings.append({key: value for source in self._sources.values() for key, value in source.read().items()})

    def summary(self) -> dict[str, Any]:
        """Return what was seen, as plain values; docs/bench.md has the fields."""
        series = {key: self._series(key) for reading in self._readings for key in reading}
        seconds = self._times[-1] - self._times[0] if self._times else 0.0
        told: dict[str, dict[str, Any]] = {quantity: {} for quantity in _SUMMARY}
        for (quantity, name), values in series.items():
            told[quantity][name] = _SUMMARY[quantity](values)
        return {
            "interval_s": self._interval_s,
            "seconds": round(seconds, 3),
            "samples": len(self._times),
            "sources": sorted(self._sources),
            "missing": self.missing,
            **{quantity: values or None for quantity, values in told.items()},
            "flags": flags(told),
        }

    def _series(self, key: tuple[str, str]) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array([reading[key] for reading in self._readings if key in reading])

    def close(self) -> None:
        """Give the sources back; a second call does nothing."""
        self._stack.close()

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _spread(values: Any) -> dict[str, float]:
    return {"min": round(float(values.min()), 3), "mean": round(float(values.mean()), 3), "max": round(float(values.max()), 3)}


_SUMMARY: Mapping[str, Callable[[Any], Any]] = {
    "power_w": _spread,
    "clock_mhz": _spread,
    "temperature_c": _spread,
    "energy_j": lambda values: round(float(values[-1] - values[0]), 4),
    "throttle_events": lambda values: int(values[-1] - values[0]),
    "throttled": lambda values: round(float(values.mean()), 4),  # the share of the samples
}


def flags(told: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what makes milliseconds of this run doubtful: clocks that moved, and anything that was throttled."""
    found = []
    for name, mhz in told["clock_mhz"].items():
        if mhz["min"] < (1 - CLOCK_MOVED) * mhz["max"]:
            found.append(f"the clock of {name} moved between {mhz['min']:.0f} and {mhz['max']:.0f} MHz")
    found += [f"throttled in {share:.0%} of the samples: {name}" for name, share in told["throttled"].items() if share]
    found += [f"throttled {events} times: {name}" for name, events in told["throttle_events"].items() if events]
    return found


def energy_per_frame(
    joules: np.ndarray[Any, np.dtype[np.float64]] | None, summary: Mapping[str, Any] | None, rounds: int, alone: bool
) -> dict[str, Any] | None:
    """Return the energy of an estimate in joules, of what, and how it was found; None where it is not known.

    joules (rounds,): by a counter around each estimate. Where there is none but a power, it can be told only of a candidate that
    ran ``alone``. Both have in them what the machine draws when it idles.
    """
    if joules is not None:
        return {"joules": float(joules.mean()), "of": "processor packages", "how": "counter around each estimate"}
    if not alone or summary is None or not summary["power_w"] or not rounds:
        return None
    names = [name for name in (*WHOLE_BOARD, *summary["power_w"]) if name in summary["power_w"]]
    watts = summary["power_w"][names[0]]["mean"]
    return {"joules": watts * summary["seconds"] / rounds, "of": names[0], "how": "mean power, pauses between estimates included"}
