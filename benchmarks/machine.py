"""What figures were measured on."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from diffpose_edge.machine import processor

__all__ = ["CORES", "governor", "processor", "versions"]

CORES = Path("/sys/devices/system/cpu")


def governor(cores: Path = CORES) -> str | None:
    """Return the frequency governors of the cores, "performance" at best: another one makes figures jump. None where they are not told."""
    found = sorted({path.read_text(encoding="utf-8").strip() for path in cores.glob("cpu[0-9]*/cpufreq/scaling_governor")})
    return ", ".join(found) or None


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
