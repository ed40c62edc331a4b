"""A camera that goes on for long: a stream's memory, latency, drops and order, minute by minute.

Run: ``python -m diffpose_edge.benchmarks.stream_soak --minutes 10``. Writes ``stream_soak_<pair>.json``. A pair that ships, in real time:
one thread pushes a frame whenever one is due, another takes the bodies. The people are the street clip's walker, several times over,
each ahead of the others and to and fro across the image, so that they meet all the time; the order in which they are detected is drawn
anew in each frame. A frame's latency is from its push to the bodies in the consumer's hands, as the stream tells it.

Each row also says how late the thread that plays the camera was woken, which has little to do but sleep, and which share of the
processors' time the host of a virtual machine gave to others: what held that thread up held the stream up too.
"""

from __future__ import annotations

import json
import platform
import tempfile
import threading
import time
from array import array
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from diffpose_edge.atomic import atomic_file, check_file_place
from diffpose_edge.benchmarks.machine import governor, processor, versions
from diffpose_edge.bundle import load_bundle
from diffpose_edge.cli.script import run_script
from diffpose_edge.cli.terminal import counting, out
from diffpose_edge.clips import street_walk, trained_pair
from diffpose_edge.person import person_view
from diffpose_edge.runtime import PoseRuntime, PoseStream

SECOND_NS = 1_000_000_000
MINUTE = 60.0
# Seconds to walk across the image and back.
TO_AND_FRO = 12.0
# Frames of the street clip before the first in which its detector leaps: they are played to and fro, too.
CALM = 60


class Camera:
    """People in front of a camera, as a detector finds them."""

    def __init__(self, people: int, fps: float, seed: int = 0):
        clip = street_walk().keypoints
        seen = np.flatnonzero(clip.confidence.min(axis=1) > 0)[:CALM]
        self.uv = person_view(clip.uv[seen], clip.confidence[seen]).to_person(clip.uv[seen])
        self.uv /= np.ptp(self.uv[..., 1])
        self.confidence = clip.confidence[seen]
        self.people, self.fps, self.rng = people, fps, np.random.default_rng(seed)

    def frame(self, i: int) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Return frame i (people, 17, 3), in the order of their detection, and who each of them is."""
        found = []
        for p in range(self.people):
            f = abs((i + 31 * p) % (2 * CALM - 2) - (CALM - 1))
            x = 0.6 * np.sin(2 * np.pi * (i / self.fps / TO_AND_FRO + p / self.people))
            uv = self.uv[f] * np.float32(0.4 + 0.03 * p) + np.array([x, 0.05 * p], np.float32)
            found.append(np.concatenate([uv, self.confidence[f, :, None]], axis=-1))
        order = self.rng.permutation(self.people)
        return np.stack(found)[order].astype(np.float32), order


def resident_mib() -> float | None:
    """Return the memory that this process has in RAM, MiB; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    import resource

    return pages * resource.getpagesize() / 2**20


def taken_by_others() -> tuple[int, int] | None:
    """Return the clock ticks that this machine's host gave to others, and all ticks so far, of all processors; None where it is not told.

    Fields of /proc/stat's first line (proc_stat(5)): user, nice, system, idle, iowait, irq, softirq, steal; those after it are in user.
    """
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0].split()
    except OSError:
        return None
    ticks = [int(word) for word in first[1:9]]
    return ticks[7], sum(ticks)


@dataclass
class Record:
    """What the consumer found, by row."""

    latency_ms: dict[int, array[float]] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    not_later: int = 0
    exchanged: int = 0
    people: dict[int, int] = field(default_factory=dict)
    steps: Counter[int] = field(default_factory=Counter)
    truncated: int = 0
    error: BaseException | None = None


