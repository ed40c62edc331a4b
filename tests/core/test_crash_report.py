"""Crash reports: what a maintainer needs is in them, and nothing private."""

from __future__ import annotations

import getpass
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diffpose_edge
from diffpose_edge import crash_report, hard_faults
from diffpose_edge.crash_report import CrashReports, crash_folder
from diffpose_edge.errors import KeypointError
from diffpose_edge.readings import Reading, register
from diffpose_edge.runtime.stream_worker import StreamWorker

SECRET = "xyzzy-of-alice"
CHECKOUT = Path(diffpose_edge.__file__).resolve().parent.parent


@pytest.fixture
def reports(tmp_path: Path) -> Iterator[CrashReports]:
    with CrashReports(tmp_path / "reports") as opened:
        yield opened


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("crash-*.json"))]


def raised(err: Exception) -> Exception:
    try:
        raise err
    except Exception as caught:
        return caught


def test_a_report_holds_what_a_maintainer_needs(reports: CrashReports) -> None:
    class Counted:
        about = {"bundle": "0123456789abcdef", "P": 2}  # noqa: RUF012

        def readings(self) -> list[Reading]:
            return [Reading("diffpose_estimates_total", 41), Reading("diffpose_errors_total", 1, {"kind": "fault"})]

    counted = Counted()
    register(counted)
    log = logging.getLogger("diffpose_edge.test")
    log.warning("%d frames were late in %s", 3, "/home/alice", extra={"event": "late", "count": 3, "where_to": SECRET})
    try:
        diffpose_edge.runtime.start.fill_missing(np.zeros((1, 17, 2)), np.zeros(3))
    except Exception as err:
        path = reports.write(err, "a test")
    report = json.loads(path.read_text(encoding="utf-8"))
    assert (report["format"], report["format_version"], report["where"]) == ("diffpose-edge crash report", 1, "a test")
    [error] = report["error"]
    assert error["type"] in ("IndexError", "ValueError")
    assert error["frames"][0]["module"] == "<program>"
    assert set(error["frames"][0]) == {"module", "line"}
    assert error["frames"][-1]["module"] == "diffpose_edge.runtime.start"
    assert error["frames"][-1]["function"] == "fill_missing"
    assert report["versions"]["diffpose_edge"] == diffpose_edge.__version__
    assert report["versions"]["numpy"] == np.__version__
    assert report["machine"]["cores"] == os.cpu_count()
    assert report["uptime_s"] >= 0
    mine = {"about": Counted.about, "readings": {"diffpose_estimates_total": 41, "diffpose_errors_total, fault": 1}}
    assert mine in report["counted"]
    event = report["events"][-1]
    assert (event["event"], event["fields"], event["message"]) == ("late", {"count": 3}, "%d frames were late in %s")
    assert path.stat().st_size < 64 * 1024


