"""Clocks, temperatures and throttling of the processor as Linux tells them below /sys.

Documentation/admin-guide/pm/cpufreq.rst (``scaling_cur_freq``, kHz), Documentation/driver-api/thermal/sysfs-api.rst
(``thermal_zone*/type`` and ``temp``, thousandths of a degree), arch/x86/kernel/cpu/mce/therm_throt.c (``thermal_throttle/
*_throttle_count``); over-current throttling of a Jetson: ``oc*_event_cnt`` (Jetson Linux Developer Guide, Platform Power and
Performance).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

CPU, THERMAL, HWMON = Path("/sys/devices/system/cpu"), Path("/sys/class/thermal"), Path("/sys/class/hwmon")
# Sensors of what is switched off say nonsense, such as -256 degrees on a Jetson.
POSSIBLE_C = (-55.0, 150.0)


class Files:
    """Files with a number in each, by quantity and name; ``together`` makes a reading of all numbers that could be read."""

    def __init__(self, files: Mapping[str, Path], together: Callable[[Mapping[str, float]], dict[tuple[str, str], float]]):
        self._files, self._together = files, together

    def read(self) -> dict[tuple[str, str], float]:
        numbers: dict[str, float] = {}
        for name, path in self._files.items():
            # A core that went offline and a sensor that is switched off have nothing to say now.
            with suppress(OSError, ValueError):
                numbers[name] = float(path.read_text(encoding="utf-8"))
        return self._together(numbers)

    def close(self) -> None:
        pass


def clocks(folder: Path = CPU) -> Files | str:
    """Return the clock of the fastest core (idle ones are slow, and do not matter), or why it is not told."""
    files = {path.parents[1].name: path for path in sorted(folder.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))}
    if not files:
        return "the kernel tells no clocks of the cores (no cpufreq; usual for virtual machines)"
    return Files(files, lambda khz: {("clock_mhz", "fastest core"): max(khz.values()) / 1000} if khz else {})


def temperatures(folder: Path = THERMAL) -> Files | str:
    """Return the thermal zones by their types, or why there are none. The third of the same type is called "acpitz 3"."""
    files: dict[str, Path] = {}
    kinds: Counter[str] = Counter()
    for zone in sorted(folder.glob("thermal_zone*"), key=lambda path: int(path.name[len("thermal_zone") :])):
        with suppress(OSError):
            kind = (zone / "type").read_text(encoding="utf-8").strip()
            kinds[kind] += 1
            files[kind if kinds[kind] == 1 else f"{kind} {kinds[kind]}"] = zone / "temp"
    if not files:
        return "the kernel has no thermal zones (usual for virtual machines)"
    low, high = POSSIBLE_C
    return Files(files, lambda read: {("temperature_c", name): t / 1000 for name, t in read.items() if low < t / 1000 < high})


def throttle_counts(cpu: Path = CPU, hwmon: Path = HWMON) -> Files | str:
    """Return the counters of throttling, by heat (x86) and by current (Jetson), or why there are none."""
    files = {}
    for path in sorted(cpu.glob("cpu[0-9]*/thermal_throttle/*_throttle_count")):
        files[f"{path.parents[1].name} {path.name.removesuffix('_throttle_count')} by heat"] = path
    for path in sorted(hwmon.glob("hwmon*/oc*_event_cnt")):
        files[f"{path.name.removesuffix('_event_cnt')} by current"] = path
    if not files:
        return "the kernel does not count throttling"
    return Files(files, lambda counts: {("throttle_events", name): count for name, count in counts.items()})
