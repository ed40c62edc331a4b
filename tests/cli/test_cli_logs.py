"""What the commands tell: as text, as JSON, as metrics, and of their own faults."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import diffpose_edge
from diffpose_edge.cli import main
from diffpose_edge.cli.app import app
from diffpose_edge.cli.public_command import public_command

Cli = Callable[..., SimpleNamespace]
Mistake = Callable[..., str]
CHECKOUT = Path(diffpose_edge.__file__).resolve().parent.parent


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    np.savez(tmp_path / "clip.npz", keypoints=np.random.default_rng(0).uniform(-0.5, 0.5, (4, 17, 2)).astype(np.float32))
    return tmp_path / "clip.npz"


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_records_are_lines_of_json_or_of_text(cli: Cli, golden_bundle: Path, clip: Path, tmp_path: Path) -> None:
    pytest.importorskip("pythonjsonlogger", reason="python-json-logger is not installed: pip install '.[logs]'")
    asked = ("run", golden_bundle, "--keypoints", clip, "--out", tmp_path / "out.npz", "--threads", 1, "--backend", "auto")
    told = lines(cli("--log-format", "json", *asked).err)
    assert [line["event"] for line in told] == ["fallback", "runtime_loaded"]
    assert told[1].items() >= {"level": "INFO", "precision": "fp32", "P": 2, "N": 3, "logger": "diffpose_edge.runtime.pose_runtime"}.items()
    assert told[1]["timestamp"].endswith("+00:00")
    text = cli(*asked).err
    assert "info: running on the CPU" in text
    assert f"info: loaded bundle {told[1]['bundle']}" in text
    assert "info" not in cli("--log-level", "warning", *asked).err
    # Nothing of it stays.
    logger = logging.getLogger("diffpose_edge")
    assert (logger.handlers, logger.level) == ([], logging.NOTSET)


def test_a_mistake_is_a_line_of_json_too(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pythonjsonlogger", reason="python-json-logger is not installed: pip install '.[logs]'")
    monkeypatch.setenv("DIFFPOSE_LOG_FORMAT", "json")
    [line] = lines(cli("inspect", "/nowhere", status=2).err)
    assert (line["level"], line["event"], line["kind"]) == ("ERROR", "refused", "BundleError")
    assert "expected a bundle folder" in line["message"]


def test_formats_and_levels_that_there_are_not(mistake: Mistake) -> None:
    assert "expected a log format out of text, json, got 'xml'" in mistake("--log-format", "xml", "formats")
    assert "expected a log level out of debug, info, warning, error, got 'loud'" in mistake("--log-level", "loud", "formats")


def test_without_the_json_library_it_says_what_to_install(mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffpose_edge.extras.is_installed", lambda module: module != "pythonjsonlogger")
    assert "pip install python-json-logger" in mistake("--log-format", "json", "formats")


def test_a_run_serves_its_metrics_meanwhile(
    cli: Cli, mistake: Mistake, golden_bundle: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("prometheus_client", reason="prometheus_client is not installed: pip install '.[metrics]'")
    from diffpose_edge.cli import metrics, run

    urls: list[str] = []
    scraped: list[str] = []
    monkeypatch.setattr(metrics, "say", lambda text: urls.append(text.removeprefix("metrics: ")))

    @contextmanager
    def looking(title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Ask for the metrics after each batch, where a progress bar would move on."""
        yield lambda done: scraped.append(urllib.request.urlopen(urls[0], timeout=30).read().decode())

    monkeypatch.setattr(run, "counting", looking)
    asked = ("run", golden_bundle, "--keypoints", clip, "--out", tmp_path / "out.npz", "--threads", 1)
    cli(*asked, "--metrics-port", 0)
    assert 'diffpose_estimates_total{source="runtime"} 1.0' in scraped[0]
    assert 'diffpose_people_total{source="runtime"} 4.0' in scraped[-1]
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(urls[0], timeout=5)
    assert "cannot serve metrics at 192.0.2.1" in mistake(*asked, "--metrics-port", 0, "--metrics-address", "192.0.2.1")
    assert "within 0..65535" in mistake(*asked, "--metrics-port", 70000)


def test_a_fault_keeps_its_traceback_and_leaves_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "reports"
    monkeypatch.setenv("DIFFPOSE_CRASH_REPORTS", str(folder))
    monkeypatch.setattr("diffpose_edge.cli.inspect.load_bundle", lambda path: 1 // 0)
    monkeypatch.setattr(sys, "argv", ["diffpose-edge", "--log-level=error", "inspect", "/home/alice/bundle"])
    with pytest.raises(ZeroDivisionError):
        main()
    [path] = folder.iterdir()
    assert f"A report for its maintainers is in {path}: nothing was sent" in capsys.readouterr().err
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["command"] == ["--log-level=<value>", "inspect", "<path>"]
    assert "diffpose_edge.cli.inspect" in [frame["module"] for frame in report["error"][0]["frames"]]
    assert "alice" not in path.read_text(encoding="utf-8")


def test_of_a_command_line_names_stay_and_values_do_not(tmp_path: Path) -> None:
    from typer.main import get_command

    asked = [
        "--log-format",
        "json",
        "bench",
        "sweep",
        "bundle.xyz",
        "--samples=5",
        "--nonsense=alice",
        "-3",
        "/home/alice",
        "alice",
        "serve-dds",
    ]
    told = public_command(get_command(app), asked)
    assert told[:5] == ["--log-format", "<value>", "bench", "sweep", "<path>"]
    assert told[6:] == ["<option>=<value>", "<number>", "<path>", "<value>", "<value>"]


@pytest.mark.skipif(sys.platform == "win32", reason="no file locks here")
def test_a_command_that_dies_of_a_signal_is_reported_by_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    environment = os.environ | {"DIFFPOSE_CRASH_REPORTS": str(folder), "PYTHONPATH": str(CHECKOUT)}
    environment.pop("PYTHONFAULTHANDLER", None)
    dying = "import sys, faulthandler; import diffpose_edge.extras as e; e.require = lambda *a: faulthandler._sigsegv()\n"
    code = dying + "from diffpose_edge.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGSEGV
    command = [sys.executable, "-m", "diffpose_edge", "--version"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.startswith("diffpose-edge ")
    assert "an earlier run ended in a hard fault" in told.stderr
    [path] = folder.iterdir()
    [error] = json.loads(path.read_text(encoding="utf-8"))["error"]
    assert error["message"] == "Fatal Python error: Segmentation fault"
    assert error["frames"][-2]["module"] == "diffpose_edge/cli/__init__.py"