def consume(stream: PoseStream, shown: dict[int, NDArray[np.intp]], row_ns: float, record: Record) -> None:
    """Take bodies until the stream ends. ``shown``: who is who in each frame, by stamp."""
    last = -1
    try:
        for bodies in stream.results():
            if not bodies:
                continue
            stamp = bodies[0].stamp_ns
            record.not_later += stamp <= last
            last = stamp
            record.latency_ms[int(stamp // row_ns)].append(max(body.latency_ns for body in bodies) / 1e6)
            record.steps[min(body.steps for body in bodies)] += 1
            record.truncated += any(body.truncated for body in bodies)
            # Who has a number the first time it comes is who has to have it ever after.
            told = [record.people.setdefault(body.body_id, person) for body, person in zip(bodies, shown[stamp].tolist(), strict=False)]
            record.exchanged += told != shown[stamp].tolist()
            for old in [old for old in shown if old <= stamp]:
                del shown[old]
    except BaseException as err:  # told by the thread that pushes
        record.error = err


def soak(stream: PoseStream, camera: Camera, seconds: float, row_seconds: float = MINUTE) -> dict[str, Any]:
    """Run a stream in real time for so many seconds and close it; return a row for every ``row_seconds``, and the whole."""
    shown: dict[int, NDArray[np.intp]] = {}
    record, memory, begun = Record(), [], stream.counters
    lateness: list[list[float]] = [[]]
    ticks = [taken_by_others()]
    consumer = threading.Thread(target=consume, args=(stream, shown, row_seconds * SECOND_NS, record))
    consumer.start()
    frames, per_row = round(seconds * camera.fps), round(row_seconds * camera.fps)
    dropped = []
    began = time.perf_counter()
    with counting("frames", frames) as done:
        for i in range(frames):
            people, order = camera.frame(i)
            stamp = round(i * SECOND_NS / camera.fps)
            wait = began + i / camera.fps - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            lateness[-1].append(1e3 * (time.perf_counter() - began - i / camera.fps))
            shown[stamp] = order
            stream.push(people, stamp)
            if (i + 1) % per_row == 0 or i + 1 == frames:
                memory.append(resident_mib())
                dropped.append(stream.counters.dropped)
                ticks.append(taken_by_others())
                lateness.append([])
            done(1)
    stream.close()
    consumer.join()
    if record.error is not None:
        raise record.error
    dropped[-1] = stream.counters.dropped
    rows: list[dict[str, Any]] = []
    for number, rss in enumerate(memory):
        latency = record.latency_ms[number]
        quantiles: dict[str, float | None] = {f"p{q}": float(np.percentile(latency, q)) for q in (50, 95, 99)} if latency else {}
        drops = dropped[number] - (dropped[number - 1] if number else begun.dropped)
        rows.append(
            {
                "answered": len(latency),
                "dropped": drops,
                "rss_mib": rss,
                "latency_ms": quantiles | {"max": max(latency, default=None)},
                "camera_late_ms": {"p99": float(np.percentile(lateness[number], 99)), "max": max(lateness[number])},
                "stolen_percent": share_taken(ticks[number], ticks[number + 1]),
            }
        )
    return {
        "seconds": frames / camera.fps,
        "row_seconds": row_seconds,
        "rows": rows,
        "counters": asdict(stream.counters),
        "not_later_than_the_one_before": record.not_later,
        "frames_with_exchanged_people": record.exchanged,
        "frames_of_steps": dict(sorted(record.steps.items())),
        "truncated": record.truncated,
        "camera_late_ms": max(row["camera_late_ms"]["max"] for row in rows),
        "mib_per_row": growth([rss for rss in memory[1:] if rss is not None]),
    }


def share_taken(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    """Return the percentage of the processors' time between two readings that the host gave to others; None where it was not told."""
    if before is None or after is None or after[1] == before[1]:
        return None
    return 100.0 * (after[0] - before[0]) / (after[1] - before[1])


def growth(memory: list[float]) -> float | None:
    """Return the slope of a line through memories, per row; None of fewer than two, the first row (the warm-up) being left out."""
    return float(np.polyfit(np.arange(len(memory)), memory, 1)[0]) if len(memory) >= 2 else None


def export_to(folder: Path, pair: str, people: int, samples: int) -> None:
    """Export a pair that ships, with a slot for each of the people."""
    from diffpose_edge.export import export_bundle

    export_bundle(*trained_pair(pair), folder, persons=people, samples=samples)


def print_rows(report: dict[str, Any]) -> None:
    """Print a row for each."""
    walked = f"K={report['K']}" if report["budget_ms"] is None else f"budget {report['budget_ms']:g} ms"
    table = Table(title=f"{report['pair']}, {report['people']} people, {report['fps']:g} frames a second, N={report['N']}, {walked}")
    latencies, apart = ("p50 ms", "p95", "p99", "max"), ("MiB", "late p99", "late max", "stolen %")
    headings = (f"{report['row_seconds']:g} s", "answered", "dropped", *latencies, *apart)
    for heading in headings:
        table.add_column(heading, justify="right")
    for number, row in enumerate(report["rows"]):
        latency = [row["latency_ms"].get(name) for name in ("p50", "p95", "p99", "max")]
        figures = [*latency, row["rss_mib"], row["camera_late_ms"]["p99"], row["camera_late_ms"]["max"], row["stolen_percent"]]
        told = ["-" if value is None else f"{value:.1f}" for value in figures]
        table.add_row(str(number + 1), str(row["answered"]), str(row["dropped"]), *told)
    out.print(table)


def main(
    pair: Annotated[str, typer.Option(help="The pair that ships: frame or causal.")] = "frame",
    minutes: Annotated[float, typer.Option(help="How long.", min=0.01)] = 10.0,
    fps: Annotated[float, typer.Option(help="Frames a second.", min=1.0, max=1000.0)] = 30.0,
    people: Annotated[int, typer.Option(help="How many people: the bundle's P.", min=1)] = 3,
    steps: Annotated[int | None, typer.Option(help="K (default: 2).", min=1)] = None,
    budget_ms: Annotated[float | None, typer.Option(help="Or a budget for each frame: this machine is measured first.", min=0.1)] = None,
    samples: Annotated[int, typer.Option(help="N.", min=1)] = 5,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime (default: all cores).", min=1)] = None,
    back_pressure: Annotated[str, typer.Option(help="'latest' or 'queue(n)'.")] = "latest",
    folder: Annotated[Path, typer.Option("--out", help="Folder for the result.")] = Path("benchmarks/results"),
) -> None:
    """Run a stream in real time and record memory, latency, drops and order."""
    if steps is not None and budget_ms is not None:
        raise typer.BadParameter("expected --steps or --budget-ms, got both")
    walk: dict[str, Any] = {"budget_ms": budget_ms, "crowd": "nearest"} if budget_ms is not None else {"steps": steps or 2}
    path = folder / f"stream_soak_{pair}{'' if budget_ms is None else f'_{budget_ms:g}ms'}.json"
    # Before the work, not after it: a place that cannot be written to.
    check_file_place(path)
    with tempfile.TemporaryDirectory() as temporary:
        # In a process of its own: what is measured here has no PyTorch in it.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
            apart.submit(export_to, Path(temporary) / pair, pair, people, samples).result()
        with PoseRuntime.load(load_bundle(Path(temporary) / pair), threads=threads) as runtime:
            if budget_ms is not None:
                runtime.measure(save=False)
            with PoseStream(runtime, seed=0, **walk) as warm_up:
                for i in range(10):
                    warm_up.process(Camera(people, fps).frame(i)[0], i)
            stream = PoseStream(runtime, seed=0, back_pressure=back_pressure, **walk)
            with stream:
                measured = soak(stream, Camera(people, fps), MINUTE * minutes)
            described = runtime.describe()
            timings = runtime.timings if budget_ms is not None else None
    report = {
        "what": "a stream in real time: milliseconds from a frame's push to its bodies, and the process's memory, row by row",
        "pair": pair,
        "people": people,
        "fps": fps,
        "N": samples,
        "K": None if budget_ms is not None else steps or 2,
        "budget_ms": budget_ms,
        "measured_p99_ms": None if timings is None else {K: timings.p99_ms(K) for K in sorted(timings.frame)},
        "back_pressure": back_pressure,
        "runtime": described,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": processor(),
        "governor": governor(),
        "platform": platform.platform(),
        "versions": versions(("onnxruntime", "numpy", "scipy")),
        **measured,
    }
    with atomic_file(path) as temporary_path:
        temporary_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print_rows(report)
    counters = report["counters"]
    out.print(
        f"{counters['frames']} frames, {counters['computed']} computed, {counters['dropped']} dropped; "
        f"{counters['entered']} people entered; steps walked {report['frames_of_steps']}, {report['truncated']} cut short"
    )


if __name__ == "__main__":
    run_script(main)
