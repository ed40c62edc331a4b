"""A million estimates, and what they leave behind: memory, files, threads, objects, and whether equal inputs still give equal bits.

Run: ``python -m diffpose_edge.benchmarks.estimate_soak PART``. The parts: ``estimates``, with ever other people, seeds, modes and
schedules, more schedules than the backend keeps, and mistakes in between; ``stream``, frames of people who come and go; ``loads``, runtimes
loaded and closed. Each writes a file of its own, a hundred times on its way and when it is stopped (Ctrl-C, SIGTERM).

An untrained pair, small so that a million calls take half an hour of a core: what is looked for does not depend on the weights. Memory and
the like are taken a hundred times, and a line is put through them, without the first tenth, in which buffers and caches come to their size.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import platform
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timezone
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter_ns
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from diffpose_edge.atomic import atomic_file, check_file_place
from diffpose_edge.benchmarks.machine import governor, processor, versions
from diffpose_edge.cli.script import run_script
from diffpose_edge.cli.terminal import counting, out
from diffpose_edge.errors import DiffPoseEdgeError, KeypointError, TimestepError
from diffpose_edge.runtime import PoseEstimate, PoseRuntime, PoseStream

ROWS = 100
WARM_UP_ROWS = 10
ROWS_PER_PROBE = 10
BURST = 200
P, N = 2, 1
HIDDEN, LAYERS, HEADS = 8, 1, 4
# How much of each, unless it is said: estimates, frames, loads.
COUNTS = {"estimates": 1_000_000, "stream": 100_000, "loads": 1_000}
VITALS = ("rss", "files", "threads", "objects")
# A call of ``estimate``: its arguments.
Request = dict[str, Any]


def vitals() -> tuple[int, int, int, int]:
    """Return what this process holds now (Linux): bytes in RAM, open files, threads of the system's, objects of Python's collector."""
    gc.collect()
    rss = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return rss, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), len(gc.get_objects())


class Record:
    """What a part finds on its way; ``tell`` is called with all of it at every row."""

    def __init__(self, count: int, tell: Callable[[Record], None]):
        self.count, self.per_row, self.tell = count, max(1, count // ROWS), tell
        self.made = 0
        self.rows = np.zeros((-(-count // self.per_row), len(VITALS)))
        self.us = np.zeros((len(self.rows), 3))
        self.filled = 0
        self.digests: list[str] = []
        self.found: dict[str, Any] = {}

    def row(self, spent_ns: NDArray[np.int64]) -> None:
        """Note so many calls, and what the process holds after them."""
        self.made += len(spent_ns)
        self.us[self.filled] = np.percentile(spent_ns, (50, 99, 100)) / 1000
        self.rows[self.filled] = vitals()
        self.filled += 1
        self.tell(self)

    @property
    def probe_due(self) -> bool:
        """Whether a tenth is over."""
        return self.filled % ROWS_PER_PROBE == 0

    def slopes(self) -> dict[str, float | None]:
        """Return how much grows in a thousand calls: a line through the rows after the warm-up; None of fewer than three rows."""
        settled = self.rows[min(WARM_UP_ROWS, self.filled // 10) : self.filled]
        if len(settled) < 3:
            return dict.fromkeys(VITALS)
        thousands = np.arange(len(settled)) * self.per_row / 1000
        return {name: round(float(np.polyfit(thousands, settled[:, i], 1)[0]), 3) for i, name in enumerate(VITALS)}

    def report(self) -> dict[str, Any]:
        """Return what was found so far."""
        return {
            "asked_for": self.count,
            "made": self.made,
            **self.found,
            "digests": self.digests,
            "bit_equal": len(set(self.digests)) == 1,
            "grows_per_1000": self.slopes(),
            "us_p50_p99_max": self.us[: self.filled].round(1).tolist(),
            "rows": {name: self.rows[: self.filled, i].astype(int).tolist() for i, name in enumerate(VITALS)},
        }


def schedules(T: int) -> list[Request]:
    """Return a dozen ways to walk, more than a backend keeps prepared, mostly of one step."""
    ones: list[Request] = [{"timesteps": (t,)} for t in range(1, T, T // 11)]
    return [*ones, {"steps": 1}, {}, {"steps": 3}, {"timesteps": (12, 6, 0), "sampler": "ab2"}]


def requests(T: int, rng: np.random.Generator) -> list[Request]:
    """Return a cycle of different calls: of fewer people than P, of P and of more, modes, seeds, schedules. Its length is prime."""
    ways, made = schedules(T), []
    for i in range(211):
        B = 2 * P + 1 if i % 29 == 0 else P + 1 if i % 19 == 0 else (1, P)[i // 2 % 2]
        keypoints = rng.uniform(-0.6, 0.6, (B, 17, 2)).astype(np.float32)
        asked: Request = {
            "keypoints": keypoints,
            "confidence": None,
            "seed": i,
            "mode": ("released", "noised")[i % 2],
            **ways[i % len(ways)],
        }
        if i % 3 == 0:
            asked["confidence"] = (rng.uniform(size=(B, 17)) > 0.3 + 0.1 * (i % 5)).astype(np.float32)
        if i % 11 == 0:
            asked |= {"keypoints": keypoints[0], "confidence": None}
        made.append(asked)
    return made


def mistakes(T: int) -> list[tuple[Request, type[DiffPoseEdgeError]]]:
    """Return calls that are refused, and how."""
    good = np.zeros((1, 17, 2), np.float32)
    return [
        ({"keypoints": np.zeros((1, 16, 2))}, KeypointError),
        ({"keypoints": np.full((1, 17, 2), np.nan)}, KeypointError),
        ({"keypoints": [["a"]]}, KeypointError),
        ({"keypoints": None}, KeypointError),
        ({"keypoints": good, "timesteps": (0, 5)}, TimestepError),
        ({"keypoints": good, "timesteps": (T,)}, TimestepError),
        ({"keypoints": good, "mode": "distribution"}, DiffPoseEdgeError),
        ({"keypoints": good, "sampler": "euler"}, DiffPoseEdgeError),
        ({"keypoints": good, "seed": -1}, DiffPoseEdgeError),
    ]


def digest_of(estimates: list[PoseEstimate]) -> str:
    """Return the SHA-256 of all that is a result, bit for bit."""
    digest = hashlib.sha256()
    for estimate in estimates:
        for values in (estimate.joints, estimate.samples, estimate.covariance, estimate.context, estimate.observed, estimate.trajectory):
            digest.update(b"" if values is None else np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


class Stop:
    """Whether somebody asked to stop: SIGINT and SIGTERM do, until the ``with`` ends."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        def ask(*_: object) -> None:
            self.asked = True

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def soak_estimates(runtime: PoseRuntime, record: Record, idle_s: float, stop: Stop) -> None:
    """Make estimates; pause in the middle. Every 53rd is asked for in the background, every 199th is traced, and before every 23rd
    something is refused.
    """
    T = runtime.bundle.manifest.T
    cycle, refused = requests(T, np.random.default_rng(0)), mistakes(T)
    probes = [*cycle[::17], {**cycle[1], "trace": True}]
    spent = np.zeros(record.per_row, np.int64)
    counts = record.found = {"refused": 0, "in_the_background": 0, "traced": 0, "schedules": len(schedules(T)), "probes": len(probes)}

    def probe() -> None:
        record.digests.append(digest_of([runtime.estimate(**asked) for asked in probes]))

    probe()
    for first in range(0, record.count, record.per_row):
        made = 0
        for i in range(first, min(first + record.per_row, record.count)):
            asked = cycle[i % len(cycle)]
            if i % 23 == 0:
                expect_refusal(runtime, *refused[counts["refused"] % len(refused)])
                counts["refused"] += 1
            before = perf_counter_ns()
            if i % 53 == 0:
                runtime.estimate_async(**asked).result()
                counts["in_the_background"] += 1
            else:
                runtime.estimate(**asked, trace=i % 199 == 0)
                counts["traced"] += i % 199 == 0
            spent[made] = perf_counter_ns() - before
            made += 1
            if stop.asked:
                break
        record.row(spent[:made])
        if stop.asked:
            break
        if record.probe_due:
            probe()
        if record.made >= record.count // 2 and "after_idle" not in record.found:
            record.found["after_idle"] = burst_after(runtime, cycle[1], idle_s)
    probe()


