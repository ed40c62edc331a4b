"""SIGINT and SIGTERM, to real processes: services finish and exit with 0; other commands leave nothing and exit with 130 or 143."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from diffpose_edge.cli import main
from diffpose_edge.extras import is_installed

ROOT = Path(__file__).parents[2]
# A busy machine may take its time; what is asked is how they end, not how fast.
PATIENCE_S = 120
BOTH = pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=lambda number: number.name
)


@contextmanager
def started(*arguments: object, program: str = "diffpose_edge") -> Iterator[subprocess.Popen[str]]:
    """A command as a process of its own, that hears Ctrl-C even if this one is deaf to it."""
    hearing = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    line = [sys.executable, "-m", program, *map(str, arguments)]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hearing)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(there: Callable[[], object], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.002)


def ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in err
    return process.returncode, out, err


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            told = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(told[1]) == pid:
            found.append(int(stat.parent.name))
    return found


@BOTH
def test_a_run_that_is_stopped_leaves_what_was_there(golden_bundle: Path, tmp_path: Path, number: signal.Signals) -> None:
    clip, out = tmp_path / "clip.npz", tmp_path / "poses.npz"
    np.savez(clip, keypoints=np.random.default_rng(0).uniform(-0.5, 0.5, (100_000, 17, 2)))
    out.write_bytes(b"of yesterday")
    with started("run", golden_bundle, "--keypoints", clip, "--out", out, "--threads", 1) as process:
        # The result is begun when all that is asked for has been checked.
        wait_for(lambda: list(tmp_path.glob(".poses.npz.*")), process)
        status, _, err = ended(process, number)
    assert status == 128 + number
    assert f"stopped by {number.name}: nothing is left half-written" in err
    assert out.read_bytes() == b"of yesterday"
    assert {path.name for path in tmp_path.iterdir()} == {"clip.npz", "poses.npz"}


@pytest.mark.slow
def test_a_replay_that_is_stopped_leaves_no_bag(golden_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("rosbags", reason="rosbags is not installed: pip install '.[ros]'")
    from diffpose_edge.runtime.bridges.bags import BagWriter
    from diffpose_edge.runtime.bridges.plain_messages import POSE_ARRAY
    from tests.runtime.bridges.people import people_of
    from tests.runtime.bridges.test_bags import pose_array_of

    with BagWriter(tmp_path / "recorded") as bag:
        message = pose_array_of(bag.classes, people_of(0, 1), 1)
        for stamp in range(1, 20_000):
            bag.write("/people", POSE_ARRAY, stamp, message)
    with started("replay", tmp_path / "recorded", "--bundle", golden_bundle, "--out", tmp_path / "out", "--threads", 1) as process:
        wait_for(lambda: list(tmp_path.glob(".out.*")), process)
        status, _, _ = ended(process, signal.SIGTERM)
    assert status == 143
    assert [path.name for path in tmp_path.iterdir()] == ["recorded"]


def test_measuring_that_is_stopped_ends_its_processes(golden_bundle: Path, tmp_path: Path) -> None:
    with started("bench", "steps", golden_bundle, "--rounds", 1_000_000) as process:
        wait_for(lambda: len(children_of(process.pid)) >= 2, process)  # the measured one, and multiprocessing's own
        children = children_of(process.pid)
        status, _, _ = ended(process, signal.SIGTERM)
    assert status == 143
    until = time.monotonic() + PATIENCE_S
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < until, "a process was left"
        time.sleep(0.01)


@pytest.mark.slow
def test_training_that_is_terminated_says_how_it_goes_on(tmp_path: Path) -> None:
    with started("train", "tiny", "--out", tmp_path / "out", "--no-plot") as process:
        wait_for((tmp_path / "out" / "context.log.jsonl").exists, process)
        status, out, _ = ended(process, signal.SIGTERM)
    assert status == 143
    assert "the same command goes on after the last whole epoch" in out


@pytest.mark.slow
def test_a_soak_that_is_stopped_tells_what_was_done(tmp_path: Path) -> None:
    with started("estimates", "--count", 20_000, "--out", tmp_path, program="diffpose_edge.benchmarks.estimate_soak") as process:
        wait_for((tmp_path / "estimate_soak.json").exists, process)
        status, out, _ = ended(process, signal.SIGTERM)
    assert (status, "equal inputs gave equal bits" in out) == (0, True)
    told = json.loads((tmp_path / "estimate_soak.json").read_text())
    assert told["stopped_early"]
    assert 0 < told["made"] < 20_000


@BOTH
def test_a_service_drains_and_exits_with_0(golden_bundle: Path, number: signal.Signals) -> None:
    if not is_installed("cyclonedds"):
        pytest.skip("cyclonedds has wheels for x86-64 and Python 3.10 to 3.13 only: pip install '.[dds]'")
    with started("serve-dds", golden_bundle, "--loopback", "--domain", 117, "--threads", 1) as process:
        assert process.stdout is not None
        assert "serving in DDS domain 117" in process.stdout.readline()
        status, out, err = ended(process, number)
    assert status == 0, err
    assert "served 0 messages" in out


# --- which signals are heard, and when ---


def asleep(program: str, ignored: tuple[signal.Signals, ...] = ()) -> subprocess.Popen[str]:
    def deaf() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    head = "import signal, sys, time\nfrom diffpose_edge.cli.interruption import stopping_cleanly\n"
    line = [sys.executable, "-c", head + program]
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=deaf)


TAKING_BACK = """
with stopping_cleanly():
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("taking back", flush=True)
        time.sleep({seconds})
        print("taken back", flush=True)
"""


def test_a_signal_that_is_sent_twice_at_once_counts_once() -> None:
    with asleep(TAKING_BACK.format(seconds=0.3)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "taking back\n"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (143, "taken back\n"), err


def test_whoever_asks_again_later_does_not_wait() -> None:
    with asleep(TAKING_BACK.format(seconds=60)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "taking back\n"
        time.sleep(1.1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT


def test_a_signal_that_was_ignored_from_the_start_stays_ignored() -> None:
    program = "with stopping_cleanly():\n    print('begun', flush=True)\n    sys.stdin.readline()\n"
    with asleep(
        "sys.stdin = open('/dev/null')\n" + program.replace("sys.stdin.readline()", "time.sleep(0.3)"), (signal.SIGINT,)
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


def test_handlers_are_put_back(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(sys, "argv", ["diffpose-edge", "--version"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
