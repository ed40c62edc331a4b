"""How long a service takes from SIGTERM, or Ctrl-C, to its end with status 0: ``serve-dds``, in processes of its own, time and again.

Run: ``python -m diffpose_edge.benchmarks.signal_latency BUNDLE``. Writes ``signal_latency.json``. Nobody sends keypoints meanwhile: with
traffic the frame that is being computed comes on top.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer

from diffpose_edge.atomic import atomic_file, check_file_place
from diffpose_edge.benchmarks.machine import processor, versions
from diffpose_edge.cli.script import run_script
from diffpose_edge.cli.terminal import say
from diffpose_edge.errors import DiffPoseEdgeError

PATIENCE_S = 60
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def seconds_to_end(bundle: Path, number: signal.Signals, domain: int) -> float:
    """Start the service, wait until it serves, signal it, and return how long it took. Raises DiffPoseEdgeError for another end than 0."""
    line = [sys.executable, "-m", "diffpose_edge", "serve-dds", str(bundle), "--loopback", "--domain", str(domain), "--threads", "1"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        if "serving" not in service.stdout.readline():
            raise DiffPoseEdgeError(f"the service did not begin: {service.communicate()[1]}")
        began = perf_counter()
        service.send_signal(number)
        _, err = service.communicate(timeout=PATIENCE_S)
        took = perf_counter() - began
    if service.returncode != 0:
        raise DiffPoseEdgeError(f"expected status 0 after {number.name}, got {service.returncode}: {err}")
    return took


def main(
    bundle: Annotated[Path, typer.Argument(help="A bundle made by export.")],
    rounds: Annotated[int, typer.Option(help="How often, for each signal.", min=1)] = 20,
    domain: Annotated[int, typer.Option(help="A DDS domain that nobody uses.")] = 118,
    folder: Annotated[Path, typer.Option("--out", help="Folder for the result.")] = Path("benchmarks/results"),
) -> None:
    """Measure how soon a service ends."""
    path = folder / "signal_latency.json"
    check_file_place(path)
    taken: dict[str, list[float]] = {number.name: [] for number in SIGNALS}
    loads: list[float] = []
    for _ in range(rounds):
        for number in SIGNALS:
            loads.append(os.getloadavg()[0])
            taken[number.name].append(round(seconds_to_end(bundle, number, domain), 4))
    report: dict[str, Any] = {
        "what": "seconds from a signal to the end of serve-dds with status 0, nobody sending keypoints",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "versions": versions(("cyclonedds", "onnxruntime", "numpy")),
        # Processes that wanted to run: with more of them than cores this one waits, too.
        "load_average": {"least": min(loads), "most": max(loads)},
        "seconds": taken,
        "worst": {name: max(values) for name, values in taken.items()},
        "median": {name: float(np.median(values)) for name, values in taken.items()},
    }
    with atomic_file(path) as written:
        written.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    say(f"median {report['median']}, worst {report['worst']} seconds; load average {report['load_average']}")


if __name__ == "__main__":
    run_script(main)