def test_nothing_private_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret in each place that a report could take something from."""
    folder = tmp_path / SECRET / "reports"
    monkeypatch.setenv("HOME", str(tmp_path / SECRET))
    monkeypatch.setenv("DIFFPOSE_TOKEN", SECRET)
    monkeypatch.setattr("sys.argv", ["diffpose-edge", "run", f"/home/{SECRET}/bundle"])
    monkeypatch.setattr("platform.node", lambda: SECRET)
    monkeypatch.setattr("platform.release", lambda: f"5.15.0-{SECRET}")

    class SecretError(ValueError):
        pass

    SecretError.__name__ = SecretError.__qualname__ = "XyzzyOfAlice"
    program = tmp_path / f"{SECRET}.py"
    program.write_text(
        "def xyzzy_of_alice(keypoints, runtime):\n    password = 'xyzzy-of-alice'\n    return runtime.fill_missing(keypoints, password)\n",
        encoding="utf-8",
    )
    names: dict[str, Any] = {"__name__": SECRET}
    exec(compile(program.read_text(encoding="utf-8"), str(program), "exec"), names)
    keypoints = np.full((1, 17, 2), 0.123456)

    def all_of_it() -> None:
        try:
            try:
                names["xyzzy_of_alice"](keypoints, diffpose_edge.runtime.start)
            except Exception as err:
                raise SecretError(f"{SECRET} in /home/{SECRET}/{getpass.getuser()}: {keypoints.tolist()}") from err
        except SecretError:
            raise FileNotFoundError(2, f"No such file {SECRET}", str(program))  # noqa: B904

    log = logging.getLogger("diffpose_edge.test")
    with CrashReports(folder) as reports:
        log.warning("a message was refused: %s", SECRET, extra={"event": SECRET, SECRET: 3, "token": SECRET})
        log.warning(SECRET)
        try:
            all_of_it()
        except Exception as err:
            path = reports.write(err, "a test")
    text = path.read_text(encoding="utf-8").lower()
    assert [error["type"] for error in json.loads(text)["error"]][:2] == ["filenotfounderror", "valueerror"]
    # The user's name may be "root", and the machine's "localhost": words of programs.
    known_words = {"root", "localhost"}
    for private in (SECRET, "xyzzy", "alice", "0.1234", str(tmp_path).lower(), str(CHECKOUT).lower(), "/home", "/tmp"):
        assert private not in text, private
    for private in {getpass.getuser().lower(), socket.gethostname().lower()} - known_words:
        assert private not in text, private


def test_it_is_for_its_owner_alone_and_few_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    for _ in range(6):
        with CrashReports(folder) as reports:
            for i in range(5):
                reports.write(raised(ValueError(str(i))), "a test")
    files = list(folder.iterdir())
    # Three of each process, ten in all.
    assert len(files) == crash_report.KEPT_FILES
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.suffix for path in files} == {".json"}


def test_a_fault_is_reported_once_and_a_mistake_never(reports: CrashReports) -> None:
    err = raised(ValueError("bad"))
    assert reports.write(err, "a test") is not None
    assert reports.write(err, "a test") is None
    assert reports.write(raised(KeypointError("the user's")), "a test") is None
    assert reports.write(KeyboardInterrupt(), "a test") is None
    reports.close()
    reports.close()
    assert len(written(reports.folder)) == 1


def test_where_it_cannot_be_written_the_program_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    with CrashReports(tmp_path / "file") as reports:
        assert reports.write(raised(ValueError("bad")), "a test") is None
    assert "no crash report could be written (FileExistsError)" in caplog.text


def test_the_streams_thread_reports_what_ends_it(reports: CrashReports, caplog: pytest.LogCaptureFixture) -> None:
    def work(frame: int) -> list[int]:
        raise ZeroDivisionError("division by zero")

    worker = StreamWorker[int, int](work, list, lambda frames: None, 1, None)
    worker.put(1)
    with pytest.raises(ZeroDivisionError) as caught:
        worker.get(30)
    worker.close()
    assert reports.write(caught.value, "again, where it is raised once more") is None
    [report] = written(reports.folder)
    assert (report["where"], report["error"][0]["message"]) == ("stream", "division by zero")
    assert {"module": "diffpose_edge.runtime.stream_worker", "function": "_run"}.items() <= report["error"][0]["frames"][0].items()
    assert "nothing was sent" in caplog.text


def test_without_reports_a_fault_is_nobodys_business(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    worker = StreamWorker[int, int](lambda frame: [1 // 0], list, lambda frames: None, 1, None)
    worker.put(1)
    with pytest.raises(ZeroDivisionError):
        worker.get(30)
    worker.close()
    assert list(tmp_path.iterdir()) == []


def test_threads_that_fail_at_once_each_write_a_whole_report(reports: CrashReports) -> None:
    threads = [threading.Thread(target=reports.write, args=(raised(ValueError(str(i))), "a test")) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written(reports.folder)) == crash_report.MOST_REPORTS


def test_where_reports_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DIFFPOSE_CRASH_REPORTS", "off")
    assert crash_folder() is None
    monkeypatch.setenv("DIFFPOSE_CRASH_REPORTS", str(tmp_path))
    assert crash_folder() == tmp_path
    monkeypatch.delenv("DIFFPOSE_CRASH_REPORTS")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert crash_folder() == tmp_path / "diffpose-edge" / "crashes"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert crash_folder() == tmp_path / ".local" / "state" / "diffpose-edge" / "crashes"
    with CrashReports(None) as nothing:
        assert nothing.write(raised(ValueError("bad")), "a test") is None


# A child that dies as no exception tells of, in a function whose name is the user's own, beside a thread that waits.
FAULT = """
import faulthandler, os, sys, threading
from pathlib import Path
from diffpose_edge.crash_report import CrashReports
reports = CrashReports(Path(sys.argv[1]))
threading.Thread(target=threading.Event().wait, daemon=True).start()
def xyzzy_of_alice():
    faulthandler._sigsegv()
