"""Runtimes in several processes, in several threads, and let go in any order."""

from __future__ import annotations

import copy
import gc
import itertools
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffpose_edge.errors import RuntimeClosed, WrongProcess
from diffpose_edge.runtime import PoseRuntime, PoseStream

ROOT = Path(__file__).parents[2]
PEOPLE = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 17, 2)).astype(np.float32)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def program(*arguments: object) -> Any:
    line = [sys.executable, "-m", "tests.runtime.in_processes", *map(str, arguments)]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@needs_fork
def test_a_forked_child_is_told_instead_of_waiting_for_ever_and_may_load_its_own(conditioned_bundle: Path) -> None:
    told = program("forked", conditioned_bundle)
    child = told["child"]
    assert child["status"] == 0
    for name, said in child["said"].items():
        assert said.startswith("WrongProcess: this "), (name, said)
        assert "PoseRuntime.load" in said or "loaded there" in said
    assert child["closed"] == ["nothing"] * 4
    assert child["digest"] == told["expected"] == told["after"]
    assert told["child_that_lets_go"] == {"status": 0, "let_go": True}


@needs_fork
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_each_process_of_a_pool_loads_its_own(conditioned_bundle: Path, method: str) -> None:
    told = program("pooled", conditioned_bundle, method)
    assert told["found"] == [told["expected"]]
    for said in (told["sent"], *told["pickled"]):
        assert said.startswith("WrongProcess: a ")
        assert "cannot be copied or sent to another process" in said


def test_a_runtime_and_its_streams_are_not_copied(causal_bundle: Path) -> None:
    with PoseRuntime.load(causal_bundle, threads=1) as runtime, PoseStream(runtime) as stream, runtime.stream() as frames:
        for each in (runtime, stream, frames):
            for way in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(WrongProcess):
                    way(each)


# --- threads ---


def together(count: int, work: Callable[[int], object]) -> list[object]:
    """Run ``work`` in so many threads at once; return what each came to, or its error."""
    found: list[object] = [None] * count
    start = threading.Barrier(count)

    def run(i: int) -> None:
        start.wait(60)
        try:
            found[i] = work(i)
        except BaseException as err:
            found[i] = err

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    return found


def test_threads_that_share_a_runtime_and_those_with_their_own_get_the_same_bits(conditioned_bundle: Path) -> None:
    with PoseRuntime.load(conditioned_bundle, threads=2) as shared:
        expected = [shared.estimate(PEOPLE, seed=seed, steps=1 + seed % 3).joints.tobytes() for seed in range(6)]

        def work(i: int) -> list[bytes]:
            runtime = shared if i < 4 else PoseRuntime.load(conditioned_bundle, threads=1 + i % 2)
            seeds = np.roll(np.arange(6), i).tolist()
            found = {seed: runtime.estimate(PEOPLE, seed=seed, steps=1 + seed % 3).joints.tobytes() for seed in seeds}
            if runtime is not shared:
                runtime.close()
            return [found[seed] for seed in range(6)]

        assert together(7, work) == [expected] * 7


@pytest.mark.parametrize("kind", ["estimate", "process"])
def test_closing_in_the_middle_of_anothers_work_ends_it_after_a_whole_pose(conditioned_bundle: Path, kind: str) -> None:
    for _ in range(3):
        runtime = PoseRuntime.load(conditioned_bundle, threads=2)
        stream = PoseStream(runtime, seed=0)
        expected = runtime.estimate(PEOPLE, seed=1).joints.tobytes()
        begun = threading.Event()

        def work(
            i: int, runtime: PoseRuntime = runtime, stream: PoseStream = stream, expected: bytes = expected, begun: threading.Event = begun
        ) -> str:
            if i == 0:
                assert begun.wait(60)
                for resource in (stream, runtime):
                    resource.close()
                return "closed"
            stamp = 0
            while True:
                if kind == "estimate":
                    assert runtime.estimate(PEOPLE, seed=1).joints.tobytes() == expected
                else:
                    assert len(stream.process(PEOPLE, (stamp := stamp + 1))) == 2
                begun.set()

        found = together(2, work)
        assert found[0] == "closed"
        assert isinstance(found[1], RuntimeClosed)


