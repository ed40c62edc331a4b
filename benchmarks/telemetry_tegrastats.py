"""Power, clocks and temperatures of a Jetson, by JetPack's tegrastats, which prints a line for each interval.

The forms of a line differ between releases (Jetson Linux Developer Guide, tegrastats Utility); each part is looked for by itself:

- rails: ``VDD_IN 3104/4029`` (JetPack 4), ``VDD_IN 5079mW/5079mW`` (5 to 7), milliwatts now and on average;
- clocks: ``CPU [12%@1420,off]``, ``GR3D_FREQ 0%@318``, ``GR3D_FREQ 0%@[305,305]``, MHz; JetPack 6 shows no clock of a GPU that sleeps;
- temperatures: ``CPU@39.5C``, ``tj@52.5C``; what is switched off is at -256.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress

from diffpose_edge.benchmarks.telemetry_sysfs import POSSIBLE_C

INTERVAL_MS = 500
PATIENCE_S = 2.0
# The units of older lines are missing for rails alone, and RAM and SWAP have another form: their unit stands at the second number.
RAIL = re.compile(r"\b((?:VDD|VIN|POM|SYS)\w*) (\d+)(?:mW)?/\d+(?:mW)?(?!\w)")
TEMPERATURE = re.compile(r"\b(\w+)@(-?\d+(?:\.\d+)?)C\b")
CORES = re.compile(r"\bCPU \[([^\]]*)\]")
CORE = re.compile(r"\d+%@(\d+)")
GPU = re.compile(r"\bGR3D_FREQ \d+%@\[?(\d+)")


def parsed(line: str) -> dict[tuple[str, str], float]:
    """Read a line; what is not in it, or broken, is left out."""
    told = {("power_w", name): int(mw) / 1000 for name, mw in RAIL.findall(line)}
    low, high = POSSIBLE_C
    told |= {("temperature_c", name): float(t) for name, t in TEMPERATURE.findall(line) if low < float(t) < high}
    if cores := CORES.search(line):
        mhz = [float(clock) for clock in CORE.findall(cores[1])]
        told |= {("clock_mhz", "fastest core"): max(mhz)} if mhz else {}
    if (gpu := GPU.search(line)) and float(gpu[1]) > 0:
        told[("clock_mhz", "GR3D")] = float(gpu[1])
    return told


class Tegrastats:
    """Owns the running program, until ``close()``. A reading is its newest whole line; there is none before the first."""

    def __init__(self, command: list[str]):
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._output, False)
        self._text = b""

    def read(self) -> dict[tuple[str, str], float]:
        with suppress(BlockingIOError, ValueError):
            while some := os.read(self._output, 65536):
                self._text += some
        lines = self._text.split(b"\n")
        self._text = lines[-1]
        return parsed(lines[-2].decode("utf-8", "replace")) if len(lines) > 1 else {}

    def close(self) -> None:
        if self._process.stdout is None or self._process.stdout.closed:
            return
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def tegrastats(program: str = "tegrastats") -> Tegrastats | str:
    """Start it, or return why there is none."""
    path = shutil.which(program)
    if path is None:
        return f"there is no {program} on this machine: it belongs to a Jetson"
    try:
        return Tegrastats([path, "--interval", str(INTERVAL_MS)])
    except OSError as err:
        return f"{path} does not start: {err.strerror}"
