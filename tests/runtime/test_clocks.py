"""The system's clock may jump, back and forth and by years: nothing that the runtime does asks it, but for the date of a measurement."""

from __future__ import annotations

import ast
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.runtime import PoseRuntime, PoseStream
from diffpose_edge.timings import MachineTimings, Spread

ROOT = Path(__file__).parents[2]
WALL = {
    "time": {"time", "time_ns", "ctime", "localtime", "gmtime", "strftime", "CLOCK_REALTIME", "CLOCK_TAI"},
    "datetime": {"now", "utcnow", "today", "fromtimestamp"},
    "date": {"today", "fromtimestamp"},
}
# Where the date is what is meant: a stamp that people read, which nothing is reckoned from.
MEANT = {("runtime/measuring.py", "datetime.now")}
FOLDERS = ("runtime",)


def wall_clocks_in(source: str) -> set[str]:
    """Every use of a clock that the system's administrator, or NTP, can turn."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if node.attr in WALL.get(name, ()):
                found.add(f"{name}.{node.attr}")
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            found |= {f"time.{alias.name}" for alias in node.names if alias.name in WALL["time"]}
    return found


def test_the_runtime_asks_monotonic_clocks_alone() -> None:
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 50
    found = {(str(path.relative_to(ROOT)), use) for path in files for use in wall_clocks_in(path.read_text(encoding="utf-8"))}
    assert found == MEANT


@pytest.mark.parametrize(
    "source",
    [
        "import time\nend = time.time() + 1",
        "from time import time_ns",
        "from datetime import datetime\nlate = datetime.now() > end",
        "import datetime\ndatetime.datetime.utcnow()",
        "import time\ntime.clock_gettime(time.CLOCK_REALTIME)",
    ],
)
def test_another_clock_would_be_found(source: str) -> None:
    assert wall_clocks_in(source)
    assert not wall_clocks_in("import time\nfrom time import monotonic, perf_counter_ns, sleep\ntime.perf_counter()")


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Python's wall clocks, that jump years back and forth whenever they are asked; yields what they said."""
    years, asked = itertools.cycle([0.0, 9.0, -20.0, 0.0, -1e-3]), []
    real = time.time

    def now() -> float:
        asked.append(real() + next(years) * 365 * 86400)
        return asked[-1]

    monkeypatch.setattr(time, "time", now)
    monkeypatch.setattr(time, "time_ns", lambda: round(now() * 1e9))
    yield asked
    assert time.time() != time.time(), "the clock of this test does not jump"


def seen(runtime: PoseRuntime) -> tuple[object, ...]:
    """Estimates, with a budget, and a stream with a thread: poses, steps, drops."""
    people = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 17, 2)).astype(np.float32)
    budget = runtime.estimate(people, seed=3, budget_ms=60_000)
    later = runtime.estimate_async(people, seed=4, budget_ms=60_000).result()
    with PoseStream(runtime, seed=0, steps=1, back_pressure="queue(50)") as stream:
        taken = []
        for f in range(20):
            stream.push(people, 33_333_333 * f)
            taken += stream.get(timeout=60) or []
        with pytest.raises(TimeoutError):
            stream.get(timeout=0.02)
        counters = stream.counters
    joints = [estimate.joints.tobytes() for estimate in (budget, later)] + [body.joints.tobytes() for body in taken]
    return joints, len(budget.timings.steps), budget.truncated, later.truncated, counters, [body.stamp_ns for body in taken]


def test_a_clock_that_jumps_changes_no_pose_no_budget_and_no_drop(
    conditioned_bundle: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        quick = Spread(0.5, 1.0)
        key = runtime._budgets.key
        runtime._budgets.keep(MachineTimings(key, {1: quick, 3: quick}, {1: quick, 3: quick}, quick, quick, quick, {}))
        expected = seen(runtime)
        asked = request.getfixturevalue("jumping")
        assert seen(runtime) == expected
        assert asked == [], "somebody asked what time it is"
