"""Which machine this is, as far as its speed goes."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from diffpose_edge.jetson import jetson_info


def processor() -> str:
    """Return the processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor() or "unknown")


def this_machine() -> dict[str, Any]:
    """Return what tells machines of different speed apart: the processor, and of a Jetson its model and power mode.

    Machines that agree in all of it are taken to be as fast as each other: a fleet of equal robots needs one measurement.
    """
    jetson = jetson_info()
    return {
        "processor": processor(),
        "board": None if jetson is None else jetson.model,
        "power_mode": None if jetson is None else jetson.power_mode,
    }