if sys.argv[2] == "fault":
    xyzzy_of_alice()
if sys.argv[2] == "kill":
    os.kill(os.getpid(), 9)
reports.close()
print(os.listdir(sys.argv[1]))
"""


def child(folder: Path, program: Path, how: str) -> subprocess.CompletedProcess[str]:
    program.parent.mkdir(exist_ok=True)
    program.write_text(FAULT, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONFAULTHANDLER"} | {"PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, str(program), str(folder), how]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.skipif(hard_faults.fcntl is None, reason="no file locks here")
def test_the_next_start_reports_a_segmentation_fault(tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    program = tmp_path / "alice" / "xyzzy.py"
    assert child(folder, program, "end").stdout == "[]\n"
    assert child(folder, program, "kill").returncode == -signal.SIGKILL
    assert child(folder, program, "fault").returncode == -signal.SIGSEGV
    raw = next(path for path in folder.iterdir() if path.stat().st_size)
    assert stat.S_IMODE(raw.stat().st_mode) == 0o600
    assert str(program) in raw.read_text(encoding="utf-8")  # which is why it is no report

    last = child(folder, program, "end")
    assert "an earlier run ended in a hard fault" in last.stderr
    [path] = folder.iterdir()  # what was left is gone, what was killed left nothing
    report = json.loads(path.read_text(encoding="utf-8"))
    [error] = report["error"]
    assert (error["type"], error["message"]) == ("hard fault", "Fatal Python error: Segmentation fault")
    assert [frame["module"] for frame in error["frames"]] == ["<program>", "<program>"]
    assert error["frames"][-1]["line"] == FAULT.splitlines().index("    faulthandler._sigsegv()") + 1
    assert not {"alice", "xyzzy", str(tmp_path)} & set(path.read_text(encoding="utf-8"))
    assert "alice" not in path.read_text(encoding="utf-8")


def test_what_lives_is_not_taken_for_what_was_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faulthandler.is_enabled", lambda: False)
    monkeypatch.setattr("faulthandler.enable", lambda file: None)
    monkeypatch.setattr("faulthandler.disable", lambda: None)
    living = hard_faults.FaultFile.opened(tmp_path)
    (tmp_path / "fault-1-00.txt").write_text('Fatal Python error: Aborted\n\n  File "/x/y.py", line 3 in z\n', encoding="utf-8")
    assert [fault["message"] for fault in hard_faults.left_faults(tmp_path)] == ["Fatal Python error: Aborted"]
    assert len(list(tmp_path.iterdir())) == 1
    living.close()
    living.close()
    assert list(tmp_path.iterdir()) == []


def test_frames_of_ours_and_of_pythons_are_named() -> None:
    import json as standard

    ours = Path(diffpose_edge.runtime.start.__file__)
    text = (
        "Fatal Python error: Segmentation fault\n\nThread 0x1 (most recent call first):\n"
        f'  File "{CHECKOUT / "secret.py"}", line 1 in nothing\n\nCurrent thread 0x2 (most recent call first):\n'
        f'  File "{ours}", line 12 in fill_missing\n  File "{standard.__file__}", line 3 in load\n'
        f'  File "{CHECKOUT / "alice.py"}", line 5 in alice\n\nExtension modules: alice_ext (total: 1)\n'
    )
    assert hard_faults.fault_of(text)["frames"] == [
        {"module": "<program>", "line": 5},
        {"module": "json/__init__.py", "line": 3, "function": "load"},
        {"module": "diffpose_edge/runtime/start.py", "line": 12, "function": "fill_missing"},
    ]
