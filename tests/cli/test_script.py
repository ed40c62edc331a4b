"""Scripts beside the command line: what a user sees of a mistake in one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    path.relative_to(CHECKOUT)
    for folder in ("benchmarks", "reference")
    for path in (CHECKOUT / folder).rglob("*.py")
    if re.search(r"^    (run_script|typer\.run)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
)


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_every_script_says_mistakes_as_the_command_line_does(script: Path) -> None:
    assert "typer.run(" not in (CHECKOUT / script).read_text(encoding="utf-8"), "run_script prints mistakes without a traceback"


def test_a_mistake_is_one_line_and_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "diffpose_edge.benchmarks.signal_latency", "bundle", "--out", "nowhere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