def expect_refusal(runtime: PoseRuntime, bad: Request, error: type[DiffPoseEdgeError]) -> None:
    """Make a call that has to be refused with ``error``. Raises RuntimeError where it is not."""
    try:
        runtime.estimate(**bad)
    except error:
        return
    raise RuntimeError(f"expected {error.__name__} of {bad}, got an estimate")


def burst_after(runtime: PoseRuntime, asked: Request, idle_s: float) -> dict[str, float]:
    """Do nothing for a while, then ask without a pause: microseconds of the same call, before, first, and after."""

    def took() -> float:
        began = perf_counter_ns()
        runtime.estimate(**asked)
        return (perf_counter_ns() - began) / 1000

    before = [took() for _ in range(BURST)]
    time.sleep(idle_s)
    after = [took() for _ in range(BURST)]
    return {"idle_s": idle_s, "before_p50_us": float(np.median(before)), "first_us": after[0], "burst_p50_us": float(np.median(after[1:]))}


def soak_stream(runtime: PoseRuntime, record: Record, stop: Stop) -> None:
    """Take frames of people who come and go: half in this thread, half through the stream's own."""
    rng, spent = np.random.default_rng(1), np.zeros(record.per_row, np.int64)
    sway = rng.uniform(-0.01, 0.01, (64, 4, 17, 2)).astype(np.float32)
    figure = rng.uniform(-0.2, 0.2, (17, 2)).astype(np.float32)
    record.found = {"bodies": 0, "entered": 0, "left": 0}

    def shown(f: int) -> NDArray[np.float32]:
        """Return the people of a frame; each has a place of their own, and every hundred frames some come or go."""
        people = (1, 2, 0, 3, 1, 4)[f // 100 % 6]
        places = np.arange(people, dtype=np.float32)[:, None, None]
        return sway[f % 64, :people] + figure + np.float32(0.5) * places - np.float32(0.75)

    def half(threaded: bool, first: int, last: int) -> None:
        made = 0
        with PoseStream(runtime, seed=0, steps=1) as stream:
            for f in range(first, last):
                before = perf_counter_ns()
                if threaded:
                    stream.push(shown(f), 1_000_000 * f)
                    record.found["bodies"] += len(stream.get(60) or ())
                else:
                    record.found["bodies"] += len(stream.process(shown(f), 1_000_000 * f))
                spent[made] = perf_counter_ns() - before
                made += 1
                if made == record.per_row or f + 1 == last or stop.asked:
                    record.row(spent[:made])
                    made = 0
                if stop.asked:
                    break
        record.found["entered"] += stream.counters.entered
        record.found["left"] += stream.counters.left

    def probe() -> None:
        with PoseStream(runtime, seed=7, steps=1) as stream:
            found = [body for f in range(90, 330) for body in stream.process(shown(f), 1_000_000 * f)]
        parts = (values.tobytes() for body in found for values in (body.joints, body.covariance, np.array([body.body_id, body.stamp_ns])))
        record.digests.append(hashlib.sha256(b"".join(parts)).hexdigest())

    middle = record.per_row * (record.count // record.per_row // 2)
    probe()
    half(False, 0, middle)
    probe()
    half(True, middle, record.count)
    probe()


def soak_loads(bundle: Path, record: Record, stop: Stop) -> None:
    """Load a runtime, use it and close it, with one thread and with two in turn."""
    people = np.random.default_rng(2).uniform(-0.5, 0.5, (P, 17, 2)).astype(np.float32)
    spent = np.zeros(record.per_row, np.int64)
    for first in range(0, record.count, record.per_row):
        made = 0
        for i in range(first, min(first + record.per_row, record.count)):
            before = perf_counter_ns()
            with PoseRuntime.load(bundle, threads=1 + i % 2) as runtime:
                estimate = runtime.estimate_async(people, seed=0).result() if i % 3 == 0 else runtime.estimate(people, seed=0)
            spent[made] = perf_counter_ns() - before
            made += 1
            if (found := digest_of([estimate])) not in record.digests:
                record.digests.append(found)
            if stop.asked:
                break
        record.row(spent[:made])
        if stop.asked:
            break


def export_to(folder: Path) -> None:
    """Export the untrained pair into ``folder``."""
    from diffpose_edge.export import export_bundle
    from diffpose_edge.reference.random_weights import write_random_pair

    with tempfile.TemporaryDirectory() as pair:
        export_bundle(*write_random_pair(pair, 0, HIDDEN, LAYERS, HEADS), folder, persons=P, samples=N, heads=HEADS)


def main(
    part: Annotated[str, typer.Argument(help="estimates, stream or loads.")],
    count: Annotated[int | None, typer.Option(help="How many (default: 1,000,000 estimates, 100,000 frames, 1,000 loads).", min=2)] = None,
    idle_s: Annotated[float, typer.Option("--idle", help="Seconds of pause before the burst of estimates.", min=0.0)] = 60.0,
    threads: Annotated[int, typer.Option(help="Threads of the runtime.", min=1)] = 1,
    folder: Annotated[Path, typer.Option("--out", help="Folder for the result.")] = Path("benchmarks/results"),
) -> None:
    """Make a million estimates and record what they leave behind."""
    if part not in COUNTS:
        raise typer.BadParameter(f"expected a part out of {', '.join(COUNTS)}, got {part!r}")
    path = folder / ("estimate_soak.json" if part == "estimates" else f"estimate_soak_{part}.json")
    check_file_place(path)
    began = perf_counter_ns()
    with tempfile.TemporaryDirectory() as temporary, Stop().listening() as stop:
        bundle = Path(temporary) / "bundle"
        # In a process of its own: what is measured here has no PyTorch in it.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
            apart.submit(export_to, bundle).result()
        runtime = PoseRuntime.load(bundle, threads=threads)
        setting = {
            "what": f"{part}: what the process holds after them, and whether equal inputs give equal bits",
            "network": {"hidden": HIDDEN, "layers": LAYERS, "heads": HEADS, "weights": "random"},
            "P": P,
            "N": N,
            "runtime": runtime.describe(),
            "date": datetime.now(timezone.utc).date().isoformat(),
            "processor": processor(),
            "governor": governor(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "versions": versions(("onnxruntime", "numpy", "scipy")),
        }

        def tell(record: Record) -> None:
            seconds = round((perf_counter_ns() - began) / 1e9, 1)
            whole = setting | {"stopped_early": record.made < record.count, "seconds": seconds} | record.report()
            with atomic_file(path) as written:
                written.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
            done(record.made - shown[0])
            shown[0] = record.made

        shown = [0]
        with runtime, counting(part, count or COUNTS[part]) as done:
            record = Record(count or COUNTS[part], tell)
            if part == "estimates":
                soak_estimates(runtime, record, idle_s, stop)
            elif part == "stream":
                soak_stream(runtime, record, stop)
            else:
                soak_loads(bundle, record, stop)
            tell(record)
    equal = "equal" if len(set(record.digests)) == 1 else "OTHER"
    out.print(f"{part}: {record.made} of {record.count}; equal inputs gave {equal} bits; in a thousand grow: {record.slopes()}")


if __name__ == "__main__":
    run_script(main)