# --- let go ---


def test_they_may_be_let_go_in_any_order(causal_bundle: Path) -> None:
    before = threading.active_count()
    names = ("runtime", "frames", "stream", "future", "clip")
    for order in itertools.islice(itertools.permutations(names), 0, None, 11):
        runtime = PoseRuntime.load(causal_bundle, threads=2)
        held: dict[str, Any] = {"runtime": runtime, "frames": runtime.stream(2), "stream": PoseStream(runtime, seed=0)}
        held["stream"].push(PEOPLE, 0)
        held["future"] = runtime.estimate_async(PEOPLE)
        held["frames"].push(PEOPLE)
        runtime = held["runtime"]
        held["cycle"] = held  # only the collector finds it
        del runtime
        for name in order:
            held.pop(name, None)
            gc.collect()
        del held
        gc.collect()
        assert threading.active_count() <= before, order


LIVE = """
import sys
import numpy as np
from diffpose_edge.runtime import PoseRuntime, PoseStream
people = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 17, 2)).astype(np.float32)
runtime = PoseRuntime.load(sys.argv[1], threads=2)
stream, waiting, frames = PoseStream(runtime, seed=0), PoseStream(runtime, back_pressure="queue(9)"), runtime.stream(2)
stream.push(people, 0); stream.get(60); frames.push(people)
for stamp in range(9): waiting.push(people, stamp)
futures = [runtime.estimate_async(people) for _ in range(5)]
class Cycle: pass
one = Cycle(); one.other = Cycle(); one.other.one = one; one.held = [runtime, stream, frames, futures]
{end}
"""


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("", 0, ""),
        pytest.param("del runtime, stream, waiting, frames, futures, one", 0, "", marks=pytest.mark.slow),
        pytest.param("sys.exit(3)", 3, "", marks=pytest.mark.slow),
        ("raise ArithmeticError('of the robot')", 1, "ArithmeticError: of the robot"),
    ],
    ids=["nothing", "del", "exit", "exception"],
)
def test_a_program_may_end_with_everything_open(causal_bundle: Path, end: str, status: int, said: str) -> None:
    line = [sys.executable, "-c", LIVE.format(end=end), str(causal_bundle)]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1:] == ([said] if said else [])
    assert result.stderr.count("Traceback") == bool(said)


def test_a_future_outlives_its_runtime(conditioned_bundle: Path) -> None:
    with PoseRuntime.load(conditioned_bundle, threads=1) as runtime:
        expected = runtime.estimate(PEOPLE, seed=1).joints.tobytes()
        futures = [runtime.estimate_async(PEOPLE, seed=1) for _ in range(3)]
    assert [future.result(0).joints.tobytes() for future in futures] == [expected] * 3


# --- ONNX Runtime's own thread ---

FORKING = """
import os, sys
import numpy as np
from diffpose_edge.runtime import PoseRuntime
runtime = PoseRuntime.load(sys.argv[1], threads=2)
runtime.estimate(np.full((1, 17, 2), 0.1))
open_files = [os.readlink(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{each}")]
pid = os.fork()
if pid == 0:
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), [each for each in open_files if "onnxruntime" in each])
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system has no /proc/self/fd")
def test_onnxruntime_tells_nobody_of_us_and_lets_a_forked_child_end(conditioned_bundle: Path, tmp_path: Path) -> None:
    """Without what ``diffpose_edge`` sets, 1.31.1 opens a database of events at HOME, and the child hangs or aborts at its end."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_")) and name != "CI"}
    line = [sys.executable, "-c", FORKING, str(conditioned_bundle)]
    result = subprocess.run(line, cwd=ROOT, env=kept | {"HOME": str(tmp_path)}, capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout == "7 []\n", result.stderr
    assert list(tmp_path.rglob("*")) == []
