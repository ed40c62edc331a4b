"""Energy counters of the processor (RAPL), as Linux has them below /sys/class/powercap: Intel's, and AMD's from Zen on.

Documentation/power/powercap/powercap.rst of the Linux kernel: zones ``intel-rapl:X``, sub-zones ``intel-rapl:X:Y``; ``energy_uj``
counts microjoules up to ``max_energy_range_uj`` and begins anew. The counter itself moves about once in a millisecond (Intel
SDM, volume 3, on RAPL): single estimates of a few milliseconds are told coarsely, the mean over many is not.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path("/sys/class/powercap")


class Rapl:
    """The zones of a machine, by their names. Sums run on over a counter that begins anew, if read once in its range at least."""

    def __init__(self, zones: dict[str, Path]):
        self._zones = zones
        self._range_uj = {name: _number(zone / "max_energy_range_uj") for name, zone in zones.items()}
        self._last_uj = {name: _number(zone / "energy_uj") for name, zone in zones.items()}
        self._sum_uj = dict.fromkeys(zones, 0)
        # What lies within a package counts in the package; "psys" has the packages in it.
        self._packages = [name for name in zones if name.startswith("package") and "/" not in name]

    def read(self) -> dict[tuple[str, str], float]:
        return {("energy_j", name): 1e-6 * self._read_uj(name) for name in self._zones}

    def packages_j(self) -> float | None:
        """Return the joules of all packages since this was made; None where there are only other zones."""
        return 1e-6 * sum(map(self._read_uj, self._packages)) if self._packages else None

    def close(self) -> None:
        pass

    def _read_uj(self, name: str) -> int:
        now = _number(self._zones[name] / "energy_uj")
        rise = now - self._last_uj[name]
        self._sum_uj[name] += rise if rise >= 0 else rise + self._range_uj[name]
        self._last_uj[name] = now
        return self._sum_uj[name]


def rapl(folder: Path = FOLDER) -> Rapl | str:
    """Return the zones below ``folder``, or why there are none."""
    found = sorted(folder.glob("intel-rapl:*"))
    if not found:
        return "the kernel has no energy counters (no intel-rapl zones; usual for virtual machines and for ARM)"
    try:
        names = {zone.name: (zone / "name").read_text(encoding="utf-8").strip() for zone in found}
        return Rapl({_full_name(zone.name, names): zone for zone in found})
    except PermissionError as err:
        # Since Linux 5.10, because energy tells secrets (CVE-2020-8694).
        return f"{err.filename} is for root alone"
    except (OSError, ValueError) as err:
        return f"the energy counters cannot be read: {err}"


def _full_name(zone: str, names: dict[str, str]) -> str:
    """Return "package-0", or "package-0/core" for what lies within it: sub-zones of two packages have the same names."""
    parts = zone.split(":")
    parents = [":".join(parts[: depth + 1]) for depth in range(1, len(parts))]
    return "/".join(names[parent] for parent in parents)


def _number(path: Path) -> int:
    return int(path.read_text(encoding="utf-8"))
